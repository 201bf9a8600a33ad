"""Starts the job of a try: submitted once, and found when the answer gets lost; or starts one that exists."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_dli import identity, machine, story
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.client.patience import BOUNDED, URGENT
from airflow_provider_dli.exceptions import (
    PERMANENT,
    DliAuthenticationError,
    DliError,
    DliNotFoundError,
    DliTaskKilledError,
    DliTemporaryError,
    DliValueError,
)
from airflow_provider_dli.job import Goal, JobState
from airflow_provider_dli.story import Told
from airflow_provider_dli.tasks.bound import bounded
from airflow_provider_dli.tasks.kill import FIND_WITHIN
from airflow_provider_dli.tasks.this_try import CLOCK_TOLERANCE, claim_of
from airflow_provider_dli.waiting.watcher import wait_until_over

if TYPE_CHECKING:
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.job import Job
    from airflow_provider_dli.tasks.this_try import ThisTry

# How long a lost job is looked for: DLI's list may lag behind, in seconds.
LIST_LAG = 30.0
# How long a submit may take, refusals for load included, before its answer counts as lost, in seconds.
_SUBMIT_WITHIN = 240.0
# How long a launch is repeated while it is not known whether the job has started, in seconds.
_LAUNCH_WITHIN = 60.0


class Started(NamedTuple):
    """
    The job that a task waits for.

    :param job: The job.
    :param is_earlier: Whether an earlier try has started it.
    :param is_foreign: Whether it may be somebody else's: then a kill leaves it alone.
    """

    job: Job
    is_earlier: bool = False
    is_foreign: bool = False


def start(this: ThisTry) -> Started:
    """
    Submit the job of this try, and have it started; or start the one that the task names.

    :raises DliError: DLI refused it, or its answer was lost and the job is not found.
    """
    if this.work.existing_job_id is not None:
        return _start_existing(this, this.work.existing_job_id)
    task, switch, kind = this.task, this.task.switch, this.task.job_kind
    sender = this.client.for_thread(BOUNDED).watching(switch.raise_if_killed)
    # All that a kill needs is there before anything is submitted: a token may end at any moment.
    searcher = this.client.for_thread(URGENT)
    create = partial(sender.send, kind.create(bounded(this), this.mine))
    if kind.names_are_unique:
        create = partial(_create_or_adopt, this, create, sender)

    def find(within: float = 0) -> list[str]:
        # Two threads may look.
        return [job.id for job in _look_for_mine(this, searcher.for_thread(URGENT), within) if job.is_proved]

    found = ""
    try:
        job = _submit(this, create, sender, find)
    except DliTemporaryError as error:
        if error.nothing_started:
            raise
        switch.search(partial(find, FIND_WITHIN))
        if kind.names_are_unique:
            job = _submit_again(this, create, sender, find, error)
        else:
            job, found = launched(this, _find_submitted(this, error)), " (The submit had reached DLI.)"
    switch.check()
    task.log.info("%s%s", story.submitted(job), found)
    return adopted(this, job)


def adopted(this: ThisTry, job: Job, *, is_earlier: bool = False) -> Started:
    """Take up a job; one that only its name tells of is left alone by a kill."""
    if not job.is_proved:
        this.task.switch.release()
        this.task.log.warning(
            "%s has the name of this task, but DLI shows nothing else that tells whose it is: the task waits for it, "
            "and a kill will NOT cancel it.",
            job,
        )
    return Started(job, is_earlier, is_foreign=not job.is_proved)


def launched(this: ThisTry, job: Job) -> Job:
    """Launch a job that was created but never started, because its task was lost in between."""
    return _launch(this, job) if job.state is JobState.CREATED else job


def look(
    this: ThisTry,
    client: DliClient,
    query: Query,
    seconds: float,
    is_enough: Callable[[list[Job]], bool] = bool,
    is_wanted: Callable[[Job], bool] = lambda job: True,
) -> list[Job]:
    """
    Return these jobs, newest first; look again until they are enough, because the list may lag.

    :param query: Which jobs.
    :param seconds: How long to look.
    :param is_enough: Tells whether to stop. Default: when there is any.
    :param is_wanted: Tells which of them count. Default: all.
    """
    end = machine.monotonic() + seconds
    while True:
        listed = client.jobs(this.task.job_kind, query)
        jobs = [job for job in listed if job.id not in this.others and is_wanted(job)]
        if is_enough(jobs) or machine.monotonic() >= end:
            return jobs
        client.pause(1)


def find_instead(this: ThisTry, unknown: Job, error: DliError) -> Started:
    """
    Find the job of this try under another id, because DLI does not know the one with which it answered the submit.

    :param unknown: The job, as the answer named it.
    :param error: What DLI says of it.
    :raises DliError: ``error``: DLI lists the job itself, or no job of this try.
    """
    task = this.task
    task.log.warning("DLI does not know the job that it has named; looking for the job of this try. %s", error)
    searcher = this.client.for_thread(URGENT)
    task.switch.search(lambda: [job.id for job in _look_for_mine(this, searcher, FIND_WITHIN) if job.is_proved])
    found = _look_for_mine(this, this.client, LIST_LAG)
    if not found or unknown.id in [job.id for job in found]:
        raise error
    task.switch.follow(found[0].id)
    task.log.info("Found %s, which DLI had started.", found[0])
    return adopted(this, found[0])


def _look_for_mine(this: ThisTry, client: DliClient, seconds: float) -> list[Job]:
    """Return the job of this try; one that only has its tags, and runs something else, is not it."""
    claim = claim_of([this])

    def is_mine(job: Job) -> bool:
        attempt = identity.read_attempt(job.tags)
        return attempt is None or not claim(job, attempt).problem

    return look(this, client, _mine(this), seconds, is_wanted=is_mine)


def _mine(this: ThisTry) -> Query:
    """Return what finds the job of this try, and no other."""
    name_of = this.task.job_kind.name_of
    return Query(
        tags={identity.TI: this.mine.ti, identity.ATTEMPT: this.mine.attempt},
        name=name_of(this.work, this.mine) if name_of else None,
        target=this.work.target,
        since=None if this.work.target is None else this.looks_for_own_since,
    )


def _start_existing(this: ThisTry, job_id: str) -> Started:
    """Start a job that is there already; one that runs is not started again."""
    task, kind, switch = this.task, this.task.job_kind, this.task.switch
    is_retry = this.mine.try_number > 1
    if is_retry:
        # An earlier try may have started it.
        switch.follow(job_id)
    switch.expects_a_job = False
    job = this.client.job(kind, job_id)
    if job.state is JobState.STOPPING:
        task.log.info("%s is %s: it is started once it has stopped.", job, job.status)
        told = Told(job.status)
        how: dict[str, Any] = {"poll_interval": task.poll_interval, "told": told}
        job = wait_until_over(this.client, kind, job_id, goal=Goal.STOPPED, **how)
    if not job.state.is_at_rest:
        is_foreign = "" if is_retry else "; a kill leaves it alone, for this task has not started it"
        task.log.info("%s is %s already: not started again%s.", job, job.status, is_foreign)
        return Started(job, is_earlier=is_retry, is_foreign=not is_retry)
    if is_retry and _has_done_it(this, job):
        done = "%s is %s%s, started since this DAG run began: not started again."
        task.log.info(done, job, job.status, story.figures(job))
        return Started(job, is_earlier=True)
    job = _launch(this, job)
    switch.check()
    task.log.info("%s is started.", job)
    return Started(job)


def _has_done_it(this: ThisTry, job: Job) -> bool:
    """Whether an earlier try has started a job that has finished by now, and no user has asked for more since."""
    if not job.state.is_success or job.launched_at is None or this.task.on_earlier_job != "reattach":
        return False
    return not this.is_cleared and job.launched_at.timestamp() * 1000 >= this.began - CLOCK_TOLERANCE


def _launch(this: ThisTry, job: Job) -> Job:
    sender = this.client.for_thread(BOUNDED).watching(this.task.switch.raise_if_killed)
    return _submit(this, lambda: job, sender, lambda: [job.id])


def _create_or_adopt(this: ThisTry, create: Callable[[], Job], sender: DliClient, lag: float = 0) -> Job:
    """Create a job; when DLI refuses it, because it has one of that name: return that, if it is of this try."""
    try:
        return create()
    except (DliTemporaryError, *PERMANENT):
        raise
    except DliError as error:
        found: list[Job] = []
        with suppress(DliError):  # why it was refused counts, not why that cannot be looked into
            found = _look_for_mine(this, sender, lag)
        if not found:
            raise
        this.task.log.info("%s is found: DLI had created it before. %s", found[0], error)
        return found[0]


def _submit_again(
    this: ThisTry, create: partial[Job], sender: DliClient, find: Callable[..., Iterable[str]], lost: DliError
) -> Job:
    """Create a job once more, for DLI refuses a second one of its name."""
    this.task.log.warning("The answer to the submit was lost; submitting again, for its name is unique. %s", lost)
    switch = this.task.switch
    try:
        job = _submit(this, partial(create, lag=LIST_LAG), sender, find)
    except DliTaskKilledError:
        raise
    except DliError as error:
        # The first one may have created a job all the same.
        switch.search(partial(find, FIND_WITHIN))
        if not isinstance(error, DliTemporaryError):
            raise
        job = launched(this, _find_submitted(this, error))
    switch.follow(job.id)
    return job


def _submit(this: ThisTry, create: Callable[[], Job], sender: DliClient, find: Callable[[], Iterable[str]]) -> Job:
    """Create a job and launch it; when the credentials are refused, go on with those that Airflow has by now."""
    created: list[Job] = []

    def create_and_note() -> Job:
        created.append(create())
        return created[-1]

    def submit() -> Job:
        return this.task.switch.submit(create_and_note, _launcher(this, sender), timeout=_SUBMIT_WITHIN, find=find)

    access = this.client.access
    version = access.version
    try:
        return submit()
    except DliAuthenticationError:
        # The thread that sends must not ask Airflow for the connection itself.
        if not access.reread(version):
            raise
    if not created:
        return submit()
    # Only the launch was refused, or the look after it: no second job is created, and none is launched twice.
    job = this.client.job(this.task.job_kind, created[-1].id)
    return _launch(this, job) if _stands_still(job, created[-1]) else job


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
                sender.send(call_of(job.id, this.work))
            except PERMANENT:
                raise
            except DliError as error:
                problem = error
            # An answer that is lost, or an error, counts only if the job has not started after all.
            found = sender.job(kind, job.id)
            if problem is None and found.state.is_active:
                # Also when it has not left its first state yet.
                return replace(found, tags=found.tags or job.tags)
            if _stands_still(found, job):
                # It may only just be starting.
                sender.pause(1)
                found = sender.job(kind, job.id)
            while problem is None and _stands_still(found, job) and machine.monotonic() < end:
                sender.pause(1)
                found = sender.job(kind, job.id)
            if problem is None or not _stands_still(found, job):
                return replace(found, tags=found.tags or job.tags)
            if not isinstance(problem, DliTemporaryError):
                raise problem
            if machine.monotonic() >= end:
                # No temporary error, after which the create would count as lost.
                raise DliError(f"{found} could not be started. {problem}") from problem

    return launch


def _stands_still(job: Job, before: Job) -> bool:
    """Whether a job has not been started since."""
    return job.state.is_at_rest and job.state is before.state and job.launched_at == before.launched_at


def _find_submitted(this: ThisTry, lost: DliError) -> Job:
    """Find the job of this try, because the answer to its submit was lost."""
    this.task.log.warning("The answer to the submit was lost; looking for the job. %s", lost)
    try:
        job = _named_in(this, lost) or next(iter(_look_for_mine(this, this.client, LIST_LAG)), None)
    except (DliTaskKilledError, DliValueError):
        raise
    except DliError as error:
        raise _lost_job(this, f"and the list of jobs cannot be read: {error}") from lost
    if job is None:
        raise _lost_job(this, f"and DLI lists no job of this try within {LIST_LAG:.0f} s") from lost
    this.task.switch.follow(job.id)
    return job


def _named_in(this: ThisTry, lost: DliError) -> Job | None:
    """Return the job that an error names, as DLI does when a call took too long: if it is that of this try."""
    kind, query = this.task.job_kind, _mine(this)
    once = this.client.patient(replace(this.client.patience, give_up_after=0))
    for job_id in dict.fromkeys(_JOB_ID.findall(str(lost))) if lost.status is not None else ():
        with suppress(DliTemporaryError, DliNotFoundError):
            job = once.send((kind.detail or kind.status)(job_id))
            # The id is a claim; the tags prove it.
            if job.is_proved and job.tags and identity.fits(job, query.tags):
                return job
    return None


_JOB_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)


def _lost_job(this: ThisTry, problem: str) -> DliError:
    name = _mine(this).name
    sign = f"the name {name}" if name else f"the tag {identity.TI} = {this.mine.ti}"
    if this.work.target is not None:
        sign = f"the folder {this.work.target}"
    return DliError(
        f"The answer to the submit was lost, {problem}. The job may still run: look in the DLI console for a job with "
        f"{sign} and cancel it if it is there. It was not submitted again, so that nothing runs twice."
    )
