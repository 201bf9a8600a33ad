"""The book of queues and elastic resource pools: which there are, and what each may be used for."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from airflow_provider_dli.local.dli.replies import RefusedError
from airflow_provider_dli.local.dli.settings import Settings

QueueType = Literal["sql", "general"]

#: The queue that takes every kind of job. It shows itself as one of type ``sql``.
DEFAULT = "default"
#: Queues that are always there, with the jobs they run at a time unless the settings name them.
BUILT_IN: Mapping[str, tuple[QueueType, int]] = {DEFAULT: ("sql", 16), "general": ("general", 16)}
#: The pool that is always there.
BUILT_IN_POOL = "pool"
#: CUs of the smallest queue.
SMALLEST: Mapping[QueueType, int] = {"sql": 8, "general": 4}


@dataclass(frozen=True)
class Queue:
    """
    A queue.

    :param name: In lower case.
    :param capacity: Jobs that run at a time.
    :param created_at: Seconds since the epoch.
    :param pool: Name of its elastic resource pool; empty for one outside of all pools.
    """

    name: str
    type: QueueType
    cu_count: int
    capacity: int
    created_at: float
    description: str = ""
    pool: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    resource_mode: int = 0

    @property
    def resource_id(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, self.name))

    def takes(self, job_type: QueueType) -> bool:
        """Whether jobs that need a queue of this type may run here."""
        return self.name == DEFAULT or self.type == job_type


@dataclass(frozen=True)
class Pool:
    """
    An elastic resource pool. Moments are seconds since the epoch.

    :param name: In lower case.
    """

    number: int
    name: str
    min_cu: int
    max_cu: int
    created_at: float
    available_at: float
    description: str = ""
    cidr_in_vpc: str = "172.16.0.0/12"
    tags: Mapping[str, str] = field(default_factory=dict)
    label: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return "AVAILABLE" if time.time() >= self.available_at else "CREATING"


class QueueBook:
    """Queues that are built in, those of the settings (all of type ``sql``), and those that callers have created."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._started_at = time.time()
        self._created: dict[str, Queue] = {}
        self._pools: dict[str, Pool] = {}
        self.clear()

    def clear(self) -> None:
        """Forget what callers have created."""
        self._created = {}
        self._pools = {}
        self._number_of_pools = 0
        self.add_pool(BUILT_IN_POOL, min_cu=64, max_cu=1024, available_at=0)

    def queues(self) -> Iterator[Queue]:
        yield from map(self.queue, dict.fromkeys([*BUILT_IN, *self._settings().queues, *self._created]))

    def queue(self, name: str) -> Queue:
        """
        :raises RefusedError: for an unknown one.
        """
        if (found := self._find(name)) is None:
            raise RefusedError(400, "DLI.0002", f"There is no queue named {name}")
        return found

    def queue_for(self, name: str, job_type: QueueType) -> Queue:
        """
        The queue, if a job may be submitted to it that needs a queue of this type.

        :raises RefusedError: when it may not.
        """
        found = self.queue(name)
        if not found.takes(job_type):
            text = f"The queue {found.name} is of type {found.type}; this job needs a queue of type {job_type}."
            raise RefusedError(400, "DLI.0001", text)
        if found.name in self._created and time.time() < found.created_at + self._settings().queue_usable_after:
            raise RefusedError(400, "DLI.0012", f"The resource is not available: queue {found.name} is being set up.")
        return found

    def capacity(self, name: str) -> int:
        """How many jobs of a queue run at a time."""
        found = self._find(name)
        return found.capacity if found else 1

    def add_queue(self, queue: Queue) -> None:
        """
        :raises RefusedError: for a name that is taken, a size that is too small, or a pool that cannot be used.
        """
        if self._find(queue.name) is not None:
            raise RefusedError(400, "DLI.0006", f"The queue {queue.name} already exists.")
        if queue.cu_count < SMALLEST[queue.type]:
            text = f"cu_count is {queue.cu_count}; the smallest {queue.type} queue has {SMALLEST[queue.type]} CUs."
            raise RefusedError(400, "DLI.0001", text)
        if queue.pool and self.pool(queue.pool).status != "AVAILABLE":
            text = f"The resource is not available: elastic resource pool {queue.pool} is being created."
            raise RefusedError(400, "DLI.0012", text)
        self._created[queue.name] = queue

    def remove_queue(self, name: str, is_busy: Callable[[str], bool]) -> None:
        """
        :param is_busy: Tells whether a queue has active jobs.
        :raises RefusedError: for one that is unknown, built in or busy.
        """
        name = self.queue(name).name
        if name in BUILT_IN:
            raise RefusedError(400, "DLI.0007", f"The queue {name} is built in and cannot be deleted.")
        if is_busy(name):
            raise RefusedError(400, self._settings().queue_busy, f"The queue {name} is busy: jobs are running on it.")
        self._created.pop(name, None)
        self._settings().queues.pop(name, None)

    def pools(self) -> list[Pool]:
        return list(self._pools.values())

    def pool(self, name: str) -> Pool:
        """
        :raises RefusedError: for an unknown one.
        """
        if name.lower() not in self._pools:
            raise RefusedError(400, "DLI.0002", f"There is no elastic resource pool named {name}")
        return self._pools[name.lower()]

    def add_pool(
        self,
        name: str,
        *,
        min_cu: int,
        max_cu: int,
        description: str = "",
        cidr_in_vpc: str = "172.16.0.0/12",
        tags: Mapping[str, str] | None = None,
        label: Mapping[str, str] | None = None,
        available_at: float | None = None,
    ) -> Pool:
        """
        :param available_at: By default, after the time of the settings.
        :raises RefusedError: for a name that is taken.
        """
        if name.lower() in self._pools:
            raise RefusedError(400, "DLI.0006", f"The elastic resource pool {name.lower()} already exists.")
        now = time.time()
        self._number_of_pools += 1
        pool = Pool(
            self._number_of_pools,
            name.lower(),
            min_cu,
            max_cu,
            created_at=now,
            available_at=now + self._settings().pool_available_after if available_at is None else available_at,
            description=description,
            cidr_in_vpc=cidr_in_vpc,
            tags=tags or {},
            label=label or {},
        )
        self._pools[pool.name] = pool
        return pool

    def remove_pool(self, name: str) -> None:
        """
        :raises RefusedError: for one that is unknown, built in or has queues.
        """
        name = self.pool(name).name
        if name == BUILT_IN_POOL:
            raise RefusedError(400, "DLI.0007", f"The elastic resource pool {name} is built in and cannot be deleted.")
        if queues := self.queues_of(name):
            text = f"The elastic resource pool {name} still has queues: {', '.join(queues)}."
            raise RefusedError(400, "DLI.0007", text)
        del self._pools[name]

    def queues_of(self, pool: str) -> list[str]:
        """Names of the queues in a pool."""
        return [queue.name for queue in self._created.values() if queue.pool == pool]

    def _find(self, name: str) -> Queue | None:
        name = name.lower()
        if name in self._created:
            return self._created[name]
        of_settings = self._settings().queues
        if name not in BUILT_IN and name not in of_settings:
            return None
        queue_type, capacity = BUILT_IN.get(name, ("sql", 1))
        capacity = of_settings.get(name, capacity)
        description = f"runs {capacity} jobs at a time"
        return Queue(name, queue_type, 16, capacity, self._started_at, description)
