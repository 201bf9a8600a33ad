"""What can go wrong when a task is killed, counted in the job table of DLI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from math import inf

from kill_matrix.stage import GRACE, Outcome

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


def _orphans(outcome: Outcome) -> int:
    """Jobs that ran on after their task was over."""
    return sum((job.ended_at or inf) > outcome.over_at + GRACE for job in outcome.jobs)


def _duplicates(outcome: Outcome) -> int:
    """Jobs of one task instance that ran at the same time, or whose work had been done before."""
    at_once = sum((job.ended_at or inf) > later.submitted_at for job, later in pairwise(outcome.jobs))
    finished = Counter(_generation_and_work(job.tags) for job in outcome.jobs if job.status == "FINISHED")
    return at_once + sum(times - 1 for times in finished.values())


def _wrong_cancels(outcome: Outcome) -> int:
    """DELETEs for running jobs that nobody wanted to end."""
    if outcome.case.path.kills:
        return 0
    return sum(at < (job.ended_at or inf) for job in outcome.jobs for at in job.cancel_requests)


def _green_after_a_kill(outcome: Outcome) -> int:
    """A task that is a success although its job is none, unless a user said so."""
    if outcome.case.path.name.startswith("mark-success") or outcome.states != ["success"]:
        return 0
    return int([job.status for job in outcome.jobs[-1:]] != ["FINISHED"])


def _generation_and_work(tags: object) -> tuple[str, str]:
    _, generation, _, _, _, _, work = dict(tags)["airflow_attempt"].split(":")  # type: ignore[call-overload]
    return generation, work
