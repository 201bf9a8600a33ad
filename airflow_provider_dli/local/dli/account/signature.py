"""
Requests signed with an access key pair (SDK-HMAC-SHA256).

The verifying side, written from the description of the signature and not from a client's signer.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote_from_bytes, unquote_to_bytes

from airflow_provider_dli.local.dli.account.identity import Identity
from airflow_provider_dli.local.dli.replies import RefusedError
from airflow_provider_dli.local.dli.settings import Settings

MAX_SKEW = 15 * 60
AUTHORIZATION = re.compile(
    r"SDK-HMAC-SHA256 +Access=(?P<key>[^,\s]+), *SignedHeaders=(?P<headers>[^,\s]+), *Signature=(?P<signature>\S+)"
)


@dataclass(frozen=True)
class Request:
    """An HTTP request as it came over the wire. Header names are in lower case."""

    method: str
    raw_path: bytes
    raw_query: bytes
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class TemporaryKeys:
    """A key pair that was issued, with the token that belongs to it."""

    access_key: str
    secret_key: str
    security_token: str
    expires_at: float


class AccessKeys:
    """Verifies signed requests, and locks the key after too many wrong signatures in a row."""

    def __init__(self, identity: Identity, settings: Callable[[], Settings], clock: Callable[[], float]) -> None:
        self._identity, self._settings, self._clock = identity, settings, clock
        self._temporary: dict[str, TemporaryKeys] = {}
        self.unlock()

    def issue(self, lifetime: float) -> TemporaryKeys:
        """Make a key pair that ends."""
        now = self._clock()
        self._temporary = {name: keys for name, keys in self._temporary.items() if keys.expires_at > now - 3600}
        # Each can be told by its beginning, should it turn up in a log.
        access_key, secret_key, security_token = (
            f"TMP{what}{secrets.token_urlsafe(size)}" for what, size in (("AK", 15), ("SK", 30), ("ST", 900))
        )
        made = TemporaryKeys(access_key, secret_key, security_token, now + lifetime)
        self._temporary[made.access_key] = made
        return made

    def unlock(self) -> None:
        self._wrong_in_a_row = 0
        self._locked_until = 0.0

    def check(self, request: Request) -> None:
        """
        :raises RefusedError: 401 with the reason, in the gateway's wording where it is known.
        """
        given = AUTHORIZATION.fullmatch(request.headers.get("authorization", ""))
        if not given:
            raise _not_authentic("the Authorization header is not in the form SDK-HMAC-SHA256 Access=...")
        temporary = self._temporary.get(given["key"])
        if temporary is None and given["key"] != self._identity.access_key:
            raise _not_authentic("verify aksk signature fail, the access key does not exist")
        if self._locked_until > self._clock():
            raise _not_authentic("the access key is locked after too many wrong signatures")
        self._check_date(request)
        self._check_security_token(request, temporary)
        self._check_signature(request, given["headers"].split(";"), given["signature"], temporary)

    def _check_date(self, request: Request) -> None:
        try:
            signed_at = datetime.strptime(request.headers["x-sdk-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except (KeyError, ValueError):
            raise _not_authentic("X-Sdk-Date is missing or not in the form YYYYMMDDTHHMMSSZ") from None
        if abs(signed_at.timestamp() - self._clock()) > MAX_SKEW:
            raise _not_authentic("X-Sdk-Date differs from the server's time by more than 15 minutes")

    def _check_security_token(self, request: Request, temporary: TemporaryKeys | None) -> None:
        token = request.headers.get("x-security-token")
        if temporary is not None:
            if not _same(token or "", temporary.security_token) or temporary.expires_at <= self._clock():
                raise _not_authentic("the security token is unknown or expired")
            return
        if token is not None and not _same(token, self._identity.security_token):
            raise _not_authentic("the security token is unknown or expired")

    def _check_signature(
        self, request: Request, signed_headers: list[str], signature: str, temporary: TemporaryKeys | None
    ) -> None:
        if not {"host", "x-sdk-date"} <= set(signed_headers):
            raise _not_authentic("Host and X-Sdk-Date must be signed")
        secret_key = self._settings().rotated_secret or self._identity.secret_key
        if temporary is not None:
            secret_key = temporary.secret_key
        if _same(signature, sign(secret_key, request, signed_headers)):
            self._wrong_in_a_row = 0
            return
        self._wrong_in_a_row += 1
        if self._wrong_in_a_row >= self._settings().lock_after:
            self._wrong_in_a_row = 0
            self._locked_until = self._clock() + self._settings().lock_seconds
        raise _not_authentic("verify aksk signature fail")


def sign(secret_key: str, request: Request, signed_headers: list[str]) -> str:
    """The signature that this request must carry, over the headers that its sender names."""
    canonical = _canonical_request(request, signed_headers)
    digest = hashlib.sha256(canonical).hexdigest()
    text = f"SDK-HMAC-SHA256\n{request.headers['x-sdk-date']}\n{digest}"
    return hmac.new(secret_key.encode(), text.encode(), hashlib.sha256).hexdigest()


def _canonical_request(request: Request, signed_headers: list[str]) -> bytes:
    headers = "".join(f"{name}:{request.headers.get(name, '').strip()}\n" for name in signed_headers)
    lines = [
        request.method,
        _canonical_path(request.raw_path),
        _canonical_query(request.raw_query),
        headers,
        ";".join(signed_headers),
        hashlib.sha256(request.body).hexdigest(),
    ]
    return "\n".join(lines).encode()


def _canonical_path(raw_path: bytes) -> str:
    path = "/".join(_escape(part) for part in unquote_to_bytes(raw_path).split(b"/"))
    return path if path.endswith("/") else path + "/"


def _canonical_query(raw_query: bytes) -> str:
    pairs = [part.partition(b"=") for part in raw_query.split(b"&") if part]
    # A plus sign is a plus sign: whoever signs must send a blank as %20.
    decoded = sorted((unquote_to_bytes(name), unquote_to_bytes(value)) for name, _, value in pairs)
    return "&".join(f"{_escape(name)}={_escape(value)}" for name, value in decoded)


def _escape(raw: bytes) -> str:
    return quote_from_bytes(raw, safe="-_.~")


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _not_authentic(reason: str) -> RefusedError:
    return RefusedError(401, "APIG.0301", f"Incorrect IAM authentication information: {reason}")
