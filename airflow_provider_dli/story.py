"""
What logs tell of jobs: one sentence for each event, the same for every kind, wherever a job is waited for or cancelled.

A name is a job in the words of people, such as ``SQL job 8ecb…``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_dli import machine
from airflow_provider_dli.task_instances import GONE
from airflow_provider_dli.text import NAME_LIMIT, clean, in_seconds

if TYPE_CHECKING:
    from airflow_provider_dli.job import Cancellation, Job


class Told:
    """
    What a log has told of the state of a job: nothing is told twice.

    :param status: The state that was told last.
    :param since: Since when the job has been in its present state, by the clock of this machine; None when nobody has
        seen it begin.
    """

    __slots__ = ("since", "status")

    def __init__(self, status: str = "", since: float | None = None) -> None:
        self.status = status
        self.since = since

    @classmethod
    def submitted(cls) -> Told:
        """Of a job that was submitted just now: its first state begins."""
        return cls(since=machine.monotonic())

    def note(self, job: Job) -> float | None:
        """Note that a state is told; return how long the one before it has lasted, in seconds, if that is known."""
        is_first, since, now = not self.status, self.since, machine.monotonic()
        self.status = job.status
        if is_first:
            return None
        self.since = now
        return None if since is None else now - since


def submitted(job: Job) -> str:
    """Tell that DLI has a job, and where it is found."""
    database = f", database {clean(job.database, NAME_LIMIT)}" if job.database else ""
    return f"{job} is submitted to queue {clean(job.queue_name, NAME_LIMIT) or 'default'}{database}."


def state(job: Job, told: Told, *, with_figures: bool = True) -> str:
    """
    Tell the state of a job, and how long the one before it has lasted; of one that is over, also DLI's figures.

    :param told: What was told of it before; notes this.
    :param with_figures: Whether to tell the figures.
    """
    before, lasted = told.status, told.note(job)
    after = "" if lasted is None else f", after {in_seconds(lasted)} {before}"
    return f"{job} is {job.status}{after}{figures(job) if with_figures else ''}."


def figures(job: Job) -> str:
    """Return DLI's figures of a job that is over, to follow its state; empty when there are none."""
    return f" (DLI counts {job.figures})" if job.figures and not job.state.is_active else ""


def in_airflow(state: str | None) -> str:
    """
    Tell why a task has no use for its job any more.

    :param state: Airflow's state of the task instance.
    """
    return "it is gone from Airflow" if state == GONE else f"in Airflow it is {state or 'yet to be scheduled'}"


def cancelled(name: str, cancellation: Cancellation) -> str:
    """Tell what DLI has said to a cancel."""
    return f"Cancel of {name}: {cancellation}."


def unknown(name: str) -> str:
    """Tell that there is nothing to cancel."""
    return f"DLI does not know {name} any more: nothing is left to cancel."


def wrong_id(name: str) -> str:
    """Tell that a job has another id than DLI has answered."""
    return f"DLI does not know {name}, which it has named itself; the job of this try was found under another id."


def not_cancelled(name: str, error: Exception) -> str:
    """Tell that DLI refuses a cancel."""
    return f"{name} could NOT be cancelled and may still run: {error}"


def not_confirmed(name: str) -> str:
    """Tell that DLI has not answered to a cancel in time."""
    return f"The cancel of {name} was not confirmed in time: it may still run."
