"""Deferring a task until its DLI jobs are over, and what it finds when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, ClassVar, NoReturn, Protocol

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_dli import machine
from airflow_provider_dli.exceptions import DliError
from airflow_provider_dli.job import Goal

# How long after the deadline the scheduler ends a deferral that no triggerer has ended, in seconds.
_TRIGGER_GRACE = 60.0


class Timed(Protocol):
    """What may have a time limit."""

    execution_timeout: timedelta | None


def deadline_of(*tasks: Timed | None) -> float | None:
    """
    Return when a task that starts now has used up its ``execution_timeout``, in seconds since the epoch.

    :param tasks: The operator; and the task whose function executes it, if there is one. The earlier end counts.
    """
    limits = [task.execution_timeout.total_seconds() for task in tasks if task and task.execution_timeout]
    return machine.time() + min(limits) if limits else None


@dataclass(frozen=True)
class Deferral:
    """
    All that crosses a deferral, as Airflow keeps it: tasks that one release has deferred are resumed by the next.

    :param job_ids: The jobs that the task waits for.
    :param deadline: See :func:`deadline_of`. Airflow itself forgets ``execution_timeout`` of a deferred task.
    :param is_earlier: Whether an earlier try has submitted the job.
    :param cancelled: Jobs whose cancel DLI has accepted.
    :param give_up_at: When the ``timeout`` of a sensor is over, in seconds since the epoch.
    :param is_foreign: Whether the job may be somebody else's: then a kill leaves it alone.
    :param start_by: When the job has to have started, in seconds since the epoch.
    :param statement: Which statement the job runs: the fields of :class:`.xcoms.Place`; empty when that is not known.
    """

    #: How long a job is waited for in the worker before that, in seconds. What is over by then needs no second worker,
    #: and does not have to outlast a slow scheduler: see :class:`.DliJobTrigger`.
    worker_waits: ClassVar[float] = 5.0

    job_ids: tuple[str, ...] = ()
    deadline: float | None = None
    is_earlier: bool = False
    cancelled: tuple[str, ...] = ()
    give_up_at: float | None = None
    is_foreign: bool = False
    start_by: float | None = None
    statement: tuple[int, ...] = ()

    @classmethod
    def resumed(cls, event: Mapping[str, Any] | None, crossed: Mapping[str, Any]) -> Deferral:
        """
        Read it back.

        :param event: What the trigger has fired; ``dag.test()`` passes on nothing else.
        :param crossed: The arguments that Airflow has kept for ``execute_complete``.
        :raises DliError: A newer release has deferred the task, and kept more than this one understands.
        """
        values = dict(crossed)
        # Release 0.1 knew a single job.
        job_ids = [values.pop("job_id")] if "job_id" in values else values.pop("job_ids", (event or {}).get("job_ids"))
        if unknown := sorted(values.keys() - {each.name for each in fields(cls)}):
            raise DliError(
                "A newer release of airflow-provider-dli has deferred this task, and this one does not understand "
                f"{', '.join(unknown)}. The next try takes up job {', '.join(job_ids or ())}; or clear the task."
            )
        cancelled, statement = values.pop("cancelled", ()), values.pop("statement", ())
        return cls(tuple(job_ids or ()), cancelled=tuple(cancelled), statement=tuple(statement), **values)

    def begin(
        self,
        task: Any,
        kind: str,
        *,
        poll_interval: float,
        cancel_on_kill: bool = False,
        stop_with_savepoint: bool = False,
        goal: Goal = Goal.FINISHED,
    ) -> NoReturn:
        """
        Give the worker back until all jobs are over; Airflow calls ``execute_complete`` of the task then.

        :param task: The operator, with its connection.
        :param kind: Name of the jobs' kind.
        :param poll_interval: Seconds between two status calls, at most.
        :param cancel_on_kill: Whether the jobs are the task's own: the trigger cancels them when the task is killed.
        :param stop_with_savepoint: Whether their state is saved then.
        :param goal: What is waited for. Default: that the jobs finish.
        """
        from airflow_provider_dli.triggers.dli import DliJobTrigger

        task.defer(
            trigger=DliJobTrigger(
                job_ids=self.job_ids,
                kind=kind,
                dli_conn_id=task.dli_conn_id,
                region=task.region,
                project_id=task.project_id,
                poll_interval=poll_interval,
                deadline=self.deadline,
                cancel_on_kill=cancel_on_kill,
                stop_with_savepoint=stop_with_savepoint,
                goal=goal,
                start_by=self.start_by,
            ),
            method_name="execute_complete",
            kwargs={name: value for name, value in self._as_json().items() if value},
            timeout=self._timeout(),
        )
        raise AssertionError("a deferral does not return")

    def _as_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def _timeout(self) -> timedelta | None:
        """When the scheduler ends the deferral."""
        if self.give_up_at is not None:
            return timedelta(seconds=max(self.give_up_at - machine.time(), 0))
        if self.deadline is not None:
            return timedelta(seconds=max(self.deadline - machine.time(), 0) + _TRIGGER_GRACE)
        return None


def says_over(event: Mapping[str, Any] | None) -> bool:
    """Whether what woke a task says that its jobs are over, or what they were waited for."""
    from airflow_provider_dli.triggers.dli import OVER

    return bool((event or {}).get("outcome", OVER) == OVER)


def require_over(event: Mapping[str, Any] | None) -> None:
    """
    Check what woke a task: all is well when its jobs are over, however they ended.

    :param event: What the trigger has fired.
    :raises AirflowTaskTimeout: The time of the task was over before.
    :raises DliError: The trigger had to give up.
    """
    from airflow_provider_dli.triggers.dli import LATE, TIMEOUT

    if says_over(event):
        return
    outcome, message = (event or {}).get("outcome"), (event or {}).get("message", "")
    if outcome == TIMEOUT:
        raise AirflowTaskTimeout(f"The task was deferred when its execution_timeout was over. {message}".rstrip())
    raise DliError(message if outcome == LATE else f"The triggerer could not go on waiting for the job: {message}")
