"""Blocking calls in threads of their own: for code that must not hang with them, sync or async."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from airflow_provider_dli.exceptions import DliTemporaryError

T = TypeVar("T")

# The longest that any wait goes without looking whether the task was killed, in seconds.
SLICE = 0.25


def pause(seconds: float, watch: Callable[[], None]) -> None:
    """Sleep, calling ``watch`` at least every 0.25 s; what it raises ends the sleep."""
    end = time.monotonic() + seconds
    watch()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SLICE))
        watch()


def call_in_thread(function: Callable[[], T], watch: Callable[[], None], timeout: float, what: str) -> T:
    """
    Call a function in a thread of its own and wait for it, calling ``watch`` at least every 0.25 s.

    The wait ends when ``watch`` raises or the time is over, also when the function hangs in a system call
    that nothing can interrupt (a server that sends a byte per second, a name that does not resolve); its
    thread is left behind then, and what it returns is thrown away.

    :param timeout: Seconds.
    :param what: What it does, for the error.
    :raises DliTemporaryError: The time was over.
    """
    answers: list[tuple[T | None, BaseException | None]] = []
    # Not a queue: until Python 3.12 the `get(timeout=...)` of a SimpleQueue waits for ever when a signal handler that
    # interrupts it takes longer than the timeout, as an `on_kill` does.
    answered = threading.Lock()
    answered.acquire()

    def run() -> None:
        try:
            answers.append((function(), None))
        except BaseException as error:
            answers.append((None, error))
        answered.release()

    threading.Thread(target=run, name="dli-call", daemon=True).start()
    end = time.monotonic() + timeout
    while not answered.acquire(timeout=SLICE):
        watch()
        if time.monotonic() > end:
            raise DliTemporaryError(f"{what} failed: no complete answer within {timeout:.0f} s")
    result, error = answers[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only when the function returned None


async def run_in_thread(function: Callable[[], T]) -> T:
    """
    Call a blocking function in a daemon thread of its own and await what it returns.

    Cancelled, the wait ends at once, and what the function still does is thrown away. (The threads of asyncio's
    own executor would keep a process from ending for as long as a call hangs.)
    """
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only when the function returned None

    def run() -> None:
        result, error = None, None
        try:
            result = context.run(function)
        except BaseException as problem:
            error = problem
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="dli-call", daemon=True).start()
    return await future
