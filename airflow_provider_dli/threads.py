"""Blocking calls in threads of their own: for code that must not hang with them, sync or async."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from airflow_provider_dli import machine
from airflow_provider_dli.exceptions import DliTemporaryError

T = TypeVar("T")

# The longest that any wait goes without looking whether the task was killed, in seconds.
SLICE = 0.25


def pause(seconds: float, watch: Callable[[], None]) -> None:
    """Sleep, calling ``watch`` at least every 0.25 s; what it raises ends the sleep."""
    end = machine.monotonic() + seconds
    watch()
    while (left := end - machine.monotonic()) > 0:
        machine.sleep(min(left, SLICE))
        watch()


class Mailbox(Generic[T]):
    """
    Hands values from any number of threads to one that waits for them.

    Not a queue: until Python 3.12 the ``get(timeout=...)`` of a ``SimpleQueue`` waits for ever when a signal handler
    that interrupts it takes longer than the timeout, as an ``on_kill`` does. No ``Condition`` either, for its lock may
    be held by the code that a kill has interrupted.
    """

    def __init__(self) -> None:
        self._values: deque[T] = deque()
        self._bell = machine.new_lock()
        self._bell.acquire()

    def put(self, value: T) -> None:
        """Hand over a value; never waits."""
        self._values.append(value)
        with contextlib.suppress(RuntimeError):  # another thread has rung already
            self._bell.release()

    def get(self, timeout: float) -> T | None:
        """Return the next value, or None when there is none within so many seconds."""
        end = machine.monotonic() + timeout
        while not self._values:
            if not self._bell.acquire(timeout=max(end - machine.monotonic(), 0)):
                return None
        return self._values.popleft()

    def wait(self) -> T:
        """Return the next value, however long that takes. Not for the main thread."""
        while not self._values:
            self._bell.acquire()
        return self._values.popleft()


class BackgroundLog:
    """
    A log that never holds up who logs: threads write, in order.

    For threads that must not wait for the main one: it may hold a lock of the logging when a kill interrupts it.

    :param log: Where they write.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._lines: deque[tuple[str, str, tuple[Any, ...]]] = deque()
        self._writes = machine.new_lock()

    def info(self, event: str, *values: Any) -> None:
        self._put("info", event, values)

    def warning(self, event: str, *values: Any) -> None:
        self._put("warning", event, values)

    def error(self, event: str, *values: Any) -> None:
        self._put("error", event, values)

    def exception(self, event: str, *values: Any) -> None:
        # The traceback belongs to the thread that logs.
        self._put("error", event, values)

    @property
    def is_written(self) -> bool:
        """Whether nothing is left to write."""
        return not self._lines

    def _put(self, level: str, event: str, values: tuple[Any, ...]) -> None:
        self._lines.append((level, event, values))
        machine.start_thread(self._write)

    def _write(self) -> None:
        # In this order: what comes while another thread gives up the lock is written by that one.
        while self._lines and self._writes.acquire(timeout=0):
            try:
                while self._lines:
                    level, event, values = self._lines[0]
                    with contextlib.suppress(Exception):  # the edge of a thread: there is no log to tell of it
                        getattr(self._log, level)(event, *values)
                    self._lines.popleft()
            finally:
                self._writes.release()


def call_in_thread(
    function: Callable[[], T],
    watch: Callable[[], None],
    timeout: float,
    what: str,
    give_up: Callable[[], None] = lambda: None,
) -> T:
    """
    Call a function in a thread of its own and wait for it, calling ``watch`` at least every 0.25 s.

    The wait ends when ``watch`` raises or the time is over, also when the function hangs in a system call
    that nothing can interrupt (a name that does not resolve); its thread is left behind then, and what it returns is
    thrown away.

    :param timeout: Seconds.
    :param what: What it does, for the error.
    :param give_up: Called when the wait ends before the function does, to make that end soon. Must not wait.
    :raises DliTemporaryError: The time was over.
    """
    answers: Mailbox[tuple[T | None, BaseException | None]] = Mailbox()

    def run() -> None:
        try:
            answers.put((function(), None))
        except BaseException as error:
            answers.put((None, error))

    machine.start_thread(run)
    end = machine.monotonic() + timeout
    answer = None
    try:
        while (answer := answers.get(min(SLICE, max(end - machine.monotonic(), 0)))) is None:
            watch()
            if machine.monotonic() >= end:
                raise DliTemporaryError(f"{what} failed: no complete answer within {timeout:.0f} s")
    # Also what a signal handler raises.
    finally:
        if answer is None:
            give_up()
    result, error = answer
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

    machine.start_thread(run)
    return await future
