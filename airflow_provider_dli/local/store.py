"""Jobs and their states.

Everything here is touched by the event loop only, so that no lock is needed and no request waits for SQL.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

FINAL_STATES = frozenset({"FINISHED", "FAILED", "CANCELLED"})


@dataclass(frozen=True)
class Column:
    """A result column. :param type: Spark's SQL name of the type, such as ``array<int>``."""

    name: str
    type: str
    json_type: Any  # the same in Spark's JSON form, for the StructType in `detail`

    @property
    def json_field(self) -> dict[str, Any]:
        """The column as a field of a StructType."""
        return json_field(self.name, self.json_type)


def json_field(name: str, json_type: Any) -> dict[str, Any]:
    """One field of a StructType."""
    return {"name": name, "type": json_type, "nullable": True, "metadata": {}}


@dataclass
class Result:
    """What a statement left behind. :param rows: the first 1000 rows. :param count: all rows."""

    columns: list[Column] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)
    count: int = 0
    message: str = ""
    file: str | None = None  # Parquet with all rows, what an export reads
    input_size: int = 0


@dataclass(eq=False)
class Job:
    """One SQL or export job, from submit to its end. Moments are seconds since the epoch."""

    statement: str
    job_type: str
    queue_name: str
    owner: str
    database: str = "default"
    table: str = ""
    job_mode: str = "async"
    tags: list[dict[str, str]] = field(default_factory=list)
    conf: list[str] = field(default_factory=list)
    export: dict[str, Any] = field(default_factory=dict)
    timeout: float | None = None

    job_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "LAUNCHING"
    message: str = ""
    submitted_at: float = field(default_factory=time.time)
    started_at: float | None = None
    ended_at: float | None = None
    cancel_requests: list[float] = field(default_factory=list)
    result: Result = field(default_factory=Result)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_active(self) -> bool:
        return self.ended_at is None

    @property
    def start_ms(self) -> int:
        return int(self.submitted_at * 1000)

    @property
    def duration_ms(self) -> int:
        end = time.time() if self.ended_at is None else self.ended_at
        return max(0, int(end * 1000) - self.start_ms)

    def begin(self) -> None:
        self.status, self.started_at = "RUNNING", time.time()

    def end(self, status: str, message: str = "") -> None:
        self.status, self.message, self.ended_at = status, message, time.time()
        self.ended.set()

    def ask_to_stop(self, message: str) -> None:
        """Whoever runs the job sees this, stops, and only then is the job CANCELLED."""
        if not self.stop.is_set():
            self.message = message
            self.stop.set()


@dataclass(frozen=True)
class Filter:
    """The query of a job list; a field left at its default does not narrow it."""

    job_types: frozenset[str] | None = None
    status: str | None = None
    job_id: str | None = None
    queue_name: str | None = None
    start: int | None = None
    end: int | None = None
    sql_pattern: str | None = None
    owner: str | None = None
    database: str | None = None
    table: str | None = None
    tags: tuple[str, ...] = ()
    order: str = "start_time_desc"
    submitted_before: float | None = None

    def tests(self) -> Iterator[Callable[[Job], bool]]:
        """One test per condition; a job is listed when it passes all of them."""
        if (types := self.job_types) is not None:
            yield lambda job: job.job_type in types
        if (status := self.status) is not None:
            yield lambda job: job.status == status
        if (job_id := self.job_id) is not None:
            yield lambda job: job.job_id == job_id
        if (queue := self.queue_name) is not None:
            yield lambda job: job.queue_name == queue.lower()
        # Both ends count as inside: paging by the oldest start time then loses nothing.
        if (start := self.start) is not None:
            yield lambda job: job.start_ms >= start
        if (end := self.end) is not None:
            yield lambda job: job.start_ms <= end
        if (pattern := self.sql_pattern) is not None:
            yield lambda job: pattern.lower() in job.statement.lower()
        if (owner := self.owner) is not None:
            yield lambda job: job.owner == owner
        if (database := self.database) is not None:
            yield lambda job: job.database.lower() == database.lower()
        if (table := self.table) is not None:
            yield lambda job: job.table.lower() == table.lower()
        if (limit := self.submitted_before) is not None:
            yield lambda job: job.submitted_at <= limit
        for wanted in self.tags:
            yield lambda job, wanted=wanted: any(_looks_like(tag, wanted) for tag in job.tags)  # type: ignore[misc]


def _looks_like(tag: dict[str, str], wanted: str) -> bool:
    """DLI's tag filter is fuzzy: here, pieces of the key and of the value are enough."""
    key, equals, value = wanted.partition("=")
    if not equals:
        return wanted in f"{tag['key']}={tag['value']}"
    return key in tag["key"] and value in tag["value"]


class JobStore:
    """All jobs in the order of their submission; the oldest ended ones are forgotten beyond ``limit``."""

    def __init__(self, limit: int = 50_000) -> None:
        self._limit = limit
        self._jobs: dict[str, Job] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def add(self, job: Job) -> Job:
        self._jobs[job.job_id] = job
        if len(self._jobs) > self._limit:
            self._forget_oldest()
        return job

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def clear(self) -> None:
        self._jobs = {}

    def page(self, wanted: Filter, number: int, size: int) -> tuple[int, list[Job]]:
        """Number of all jobs that match, and one page of them, counted from 1."""
        tests = list(wanted.tests())
        jobs = [job for job in self._jobs.values() if all(test(job) for test in tests)]
        _sort(jobs, wanted.order)
        return len(jobs), jobs[(number - 1) * size : number * size]

    def _forget_oldest(self) -> None:
        oldest = next((job for job in self._jobs.values() if not job.is_active), None)
        if oldest is not None:
            del self._jobs[oldest.job_id]


def _sort(jobs: list[Job], order: str) -> None:
    """Jobs come in order of submission, so the two start time orders need no sorting."""
    if order == "start_time_desc":
        jobs.reverse()
    elif order.startswith("duration"):
        jobs.sort(key=lambda job: job.duration_ms, reverse=order.endswith("desc"))


def tags_as_dict(tags: Iterable[dict[str, str]]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in tags}
