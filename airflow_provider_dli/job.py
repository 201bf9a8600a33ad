"""What a DLI job is, of whatever kind: its states, and which of them count as active, over and a success."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow_provider_dli.exceptions import DliJobError, DliValueError
from airflow_provider_dli.text import clean, in_bytes, in_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pendulum import DateTime, Duration

    from airflow_provider_dli.api.rows import Rows


class JobState(StrEnum):
    """State of a job, the same words for every kind. A state we do not know counts as active."""

    CREATED = "CREATED"  # of a kind that is created first and launched afterwards
    LAUNCHING = "LAUNCHING"
    RUNNING = "RUNNING"
    SCALING = "SCALING"
    STOPPING = "STOPPING"
    STOP_FAILED = "STOP_FAILED"  # it may still run
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"

    @property
    def is_active(self) -> bool:
        """Whether the job may still run, and cost."""
        return self not in (JobState.FINISHED, JobState.FAILED, JobState.CANCELLED)

    @property
    def is_success(self) -> bool:
        """Whether the job did all its work."""
        return self is JobState.FINISHED

    @property
    def is_at_rest(self) -> bool:
        """Whether the job stays in this state until somebody starts it."""
        return self is JobState.CREATED or not self.is_active


class Goal(StrEnum):
    """What a task or a sensor waits for."""

    FINISHED = "finished"
    RUNNING = "running"
    STOPPED = "stopped"  # what was asked to stop: for this, a job that is back where it was created is there

    def ends_wait(self, state: JobState) -> bool:
        """Whether a job in this state is waited for no longer: it is there, or it will not get there."""
        # A stop that has failed is not tried again by DLI: somebody has to.
        return not state.is_active or state is JobState.STOP_FAILED or self.is_reached(state)

    def is_reached(self, state: JobState) -> bool:
        """Whether a job in this state is what was waited for."""
        if self is Goal.STOPPED:
            return state.is_at_rest
        return state.is_success or (self is Goal.RUNNING and state is JobState.RUNNING)


def goal_of(wait_for: str) -> Goal:
    """
    Return the goal of this name, of those that a user can wait for.

    :raises DliValueError: There is none; lists those that there are.
    """
    if wait_for not in (Goal.FINISHED, Goal.RUNNING):
        known = " or ".join(f'"{goal}"' for goal in (Goal.FINISHED, Goal.RUNNING))
        raise DliValueError(f"wait_for must be {known}, not {wait_for!r}.", field="wait_for")
    return Goal(wait_for)


@dataclass(frozen=True)
class Job:
    """
    A job as DLI last described it.

    :param id: DLI's id of the job.
    :param kind: Name of its kind, such as ``"sql"``.
    :param title: Its kind in the words of people, such as ``SQL job``.
    :param state: Its state.
    :param status: The state in DLI's own spelling, for people.
    :param message: DLI's message; of a failed job, the reason.
    :param job_type: DLI's type of the statement, such as ``QUERY``, ``INSERT`` or ``DDL``.
    :param queue_name: Queue that runs it.
    :param database: Database of unqualified names, of a kind that has such.
    :param name: Its name, of a kind that has names.
    :param owner: The DLI user who submitted it.
    :param statement: The SQL text.
    :param runs: What DLI shows of what it runs, as it stands and in DLI's own words: to compare, not to show.
    :param start_time: When it was submitted.
    :param launched_at: When it was last started, of a kind that is created first and can be started again.
    :param duration: How long it has run, by DLI's own clock; None before it starts.
    :param result_count: Number of rows returned or inserted; None when DLI does not say.
    :param input_count: Number of rows that it has read; None when DLI does not say.
    :param input_size: Number of bytes that it has read; None when DLI does not say.
    :param bad_count: Number of faulty rows among them; None when DLI does not say.
    :param columns: Name and DLI's type of each column of its result, where a status call tells them.
    :param tags: Its tags. Of a kind without tags, what its settings, description or name say instead.
    :param is_proved: Whether that can be relied upon. A name alone proves nothing: such a job is never cancelled.
    :param may_recover: Whether DLI may start the job again by itself after a failure.
    :param log: The last lines of its log, where DLI shows them with the job.
    :param rows: The result of a synchronous statement, which comes with the answer to its submit and nowhere else.
    """

    id: str
    kind: str
    title: str
    state: JobState
    status: str
    message: str = ""
    job_type: str = ""
    queue_name: str = ""
    database: str = ""
    name: str = ""
    owner: str = ""
    statement: str = ""
    runs: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    start_time: DateTime | None = None
    launched_at: DateTime | None = None
    duration: Duration | None = None
    result_count: int | None = None
    input_count: int | None = None
    input_size: int | None = None
    bad_count: int | None = None
    columns: tuple[tuple[str, str], ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    is_proved: bool = True
    may_recover: bool = False
    log: tuple[str, ...] = ()
    rows: Rows | None = None

    def __str__(self) -> str:
        return f"{self.title} {self.id}"

    @property
    def is_reset(self) -> bool:
        """Whether it has been started, and rests where it was created: a stop takes some jobs there."""
        return self.state is JobState.CREATED and (self.launched_at is not None or bool(self.duration))

    @property
    def figures(self) -> str:
        """What DLI tells of the work of a job that is over, such as ``3.0 s, 1,200 rows, 5.2 MB read``."""
        figures = []
        if self.duration:
            figures.append(in_seconds(self.duration.total_seconds()))
        if self.result_count is not None and self.state.is_success:
            figures.append("1 row" if self.result_count == 1 else f"{self.result_count:,} rows")
        if self.input_count:
            figures.append(f"{self.input_count:,} rows read")
        if self.input_size:
            figures.append(f"{in_bytes(self.input_size)} read")
        if self.bad_count:
            figures.append(f"{self.bad_count:,} faulty rows")
        return ", ".join(figures)

    def require(self, goal: Goal = Goal.FINISHED) -> Job:
        """
        Return the job when all is well: the one rule by which an operator or a sensor passes or fails.

        :param goal: What it was waited for. Default: that it finishes.
        :raises DliJobError: It failed or was cancelled, by whomever. Says why and shows the first lines of
            the statement.
        """
        if goal.is_reached(self.state):
            return self
        lines = [f"{self} ended {self.status}: {self.message or 'DLI gives no reason'}"]
        if self.state is JobState.STOP_FAILED:
            lines = [f"{self} could not be stopped and may still run ({self.status}). {self.message}".rstrip()]
        elif self.state is JobState.CREATED:
            lines = [f"{self} was stopped, by a user, another task or another client: it is {self.status} again"]
        elif self.state is JobState.CANCELLED and not self.message:
            lines = [f"{self} was cancelled, by a user, another client or a time limit of DLI"]
        shown = self.statement.strip().splitlines()[:3]
        raise DliJobError("\n".join([*lines, *(f"    {clean(line, 200)}" for line in shown)]), job=self)


@dataclass(frozen=True)
class Cancellation:
    """
    What became of a cancel.

    :param job_id: The job.
    :param accepted: True when DLI took the request; False when the job was over before.
    :param state: The state of a job that did not run before; None when the request was taken, for then only
        a status call can tell how the job ends.
    :param was_removed: Whether the job had never been started, and was deleted.
    :param requests: How many requests it took.
    :param took: Seconds from the first of them on.
    """

    job_id: str
    accepted: bool
    state: JobState | None = None
    was_removed: bool = False
    requests: int = field(default=1, compare=False)
    took: float = field(default=0.0, compare=False)

    def __str__(self) -> str:
        if self.was_removed:
            return "it was never started, and is deleted"
        if self.state is JobState.CREATED:
            return "it was never started"
        if not self.accepted:
            return f"it was over before ({self.state})"
        repeats = f", at request {self.requests}" if self.requests > 1 else ""
        return f"DLI accepted the cancel after {in_seconds(self.took)}{repeats}"


# DLI does not say which characters an id has, so only those are refused that could change the path.
_UNSAFE_IN_JOB_ID = re.compile(r"[\s/\\?#%]|^\.+$")


def checked_job_id(job_id: object) -> str:
    """
    Return the id when it can stand in a path.

    :raises DliValueError: It is no text, empty, longer than 64 characters, or has characters that would
        lead to another path or cannot be seen.
    """
    if (
        isinstance(job_id, str)
        and 0 < len(job_id) <= 64
        and job_id.isprintable()
        and not _UNSAFE_IN_JOB_ID.search(job_id)
    ):
        if job_id != "None":
            return job_id
        raise DliValueError(
            "job_id is 'None': the task it is pulled from has pushed no job_id. Check the task id in the "
            "template, and that the task ran before this one.",
            field="job_id",
        )
    raise DliValueError(
        f"job_id {clean(repr(job_id), 100)} is no DLI job id: it must be text of 1 to 64 characters without blanks, "
        "line breaks or any of / \\ ? # %, such as 8ecb0777-9c70-4529-9935-29ea0946039c.",
        field="job_id",
    )
