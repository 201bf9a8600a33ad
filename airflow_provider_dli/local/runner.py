"""The life of a job: it waits for its queue, runs, and is stopped by a cancel or its own timeout."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from airflow_provider_dli.local.settings import Settings
from airflow_provider_dli.local.store import Job, Result

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[Job], Awaitable[Result]]

CANCELLED_BY_USER = "The job has been cancelled by a user."


class JobFailedError(Exception):
    """The job ends FAILED. The text starts with a DLI code."""


class StoppedError(Exception):
    """The job was stopped before it was done."""


class Interruptible(Protocol):
    """Something that runs in a thread and can be interrupted from another one, again and again."""

    def run(self) -> Result: ...

    def interrupt(self) -> None: ...


@dataclass(frozen=True)
class Script:
    """What becomes of a job whose SQL is not run but played.

    :param run_for: Seconds in RUNNING.
    :param then: End state.
    :param message: Message of the end state.
    :param launching_for: Seconds in LAUNCHING before that.
    :param stuck_in: State, possibly one that DLI does not know, in which the job stays until it is cancelled.
    :param cancel_takes: Seconds from a cancel to CANCELLED.
    :param rows: Result rows, for a preview.
    """

    run_for: float = 0
    then: str = "FINISHED"
    message: str = ""
    launching_for: float = 0
    stuck_in: str | None = None
    cancel_takes: float = 0
    rows: tuple[tuple[Any, ...], ...] = ()


class Runner:
    """Starts jobs and stops them. All methods are called on the event loop."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._queues = Queues(lambda name: settings().queues.get(name, 1))
        self._lives: set[asyncio.Task[None]] = set()

    def start(self, job: Job, work: Work, launching_for: float = 0) -> None:
        """Let the job run as soon as its queue has room."""
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
                job.begin()
                with _time_limit(job):
                    job.result = await work(job)
        except StoppedError:
            job.end("CANCELLED", job.message)
        except JobFailedError as failure:
            job.end("FAILED", str(failure))
        except Exception as bug:  # the edge of a job: whatever breaks breaks this job only
            log.exception("job %s", job.job_id)
            job.end("FAILED", f"DLI.0999: {type(bug).__name__}: {bug}")
        else:
            # A cancel may have come too late.
            job.end("FINISHED", job.result.message)


async def run_interruptibly(job: Job, session: Interruptible) -> Result:
    """Run in a thread; when the job is to stop, interrupt until the thread has really stopped."""
    running = in_thread(session.run)
    stopping = asyncio.ensure_future(job.stop.wait())
    try:
        either: set[asyncio.Future[Any]] = {running, stopping}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        while not running.done():
            # Repeated, because an interrupt that falls between two statements is lost.
            session.interrupt()
            await asyncio.wait({running}, timeout=0.02)
        return running.result()
    finally:
        stopping.cancel()


async def play(job: Job, script: Script) -> Result:
    """Do as the script says."""
    try:
        if script.stuck_in is not None:
            job.status = script.stuck_in
            await job.stop.wait()
        await wait_unless_stopped(job, script.run_for)
    except StoppedError:
        await asyncio.sleep(script.cancel_takes)
        raise
    if script.then == "FAILED":
        raise JobFailedError(script.message or "DLI.0999: Server-side errors occur.")
    if script.then == "CANCELLED":
        job.message = script.message or CANCELLED_BY_USER
        raise StoppedError
    return Result(rows=[list(row) for row in script.rows], count=len(script.rows), message=script.message)


async def wait_unless_stopped(job: Job, seconds: float) -> None:
    """Wait. :raises StoppedError: as soon as the job is to stop."""
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


class Queues:
    """Places on the queues. Jobs beyond the capacity of their queue wait, first come, first served."""

    def __init__(self, capacity: Callable[[str], int]) -> None:
        self._capacity = capacity
        self._taken: Counter[str] = Counter()
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    @contextlib.asynccontextmanager
    async def place(self, job: Job) -> AsyncIterator[None]:
        await self._enter(job)
        try:
            yield
        finally:
            self._leave(job.queue_name)

    def let_in(self) -> None:
        """Give free places to those who wait longest."""
        for name, waiting in self._waiting.items():
            while waiting and self._taken[name] < self._capacity(name):
                turn = waiting.popleft()
                if not turn.done():
                    self._taken[name] += 1
                    turn.set_result(None)

    async def _enter(self, job: Job) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[job.queue_name].append(turn)
        self.let_in()
        stopping = asyncio.ensure_future(job.stop.wait())
        try:
            either: set[asyncio.Future[Any]] = {turn, stopping}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        turn.cancel()  # no effect on a turn that has come
        if job.stop.is_set():
            if not turn.cancelled():
                self._leave(job.queue_name)
            raise StoppedError

    def _leave(self, name: str) -> None:
        self._taken[name] -= 1
        self.let_in()


def in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """Run in a thread of its own, one that neither the end of the process nor other jobs wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(setter: Callable[[Any], None], value: Any) -> None:
        def settle() -> None:
            if not future.done():
                setter(value)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle)

    def run() -> None:
        _step_back()
        try:
            value = function()
        except BaseException as error:
            deliver(future.set_exception, error)
        else:
            deliver(future.set_result, value)

    threading.Thread(target=run, name="dli-job", daemon=True).start()
    return future


def _step_back() -> None:
    """SQL gives way to requests: on Linux a thread has a nice value of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
