"""
Whose a job is, whether it is still wanted, and what may be done with it; each with the reason.

The retry, the sweep and the jobs page ask here. A tag is a claim, not a proof: anyone in the DLI project can copy one.
So a claim counts only as long as what DLI itself shows of the job (statement, queue, database, submitting user) does
not contradict it. What DLI leaves out contradicts nothing.

An automatic retry is told from a clear by the *generation* of a try (see :func:`.identity.generation`): a
retry must not double work that is under way or done, a clear really runs again. Pure functions, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from airflow_provider_dli import identity
from airflow_provider_dli.exceptions import DliError
from airflow_provider_dli.task_instances import GONE, OVER
from airflow_provider_dli.text import NAME_LIMIT, clean

if TYPE_CHECKING:
    from airflow_provider_dli.job import Job


class Work(Protocol):
    """What :func:`check_claim` needs of the work of a statement."""

    def shown_by(self, job: Job, digest: str) -> bool | None: ...

    @property
    def digest(self) -> str: ...


class Proof(IntEnum):
    """How far DLI itself confirms what the tags of a job say."""

    NONE = 0  # DLI shows too little
    CONSISTENT = 1  # it runs what its tags say
    SAME_WORK = 2  # and that is what this try would run


class Claim(NamedTuple):
    """
    What the tags of a job are worth.

    :param proof: How far DLI confirms them.
    :param problem: What contradicts them; empty when nothing does.
    """

    proof: Proof = Proof.NONE
    problem: str = ""


class Decision(Enum):
    """What to do with one job of an earlier try."""

    REATTACH = "wait for it"
    RESULT = "its result is the result of this try"
    CANCEL = "cancel it"
    LEAVE = "leave it alone: it may belong to another Airflow"
    UNPROVED = "leave it alone: only its name tells whose it is"
    NOT_OURS = "leave it alone: its tags are not true"
    OVER = "nothing"


class Earlier(NamedTuple):
    """
    A job of an earlier try, and what to do with it.

    :param job: The job.
    :param attempt: Who submitted it.
    :param decision: What to do.
    :param why: Why it is not ours, if that is so.
    """

    job: Job
    attempt: identity.Attempt
    decision: Decision
    why: str = ""


def check_claim(
    job: Job,
    attempt: identity.Attempt,
    mine: identity.Identity,
    works: Mapping[int, Work],
    users: Collection[str],
    *,
    tries_are_counted: bool = True,
) -> Claim:
    """
    Check what the tags of a job say against what DLI shows of it.

    :param job: The job.
    :param attempt: What its tags say.
    :param mine: The try that asks.
    :param works: What this try would run, by the index of the statement.
    :param users: Names under which DLI may show the user of this connection; empty when that is not known.
    :param tries_are_counted: Whether Airflow never gives two tries one number.
    """
    if job.is_proved and not identity.is_of_task_instance(job, mine.dag_id, mine.run_id, mine.task_id, mine.map_index):
        return Claim(problem=f"its tags {identity.TI} and {identity.ATTEMPT} contradict each other")
    if tries_are_counted and attempt.generation == mine.generation and attempt.try_number > mine.try_number:
        return Claim(problem=f"its tags name try {attempt.try_number}, and this is try {mine.try_number}")
    work = works.get(attempt.statement_index)
    shown = None if work is None else work.shown_by(job, attempt.work)
    is_same_work = work is not None and attempt.work == work.digest
    if shown:
        # Whoever submitted it: it does what this try would do.
        if is_same_work:
            return Claim(Proof.SAME_WORK)
    elif shown is False:
        return Claim(problem="it runs something else than its tags say")
    if is_of_other_user(job, users):
        return Claim(problem=f"the DLI user {clean(job.owner, NAME_LIMIT)} submitted it")
    return Claim(Proof.CONSISTENT if shown else Proof.NONE)


def is_of_other_user(job: Job, users: Collection[str]) -> bool:
    """Whether DLI says that a job was submitted by somebody else than the user of this connection."""
    return bool(users and job.owner) and job.owner.casefold() not in {user.casefold() for user in users}


def earlier_jobs(
    jobs: Iterable[Job],
    statements: Sequence[identity.Identity],
    reuse: bool,
    claim_of: Callable[[Job, identity.Attempt], Claim] = lambda job, attempt: Claim(),
    users: Collection[str] = (),
) -> list[Earlier]:
    """
    Decide about all jobs of earlier tries, the latest try first, and in a try the last statement.

    Of several of this generation, only the latest can be re-attached to or give the result; the others that are
    active are cancelled. Jobs whose identity cannot be read back are not in the list.

    :param jobs: Jobs of this task instance, as their tags say.
    :param statements: What this try would submit, in order.
    :param reuse: Whether a job of an earlier try may serve this one.
    :param claim_of: Tells what the tags of a job are worth: see :func:`check_claim`.
    :param users: See there.
    :raises DliError: One still runs whose attempt was written by a newer release.
    """
    found = [(job, attempt) for job in jobs if (attempt := _attempt(job, users)) is not None]
    found.sort(key=_when, reverse=True)
    claims = {job.id: claim_of(job, attempt) for job, attempt in found}
    proven = {attempt: job.id for job, attempt in found if claims[job.id].proof}
    for job, attempt in found:
        # One try submits one job of a statement.
        if not claims[job.id].proof and proven.get(attempt, job.id) != job.id:
            claims[job.id] = Claim(problem=f"its tags are those of job {proven[attempt]}")
    latest = _latest([pair for pair in found if not claims[pair[0].id].problem], claims, statements[0])
    return [
        _decided(job, attempt, claims[job.id].problem, statements, reuse and job is latest) for job, attempt in found
    ]


def why_orphan(state: str | None, later_jobs: Mapping[str, int], awaited: str | None) -> str:
    """
    Tell why no task waits for an active job any more; empty when one may.

    :param state: Airflow's state of its task instance, asked for after the job was listed; None when it is yet to be
        scheduled, :data:`GONE` when Airflow does not know it.
    :param later_jobs: Jobs whose tags say that a later try submitted them, with the number of that try.
    :param awaited: The job that the task instance waits for, as Airflow knows it: what tags say of other jobs makes no
        orphan. None when that is not known.
    """
    if state == GONE:
        return "its task instance is gone from Airflow"
    if state in OVER:
        return f"its task instance is {state}"
    if awaited is not None and awaited in later_jobs:
        return f"try {later_jobs[awaited]} of its task instance has submitted another job since"
    return ""


def _attempt(job: Job, users: Collection[str]) -> identity.Attempt | None:
    attempt = identity.read_attempt(job.tags)
    if identity.is_of_newer_release(job.tags) and job.state.is_active and not is_of_other_user(job, users):
        # Beside it, this try would do the same work a second time.
        raise DliError(
            f"{job} of an earlier try still runs, and was submitted by a newer release of airflow-provider-dli: its "
            f"tag {identity.ATTEMPT} cannot be read ({clean(job.tags[identity.ATTEMPT], NAME_LIMIT)!r}). "
            'Install that release again, wait for the job or cancel it, or set on_earlier_job="ignore".'
        )
    return attempt


def _when(pair: tuple[Job, identity.Attempt]) -> tuple[object, ...]:
    job, attempt = pair
    return attempt.try_number, attempt.statement_index, job.start_time is not None, job.start_time


def _latest(
    ours: Sequence[tuple[Job, identity.Attempt]], claims: Mapping[str, Claim], mine: identity.Identity
) -> Job | None:
    """Return the job that this try may go on with."""
    # Others, of another Airflow for example, may be later than the latest of ours.
    mates = [pair for pair in ours if identity.is_same_generation(pair[1], mine)]
    if not mates:
        return None
    latest, index = mates[0][0], mates[0][1].statement_index
    if claims[latest.id].proof is Proof.SAME_WORK:
        return latest
    # What is known to do the work of this try comes before what only says that it is later.
    serves = (
        job
        for job, attempt in mates
        if attempt.statement_index == index
        and claims[job.id].proof is Proof.SAME_WORK
        and (job.state.is_active or job.state.is_success)
    )
    return next(serves, latest)


def _decided(
    job: Job, attempt: identity.Attempt, problem: str, statements: Sequence[identity.Identity], reuse: bool
) -> Earlier:
    if problem:
        return Earlier(job, attempt, Decision.NOT_OURS, problem)
    return Earlier(job, attempt, _decision(job, attempt, statements, reuse=reuse))


def _decision(job: Job, attempt: identity.Attempt, statements: Sequence[identity.Identity], *, reuse: bool) -> Decision:
    mine = statements[0]
    is_retry = reuse and identity.is_same_generation(attempt, mine)
    if job.state.is_success and is_retry:
        # Whatever it ran: a template may differ from try to try (`now()`), and the work is done.
        return Decision.RESULT
    if not job.state.is_active:
        return Decision.OVER
    works = [statement.work for statement in statements]
    if is_retry and works[attempt.statement_index : attempt.statement_index + 1] == [attempt.work]:
        return Decision.REATTACH
    # Two Airflows can run the same DAG with the same run ids in one DLI project.
    same_run = attempt.run_start == identity.run_start(mine.generation)
    if not (same_run or identity.is_of_same_deployment(job, mine)):
        return Decision.LEAVE
    return Decision.CANCEL if job.is_proved else Decision.UNPROVED
