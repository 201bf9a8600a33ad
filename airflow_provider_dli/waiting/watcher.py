"""What is known of a job that is waited for, and how a worker waits for it: it looks at it again and again."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_dli import machine, story
from airflow_provider_dli.exceptions import (
    PERMANENT,
    SAID_TWICE,
    DliAuthenticationError,
    DliError,
    DliTemporaryError,
    DliValueError,
)
from airflow_provider_dli.job import Goal, JobState
from airflow_provider_dli.story import Told
from airflow_provider_dli.text import in_seconds

if TYPE_CHECKING:
    from airflow_provider_dli.api.job_kind import JobKind
    from airflow_provider_dli.client.client import DliClient, Log
    from airflow_provider_dli.job import Job

# How long one look at a waiting job may take at first, in seconds; twice as long after each that took longer, up to the
# longest: few looks are under way at the same time, and none may keep the others from theirs.
FIRST_PATIENCE, _LONGEST_PATIENCE = 15.0, 120.0
# How long an outage of DLI a waiting task tolerates, in seconds.
OUTAGE_BUDGET = 1800.0
# How long it tolerates that its credentials are refused, in seconds: a key may be rotated in DLI some moments before
# Airflow has the new one. Refused credentials are not sent again meanwhile; Airflow is asked for others.
REFUSAL_BUDGET = 60.0
# The shortest wait between two looks, in seconds; then a share of the time waited, up to `poll_interval`.
FIRST_POLL_INTERVAL = 0.5
_SHARE = 0.5

_PROGRESS_EVERY = 10.0
# How the log of a job tells of its cancel, in the words of Spark and YARN.
_KILLED_BY_USER = re.compile(r"\bkilled by (the )?user\b", re.IGNORECASE)


def checked_poll_interval(seconds: float) -> float:
    """
    Return the interval.

    :raises DliValueError: It is no number above 0.
    """
    if isinstance(seconds, (int, float)) and 0 < seconds < float("inf"):
        return seconds
    raise DliValueError(f"poll_interval must be a number of seconds above 0, not {seconds!r}.", field="poll_interval")


def wait_until_over(
    client: DliClient,
    kind: JobKind[Any],
    job_id: str,
    *,
    poll_interval: float,
    goal: Goal = Goal.FINISHED,
    told: Told | None = None,
    has_started: bool = False,
) -> Job:
    """
    Wait until a job is over, however it ends, or has come to what it is waited for; return it.

    Asks often at first, then every ``poll_interval``. Tolerates an outage of 30 minutes. Logs changes of the state, and
    the progress.

    :param client: Asks DLI.
    :param kind: The job's kind.
    :param job_id: The job.
    :param poll_interval: Seconds between two status calls, at most.
    :param goal: What it is waited for. Default: that it finishes.
    :param told: What was logged of it before. Default: nothing.
    :param has_started: Whether it is known to have started. Default False.
    :raises DliNotFoundError: DLI knows no such job.
    :raises DliTemporaryError: DLI has not answered for 30 minutes.
    """
    watcher = JobWatcher(client, kind, job_id, poll_interval=poll_interval, told=told)
    watcher.has_started = has_started
    while (job := watcher.look()) is None or not watcher.ends_wait(job, goal):
        client.patience.watch()
        client.pause(watcher.interval)
    client.patience.watch()
    return job


def wait_until_stopped(
    client: DliClient, kind: JobKind[Any], job_id: str, *, poll_interval: float, told: Told | None = None
) -> Job:
    """
    Wait until a job that was cancelled is over; return it. A stop that fails is repeated once.

    :param told: What was logged of it before. Default: nothing.
    :raises DliJobError: It could not be stopped, and may still run.
    """
    told = told or Told()
    job = wait_until_over(client, kind, job_id, poll_interval=poll_interval, goal=Goal.STOPPED, told=told)
    if job.state is JobState.STOP_FAILED:
        client.log.warning("%s could not be stopped (%s); trying once more. %s", job, job.status, job.message)
        client.cancel(kind, job_id)
        # What DLI shows until it has begun to stop it is the failure of before.
        client.pause(FIRST_POLL_INTERVAL)
        job = wait_until_over(client, kind, job_id, poll_interval=poll_interval, goal=Goal.STOPPED, told=told)
        if job.state is JobState.STOP_FAILED:
            job.require()
    return job


def has_to_be_waited_for(
    client: DliClient, kind: JobKind[Any], job_id: str, told: Told, goal: Goal = Goal.FINISHED, *, within: float = 0.0
) -> bool:
    """
    Whether a deferral makes sense; also when DLI does not answer, for the trigger waits an outage out.

    :param told: What was logged of the job before.
    :param goal: What it is waited for. Default: that it finishes.
    :param within: How long to look whether the job is over, in seconds.
    """
    end = machine.monotonic() + within
    watcher = JobWatcher(client, kind, job_id, poll_interval=1, told=told)
    while True:
        job = watcher.look()
        if job is not None and watcher.ends_wait(job, goal):
            return False
        # What DLI does not know is not worth a deferral: the next look tells.
        if machine.monotonic() >= end and not watcher.is_refused:
            return True
        client.pause(max(min(watcher.interval / 2, end - machine.monotonic()), 0.1))


def may_be_cancelled(kind: JobKind[Any], job: Job) -> bool:
    """Whether a job that is over may have been cancelled; of some kinds, DLI calls such a job failed."""
    return job.state is JobState.CANCELLED or (job.state is JobState.FAILED and not kind.tells_cancelled)


def is_cancelled(kind: JobKind[Any], job: Job) -> bool:
    """Whether it is a fact that a job was cancelled; where DLI's state does not tell, only its log can."""
    if job.state is JobState.FAILED and not kind.tells_cancelled:
        return any(_KILLED_BY_USER.search(line) for line in job.log)
    return job.state is JobState.CANCELLED


class WatchedJob:
    """
    What is known of a job that is waited for: when to look again, what is new, and when to give up. Asks nobody.

    :param job_id: The job.
    :param log: Where to log what is new.
    :param poll_interval: Seconds between two looks, at most. Default 10.
    :param told: What was logged of it before. Default: nothing.
    :raises DliValueError: The interval is no number above 0.
    """

    __slots__ = (
        "_asked_to_wait",
        "_away_since",
        "_began_at",
        "_is_refused",
        "_log",
        "_refused_since",
        "_rests",
        "_told",
        "has_started",
        "job_id",
        "poll_interval",
        "within",
    )

    def __init__(self, job_id: str, log: Log, *, poll_interval: float = 10.0, told: Told | None = None) -> None:
        self.job_id = job_id
        self.poll_interval = checked_poll_interval(poll_interval)
        #: How long one look may take, in seconds. A DLI that is slow gets more time with each look.
        self.within = FIRST_PATIENCE
        self._log = log
        self._began_at = machine.monotonic()
        self._asked_to_wait = 0.0
        self._told = told or Told()
        self._away_since: float | None = None
        self._refused_since: float | None = None
        self._is_refused = False
        #: Whether the job is known to have started.
        self.has_started = False
        self._rests = 0

    @property
    def interval(self) -> float:
        """Seconds until the next look: short at first, then a share of the time waited; or as DLI asks."""
        waited = machine.monotonic() - self._began_at
        return max(self._asked_to_wait, min(max(FIRST_POLL_INTERVAL, waited * _SHARE), self.poll_interval))

    @property
    def is_refused(self) -> bool:
        """Whether DLI has said once that it does not know the job, or does not show it."""
        return self._is_refused

    def heard(self, job: Job) -> bool:
        """
        Note what DLI says of the job; return whether that is new.

        :param job: The job.
        """
        self._is_refused = False
        self._refused_since = None
        self._asked_to_wait = 0.0
        self.has_started = self.has_started or job.state not in (JobState.CREATED, JobState.UNKNOWN)
        if self._away_since is not None:
            self._say("info", "DLI answers again, after %s.", in_seconds(machine.monotonic() - self._away_since))
            self._away_since = None
        if job.status == self._told.status:
            return False
        self._say("info", "%s", self._state(job))
        if job.state is JobState.UNKNOWN:
            unknown = "%s: this provider does not know the state %r; it counts as active."
            self._say("warning", unknown, job, job.status)
        return True

    def ends_wait(self, job: Job, goal: Goal) -> bool:
        """
        Whether nobody waits for the job any longer.

        :param job: What its own status call has said just now.
        :param goal: What it is waited for.
        """
        # A stop takes some jobs back to where they were created. Once, that may be an old answer.
        self._rests = self._rests + 1 if self.has_started and job.state is JobState.CREATED else 0
        return goal.ends_wait(job.state) or self._rests > 1

    def missed(self, error: DliError, took: float) -> None:
        """
        Note that a look has failed.

        Only what no repeat can fix counts at once. A job that DLI does not know, a right that is missing, or a
        certificate that does not verify has to be reported twice in a row: the first time, that may come from a proxy
        in between. Refused credentials count after a minute, in which Airflow may get new ones.

        :param error: How it failed.
        :param took: Seconds that the look took. An answer that drips is not waited for.
        :raises DliError: It counts; or DLI has given no usable answer for 30 minutes.
        """
        is_refusal = isinstance(error, SAID_TWICE)
        now = machine.monotonic()
        if isinstance(error, DliAuthenticationError):
            self._refused_since = self._refused_since or now
            if now - self._refused_since >= REFUSAL_BUDGET:
                raise error
        elif (is_refusal and self._is_refused) or (not is_refusal and isinstance(error, PERMANENT)):
            raise error
        self._is_refused = is_refusal
        if took >= self.within:
            self.within = min(self.within * 2, _LONGEST_PATIENCE)
        self._asked_to_wait = (error.retry_after or 0.0) if isinstance(error, DliTemporaryError) else 0.0
        if self._away_since is None:
            self._away_since = now
            self._say("warning", "No usable answer from DLI; the job continues, asking again. %s", error)
        if now - self._away_since > OUTAGE_BUDGET:
            raise error

    def _state(self, job: Job) -> str:
        return story.state(job, self._told)

    def _say(self, level: Literal["info", "warning"], text: str, *values: object) -> None:
        # A task whose supervisor was killed has no log any more (BrokenPipeError). Its job is for the next try.
        with contextlib.suppress(OSError):
            getattr(self._log, level)(text, *values)


class JobWatcher(WatchedJob):
    """
    Looks at one job again and again, and logs what is new.

    :param client: Asks DLI.
    :param kind: The job's kind.
    :param job_id: The job.
    :param poll_interval: Seconds between two looks, at most. Default 10.
    :param told: What was logged of it before. Default: nothing.
    """

    def __init__(
        self,
        client: DliClient,
        kind: JobKind[Any],
        job_id: str,
        *,
        poll_interval: float = 10.0,
        told: Told | None = None,
    ) -> None:
        super().__init__(job_id, client.log, poll_interval=poll_interval, told=told)
        self._client = client
        self._kind = kind
        self._progress = 0.0
        self._progress_at = machine.monotonic()

    def look(self) -> Job | None:
        """
        Return the job, or None when DLI gave no usable answer this time.

        :raises DliError: See :meth:`missed`.
        """
        begun = machine.monotonic()
        try:
            job = self._once(self.within).job(self._kind, self.job_id)
        except DliError as error:
            self.missed(error, machine.monotonic() - begun)
            return None
        is_new = self.heard(job)
        if not is_new and job.state is JobState.RUNNING and machine.monotonic() - self._progress_at >= _PROGRESS_EVERY:
            self._tell_progress(job)
        return job

    def _once(self, within: float | None = None) -> DliClient:
        return self._client.patient(replace(self._client.patience, give_up_after=0, within=within))

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
            self._say("info", "%s is %s: %d %% done.", job, job.status, progress * 100)
