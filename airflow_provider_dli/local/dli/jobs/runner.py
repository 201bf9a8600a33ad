"""The life of a job: it waits for its queue, runs, and is stopped by a cancel or its own timeout."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator

from airflow_provider_dli.local.dli.jobs.job import Job, JobFailedError, Stage, StoppedError
from airflow_provider_dli.local.dli.jobs.queues import Queues
from airflow_provider_dli.local.dli.settings import Settings

log = logging.getLogger(__name__)

#: What a job does. Its result is the message of a job that has finished.
Work = Callable[[], Awaitable[str]]


class Runner:
    """
    Starts jobs and stops them. All methods are called on the event loop.

    :param capacity: Tells how many jobs of a queue run at a time.
    """

    def __init__(self, settings: Callable[[], Settings], capacity: Callable[[str], int]) -> None:
        self._settings = settings
        self._queues = Queues(capacity)
        self._lives: set[asyncio.Task[None]] = set()

    def start(self, job: Job, work: Work, launching_for: float = 0) -> None:
        """
        Let the job run as soon as its queue has room.

        :param launching_for: Seconds in LAUNCHING at least.
        """
        life = asyncio.get_running_loop().create_task(self._live(job, work, launching_for))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)

    def make_room(self) -> None:
        """Look again which jobs may start; to be called when capacities have changed."""
        self._queues.let_in()

    async def finish_all(self, seconds: float) -> None:
        """Wait until every job that was asked to stop has done so, ``seconds`` at most."""
        if self._lives:
            await asyncio.wait(set(self._lives), timeout=seconds)

    async def _live(self, job: Job, work: Work, launching_for: float) -> None:
        try:
            await wait_unless_stopped(job, max(launching_for, self._settings().launch_delay))
            async with self._queues.place(job):
                job.enter(Stage.RUNNING)
                with _time_limit(job):
                    message = await work()
        except StoppedError:
            job.enter(Stage.CANCELLED, job.message)
        except JobFailedError as failure:
            job.enter(Stage.FAILED, str(failure))
        except Exception as bug:  # the edge of a job: a bug fails this job only
            log.exception("job %s", job.job_id)
            job.enter(Stage.FAILED, f"DLI.0999: {type(bug).__name__}: {bug}")
        else:
            # A cancel may have come too late.
            job.enter(Stage.FINISHED, message)


async def wait_unless_stopped(job: Job, seconds: float) -> None:
    """
    :raises StoppedError: as soon as the job is to stop.
    """
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(job.stop.wait(), seconds)
    if job.stop.is_set():
        raise StoppedError


@contextlib.contextmanager
def _time_limit(job: Job) -> Iterator[None]:
    if job.timeout is None:
        yield
        return
    text = f"The job has been cancelled: it ran longer than dli.sql.job.timeout = {job.timeout:g} seconds."
    timer = asyncio.get_running_loop().call_later(job.timeout, job.ask_to_stop, text)
    try:
        yield
    finally:
        timer.cancel()
