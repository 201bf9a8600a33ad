"""Deferring a task until its DLI jobs are over, and what it finds when it is resumed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowTaskTimeout

from airflow_provider_dli.exceptions import DliError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator

# How long after the deadline the scheduler ends a deferral that no triggerer has ended, in seconds.
_TRIGGER_GRACE = 60.0


def deadline_of(task: BaseOperator) -> float | None:
    """Return when a task that starts now has used up its ``execution_timeout``, in seconds since the epoch."""
    return time.time() + task.execution_timeout.total_seconds() if task.execution_timeout else None


def defer_until_over(
    task: Any,
    job_ids: Sequence[str],
    *,
    kind: str = "sql",
    poll_interval: float,
    deadline: float | None,
    cancel_on_kill: bool = False,
    timeout: float | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> NoReturn:
    """
    Give the worker back until all jobs are over; Airflow calls ``execute_complete`` of the task then.

    :param task: The operator, with its connection.
    :param job_ids: The jobs.
    :param kind: Their family.
    :param poll_interval: Seconds between two status calls, at most.
    :param deadline: See :func:`deadline_of`. Airflow itself forgets ``execution_timeout`` of a deferred task.
    :param cancel_on_kill: Whether the jobs are the task's own: the trigger cancels them when nobody wants them.
    :param timeout: Seconds after which the scheduler ends the deferral. Default: a minute after the deadline.
    :param kwargs: Further arguments of ``execute_complete``, as JSON.
    """
    from airflow_provider_dli.triggers.dli import DliJobTrigger

    if timeout is None and deadline is not None:
        timeout = max(deadline - time.time(), 0) + _TRIGGER_GRACE
    task.defer(
        trigger=DliJobTrigger(
            job_ids=job_ids,
            kind=kind,
            dli_conn_id=task.dli_conn_id,
            region=task.region,
            project_id=task.project_id,
            poll_interval=poll_interval,
            deadline=deadline,
            cancel_on_kill=cancel_on_kill,
        ),
        method_name="execute_complete",
        kwargs=dict(kwargs or {}),
        timeout=None if timeout is None else timedelta(seconds=timeout),
    )
    raise AssertionError("a deferral does not return")


def require_over(event: Mapping[str, Any] | None) -> None:
    """
    Check what woke a task: all is well when its jobs are over, however they ended.

    :param event: What the trigger has fired.
    :raises AirflowTaskTimeout: The time of the task was over before.
    :raises DliError: The trigger could not go on.
    """
    from airflow_provider_dli.triggers.dli import OVER, TIMEOUT

    outcome = (event or {}).get("outcome", OVER)
    message = (event or {}).get("message", "")
    if outcome == TIMEOUT:
        raise AirflowTaskTimeout(f"The task was deferred when its execution_timeout was over. {message}".rstrip())
    if outcome != OVER:
        raise DliError(f"The triggerer could not go on waiting for the job: {message}")
