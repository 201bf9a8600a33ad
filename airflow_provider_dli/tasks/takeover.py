"""Takes over the job of an earlier try where it serves this one too, and cancels those that must not continue."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_dli import compat, identity, story
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.client.patience import URGENT
from airflow_provider_dli.core.decide import Decision, Earlier, earlier_jobs
from airflow_provider_dli.exceptions import DliPermissionError, DliValueError
from airflow_provider_dli.job import JobState
from airflow_provider_dli.story import Told
from airflow_provider_dli.task_instances import TaskInstanceKey
from airflow_provider_dli.tasks import start
from airflow_provider_dli.tasks.this_try import claim_of, looks_since
from airflow_provider_dli.waiting.watcher import JobWatcher, wait_until_stopped

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dli.api.job_kind import JobKind
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.job import Job
    from airflow_provider_dli.tasks.this_try import JobTask, ThisTry

_ON_EARLIER_JOB = ("reattach", "cancel", "ignore")
_NOT_OURS = "%s carries the tags of this task, but %s: left alone. Somebody may have copied the tags."


def looks_for_earlier(task: JobTask, try_number: int) -> bool:
    """Whether a try has to look for jobs of earlier ones before it submits."""
    return task.on_earlier_job != "ignore" and (try_number > 1 or not compat.TRY_1_IS_THE_FIRST)


def running_jobs(client: DliClient, kind: JobKind[Any], context: Context) -> list[str]:
    """
    Return the ids of all jobs that earlier tries of a task have left running.

    For a kill that comes before the try knows its own work, and so what it would take over: it may take a while, as the
    function of a decorated task does.

    :param client: Asks DLI.
    :param kind: Kind of the jobs.
    :param context: Airflow's context of the try.
    """
    ti: Any = context["ti"]
    key = TaskInstanceKey.of(ti)
    mine = identity.generation(context["dag_run"].start_date, ti.max_tries)
    names = {identity.DAG: key.dag_id, identity.RUN: key.run_id, identity.TASK: key.task_id}
    # They only make the list shorter, where DLI has tags: a name that is cut may be that of another task.
    tags = {tag: identity.escape(name) for tag, name in names.items()} if kind.name_of is None else {}
    query = Query(tags=tags, since=looks_since(mine))
    found = ((job, identity.read_attempt(job.tags)) for job in client.jobs(kind, query))
    return [
        job.id
        for job, attempt in found
        if job.state.is_active
        and job.is_proved
        and attempt is not None
        and identity.is_of_task_instance(job, *key)
        and attempt.run_start == identity.run_start(mine)
    ]


class TakenUp(NamedTuple):
    """
    Where a try begins.

    :param number: Number of the statement, from 1: those before it are done.
    :param started: Its job, when an earlier try has submitted one that serves this try too.
    """

    number: int = 1
    started: start.Started | None = None


def take_up(statements: Sequence[ThisTry]) -> TakenUp:
    """
    Find out where to begin, and cancel those jobs of earlier tries that must not continue.

    :param statements: This try, by statement.
    :raises DliPermissionError: The user may not list jobs.
    """
    this = statements[0]
    task, switch = this.task, this.task.switch
    if task.on_earlier_job not in _ON_EARLIER_JOB:
        raise DliValueError(
            f"on_earlier_job must be one of {', '.join(_ON_EARLIER_JOB)}, not {task.on_earlier_job!r}.",
            field="on_earlier_job",
        )
    is_found_later = len(statements) == 1 and this.work.begins_after is not None
    if this.work.existing_job_id is not None or is_found_later or not looks_for_earlier(task, this.mine.try_number):
        return TakenUp()
    reuse = task.on_earlier_job == "reattach"
    searcher, query = this.client.for_thread(URGENT), _earlier(this)
    # Killed while it looks, this task must not leave behind what it would have taken over.
    switch.search(lambda: _still_running(_decided(statements, searcher.jobs(task.job_kind, query), reuse)))
    found = _decided(statements, _earlier_jobs(statements, reuse), reuse)
    for earlier in found:
        if earlier.decision is Decision.NOT_OURS:
            task.log.warning(_NOT_OURS, earlier.job, earlier.why)
    found = _ours(found)
    # Killed while it cancels some of them, it must not leave the others behind either.
    switch.follow(*_still_running(found))
    switch.expects_a_job = False
    ended = _cancel(statements, [earlier for earlier in found if earlier.decision is Decision.CANCEL])
    if ended:
        # One that has finished before its cancel came has done its work after all.
        found = _decided(statements, [ended.get(earlier.job.id, earlier.job) for earlier in found], reuse)
    serves, index = None, min(_furthest(found, this.mine, reuse), len(statements) - 1)
    for earlier in found:
        if earlier.decision is Decision.UNPROVED:
            task.log.warning(
                "%s has the name of this task, but DLI shows nothing else that tells whose it is: left alone. Cancel "
                "it in the DLI console if it must not run beside this try.",
                earlier.job,
            )
        elif earlier.decision is Decision.LEAVE:
            task.log.warning(
                "%s carries the name of this task but was submitted in another DAG run of that name, maybe by "
                "another Airflow: left alone. [dli] deployment, unlike in any other Airflow, tells them apart.",
                earlier.job,
            )
        elif earlier.decision in (Decision.REATTACH, Decision.RESULT):
            serves = earlier.job
            _tell_of(statements[index], earlier)
    if serves is None:
        if not ended and all(earlier.decision is Decision.OVER for earlier in found):
            _tell_of_none(statements, found)
        switch.release()
        return TakenUp(index + 1)
    this = statements[index]
    job = start.launched(this, serves)
    if job is not serves:
        task.log.info("%s is started.", job)
    return TakenUp(index + 1, start.adopted(this, job, is_earlier=True))


def take_up_target(this: ThisTry, *, is_after_earlier: bool) -> tuple[ThisTry, start.Started | None]:
    """
    Find the job of an earlier try that writes where the one of this try shall: nothing else tells whose it is.

    :param this: This try, and what its job does.
    :param is_after_earlier: Whether an earlier try may just have submitted it.
    :returns: This try, which knows the jobs that are not its own; and the job that serves it too, or None.
    """
    task, target = this.task, this.work.target
    if target is None or not looks_for_earlier(task, this.mine.try_number):
        return this, None
    reuse = task.on_earlier_job == "reattach" and not this.is_cleared
    # Whoever submitted them, they count as jobs of the try before this one.
    mine = replace(this.mine, statement_index=0, cleared_after=0)
    before = replace(mine, try_number=mine.try_number - 1)
    query = Query(tags=before.tags(), target=target, since=this.looks_since)
    searcher = this.client.for_thread(URGENT)
    theirs = [replace(this, mine=mine)]
    task.switch.search(lambda: _still_running(_decided(theirs, searcher.jobs(task.job_kind, query), reuse)))
    jobs = _look(
        this,
        query,
        start.LIST_LAG if is_after_earlier else 0,
        lambda jobs: any(job.state.is_active or (reuse and job.state.is_success) for job in jobs),
    )
    found = _decided(theirs, jobs, reuse)
    task.switch.follow(*_still_running(found))
    task.switch.expects_a_job = False
    _cancel([this], [earlier for earlier in found if earlier.decision is Decision.CANCEL])
    this = replace(this, others=frozenset(job.id for job in jobs))
    for earlier in found:
        if earlier.decision in (Decision.REATTACH, Decision.RESULT):
            _tell_of(this, earlier)
            return this, start.adopted(this, earlier.job, is_earlier=True)
    task.switch.release()
    return this, None


def _furthest(found: Iterable[Earlier], mine: identity.Identity, reuse: bool) -> int:
    """Return the index of the last statement that an earlier try came to, for those before it are done."""
    ours = (earlier.attempt for earlier in found if reuse and identity.is_same_generation(earlier.attempt, mine))
    return next((attempt.statement_index for attempt in ours), 0)


def _earlier(this: ThisTry) -> Query:
    """Return what finds the jobs of all tries of this task instance."""
    return Query(tags=this.mine.sought, since=this.looks_since)


def _still_running(found: Iterable[Earlier]) -> list[str]:
    """Return the ids of all jobs that a next try would take over or cancel."""
    ours = (Decision.REATTACH, Decision.CANCEL)
    return [earlier.job.id for earlier in found if earlier.decision in ours and earlier.job.is_proved]


def _earlier_jobs(statements: Sequence[ThisTry], reuse: bool) -> list[Job]:
    this, mine = statements[0], statements[0].mine
    # Of a task that does not know how many statements it has, each may have been followed by another one.
    count = len(statements) if this.task.statements_before is None else math.inf

    # A job submitted just before its worker was lost may not be listed yet. The try before this one has one, unless
    # it took over what this one can take over too, or never came to its submit.
    def is_enough(jobs: list[Job]) -> bool:
        found = _ours(_decided(statements, jobs, reuse))
        if count == math.inf and any(_is_of(earlier.attempt, mine, mine.try_number) for earlier in found):
            # A poke of this try before has looked: a sensor that is rescheduled begins again each time.
            return True
        told = (
            earlier
            for earlier in found
            if _is_of(earlier.attempt, mine, mine.try_number - 1)
            or earlier.decision in (Decision.REATTACH, Decision.RESULT)
        )
        # The latest comes first.
        return any(_is_the_last(this, earlier, count) for earlier in islice(told, 1))

    jobs = _look(this, _earlier(this), start.LIST_LAG, is_enough)
    return [_seen_closer(statements, job) for job in jobs]


def _seen_closer(statements: Sequence[ThisTry], job: Job) -> Job:
    """Return the job with what only its own page tells of what it runs, where the list leaves that out."""
    this, attempt = statements[0], identity.read_attempt(job.tags)
    works = {each.mine.statement_index: each.work for each in statements}
    work = None if attempt is None else works.get(attempt.statement_index)
    is_of_interest = job.is_proved and (job.state.is_active or job.state.is_success)
    if work is None or attempt is None or not is_of_interest or attempt.work != work.digest:
        return job
    if work.shown_by(job, attempt.work) is not None:
        return job
    found = JobWatcher(this.client, this.task.job_kind, job.id, told=Told(job.status)).look()
    if found is None:
        return job
    return replace(
        job,
        runs=found.runs,
        queue_name=job.queue_name or found.queue_name,
        database=job.database or found.database,
        owner=job.owner or found.owner,
    )


def _decided(statements: Sequence[ThisTry], jobs: Iterable[Job], reuse: bool) -> list[Earlier]:
    mine = [each.mine for each in statements]
    return earlier_jobs(jobs, mine, reuse, claim_of(statements), statements[0].users)


def _ours(found: Iterable[Earlier]) -> list[Earlier]:
    return [earlier for earlier in found if earlier.decision is not Decision.NOT_OURS]


def _look(this: ThisTry, query: Query, seconds: float, is_enough: Callable[[list[Job]], bool]) -> list[Job]:
    """
    Return these jobs of earlier tries. Where Airflow calls this try the first, a look takes no time and needs no right.

    :param seconds: How long to look, for the list may lag.
    """
    has_earlier = this.mine.try_number > 1
    try:
        return start.look(this, this.client, query, seconds if has_earlier else 0, is_enough)
    except DliPermissionError as error:
        if not has_earlier:
            this.task.log.warning("Jobs that an uncounted earlier try has left running cannot be found: %s", error)
            return []
        raise DliPermissionError(
            f"{error} It is needed to look for a job of an earlier try, so that nothing runs twice; "
            'on_earlier_job="ignore" goes without.',
            status=error.status,
            code=error.code,
            request_id=error.request_id,
        ) from error


def _is_the_last(this: ThisTry, earlier: Earlier, count: float) -> bool:
    """Whether no earlier try can have submitted another job after this one."""
    job, attempt = earlier.job, earlier.attempt
    is_last_statement = attempt.statement_index >= count - 1
    is_of_last_try = _is_of(attempt, this.mine, this.mine.try_number - 1)
    if job.state.is_active and not (is_last_statement and is_of_last_try):
        # What the list shows may be of long ago. Without an answer, the list is read again.
        found = JobWatcher(this.client, this.task.job_kind, job.id, told=Told(job.status)).look()
        if found is None:
            return False
        job = found
    if job.state.is_success:
        return is_last_statement
    return job.state.is_active or is_of_last_try


def _is_of(attempt: identity.Attempt, mine: identity.Identity, try_number: int) -> bool:
    """Whether it is of this try of the same DAG run, and not of a run of that name in another Airflow."""
    return attempt.try_number == try_number and attempt.run_start == identity.run_start(mine.generation)


def _cancel(statements: Sequence[ThisTry], unwanted: Sequence[Earlier]) -> dict[str, Job]:
    """Cancel these jobs, and return how they have ended, by id."""
    this = statements[0]
    task, kind = this.task, this.task.job_kind
    ended = {}
    for earlier in unwanted:
        job, why = earlier.job, _why_not_reused(statements, earlier)
        task.log.info("%s of try %d is %s: cancelling it, for %s.", job, earlier.attempt.try_number, job.status, why)
        if this.client.cancel(kind, job.id, with_savepoint=task.stop_with_savepoint).was_removed:
            ended[job.id] = replace(job, state=JobState.CANCELLED)
            task.switch.forget(job.id)
    for earlier in unwanted:
        if earlier.job.id in ended:
            continue
        told = Told(earlier.job.status)
        job = wait_until_stopped(this.client, kind, earlier.job.id, poll_interval=task.poll_interval, told=told)
        task.switch.forget(earlier.job.id)
        # With the tags of the list: a status call may not return them.
        state = JobState.CANCELLED if job.state is JobState.CREATED else job.state
        ended[earlier.job.id] = replace(earlier.job, state=state, status=job.status)
    return ended


def _why_not_reused(statements: Sequence[ThisTry], earlier: Earlier) -> str:
    task, mine, attempt = statements[0].task, statements[0].mine, earlier.attempt
    if task.on_earlier_job != "reattach":
        return "this task never goes on with an earlier job"
    if not identity.is_same_generation(attempt, mine):
        return "the task or its DAG run was cleared since"
    own = statements[attempt.statement_index : attempt.statement_index + 1]
    if own and own[0].mine.work == attempt.work:
        return "a later job of this task counts"
    differences = own[0].work.differences(earlier.job) if own else "the number of its statements"
    return f"this try runs something else: {differences}"


def _tell_of_none(statements: Sequence[ThisTry], over: Sequence[Earlier]) -> None:
    """Tell that no job of an earlier try serves this one, or has to be cancelled."""
    this = statements[0]
    if this.mine.try_number == 1:
        return
    if not over:
        this.task.log.info("DLI lists no job of an earlier try: this try submits one.")
        return
    job, number = over[0].job, over[0].attempt.try_number
    why = f", for {_why_not_reused(statements, over[0])}" if job.state.is_success else ""
    this.task.log.info("%s of try %d is %s: this try submits another one%s.", job, number, job.status, why)


def _tell_of(this: ThisTry, earlier: Earlier) -> None:
    job, number, log = earlier.job, earlier.attempt.try_number, this.task.log
    log.info(
        "%s of try %d is %s%s: this try %s instead of submitting again, for Airflow has retried the task by itself. To "
        'run it afresh on a retry, set on_earlier_job="cancel".',
        job,
        number,
        job.status,
        story.figures(job),
        "waits for it" if job.state.is_active else "takes its result",
    )
    if earlier.attempt.work != this.mine.work:
        log.warning(
            "Try %d ran something else than this try would: %s. Its result counts all the same, for a second run "
            "would do its work twice. A template that differs from try to try, such as now() or try_number, is the "
            'usual reason; to run it afresh on a retry, set on_earlier_job="cancel".',
            number,
            this.work.differences(job),
        )
