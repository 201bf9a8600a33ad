"""Places on the queues: how many jobs run at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from airflow_provider_dli.local.dli.jobs.job import Job, StoppedError


class Queues:
    """Jobs beyond the capacity of their queue wait, first come, first served."""

    def __init__(self, capacity: Callable[[str], int]) -> None:
        self._capacity = capacity
        self._taken: Counter[str] = Counter()
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    @contextlib.asynccontextmanager
    async def place(self, job: Job) -> AsyncIterator[None]:
        """
        Wait for a place, and give it back at the end.

        :raises StoppedError: as soon as the job is to stop.
        """
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
