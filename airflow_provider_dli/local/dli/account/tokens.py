"""IAM tokens: issued, checked, expired, revoked."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from airflow_provider_dli.local.dli.replies import RefusedError


@dataclass(frozen=True)
class Token:
    """
    What an issued token stands for.

    :param project_id: None for a token of the whole account.
    """

    project_id: str | None
    expires_at: float


class Tokens:
    """Tokens issued so far. A new one does not end an older one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[str, Token] = {}

    def issue(self, project_id: str | None, lifetime: float) -> tuple[str, Token]:
        """Make a token of a few kilobytes, as long as the real ones are."""
        self._forget_long_expired()
        text = "MII" + secrets.token_urlsafe(2400)
        self._known[text] = token = Token(project_id, self._clock() + lifetime)
        return text, token

    def check(self, text: str) -> Token:
        """
        :raises RefusedError: 401 for a token that is unknown, expired or revoked.
        """
        token = self._known.get(text)
        if token is None:
            raise RefusedError(401, "APIG.0301", "Incorrect IAM authentication information: decrypt token fail")
        if token.expires_at <= self._clock():
            raise RefusedError(401, "APIG.0307", "The token must be updated.")
        return token

    def revoke(self, text: str) -> None:
        """End a token before its time, as IAM does when a user's rights change."""
        if text in self._known:
            self._known[text] = Token(self._known[text].project_id, 0)

    def revoke_all(self) -> None:
        self._known.clear()

    def _forget_long_expired(self) -> None:
        limit = self._clock() - 3600
        for text in [text for text, token in self._known.items() if 0 < token.expires_at < limit]:
            del self._known[text]
