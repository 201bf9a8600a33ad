"""Looks at one job again and again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import machine
from airflow_provider_dli.exceptions import PERMANENT, SAID_TWICE, DliError, DliTemporaryError, DliValueError
from airflow_provider_dli.job import JobState

if TYPE_CHECKING:
    from airflow_provider_dli.api.job_kind import JobKind
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.job import Job

# How long one look at a waiting job may take at first, in seconds; twice as long after each that took longer.
FIRST_PATIENCE = 15.0
# How long an outage of DLI a waiting task tolerates, in seconds.
OUTAGE_BUDGET = 1800.0
# The first wait between two status calls, in seconds; each wait is half as long again, up to `poll_interval`.
FIRST_POLL_INTERVAL = 0.5

_PROGRESS_EVERY = 10.0


def checked_poll_interval(seconds: float) -> float:
    """
    Return the interval.

    :raises DliValueError: It is no number above 0.
    """
    if isinstance(seconds, (int, float)) and 0 < seconds < float("inf"):
        return seconds
    raise DliValueError(f"poll_interval must be a number of seconds above 0, not {seconds!r}.", field="poll_interval")


def wait_until_over(client: DliClient, kind: JobKind[Any], job_id: str, *, poll_interval: float) -> Job:
    """
    Wait until a job is over, however it ends, and return it.

    Asks often at first, then every ``poll_interval``. Tolerates an outage of 30 minutes. Logs changes of the state, and
    the progress.

    :param client: Asks DLI.
    :param kind: The job's kind.
    :param job_id: The job.
    :param poll_interval: Seconds between two status calls, at most.
    :raises DliNotFoundError: DLI knows no such job.
    :raises DliTemporaryError: DLI has not answered for 30 minutes.
    """
    watcher = JobWatcher(client, kind, job_id, poll_interval=poll_interval)
    while (job := watcher.look()) is None or job.state.is_active:
        client.patience.watch()
        client.pause(watcher.interval)
    client.patience.watch()
    return job


def may_be_active(client: DliClient, kind: JobKind[Any], job_id: str) -> bool:
    """Whether a deferral makes sense; also when DLI does not answer, for the trigger waits an outage out."""
    job = JobWatcher(client, kind, job_id).look()
    return job is None or job.state.is_active


def may_be_cancelled(kind: JobKind[Any], job: Job) -> bool:
    """Whether a job that is over may have been cancelled; of some kinds, DLI calls such a job failed."""
    return job.state is JobState.CANCELLED or (job.state is JobState.FAILED and not kind.tells_cancelled)


class JobWatcher:
    """
    Looks at one job again and again, and logs what is new.

    :param client: Asks DLI.
    :param kind: The job's kind.
    :param job_id: The job.
    :param poll_interval: Seconds between two looks, at most. Default 10.
    """

    def __init__(self, client: DliClient, kind: JobKind[Any], job_id: str, *, poll_interval: float = 10.0) -> None:
        self._client = client
        self._kind = kind
        self._job_id = job_id
        self._poll_interval = checked_poll_interval(poll_interval)
        #: Seconds until the next look: short at first, then half as long again each time; or as DLI asks.
        self.interval = 0.0
        self._next_interval = min(FIRST_POLL_INTERVAL, self._poll_interval)
        self._status = ""
        self._progress = 0.0
        self._progress_at = machine.monotonic()
        self._away_since: float | None = None
        self._within = FIRST_PATIENCE
        self._is_refused = False

    def look(self) -> Job | None:
        """
        Return the job, or None when DLI gave no usable answer this time.

        Only what no repeat can fix counts at once. A job that DLI does not know, or a right that is missing, has to be
        reported twice in a row: the first time, the answer may come from a proxy in between.

        :raises DliError: DLI has given no usable answer for 30 minutes, or it is certain that it never will.
        """
        self.interval = self._next_interval
        self._next_interval = min(self._next_interval * 1.5, self._poll_interval)
        begun = machine.monotonic()
        try:
            job = self._once(self._within).job(self._kind, self._job_id)
        except DliError as error:
            is_refusal = isinstance(error, SAID_TWICE)
            if (is_refusal and self._is_refused) or (not is_refusal and isinstance(error, PERMANENT)):
                raise
            self._is_refused = is_refusal
            # An answer that drips is not waited for; a DLI that is slow gets more time with each look.
            if machine.monotonic() - begun >= self._within:
                self._within *= 2
            self._bear(error)
            if isinstance(error, DliTemporaryError) and error.retry_after is not None:
                self.interval = max(error.retry_after, self.interval)
            return None
        self._is_refused = False
        if self._away_since is not None:
            self._say(self._client.log.info, "DLI answers again.")
            self._away_since = None
        self._tell(job)
        return job

    def _once(self, within: float | None = None) -> DliClient:
        return self._client.patient(replace(self._client.patience, give_up_after=0, within=within))

    def _bear(self, error: DliError) -> None:
        now = machine.monotonic()
        if self._away_since is None:
            self._away_since = now
            text = "No usable answer from DLI; the job continues, asking again. %s"
            self._say(self._client.log.warning, text, error)
        if now - self._away_since > OUTAGE_BUDGET:
            raise error

    def _tell(self, job: Job) -> None:
        log = self._client.log
        if job.status != self._status:
            self._status = job.status
            took = f" after {job.duration.total_seconds():.1f} s" if job.duration and not job.state.is_active else ""
            self._say(log.info, "%s is %s%s", job, job.status, took)
            if job.state is JobState.UNKNOWN:
                unknown = "%s: this provider does not know the state %r; it counts as active."
                self._say(log.warning, unknown, job, job.status)
        elif job.state is JobState.RUNNING and machine.monotonic() - self._progress_at >= _PROGRESS_EVERY:
            self._tell_progress(job)

    def _tell_progress(self, job: Job) -> None:
        self._progress_at = machine.monotonic()
        if self._kind.progress is None:
            return
        try:
            progress = self._once().send(self._kind.progress(job.id))
        except DliError:
            return  # DLI has none while the queue is busy; a figure for people must not fail the task
        if progress is not None and abs(progress - self._progress) >= 0.1:
            self._progress = progress
            self._say(self._client.log.info, "%s is %s, %d %%", job, job.status, progress * 100)

    def _say(self, log: Callable[..., None], text: str, *values: object) -> None:
        # A task whose supervisor was killed has no log any more (BrokenPipeError). Its job is for the next try.
        with contextlib.suppress(OSError):
            log(text, *values)
