"""What a kind of job is: all that the rest of the package knows of SQL, Spark or Flink, as one value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

if TYPE_CHECKING:
    from airflow_provider_dli.api.call import Call
    from airflow_provider_dli.identity import Identity
    from airflow_provider_dli.job import Job


class Work(ABC):
    """What a job does, with all defaults resolved: the digest is of exactly what is submitted."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Part of the job's identity; see :func:`.identity.digest`."""

    @abstractmethod
    def differences(self, job: Job) -> str:
        """Name what a job ran differently, for people."""

    def shown_by(self, job: Job, digest: str) -> bool | None:
        """
        Whether DLI shows that a job runs what the digest in its identity stands for.

        What DLI leaves out, cuts or formats in another way contradicts nothing. None when it cannot be told.

        :param digest: The digest in the identity of the job; maybe not that of this work.
        """
        return None

    def bounded(self, limit: int) -> Self:
        """
        Return the same work with a time limit that DLI enforces itself, where this kind of job has one.

        :param limit: The limit, in the unit that DLI counts in.
        """
        return self

    @property
    def existing_job_id(self) -> str | None:
        """The job to start, where the work is to start one that exists; None where a job is created for it."""
        return None

    @property
    def begins_after(self) -> str | None:
        """A job that has to be over before, where the work goes on with its result."""
        return None

    def after(self, job: Job) -> Self:
        """Return the same work, which goes on with the result of a job."""
        return self

    @property
    def is_tagged(self) -> bool:
        """Whether the job says which try has started it."""
        return True

    @property
    def not_before(self) -> int | None:
        """
        When, by DLI's own clock, no job of this work can have been submitted yet, in milliseconds since the epoch.

        None where that is not known.
        """
        return None

    @property
    def target(self) -> str | None:
        """Where the job writes, of jobs that nothing else tells from others: lists show neither tags nor a name."""
        return None


W = TypeVar("W", bound=Work)


@dataclass(frozen=True)
class Query:
    """
    Which jobs to list, and which page of them.

    :param tags: Only jobs with these tags. DLI's match may be fuzzy, or missing: compare again.
    :param status: Only jobs in this state of DLI.
    :param queue_name: Only jobs of this queue.
    :param name: Only jobs of this name. DLI's match may be fuzzy: compare again.
    :param target: Only jobs that write there, of those that nothing else tells from others: they count as having these
        tags.
    :param before: Only jobs submitted before this moment, in milliseconds since the epoch.
    :param since: No jobs submitted before this moment are needed, in milliseconds since the epoch.
    :param page: The page, from 1.
    :param offset: Number of jobs before this page; None when all pages before are full.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    status: str | None = None
    queue_name: str | None = None
    name: str | None = None
    target: str | None = None
    before: int | None = None
    since: int | None = None
    page: int = 1
    offset: int | None = None

    def jobs_before(self, page_size: int) -> int:
        """Return the number of jobs to skip."""
        return (self.page - 1) * page_size if self.offset is None else self.offset


@dataclass(frozen=True)
class JobPage:
    """
    One page of a list.

    :param jobs: The jobs of this page.
    :param job_count: Number of jobs that match, on all pages.
    :param skipped: Jobs of this page without a usable id: what else DLI shows of them, None where nothing can be read.
    """

    jobs: list[Job]
    job_count: int
    skipped: tuple[Job | None, ...] = ()

    @property
    def size(self) -> int:
        """Number of jobs that DLI shows on this page."""
        return len(self.jobs) + len(self.skipped)

    def is_last(self, page_size: int, shown: int) -> bool:
        """
        Whether no page follows.

        :param page_size: Jobs on a full page.
        :param shown: Number of jobs on this page and all before it.
        """
        # DLI may show fewer jobs on a page than it was asked for.
        return not self.size or (self.size < page_size and not 0 < shown < self.job_count)


@dataclass(frozen=True)
class JobKind(Generic[W]):
    """
    A kind of job.

    :param name: Its name, such as ``"sql"``: the parameter ``kind`` of operators, sensor and trigger.
    :param title: Its name in the words of people, such as ``SQL job``.
    :param create: Creates a job that carries an identity. Unless there is ``launch``, the job starts too.
    :param status: Asks for the state of a job.
    :param stop: Cancels a job. Doing it twice does no harm, but may be refused: then the state of the job counts.
    :param page: Lists one page of jobs, newest first.
    :param page_size: Jobs on a full page.
    :param most_pages: DLI shows no more pages of one query. Default 100.
    :param active: The active states of DLI that a list can be asked for, in the order in which a job goes through them:
        asked for one by one, no job is missed that moves to the next state meanwhile.
    :param launch: Starts a job that was created; None where creating it does that.
    :param detail: Says more of a job than ``status`` does: why it failed. None where there is no such call.
    :param log: Returns the last lines of a job's log; None where DLI has none.
    :param stop_with_savepoint: Cancels a job once its state is saved; None where jobs have no savepoints.
    :param discard: Deletes a job that does not run; None where DLI has no such call.
    :param name_of: The name of the job of one try; None where jobs have no names, and are found by their tags.
    :param names_are_unique: Whether DLI refuses a second job of a name: then a create may be repeated.
    :param target_of: Asks where a job writes; None where jobs are found by their tags or names.
    :param progress: Asks how far a running job is, from 0 to 1; None where DLI has no such call.
    :param tells_cancelled: Whether DLI has different end states for a cancelled and a failed job.
    """

    name: str
    title: str
    create: Callable[[W, Identity], Call[Job]]
    status: Callable[[str], Call[Job]]
    stop: Callable[[str], Call[None]]
    page: Callable[[Query], Call[JobPage]]
    page_size: int
    active: tuple[str, ...]
    launch: Callable[[str, W], Call[Any]] | None = None
    detail: Callable[[str], Call[Job]] | None = None
    log: Callable[[str, int], Call[list[str]]] | None = None
    stop_with_savepoint: Callable[[str], Call[Any]] | None = None
    discard: Callable[[str], Call[Any]] | None = None
    name_of: Callable[[W, Identity], str] | None = None
    names_are_unique: bool = False
    target_of: Callable[[str], Call[str]] | None = None
    progress: Callable[[str], Call[float | None]] | None = None
    tells_cancelled: bool = True
    most_pages: int = 100

    def named(self, job_id: str) -> str:
        """Return a job in the words of people, as :class:`.Job` does."""
        return f"{self.title} {job_id}"
