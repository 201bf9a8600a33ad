"""
What to do with the jobs of earlier tries: re-attach, use the result, cancel, or leave alone.

An automatic retry is told from a clear by the *generation* of a try (see :func:`.identity.generation`): a
retry must not double work that is under way or done, a clear really runs again. Pure functions, no I/O.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_dli import identity
from airflow_provider_dli.exceptions import DliError
from airflow_provider_dli.text import NAME_LIMIT, clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow_provider_dli.job import Job


class Verdict(Enum):
    """What to do with one job of an earlier try."""

    REATTACH = "wait for it"
    RESULT = "its result is the result of this try"
    CANCEL = "cancel it"
    LEAVE = "leave it alone: it may belong to another Airflow"
    UNPROVED = "leave it alone: only its name tells whose it is"
    OVER = "nothing"


class Earlier(NamedTuple):
    """
    A job of an earlier try, and what to do with it.

    :param job: The job.
    :param attempt: Who submitted it.
    :param verdict: What to do.
    """

    job: Job
    attempt: identity.Attempt
    verdict: Verdict


def judge(jobs: Iterable[Job], statements: Sequence[identity.Identity], reuse: bool) -> list[Earlier]:
    """
    Decide about all jobs of earlier tries, the latest try first, and in a try the last statement.

    Of several of this generation, only the latest can be re-attached to or give the result; the others that are
    active are cancelled. Jobs whose identity cannot be read back are not in the list.

    :param jobs: Jobs of this task instance.
    :param statements: What this try would submit, in order.
    :param reuse: Whether a job of an earlier try may serve this one.
    :raises DliError: One still runs whose attempt was written by a newer release.
    """
    found = [(job, attempt) for job in jobs if (attempt := _attempt(job)) is not None]
    found.sort(key=_when, reverse=True)
    # Others, of another Airflow for example, may be later than the latest of ours.
    latest = next((job for job, attempt in found if attempt.generation == statements[0].generation), None)
    return [
        Earlier(job, attempt, _verdict(job, attempt, statements, reuse=reuse and job is latest))
        for job, attempt in found
    ]


def _attempt(job: Job) -> identity.Attempt | None:
    attempt = identity.read_attempt(job.tags)
    if identity.is_of_newer_release(job.tags) and job.state.is_active:
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


def _verdict(job: Job, attempt: identity.Attempt, statements: Sequence[identity.Identity], *, reuse: bool) -> Verdict:
    mine = statements[0]
    is_retry = reuse and attempt.generation == mine.generation
    if job.state.is_success and is_retry:
        # Whatever it ran: a template may differ from try to try (`now()`), and the work is done.
        return Verdict.RESULT
    if not job.state.is_active:
        return Verdict.OVER
    works = [statement.work for statement in statements]
    if is_retry and works[attempt.statement_index : attempt.statement_index + 1] == [attempt.work]:
        return Verdict.REATTACH
    # Two Airflows can run the same DAG with the same run ids in one DLI project.
    same_run = attempt.run_start == identity.run_start(mine.generation)
    deployment = mine.tags().get(identity.DEPLOYMENT)
    same_deployment = deployment is not None and job.tags.get(identity.DEPLOYMENT) == deployment
    if not (same_run or same_deployment):
        return Verdict.LEAVE
    return Verdict.CANCEL if job.is_proved else Verdict.UNPROVED
