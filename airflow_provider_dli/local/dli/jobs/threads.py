"""Work in threads that neither blocks the event loop nor keeps the process alive."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from airflow_provider_dli.local.dli.jobs.job import Job

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Interruptible(Protocol[T_co]):
    """Something that runs in a thread and can be interrupted from another one, again and again."""

    def run(self) -> T_co: ...

    def interrupt(self) -> None: ...


async def run_interruptibly(job: Job, session: Interruptible[T]) -> T:
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


def in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """Run in a thread of its own, one that neither the end of the process nor other jobs wait for."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(setter: Callable[[Any], None], value: Any) -> None:
        def settle() -> None:
            if not future.done():
                setter(value)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any longer
            loop.call_soon_threadsafe(settle)

    def run() -> None:
        _lower_priority()
        try:
            value = function()
        except BaseException as error:
            deliver(future.set_exception, error)
        else:
            deliver(future.set_result, value)

    threading.Thread(target=run, name="dli-job", daemon=True).start()
    return future


def _lower_priority() -> None:
    """Requests come before SQL: on Linux a thread has a nice value of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
