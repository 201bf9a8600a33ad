"""
Carries a cancel through: repeats it while the job is active, whatever DLI answers. No single request holds it up.

Repeating a cancel does no harm. So a request that is not answered within a second is followed by another one on a
connection of its own, and a refusal counts only when the job is over, or when it is certain that no repeat helps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import identity, machine
from airflow_provider_dli.exceptions import (
    PERMANENT,
    SAID_TWICE,
    DliAuthenticationError,
    DliError,
    DliNotFoundError,
    DliTemporaryError,
)
from airflow_provider_dli.job import Cancellation, JobState
from airflow_provider_dli.threads import SLICE, Mailbox, run_in_thread

if TYPE_CHECKING:
    from airflow_provider_dli.api.job_kind import JobKind
    from airflow_provider_dli.client.client import DliClient, Log
    from airflow_provider_dli.client.patience import Patience

# After this many seconds without an answer, another request is sent.
HEDGE_AFTER = 1.0
# After this many seconds, a request that hangs counts as unanswered.
_BOUND = 10.0
# How many requests may wait for their answers at the same time.
_MOST_UNANSWERED = 4
# The first pause after a refusal, in seconds; each is twice as long as the one before.
_FIRST_PAUSE = 0.25


def cancel(attempt: Callable[[], Cancellation], what: str, patience: Patience, log: Log) -> Cancellation:
    """
    Cancel a job.

    :param attempt: Sends one request, on a connection of its own, and looks at the job when DLI refuses. Called in
        threads.
    :param what: What is tried, for people: such as ``cancel of SQL job 8ecb…``.
    :param patience: When no further request is sent; at least one is, and answers are waited for.
    :param log: Where to say that the request is repeated.
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

    requests = _Requests(what, patience, log)
    while True:
        if requests.may_send():
            machine.start_thread(send)
            requests.sent()
        outcome = outcomes.get(min(SLICE, requests.next_in()))
        if outcome is None:
            patience.watch()
            requests.check_time()
        elif (cancellation := requests.result(outcome)) is not None:
            return cancellation


async def cancel_in_loop(attempt: Callable[[], Cancellation], what: str, patience: Patience, log: Log) -> Cancellation:
    """
    Cancel a job like :func:`cancel`, but without threads that wait: a triggerer cancels hundreds at the same time.

    :param attempt: See there. It may hang: after 10 s it counts as unanswered.
    """
    requests = _Requests(what, patience, log)
    unanswered: set[asyncio.Task[Cancellation]] = set()
    try:
        while True:
            if requests.may_send():
                unanswered.add(asyncio.create_task(asyncio.wait_for(run_in_thread(attempt), _BOUND)))
                requests.sent()
            if not unanswered:
                await asyncio.sleep(requests.next_in())
                requests.check_time()
                continue
            answered, unanswered = await asyncio.wait(
                unanswered, timeout=requests.next_in(), return_when=asyncio.FIRST_COMPLETED
            )
            for each in answered:
                if (cancellation := requests.result(_outcome(each, what))) is not None:
                    return cancellation
    finally:
        for each in unanswered:
            each.cancel()  # (What is on its way to DLI gets there.)


def may_be_about_the_job(error: DliError) -> bool:
    """
    Whether a failed cancel may have failed because of the state of the job: then the job is looked at.

    DLI documents no answer for a job that is over. It may be a soft failure or any status, with any code.
    """
    if not isinstance(error, DliTemporaryError):
        return not isinstance(error, PERMANENT)
    # What got no answer is sent again, and so is what DLI has not even looked at.
    return error.status is not None and not error.nothing_started


def without_cancel(
    client: DliClient, kind: JobKind[Any], job_id: str, refusal: DliError, *, keep_draft: bool
) -> Cancellation | None:
    """
    Look at a job whose cancel DLI has refused; return what became of it, None when it still has to be cancelled.

    :param client: Asks DLI.
    :param kind: The job's kind.
    :param job_id: The job.
    :param refusal: What DLI has said.
    :param keep_draft: Whether to keep a job that was never started, because it may be about to.
    :raises DliNotFoundError: DLI knows no such job.
    :raises DliError: DLI does not show the job; ``refusal``, if that may pass.
    """
    try:
        job = client.job(kind, job_id)
    except DliNotFoundError as unknown:
        raise refusal if isinstance(refusal, DliNotFoundError) else unknown from None
    except DliAuthenticationError:
        raise
    except DliError:
        if isinstance(refusal, DliTemporaryError):
            raise refusal from None
        raise
    if job.state is JobState.STOPPING:
        return Cancellation(job_id, accepted=True)
    if job.is_reset:
        # With a savepoint, maybe: not for us to delete.
        return Cancellation(job_id, accepted=False, state=JobState.CANCELLED)
    if job.state is JobState.CREATED and kind.discard is not None:
        # What a user has drafted is not for us to delete.
        is_ours = job.is_proved and identity.read_attempt(job.tags) is not None
        if is_ours and not keep_draft:
            client.send(kind.discard(job_id))
            return Cancellation(job_id, accepted=False, state=job.state, was_removed=True)
        return Cancellation(job_id, accepted=False, state=job.state)
    return None if job.state.is_active else Cancellation(job_id, accepted=False, state=job.state)


def _outcome(request: asyncio.Task[Cancellation], what: str) -> Cancellation | Exception:
    try:
        return request.result()
    except TimeoutError:
        return DliTemporaryError(f"{what} failed: no complete answer within {_BOUND:.0f} s")
    except Exception as error:  # the edge of a thread; what waits for it handles it
        return error


class _Requests:
    """When the next request of a cancel is sent, and what its answers mean."""

    def __init__(self, what: str, patience: Patience, log: Log) -> None:
        self._what = what
        self._patience = patience
        self._log = log
        self._began = machine.monotonic()
        self._end = self._began + patience.give_up_after
        self._sent = 0
        self._next_at = 0.0
        self._unanswered = 0
        self._pause = _FIRST_PAUSE
        self._last: Exception = DliTemporaryError(f"{what} failed: no answer within {patience.give_up_after:.0f} s")
        self._is_told = False

    def may_send(self) -> bool:
        now = machine.monotonic()
        return not self._sent or (now < self._end and self._unanswered < _MOST_UNANSWERED and now >= self._next_at)

    def sent(self) -> None:
        self._sent += 1
        self._unanswered += 1
        self._next_at = machine.monotonic() + HEDGE_AFTER * self._unanswered
        if self._sent > 1 and self._unanswered > 1:
            self._tell_of_repeats(f"No answer within {HEDGE_AFTER:.0f} s.")

    def next_in(self) -> float:
        """Seconds until it may be that another one is to be sent."""
        now = machine.monotonic()
        if now >= self._end or self._unanswered >= _MOST_UNANSWERED:
            return SLICE
        return max(self._next_at - now, 0)

    def check_time(self) -> None:
        """Give up when the time is over; each request is bounded, so none is waited for in vain."""
        if self._unanswered == 0 and machine.monotonic() >= self._end:
            raise self._last

    def result(self, outcome: Cancellation | Exception) -> Cancellation | None:
        """Return what counts; None when the cancel has to be repeated."""
        self._unanswered -= 1
        if not isinstance(outcome, Exception):
            return replace(outcome, requests=self._sent, took=machine.monotonic() - self._began)
        if not isinstance(outcome, DliError):
            raise outcome
        was_said = isinstance(self._last, SAID_TWICE)
        if was_said if isinstance(outcome, SAID_TWICE) else isinstance(outcome, PERMANENT):
            raise outcome
        self._last = outcome
        if not isinstance(outcome, SAID_TWICE):
            self._tell_of_repeats(outcome)
        asked_for = outcome.retry_after if isinstance(outcome, DliTemporaryError) else None
        longest = self._patience.longest_pause
        self._next_at = machine.monotonic() + min(max(self._pause, asked_for or 0), longest)
        self._pause *= 2
        return None

    def _tell_of_repeats(self, problem: object) -> None:
        # Once, for there may be many.
        if not self._is_told:
            self._is_told = True
            text = "DLI has not accepted the %s yet; it is repeated for %.0f s at most. %s"
            self._log.warning(text, self._what, self._patience.give_up_after, problem)
