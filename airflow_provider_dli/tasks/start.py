"""Starts the job of a try: submitted once, and found when the answer gets lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from airflow_provider_dli import identity, machine
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.client.patience import BOUNDED, URGENT
from airflow_provider_dli.exceptions import (
    PERMANENT,
    DliAuthenticationError,
    DliError,
    DliTaskKilledError,
    DliTemporaryError,
    DliValueError,
)
from airflow_provider_dli.job import JobState

if TYPE_CHECKING:
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.job import Job
    from airflow_provider_dli.tasks.this_try import ThisTry

# How long a lost job is looked for: DLI's list may lag behind, in seconds.
LIST_LAG = 30.0
# How long a submit may take, refusals for load included, before its answer counts as lost, in seconds.
_SUBMIT_WITHIN = 240.0
# How long a killed task looks for its job when the answer to the submit got lost, in seconds.
_FIND_WITHIN = 3.0
# How long a launch is repeated while it is not known whether the job has started, in seconds.
_LAUNCH_WITHIN = 60.0
# How much later than the task DLI ends the job by itself, in seconds.
_BOUND_MARGIN = 60


def start(this: ThisTry) -> Job:
    """
    Submit the job of this try, and have it started.

    :raises DliError: DLI refused it, or its answer was lost and the job is not found.
    """
    task, switch = this.task, this.task.switch
    sender = this.client.for_thread(BOUNDED).watching(switch.raise_if_killed)
    # All that a kill needs is there before anything is submitted: a token may end at any moment.
    searcher = this.client.for_thread(URGENT)
    create = partial(sender.send, task.job_kind.create(_bounded(this), this.mine))
    tags = {identity.TI: this.mine.ti, identity.ATTEMPT: this.mine.attempt}

    def find(within: float = 0) -> list[str]:
        # Two threads may look.
        return [job.id for job in look(this, searcher.for_thread(URGENT), tags, within)]

    try:
        job = _submit(this, create, sender, find)
    except DliTemporaryError as error:
        if error.nothing_started:
            raise
        switch.search(partial(find, _FIND_WITHIN))
        job = launched(this, _find_submitted(this, tags, error))
    switch.check()
    task.log.info("Submitted %s to queue %s", job, job.queue_name or "default")
    return job


def launched(this: ThisTry, job: Job) -> Job:
    """Launch a job that was created but never started, because its task was lost in between."""
    if job.state is not JobState.CREATED:
        return job
    sender = this.client.for_thread(BOUNDED).watching(this.task.switch.raise_if_killed)
    return _submit(this, lambda: job, sender, lambda: [job.id])


def look(
    this: ThisTry,
    client: DliClient,
    tags: Mapping[str, str],
    seconds: float,
    is_enough: Callable[[list[Job]], bool] = bool,
) -> list[Job]:
    """
    Return the jobs with these tags, newest first; look again until they are enough, for the list may lag.

    :param seconds: How long to look.
    :param is_enough: Tells whether to stop. Default: when there is any.
    """
    end = machine.monotonic() + seconds
    while True:
        jobs = list(client.jobs(this.task.job_kind, Query(tags=tags)))
        if is_enough(jobs) or machine.monotonic() >= end:
            return jobs
        client.pause(1)


def _submit(this: ThisTry, create: Callable[[], Job], sender: DliClient, find: Callable[[], Iterable[str]]) -> Job:
    """Create a job and launch it; when the credentials are refused, go on with those that Airflow has by now."""
    created: list[Job] = []

    def create_and_note() -> Job:
        created.append(create())
        return created[-1]

    def submit() -> Job:
        return this.task.switch.submit(create_and_note, _launcher(this, sender), timeout=_SUBMIT_WITHIN, find=find)

    try:
        return submit()
    except DliAuthenticationError:
        # The thread that sends must not ask Airflow for the connection itself.
        if not this.client.access.reread():
            raise
    if not created:
        return submit()
    # Only the launch was refused, or the look after it: no second job is created, and none is launched twice.
    return launched(this, this.client.job(this.task.job_kind, created[-1].id))


def _bounded(this: ThisTry) -> object:
    """Have DLI itself end the job when ``execution_timeout`` is over, so that even a dead Airflow stops paying."""
    if this.deadline is None or not this.is_owner:
        return this.work
    return this.work.bounded(math.ceil(max(this.deadline - machine.time(), 0) + _BOUND_MARGIN))


def _launcher(this: ThisTry, sender: DliClient) -> Callable[[Job], Job] | None:
    """Return what launches a created job; None where that is not a step of its own."""
    kind = this.task.job_kind
    if (call_of := kind.launch) is None:
        return None

    def launch(job: Job) -> Job:
        end = machine.monotonic() + _LAUNCH_WITHIN
        while True:
            problem: DliError | None = None
            try:
                sender.send(call_of(job.id))
            except PERMANENT:
                raise
            except DliError as error:
                problem = error
            # An answer that is lost, or an error, counts only if the job has not started after all.
            found = sender.job(kind, job.id)
            if problem is None or found.state is not JobState.CREATED:
                return found
            if not isinstance(problem, DliTemporaryError) or machine.monotonic() >= end:
                raise problem
            sender.pause(1)

    return launch


def _find_submitted(this: ThisTry, tags: Mapping[str, str], lost: DliError) -> Job:
    """Find the job of this try by its tags, because the answer to its submit was lost."""
    log = this.task.log
    log.warning("The answer to the submit was lost; looking for the job by its tags. %s", lost)
    try:
        job = next(iter(look(this, this.client, tags, LIST_LAG)), None)
    except (DliTaskKilledError, DliValueError):
        raise
    except DliError as error:
        raise _lost_job(this.mine, f"and the list of jobs cannot be read: {error}") from lost
    if job is None:
        raise _lost_job(this.mine, f"and DLI lists no job of this try within {LIST_LAG:.0f} s") from lost
    this.task.switch.follow(job.id)
    log.info("Found %s, which DLI had started.", job)
    return job


def _lost_job(mine: identity.Identity, problem: str) -> DliError:
    return DliError(
        f"The answer to the submit was lost, {problem}. The job may still run: look in the DLI console for a job with "
        f"the tag {identity.TI} = {mine.ti} and cancel it if it is there. It was not submitted again, so that nothing "
        "runs twice."
    )
