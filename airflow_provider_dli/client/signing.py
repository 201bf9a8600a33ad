"""
The two ways to authenticate a request, as ``requests`` auth classes.

Both hold plain values only, so a request can be authenticated at any moment, also while a task is being
killed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from requests.auth import AuthBase

if TYPE_CHECKING:
    from requests import PreparedRequest

ALGORITHM = "SDK-HMAC-SHA256"


class NoAuth(AuthBase):
    """No credentials at all; keeps ``requests`` from looking for some in a ``.netrc``."""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        return request


class TokenAuth(AuthBase):
    """
    An IAM token in ``X-Auth-Token``.

    :param token: The token.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        #: What must not be shown, should the server repeat it.
        self.secrets = (token,)

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["X-Auth-Token"] = self._token
        return request


class AkSkAuth(AuthBase):
    """
    A signature made with an access key pair, in the form of the official SDK (``SDK-HMAC-SHA256 Access=…``).

    :param access_key: Access key (AK).
    :param secret_key: Secret key (SK).
    :param project_id: Sent and signed as ``X-Project-Id``; None for calls that belong to no project.
    :param security_token: Security token of a temporary key pair, or None.
    :param now: Returns the signing time as ``YYYYMMDDTHHMMSSZ``; by default the time of the request.
    """

    def __init__(
        self,
        access_key: str,
        secret_key: str,
        *,
        project_id: str | None = None,
        security_token: str | None = None,
        now: Callable[[], str] | None = None,
    ) -> None:
        self._access_key = access_key
        self._secret_key = secret_key
        self._project_id = project_id
        self._security_token = security_token
        self._now = now or _utc_now
        #: What must not be shown, should the server repeat it; after the request, the signature too.
        self.secrets: tuple[str, ...] = (secret_key, security_token) if security_token else (secret_key,)

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        headers = request.headers
        headers["X-Sdk-Date"] = self._now()
        headers["Host"] = urlsplit(request.url or "").netloc
        if self._project_id:
            headers["X-Project-Id"] = self._project_id
        if self._security_token:
            headers["X-Security-Token"] = self._security_token
        # Only headers that no proxy and no part of the HTTP client changes on the way are signed.
        signed = {
            name.lower(): value
            for name, value in headers.items()
            if name.lower() in ("content-type", "host") or name.lower().startswith("x-")
        }
        names = ";".join(sorted(signed))
        signature = self._sign(canonical_request(request, signed), headers["X-Sdk-Date"])
        self.secrets = (*self.secrets, signature)
        headers["Authorization"] = (
            f"{ALGORITHM} Access={self._access_key}, SignedHeaders={names}, Signature={signature}"
        )
        return request

    def _sign(self, canonical: str, date: str) -> str:
        to_sign = "\n".join([ALGORITHM, date, hashlib.sha256(canonical.encode()).hexdigest()])
        return hmac.new(self._secret_key.encode(), to_sign.encode(), hashlib.sha256).hexdigest()


def canonical_request(request: PreparedRequest, signed_headers: Mapping[str, str | bytes]) -> str:
    """
    Return the text whose hash is signed.

    :param request: The request, ready to be sent.
    :param signed_headers: Names in lower case, with values.
    """
    url = urlsplit(request.url or "")
    path = "/".join(quote(unquote(part), safe="-_.~") for part in url.path.split("/"))
    # Sorted before encoding, as the SDK does: so `job-type` stands before `job_types`.
    pairs = sorted(parse_qsl(url.query, keep_blank_values=True))
    query = "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs)
    lines = [f"{name}:{_text(value).strip()}\n" for name, value in sorted(signed_headers.items())]
    body = request.body or b""
    return "\n".join(
        [
            request.method or "",
            path if path.endswith("/") else f"{path}/",
            query,
            "".join(lines),
            ";".join(sorted(signed_headers)),
            hashlib.sha256(body if isinstance(body, bytes) else str(body).encode()).hexdigest(),
        ]
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _utc_now() -> str:
    import pendulum

    return pendulum.now("UTC").format("YYYYMMDD[T]HHmmss[Z]")
