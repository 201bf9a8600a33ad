"""The limit of time that DLI itself puts on a job, so that even a dead Airflow stops paying."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from airflow_provider_dli import compat, machine
from airflow_provider_dli.job import JobState
from airflow_provider_dli.text import in_seconds, in_words

if TYPE_CHECKING:
    from airflow_provider_dli.api.job_kind import Work
    from airflow_provider_dli.job import Job
    from airflow_provider_dli.tasks.this_try import ThisTry

# How much later than the task DLI ends the job by itself, in seconds.
_MARGIN = 60
# How much longer than its limit a job may have run, in seconds: DLI looks at it now and then.
_LATE_BY = 5.0


def bounded(this: ThisTry) -> Work:
    """
    Return the work of a try with the limit that DLI is given.

    :raises DliValueError: The option ``[dli] server_bound`` cannot be used.
    """
    if this.deadline is None or not this.is_owner or (unit := compat.server_bound()) == "off":
        return this.work
    seconds = math.ceil(max(this.deadline - machine.time(), 0) + _MARGIN)
    return this.work.bounded(seconds * 1000 if unit == "milliseconds" else seconds)


def explained(this: ThisTry, job: Job) -> str:
    """Say that DLI has ended a job long before its limit, as it does when it counts in another unit; else nothing."""
    timeout = this.task.execution_timeout
    if this.deadline is None or timeout is None or bounded(this) is this.work or compat.server_bound() != "seconds":
        return ""
    is_of_limit = job.state is JobState.CANCELLED or (job.state is JobState.FAILED and "timeout" in job.message.lower())
    if not is_of_limit or job.duration is None:
        return ""
    # That of an earlier try, or statement, may have been any up to this.
    limit, ran = timeout.total_seconds() + _MARGIN, job.duration.total_seconds()
    if ran > min(limit / 1000 + _LATE_BY, limit / 2):
        return ""
    return (
        f"DLI may have ended it after {in_seconds(ran)}, long before its time limit of {in_words(limit)}, because it "
        "counts that in milliseconds. If so, set server_bound = milliseconds, or off, in section [dli] of Airflow's "
        "configuration; dli-local probe tells."
    )
