"""One try of a task: what it runs, under which identity, and with what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_dli import compat, identity, machine
from airflow_provider_dli.core.decide import Claim, check_claim
from airflow_provider_dli.job import Goal
from airflow_provider_dli.task_instances import TaskInstanceKey
from airflow_provider_dli.tasks.cleared import last_try_before_clear

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dli.api.job_kind import JobKind, Work
    from airflow_provider_dli.client.client import DliClient, Log
    from airflow_provider_dli.client.connection import DliConnection
    from airflow_provider_dli.job import Job
    from airflow_provider_dli.tasks.kill import KillSwitch
    from airflow_provider_dli.xcoms import Place


# How far the clock of DLI may be behind that of Airflow, in milliseconds: the one margin of all look-ups.
_CLOCKS_DIFFER_BY = 15 * 60 * 1000
# The same where nothing but the time tells what this DAG run has started from what an earlier one has, so that more
# would take theirs for ours.
CLOCK_TOLERANCE = 30_000


class JobTask(Protocol):
    """What the machine needs of an operator that runs a job: its parameters, its work, its switch, and a client."""

    current_job_id: str | None
    console_url: str | None
    dli_conn_id: str
    region: str | None
    project_id: str | None
    poll_interval: float
    wait_for_completion: bool
    cancel_on_kill: bool
    stop_with_savepoint: bool
    start_timeout: timedelta | None
    log_tail_lines: int
    retries: int | None
    execution_timeout: timedelta | None

    @property
    def job_kind(self) -> JobKind[Any]: ...

    @property
    def may_defer(self) -> bool: ...

    @property
    def on_earlier_job(self) -> str: ...

    @property
    def goal(self) -> Goal: ...

    @property
    def creates_job(self) -> bool: ...

    @property
    def statements_before(self) -> int | None: ...

    @property
    def log(self) -> Log: ...

    @property
    def switch(self) -> KillSwitch: ...

    def client(self, watch: Callable[[], None]) -> DliClient: ...

    def works(self, connection: DliConnection) -> Sequence[Work]: ...

    def finish(self, client: DliClient, job: Job, ti: Any, place: Place) -> None: ...


@dataclass(frozen=True)
class ThisTry:
    """
    One try of a task; of a task with several statements, one of them.

    :param task: The operator.
    :param client: Talks to DLI, in the main thread.
    :param work: What the job does.
    :param mine: The identity of the job that this try submits.
    :param deadline: When ``execution_timeout`` is over, in seconds since the epoch.
    """

    task: JobTask
    client: DliClient
    work: Work
    mine: identity.Identity
    deadline: float | None
    #: When this try began, in milliseconds since the epoch.
    began_itself: int = field(default_factory=lambda: int(machine.time() * 1000))
    #: Jobs that are known not to be of this try.
    others: frozenset[str] = frozenset()
    #: Names under which DLI may show the user of the connection; empty when they are not known.
    users: frozenset[str] = frozenset()

    @classmethod
    def of(cls, task: JobTask, client: DliClient, context: Context, deadline: float | None) -> list[ThisTry]:
        """Resolve what the task asks for, with the defaults of its connection: one for each statement."""
        connection = client.connect()
        works = task.works(connection)
        ti: Any = context["ti"]
        of_all = identity.Identity(
            **TaskInstanceKey.of(ti)._asdict(),
            statement_index=0,
            generation=identity.generation(context["dag_run"].start_date, ti.max_tries),
            try_number=ti.try_number,
            owner="task" if _sees_the_end(task) else "detached",
            work="",
            deployment=compat.deployment(),
            of_script=len(works) > 1 or task.statements_before is not None,
            cleared_after=last_try_before_clear(ti),
        )
        return [
            cls(
                task,
                client,
                work,
                replace(of_all, statement_index=index, work=work.digest),
                deadline,
                users=connection.user_names,
            )
            for index, work in enumerate(works, start=task.statements_before or 0)
        ]

    @property
    def is_owner(self) -> bool:
        """Whether the job must not outlive the task."""
        return self.mine.owner == "task"

    @property
    def began(self) -> int:
        """When the DAG run began, in milliseconds since the epoch."""
        return int(identity.run_start(self.mine.generation)) // 1000

    @property
    def is_cleared(self) -> bool:
        """Whether a user has cleared the task in this DAG run, at some time, for jobs without tags."""
        return self.mine.cleared_after > 0

    @property
    def looks_since(self) -> int:
        """No job of this task instance was submitted before this moment, in milliseconds since the epoch."""
        return max(looks_since(self.mine.generation), self.work.not_before or 0)

    @property
    def looks_for_own_since(self) -> int:
        """No job of this try was submitted before this moment, in milliseconds since the epoch."""
        if self.work.not_before is None:
            return self.began_itself - CLOCK_TOLERANCE
        # By DLI's own clock, as the times of the jobs that it is compared with.
        return max(self.began_itself - _CLOCKS_DIFFER_BY, self.work.not_before)


def looks_since(generation: str) -> int:
    """Return a moment before which no job of a DAG run was submitted, in milliseconds since the epoch."""
    return int(identity.run_start(generation)) // 1000 - _CLOCKS_DIFFER_BY


def claim_of(statements: Sequence[ThisTry]) -> Callable[[Job, identity.Attempt], Claim]:
    """Return what tells what the tags of a job are worth; it asks nobody."""
    this = statements[0]
    return partial(
        check_claim,
        mine=this.mine,
        works={each.mine.statement_index: each.work for each in statements},
        users=this.users,
        tries_are_counted=compat.TRY_1_IS_THE_FIRST,
    )


def _sees_the_end(task: JobTask) -> bool:
    return task.wait_for_completion and task.cancel_on_kill and task.goal is Goal.FINISHED
