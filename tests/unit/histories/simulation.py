"""
Processes, threads, signals, event loops and a clock that are all fake, and always run in the same order.

The code under test reaches them through its port ``machine``, and through the event loop of asyncio; it is otherwise
unchanged. A fake thread is a greenlet (they come with SQLAlchemy, and so with Airflow): it runs until it
waits for something, then the next one does. So a history of events is the same each time it is run, takes
milliseconds however long it lasts by its own clock, and a process that is killed just never runs again.

As in Python, a signal is handled by the main thread, inside whatever it was waiting for.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

# Seconds since the epoch at which every history starts.
START = 1_800_000_000.0
# A shorter sleep takes this long: what waits in steps of 5 ms would be slow to simulate.
SHORTEST_SLEEP = 0.02


_ids = itertools.count(1)


class Simulation:
    """The clock, and everything that is going to happen."""

    current: Simulation

    def __init__(self) -> None:
        self.now = START
        self.closed = False
        self.stopped = False
        #: Points at which the main thread of a worker can still be interrupted before the simulation stops.
        self.steps_left: int | None = None
        self._agenda: list[tuple[float, int, Callable[[], None], Process | None]] = []
        self._number = 0
        self._hub = getcurrent()
        self._threads: list[Thread] = []
        self._tasks: list[asyncio.Task[Any]] = []
        Simulation.current = self

    def later(self, seconds: float, action: Callable[[], None], process: Process | None = None) -> None:
        """Do something later; if it is something of a process, only if that is alive then."""
        self._number += 1
        heapq.heappush(self._agenda, (self.now + seconds, self._number, action, process))

    def run(self, seconds: float) -> bool:
        """Let time pass; return whether something called :meth:`stop` before it was over."""
        self.stopped = False
        end = self.now + seconds
        while self._agenda and self._agenda[0][0] <= end:
            moment, _, action, process = heapq.heappop(self._agenda)
            self.now = max(self.now, moment)
            if process is not None:
                if not process.alive:
                    continue
                if process.frozen_until > self.now:
                    self.later(process.frozen_until - self.now, action, process)
                    continue
            action()
            if self.stopped:
                return True
        self.now = end
        return False

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self.stopped = True

    def close(self) -> None:
        """End what is left of all threads; nothing they do on their way out has an effect."""
        self.closed = True
        for thread in self._threads:
            thread.end()
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(BaseException):
                    task.get_coro().close()  # type: ignore[union-attr]


class Process:
    """A process: its threads, and the signals it has got."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen_until = 0.0
        self.main: Thread | None = None
        self.signals: deque[Callable[[], None]] = deque()
        self.id = next(_ids)
        self.has_token = False
        #: What the models note about it.
        self.notes = SimpleNamespace()

    def start(self, target: Callable[[], None]) -> None:
        """Run the main thread."""
        self.main = Thread(target, process=self)
        self.main.start()

    def signal(self, handler: Callable[[], None]) -> None:
        """Have the main thread call this, inside whatever it is doing."""
        if self.alive and self.main is not None and not self.main.is_over:
            self.signals.append(handler)
            self.main.wake()

    def kill(self) -> None:
        """SIGKILL: it stops where it stands."""
        self.alive = False


class Thread:
    """A thread of a process."""

    def __init__(
        self,
        target: Callable[[], None],
        name: str = "",
        daemon: bool | None = None,
        *,
        process: Process | None = None,
    ) -> None:
        self.process = process or current_process()
        self.is_over = False
        self._target = target
        self._waits = 0
        self._simulation = Simulation.current
        self._greenlet = greenlet(self._run, parent=self._simulation._hub)
        self._greenlet.thread = self

    def start(self) -> None:
        """Run it, soon."""
        interruption_point()
        self._simulation._threads.append(self)
        self._simulation.later(0, self._switch, self.process)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until somebody calls :meth:`wake`, or this long."""
        waits = self._waits
        if seconds is not None:
            self._simulation.later(seconds, lambda: self._switch(waits), self.process)
        self._simulation._hub.switch()
        if not self.process.alive or self._simulation.closed:
            raise GreenletExit
        while self is self.process.main and self.process.signals:
            self.process.signals.popleft()()

    def wake(self) -> None:
        """End a wait, soon."""
        waits = self._waits
        self._simulation.later(0, lambda: self._switch(waits), self.process)

    def end(self) -> None:
        """Unwind it."""
        if self._greenlet and not self._greenlet.dead:
            with suppress(BaseException):
                self._greenlet.throw(GreenletExit)

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self.is_over = True

    def _switch(self, waits: int | None = None) -> None:
        # A wait that has ended by other means meanwhile is not ended twice.
        if not self.is_over and (waits is None or waits == self._waits):
            self._waits += 1
            self._greenlet.switch()


class Lock:
    """Takes the place of ``threading.Lock``."""

    def __init__(self) -> None:
        self._locked = False
        self._waiting: list[Thread] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        interruption_point()
        thread, now = current_thread(), Simulation.current.now
        while self._locked:
            left = now + timeout - Simulation.current.now
            if timeout >= 0 and left <= 1e-6:
                return False
            self._waiting.append(thread)
            thread.wait(left if timeout >= 0 else None)
        self._locked = True
        return True

    def release(self) -> None:
        self._locked = False
        for thread in self._waiting:
            thread.wake()
        self._waiting.clear()


class EventLoop(asyncio.AbstractEventLoop):
    """Runs the coroutines of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._simulation = Simulation.current

    def time(self) -> float:
        return self._simulation.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._simulation.later(0, lambda: self._run(handle), self._process)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._simulation.later(max(0.0, when - self._simulation.now), lambda: self._run(handle), self._process)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        return self.call_at(self._simulation.now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._simulation._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        pass

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def _run(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        asyncio._set_running_loop(self)
        # What it calls without awaiting it belongs to this process, too.
        _in_loop.append(self._process)
        try:
            handle._run()
        finally:
            _in_loop.pop()
            asyncio._set_running_loop(None)


def current_thread() -> Thread:
    """Return the fake thread that runs."""
    return getcurrent().thread  # type: ignore[no-any-return]


def current_process() -> Process:
    """Return the fake process that runs."""
    thread = getattr(getcurrent(), "thread", None)
    return thread.process if thread is not None else _in_loop[-1]


def interruption_point() -> None:
    """Stop the simulation here, when that is asked for: between two lines of a worker's main thread."""
    simulation = Simulation.current
    if simulation.steps_left is None or simulation.closed:
        return
    thread = getattr(getcurrent(), "thread", None)
    if thread is None or thread is not thread.process.main:
        return
    simulation.steps_left -= 1
    if simulation.steps_left < 0:
        simulation.steps_left = None
        # The signal, or the end, that comes here finds it waiting.
        thread.wake()
        simulation.stop()
        thread.wait()


def sleep(seconds: float) -> None:
    """Take the place of ``time.sleep``: signals are handled meanwhile, but do not shorten it."""
    simulation = Simulation.current
    if simulation.closed:
        raise GreenletExit
    end = simulation.now + max(seconds, SHORTEST_SLEEP)
    while (left := end - simulation.now) > 1e-6:
        current_thread().wait(left)


def time() -> float:
    """Take the place of ``time.time``."""
    interruption_point()
    return Simulation.current.now


def monotonic() -> float:
    """Take the place of ``time.monotonic``."""
    interruption_point()
    return Simulation.current.now - START + 1000.0


def process_id() -> int:
    """Take the place of ``os.getpid``."""
    return current_process().id


def parent_process_id() -> int:
    """Take the place of ``os.getppid``."""
    process = current_process()
    return -process.id if process.notes.supervised else 1


def start_thread(function: Callable[[], None]) -> None:
    """Take the place of ``_thread.start_new_thread``."""
    Thread(function).start()


new_lock = Lock

_in_loop: list[Process] = []
