"""
What is known of a connection once it has been used, shared by all hooks of a process: the token or the temporary keys
that it was issued, or that it is refused.

Hundreds of hooks start together, and what they were issued ends together. So it is fetched once for all who need it,
and refused credentials are not sent again for a minute: IAM locks accounts and keys after a few failed attempts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_provider_dli import machine
from airflow_provider_dli.exceptions import DliAuthenticationError, DliError
from airflow_provider_dli.threads import SLICE, Mailbox

if TYPE_CHECKING:
    from airflow_provider_dli.api.iam import TemporaryKeys, Token
    from airflow_provider_dli.client.connection import DliConnection

    Issued = Token | TemporaryKeys

# How long refused credentials are not sent again, in seconds.
REFUSED_FOR = 60.0


class Credentials:
    """What one connection was issued, and its project id; or why it is refused."""

    def __init__(self, issued: Issued | None = None, project_id: str | None = None) -> None:
        self.issued = issued
        self.project_id = project_id
        self._refusal: DliAuthenticationError | None = None
        self._refused_until = 0.0
        # At most one. A dictionary, for its `setdefault` lets exactly one thread begin without a lock, which the code
        # that a kill has interrupted might hold.
        self._flights: dict[str, _Flight] = {}

    def check(self) -> None:
        """
        Raise again what the last attempt has raised, for a minute.

        :raises DliAuthenticationError: These credentials were refused.
        """
        refusal = self._refusal
        if refusal is not None and machine.monotonic() < self._refused_until:
            raise copy.copy(refusal)

    def refuse(self, error: DliAuthenticationError) -> None:
        """Note that these credentials are refused."""
        if self._refusal is None or machine.monotonic() >= self._refused_until:
            self._refusal, self._refused_until = error, machine.monotonic() + REFUSED_FOR

    def renewed(
        self, stale: Issued | None, fetch: Callable[[], Issued], watch: Callable[[], None], patience: float
    ) -> Issued:
        """
        Return something else that was issued: fetched by this thread, by one that is at it already, or before.

        :param stale: What must not be used any more; None when there was nothing.
        :param fetch: Fetches another one.
        :param watch: Called at least every 0.25 s while another thread does; what it raises ends the wait.
        :param patience: Seconds to wait for another thread, which may have been killed or may hang.
        :raises DliError: It could not be fetched.
        """
        if self.issued is not None and self.issued is not stale:
            return self.issued
        self.check()
        mine = _Flight()
        flight = self._flights.setdefault("issue", mine)
        if flight is not mine:
            outcome = flight.wait(watch, patience)
            if outcome is not None:
                if isinstance(outcome, Exception):
                    raise copy.copy(outcome)
                return outcome
            self._flights["issue"] = mine
        try:
            self.issued = mine.outcome = fetch()
        except DliAuthenticationError as error:
            self.refuse(error)
            mine.outcome = error
            raise
        except DliError as error:
            mine.outcome = error
            raise
        finally:
            if self._flights.get("issue") is mine:
                del self._flights["issue"]
            mine.land()
        return mine.outcome


class _Flight:
    """A fetch that is under way, and the threads that wait for what it brings."""

    def __init__(self) -> None:
        # None also when it was given up half way: then the next thread that waits fetches it.
        self.outcome: Issued | DliError | None = None
        self._has_landed = False
        self._waiting: list[Mailbox[bool]] = []

    def land(self) -> None:
        self._has_landed = True
        for mailbox in list(self._waiting):
            mailbox.put(True)

    def wait(self, watch: Callable[[], None], patience: float) -> Issued | DliError | None:
        mailbox: Mailbox[bool] = Mailbox()
        self._waiting.append(mailbox)
        end = machine.monotonic() + patience
        # In this order: whoever lands after the mailbox is there puts something into it.
        while not self._has_landed and (left := end - machine.monotonic()) > 0:
            if mailbox.get(min(left, SLICE)):
                break
            watch()
        return self.outcome


# Read and written without a lock, as above. By process, for a fetch that was under way when it was forked never ends.
_known: dict[tuple[int, DliConnection], Credentials] = {}


def credentials_of(connection: DliConnection) -> Credentials:
    """Return what is known of a connection in this process."""
    return _known.setdefault((machine.process_id(), connection), Credentials())
