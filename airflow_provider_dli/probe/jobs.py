"""The jobs that a probe has started: each is known before it starts, and over when the probe ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import machine
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.exceptions import DliError, DliNotFoundError, DliTemporaryError
from airflow_provider_dli.probe.stop import Stopped
from airflow_provider_dli.waiting.watcher import wait_until_stopped

if TYPE_CHECKING:
    from airflow_provider_dli.api.call import Call
    from airflow_provider_dli.api.job_kind import JobKind
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.job import Job
    from airflow_provider_dli.probe.stop import Stop

#: How long a job whose submit was not answered is looked for, in seconds: so long may the list lag.
LISTED_WITHIN = 30.0
# The same, where there should be none, or where it was looked for before.
_SETTLED_WITHIN = 3.0
# How long the end of one job may take, in seconds.
_ENDED_WITHIN = 90.0


@dataclass
class Started:
    """
    A job that may run.

    :param kind: Its kind.
    :param what: What it is for, such as ``first job``.
    :param sought: How it is found in the list.
    :param job_id: Its id; None as long as it is not known.
    :param is_settled: Whether what was to start it has ended in order: then a job that is not listed is not there.
    :param was_sought: Whether it was looked for, in vain.
    """

    kind: JobKind[Any]
    what: str
    sought: Query
    job_id: str | None = None
    is_settled: bool = False
    was_sought: bool = False


@dataclass(frozen=True)
class Left:
    """
    A job that may still run.

    :param kind: Name of its kind.
    :param job_id: Its id; None when it is not known whether it exists.
    :param problem: Why, for people.
    """

    kind: str
    job_id: str | None
    problem: str

    def __str__(self) -> str:
        named = f"the {self.kind} job {self.job_id}" if self.job_id else f"a {self.kind} job of the probe"
        return f"{named}: {self.problem}"


class StartedJobs:
    """
    Starts jobs, and ends them.

    :param client: Talks to DLI; nothing ends its waits.
    :param stop: What ends the probe.
    """

    def __init__(self, client: DliClient, stop: Stop) -> None:
        self._client = client
        self._stop = stop
        self._all: list[Started] = []

    def expect(self, kind: JobKind[Any], what: str, sought: Query) -> Started:
        """Note a job that is about to be started."""
        self._all.append(Started(kind, what, sought))
        return self._all[-1]

    def forget(self, started: Started) -> None:
        """Note that DLI has refused to start a job."""
        self._all.remove(started)

    def submit(self, kind: JobKind[Any], call: Call[Job], what: str, sought: Query) -> Job:
        """
        Submit a job, and return it. When the answer is lost, it is looked for.

        :raises DliError: DLI refuses it, or does not answer and lists no such job.
        :raises Stopped: The probe ends early.
        """
        started = self.expect(kind, what, sought)
        try:
            job = self._client.watching(self._stop.check_submit).send(call)
        except DliTemporaryError as error:
            if error.nothing_started:
                self.forget(started)
                raise
            found = self._find(self._client.watching(self._stop.check), started)
            if found is None:
                started.was_sought = True
                raise
            job = found
        except DliError:
            self.forget(started)
            raise
        started.job_id = job.id
        self._stop.check()
        return job

    def end(self) -> list[Left]:
        """Cancel all that may still run, and see that it is over; return what is not. Never raises."""
        return [left for started in reversed(self._all) if (left := self._left(started)) is not None]

    def _left(self, started: Started) -> Left | None:
        # Of its own: a job that does not end must not take the time of the others.
        end = machine.monotonic() + _ENDED_WITHIN

        def check() -> None:
            if machine.monotonic() >= end:
                raise Stopped(f"it was not seen to be over within {_ENDED_WITHIN:.0f} s", 1)

        client, problem = self._client.watching(check), ""
        # Whatever goes wrong, and be it a mistake: once more, and the others have to be ended all the same.
        for _ in range(2):
            try:
                return self._end(client, started)
            except Stopped as error:
                return Left(started.kind.name, started.job_id, str(error))
            except Exception as error:
                problem = str(error) or type(error).__name__
        return Left(started.kind.name, started.job_id, problem)

    def _end(self, client: DliClient, started: Started) -> Left | None:
        if started.job_id is None:
            found = self._find(client, started)
            if found is None and started.is_settled:
                return None
            if found is None:
                problem = f"its submit ({started.what}) was not answered, and DLI does not list it"
                return Left(started.kind.name, None, problem)
            started.job_id = found.id
        _end(client, started.kind, started.job_id)
        return None

    def _find(self, client: DliClient, started: Started) -> Job | None:
        is_unlikely = started.is_settled or started.was_sought
        end = machine.monotonic() + (_SETTLED_WITHIN if is_unlikely else LISTED_WITHIN)
        while True:
            if (job := next(client.jobs(started.kind, started.sought), None)) is not None:
                return job
            if machine.monotonic() >= end:
                return None
            client.pause(1.0)


def _end(client: DliClient, kind: JobKind[Any], job_id: str) -> None:
    """Bring a job to its end. Of a kind whose jobs can be deleted, it is deleted."""
    job = _job(client, kind, job_id)
    if job is not None and not job.state.is_at_rest:
        client.cancel(kind, job_id)
        job = wait_until_stopped(client, kind, job_id, poll_interval=2.0)
    if job is not None and kind.discard is not None:
        client.send(kind.discard(job_id))


def _job(client: DliClient, kind: JobKind[Any], job_id: str) -> Job | None:
    """Return a job; None when DLI does not know it, and says so twice: the first time may be a proxy's."""
    try:
        return client.job(kind, job_id)
    except DliNotFoundError:
        client.pause(1.0)
    try:
        return client.job(kind, job_id)
    except DliNotFoundError:
        return None
