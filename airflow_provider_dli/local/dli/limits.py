"""How large a request may be."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow_provider_dli.local.dli.replies import RefusedError

# Bytes. The limits of body and URI are DLI's; its limit of headers is not documented.
MAX_BODY = 12 * 1024 * 1024
MAX_URI = 32 * 1024
MAX_HEADERS = 64 * 1024
MAX_HEADER_COUNT = 100


def check_head(scope: Any) -> None:
    """
    :raises RefusedError: for a URI, headers or an announced body beyond the limits.
    """
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_URI:
        raise RefusedError(414, "APIG.0201", f"The request URI is longer than {MAX_URI} bytes.")
    headers = scope["headers"]
    if len(headers) > MAX_HEADER_COUNT or sum(len(name) + len(value) for name, value in headers) > MAX_HEADERS:
        raise headers_too_large()
    # One digit more than the limit has is too many, however large the number is.
    announced = dict(headers).get(b"content-length", b"0")
    if len(announced) > len(str(MAX_BODY)) or int(announced) > MAX_BODY:
        raise _body_too_large()


async def read_body(receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> bytes:
    """
    :raises RefusedError: 413, as soon as more has come than is allowed.
    """
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            raise _body_too_large()
    return bytes(body)


def headers_too_large() -> RefusedError:
    """494, a status that only gateways like DLI's know."""
    text = f"The request has more than {MAX_HEADER_COUNT} headers, or more than {MAX_HEADERS} bytes of them."
    return RefusedError(494, "APIG.0201", text)


def _body_too_large() -> RefusedError:
    return RefusedError(413, "APIG.0201", f"The request body is larger than {MAX_BODY} bytes.")
