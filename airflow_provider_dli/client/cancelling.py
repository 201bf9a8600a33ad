"""
Carries a cancel through: repeats it while the job is active, whatever DLI answers. No single request holds it up.

Repeating a cancel does no harm. So a request that is not answered within a second is followed by another one on a
connection of its own, and a refusal counts only when the job is over, or when it is certain that no repeat helps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_provider_dli import machine
from airflow_provider_dli.exceptions import PERMANENT, SAID_TWICE, DliError, DliTemporaryError
from airflow_provider_dli.threads import SLICE, Mailbox

if TYPE_CHECKING:
    from airflow_provider_dli.client.patience import Patience
    from airflow_provider_dli.job import Cancellation

# After this many seconds without an answer, another request is sent.
HEDGE_AFTER = 1.0
# How many requests may wait for their answers at the same time.
_MOST_UNANSWERED = 4
# The first pause after a refusal, in seconds; each is twice as long as the one before.
_FIRST_PAUSE = 0.25


def cancel(attempt: Callable[[], Cancellation], what: str, patience: Patience) -> Cancellation:
    """
    Cancel a job.

    :param attempt: Sends one request, on a connection of its own, and looks at the job when DLI refuses. Called in
        threads.
    :param what: What is cancelled, for the error.
    :param patience: When no further request is sent; at least one is, and answers are waited for.
    :raises DliNotFoundError: DLI knows no such job.
    :raises DliAuthenticationError: The credentials are refused.
    :raises DliPermissionError: The user may not cancel.
    :raises DliError: The time was over, and the job is still active, as far as is known.
    """
    outcomes: Mailbox[Cancellation | Exception] = Mailbox()

    def send() -> None:
        try:
            outcomes.put(attempt())
        except Exception as error:  # the edge of a thread; the waiting thread handles it
            outcomes.put(error)

    end, next_at = machine.monotonic() + patience.give_up_after, 0.0
    unanswered, pause, is_first = 0, _FIRST_PAUSE, True
    last: Exception = DliTemporaryError(f"{what} failed: no answer within {patience.give_up_after:.0f} s")
    while True:
        now = machine.monotonic()
        may_send = is_first or (now < end and unanswered < _MOST_UNANSWERED)
        if may_send and now >= next_at:
            machine.start_thread(send)
            is_first = False
            unanswered += 1
            next_at = now + HEDGE_AFTER * unanswered
        outcome = outcomes.get(min(SLICE, max(next_at - now, 0)) if may_send else SLICE)
        if outcome is None:
            patience.watch()
            # Each request is bounded, so it is not waited for in vain.
            if unanswered == 0 and machine.monotonic() >= end:
                raise last
            continue
        unanswered -= 1
        if not isinstance(outcome, Exception):
            return outcome
        if not isinstance(outcome, DliError):
            raise outcome
        is_certain = isinstance(last, SAID_TWICE) if isinstance(outcome, SAID_TWICE) else isinstance(outcome, PERMANENT)
        if is_certain:
            raise outcome
        last = outcome
        asked_for = outcome.retry_after if isinstance(outcome, DliTemporaryError) else None
        next_at = machine.monotonic() + min(max(pause, asked_for or 0), patience.longest_pause)
        pause *= 2
