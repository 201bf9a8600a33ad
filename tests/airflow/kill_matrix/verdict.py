"""What can go wrong when a task is killed, counted in the job table of DLI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from math import inf

import pace

from airflow_provider_dli.local.dli.admin.views import LocalJob
from kill_matrix.kinds import tags_of
from kill_matrix.report import report
from kill_matrix.stage import GRACE, Outcome

# What the log says of a task whose supervisor was told to end it.
ENDED_BY_AIRFLOW = "Server indicated the task shouldn't be running anymore"
KINDS = ("orphans", "duplicates", "wrong cancels", "green after a kill")


def count(outcomes: Iterable[Outcome]) -> Counter[str]:
    """All that went wrong; every kind is named, also with 0."""
    found = Counter(dict.fromkeys(KINDS, 0))
    for outcome in outcomes:
        found.update(wrongs(outcome))
    return found


def wrongs(outcome: Outcome) -> dict[str, int]:
    """What went wrong in one case."""
    return {
        "orphans": _orphans(outcome),
        "duplicates": _duplicates(outcome),
        "wrong cancels": _wrong_cancels(outcome),
        "green after a kill": _green_after_a_kill(outcome),
    }


def check(outcome: Outcome) -> None:
    """
    Compare what came of a case with what must.

    :raises AssertionError: Something is different, or went wrong; with what the judge saw.
    """
    # The report says it all, in few lines: no source code of this function beside it.
    __tracebackhide__ = True
    if why := difference(outcome):
        raise AssertionError(report(outcome, why))


def check_mapped(outcome: Outcome) -> None:
    """
    Compare what came of three mapped tasks, of which the second was marked as failed, with what must.

    :raises AssertionError: Something is different; with what the judge saw.
    """
    __tracebackhide__ = True
    jobs = sorted(outcome.jobs, key=lambda job: job.statement)
    seen = [outcome.states, [job.state for job in jobs], [bool(job.cancel_requests) for job in jobs]]
    wanted = [["success", "failed", "success"], ["FINISHED", "CANCELLED", "FINISHED"], [False, True, False]]
    if outcome.problem or seen != wanted:
        raise AssertionError(report(outcome, f"by map index, the tasks, jobs and cancels are {seen}, not {wanted}"))


def difference(outcome: Outcome) -> str:
    """What came of a case and must not, in words; empty when all is as it must be."""
    path = outcome.case.path
    if outcome.problem is not None:
        return "it was not played to its end"
    jobs = tuple(job.state for job in outcome.jobs)
    is_left = path.or_left and "RUNNING" in jobs
    if jobs not in outcome.case.may_be and not is_left:
        return f"the jobs are {', '.join(jobs) or 'none'}"
    if path.ends == "gone":
        if outcome.states:
            return f"the tasks are not gone, but {outcome.states}"
    else:
        if outcome.states != [path.ends]:
            return f"the task is not {path.ends}, but {outcome.states}"
        # Airflow now and then fails a try for a reason of its own, when the one before it is just being deferred.
        may_take_more = path.alone or path.deferred
        if outcome.tries != path.tries and not (may_take_more and outcome.tries > path.tries):
            return f"it took {outcome.tries} tries"
    found = wrongs(outcome)
    # Where it is a matter of luck whether the job is cancelled, it is one too when.
    if found.pop("orphans") != ("RUNNING" in jobs) and not path.or_left:
        return "a job ran on for too long after its task" if "RUNNING" not in jobs else "a job is no orphan, but runs"
    return ", ".join(f"{kind}: {times}" for kind, times in found.items() if times)


def is_late(outcome: Outcome) -> bool:
    """Whether a job that somebody was to cancel ran on for long after its task was over."""
    ended = [job.ended_at or inf for job in started(outcome)]
    return (
        outcome.problem is None
        and not outcome.case.may_be_left
        and max(ended, default=0) > outcome.over_at + pace.seconds(GRACE)
    )


def _orphans(outcome: Outcome) -> int:
    """Jobs that ran on after their task was over."""
    return sum(
        (job.ended_at or inf) > outcome.over_at + pace.seconds(outcome.case.patience) for job in started(outcome)
    )


def _duplicates(outcome: Outcome) -> int:
    """Jobs of one task instance that ran at the same time, or whose work had been done before."""
    jobs = started(outcome)
    at_once = sum((job.ended_at or inf) > later.submitted_at for job, later in pairwise(jobs))
    finished = Counter(_generation_and_work(tags_of(job)) for job in jobs if job.state == "FINISHED")
    return at_once + sum(times - 1 for times in finished.values())


def _wrong_cancels(outcome: Outcome) -> int:
    """DELETEs for running jobs that nobody wanted to end."""
    # On a busy machine heartbeats may come too late, and Airflow ends the task that it takes for lost.
    if outcome.case.path.kills or ENDED_BY_AIRFLOW in outcome.log:
        return 0
    return sum(at < (job.ended_at or inf) for job in outcome.jobs for at in job.cancel_requests)


def _green_after_a_kill(outcome: Outcome) -> int:
    """A task that is a success although its job is none, unless a user said so."""
    if outcome.case.path.name.startswith("mark-success") or outcome.states != ["success"]:
        return 0
    return int([job.state for job in outcome.jobs[-1:]] != ["FINISHED"])


def started(outcome: Outcome) -> list[LocalJob]:
    """The jobs that have run: one that was created and never started costs nothing."""
    return [job for job in outcome.jobs if job.state != "CREATED"]


def _generation_and_work(tags: object) -> tuple[str, str]:
    _, generation, _, _, _, _, work = dict(tags)["airflow_attempt"].split(":")  # type: ignore[call-overload]
    return generation, work
