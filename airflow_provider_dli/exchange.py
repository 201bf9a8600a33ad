"""Sends one request and reads its answer: the only place that knows the HTTP client and its errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_dli import __version__
from airflow_provider_dli.api.call import Answer
from airflow_provider_dli.exceptions import (
    DliAuthenticationError,
    DliError,
    DliNotFoundError,
    DliPermissionError,
    DliTemporaryError,
)

if TYPE_CHECKING:
    import requests

    from airflow_provider_dli.api.call import Call
    from airflow_provider_dli.connection import DliConnection

T = TypeVar("T")

#: Seconds to wait for a connection to be made.
CONNECT_TIMEOUT = 10.0
_MAX_ANSWER_BYTES = 64 * 1024 * 1024


def new_session() -> requests.Session:
    """Return a session whose requests say what DLI wants to read on every one of them."""
    import requests

    session = requests.Session()
    session.headers.update({"Content-Type": "application/json", "User-Agent": f"airflow-provider-dli/{__version__}"})
    return session


def exchange(
    session: requests.Session,
    call: Call[T],
    connection: DliConnection,
    authenticate: Callable[[Any], Any],
    project_id: str,
    timeout: float,
) -> T:
    """Send one request, read the answer and translate what went wrong."""
    from requests import exceptions

    base = connection.iam_endpoint if call.service == "iam" else connection.endpoint
    body = None
    if call.body is not None:
        body = json.dumps(call.body, ensure_ascii=False, separators=(",", ":")).encode()
    try:
        response = session.request(
            call.method,
            base + call.url_path(project_id),
            data=body,
            auth=authenticate,
            timeout=(min(CONNECT_TIMEOUT, timeout), timeout),
            verify=connection.verify,
            # Another host would get the token too.
            allow_redirects=False,
            stream=True,
        )
        content = _read_content(response)
    except exceptions.SSLError as error:
        raise DliError(
            f"{call.what} failed: no TLS with {base} ({_cause(error)}). If a CA of your own signed its "
            f"certificate, set extra field `verify` of connection {connection.conn_id!r} to the path of the CA bundle."
        ) from None
    except (exceptions.RequestException, OSError) as error:
        raise DliTemporaryError(
            f"{call.what} failed: no answer from {base} ({_cause(error)})", nothing_started=_never_sent(error)
        ) from None
    return call.read(_answer(call, connection, project_id, response, content))


def _answer(
    call: Call[Any], connection: DliConnection, project_id: str, response: requests.Response, content: bytes
) -> Answer:
    try:
        body = json.loads(content)
    except ValueError:
        body = content[:1000].decode(errors="replace")
    status = response.status_code
    if 300 <= status < 400:
        raise DliError(
            f"{call.what} failed: {response.url.split('?')[0]} redirects elsewhere (HTTP {status}), which is not "
            f"followed. Check host and iam_endpoint of connection {connection.conn_id!r}.",
            status=status,
        )
    if status < 400 and not isinstance(body, dict):
        raise DliTemporaryError(f"{call.what}: the answer is no JSON object (HTTP {status})", status=status)
    if status >= 400 or str(body.get("is_success")).lower() == "false":
        raise DliError.from_answer(
            call.what,
            status,
            body,
            hints=_hints(call, connection, project_id),
            retry_after=_retry_after(response.headers.get("Retry-After")),
        )
    return Answer(body, response.headers)


def _hints(call: Call[Any], connection: DliConnection, project_id: str) -> dict[type[DliError], str]:
    where = f"connection {connection.conn_id!r}"
    project = project_id or connection.project_id or connection.project_name
    if connection.auth_type == "password":
        refused = f"Check login, password, domain_name and project of {where}."
    else:
        refused = (
            f"Check login (access key) and password (secret key) of {where}, and this machine's clock. Not tried "
            "again, because wrong signatures lock the key."
        )
    right = f"the IAM action {call.iam_action}" if call.iam_action else "the right for this call"
    return {
        DliAuthenticationError: refused,
        DliPermissionError: f"User {connection.user!r} of {where} needs {right} in project {project}.",
        DliNotFoundError: f"Looked in project {project} with {where}.",
    }


def _read_content(response: requests.Response) -> bytes:
    with response:
        pieces, size = [], 0
        for piece in response.iter_content(65536):
            size += len(piece)
            if size > _MAX_ANSWER_BYTES:
                raise OSError(f"the answer is larger than {_MAX_ANSWER_BYTES // 2**20} MiB")
            pieces.append(piece)
        return b"".join(pieces)


def _never_sent(error: BaseException) -> bool:
    """Tell whether the connection was never made, so that DLI cannot have seen the request."""
    from urllib3 import exceptions

    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, (exceptions.NewConnectionError, exceptions.ConnectTimeoutError))


def _cause(error: BaseException) -> str:
    """Say why there was no answer, without the object addresses that urllib3 writes."""
    from urllib3 import exceptions

    reason = getattr(error.args[0] if error.args else None, "reason", None) or error
    if isinstance(reason, exceptions.NameResolutionError):
        host = getattr(reason, "host", None) or _between_quotes(str(reason))
        return f"the host name {host} is not known here: check it, the region, and this machine's name resolution"
    if isinstance(reason, exceptions.NewConnectionError):
        return f"{str(reason).rpartition(': ')[2]}: is the port right, and does a firewall allow it?"
    if isinstance(reason, exceptions.ConnectTimeoutError):
        return f"no connection within {CONNECT_TIMEOUT:.0f} s: does a firewall allow it?"
    if isinstance(error, TimeoutError) or "timed out" in str(reason):
        return "the answer did not come in time"
    return str(reason).rpartition(": ")[2].strip("()'\" ") or type(reason).__name__


def _between_quotes(text: str) -> str:
    return text.partition("'")[2].partition("'")[0]


def _retry_after(value: str | None) -> float | None:
    """Read the header: seconds, or an HTTP date."""
    import pendulum

    if not value:
        return None
    if value.strip().isdecimal():
        return float(value)
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment - pendulum.now("UTC")).total_seconds())
