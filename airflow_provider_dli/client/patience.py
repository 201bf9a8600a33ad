"""How patient a call is: what may end its wait, how long it is repeated, and whose thread it runs in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def watch_nothing() -> None:
    """Let nothing end a wait."""


@dataclass(frozen=True)
class Patience:
    """
    How patient a call is.

    :param watch: Called at least every 0.25 s in every wait; what it raises ends the wait.
    :param give_up_after: Seconds after which no further try is started, 0 for a single one. Default 60.
    :param within: Seconds after which one try counts as unanswered, whatever has arrived. Default: the ``timeout`` of
        the connection, and 10 for connecting.
    :param is_urgent: Whether a kill waits for it, which has few seconds: a call without an answer is given up after
        3 s, and no pause is longer than 1 s, not even for a ``Retry-After``.
    :param may_ask: Whether the connection may be asked for in the calling thread. No thread but a task's main one may.
    :param is_bounded: Whether the caller limits the time itself; then requests are sent in the calling thread.
    """

    watch: Callable[[], None] = watch_nothing
    give_up_after: float = 60.0
    within: float | None = None
    is_urgent: bool = False
    may_ask: bool = True
    is_bounded: bool = False

    @property
    def longest_pause(self) -> float:
        """The longest pause before a call is repeated, in seconds."""
        return 1.0 if self.is_urgent else 60.0

    def answer_within(self, timeout: float) -> float:
        """
        Return how long to wait for the next piece of an answer, in seconds.

        :param timeout: The ``timeout`` of the connection.
        """
        return 3.0 if self.is_urgent else timeout


#: For a thread: it does not ask for the connection.
IN_THREAD = Patience(may_ask=False)
#: For a thread whose caller limits the time.
BOUNDED = Patience(may_ask=False, is_bounded=True)
#: For what a kill waits for.
URGENT = Patience(give_up_after=30.0, is_urgent=True, may_ask=False)
