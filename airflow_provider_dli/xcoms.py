"""The XComs of a task that runs a job: the job id, and the address that the button in Airflow's task view opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_dli import compat

if TYPE_CHECKING:
    from airflow_provider_dli.task_instances import TaskInstanceKey

JOB_ID = "job_id"
# Airflow 3 looks for the address of a button under this name.
CONSOLE_URL = "_link_DliJobLink"
# Set for a job that a kill leaves alone.
IS_FOREIGN = "job_is_foreign"
# The job, when an earlier try has submitted it.
TAKEN_OVER = "job_taken_over"
# Of a script: which statement the job runs.
STATEMENT = "statement"


class Place(NamedTuple):
    """
    Where a task is among its statements.

    :param number: Number of the statement, from 1.
    :param of: How many there are.
    """

    number: int = 1
    of: int = 1

    @property
    def is_last(self) -> bool:
        """Whether no statement is left."""
        return self.number >= self.of

    def __str__(self) -> str:
        return f"Statement {self.number} of {self.of}"


def announce(
    ti: Any,
    job_id: str,
    console_url: str | None,
    *,
    is_foreign: bool = False,
    is_taken_over: bool = False,
    place: Place,
) -> None:
    """
    Make a job known to other tasks and people, whatever ``do_xcom_push`` says.

    :param ti: Airflow's task instance.
    :param job_id: The job.
    :param console_url: Address of the jobs in the cloud's console, if it is known.
    :param is_foreign: Whether the job may be somebody else's: then a kill leaves it alone.
    :param is_taken_over: Whether an earlier try has submitted the job.
    :param place: Which statement the job runs.
    """
    if is_taken_over:
        ti.xcom_push(key=TAKEN_OVER, value=job_id)
    if place.of > 1:
        ti.xcom_push(key=STATEMENT, value=list(place))
    if is_foreign:
        ti.xcom_push(key=IS_FOREIGN, value=True)
    ti.xcom_push(key=JOB_ID, value=job_id)
    if console_url:
        ti.xcom_push(key=CONSOLE_URL, value=console_url)


def announced_job_id(key: TaskInstanceKey) -> str | None:
    """Return the job that a task instance has announced in its current try; None when there is none yet."""
    found = compat.xcom(key, JOB_ID)
    return None if found is None else str(found)


def taken_over_job_id(key: TaskInstanceKey) -> str | None:
    """Return the job of an earlier try that the current try of a task instance waits for; None when it does not."""
    found = compat.xcom(key, TAKEN_OVER)
    return None if found is None else str(found)


def is_foreign(key: TaskInstanceKey) -> bool:
    """Whether the job that a task instance has announced may be somebody else's."""
    return bool(compat.xcom(key, IS_FOREIGN))


def announced_statement(key: TaskInstanceKey) -> Place:
    """Return which statement the job runs that a task instance has announced."""
    return Place(*(compat.xcom(key, STATEMENT) or ()))
