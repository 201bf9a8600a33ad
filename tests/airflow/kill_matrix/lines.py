"""The cases that older lines of Airflow play, and what must come of them where it is not what 3.3 does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kill_matrix.cases import BY_NAME, Case

EVERYWHERE = (
    "mark-failed.wait",
    "mark-success.wait",
    "clear-task.wait",
    "clear-run.wait",
    "run-failed.wait",
    "run-deleted.wait",
    "execution-timeout.wait",
    "dagrun-timeout.wait",
    "task-term.wait",
    "task-kill.wait",
    "last-try-kill.wait",
    "last-try-kill-swept.wait",
    "supervisor-term.wait",
    "supervisor-int.wait",
    "supervisor-kill.wait",
    "mark-failed-deferred.wait",
    "mark-success-deferred.wait",
    "clear-task-deferred.wait",
    "clear-run-deferred.wait",
    "run-failed-deferred.wait",
    "run-deleted-deferred.wait",
    "execution-timeout-deferred.wait",
    "dagrun-timeout-deferred.wait",
    "triggerer-term.wait",
    "triggerer-down-timeout.wait",
)
"""Names of cases that every line plays."""

AT_BOTH_ENDS = (
    "mark-success.poll",
    "mark-failed.submit",
    "mark-failed.unanswered",
    "mark-failed-deferred.answer",
    "mark-failed-deferred.busy",
    "mark-failed-deferred.hung",
    "mark-failed.hung",
    "mark-failed.refused",
    "task-term.unavailable",
    "clear-task-deferred.slow",
    "run-failed-deferred.slow",
)
"""Names of cases that the oldest and the newest of these lines play: what happens there does not depend on the line."""

# A heartbeat of 2.11 that tells of a kill may come later than the submit, and a task of 2.11 needs no supervisor; but a
# task that it kills gets SIGKILL only after 60 seconds, and one whose supervisor is told to end is told too.
MORE: Mapping[str, tuple[str, ...]] = {
    "2.11": ("mark-failed.unavailable", "supervisor-term.unavailable"),
    **dict.fromkeys(("3.0", "3.1", "3.2"), ("mark-failed.before", "supervisor-kill-last.wait")),
}
"""Names of more cases, by line."""

SETTINGS: Mapping[str, Mapping[str, object]] = {
    "2.11": {
        # A running task that is marked success may go on for this long, by default for 20 seconds.
        "core.task_success_overtime": 3,
        # A kill is told at the second heartbeat after it.
        "scheduler.job_heartbeat_sec": 1,
        # The default. Looked for more often, Airflow 2 may find a lost task twice and count its next try as try 1 again;
        # that one takes the job over too (unit tests), but a case waits for try 2.
        "scheduler.task_instance_heartbeat_timeout_detection_interval": 10,
    },
}
"""More settings with short cycles, by line."""

# The supervisor ends without a word to its task, or not at all.
NOT_TOLD: Mapping[str, Any] = {"job": "FINISHED", "who": "nobody", "tries": 1, "kills": False}
DIFFERENCES: Mapping[tuple[str, str], Mapping[str, Any]] = {
    # The task runs on beside its next try. When both are done at the same moment, one of them fails and is tried again.
    **{("2.11", f"supervisor-{name}"): {"alone": True} for name in ("int", "kill")},
    # The task is told, and its job cancelled. Airflow never starts the next try.
    ("3.0", "clear-task"): {"ends": "restarting", "tries": 1},
    ("3.0", "clear-run"): {"ends": "restarting", "tries": 1},
    # A task that got SIGKILL is not retried.
    ("3.0", "task-kill"): {"ends": "failed", "job": "RUNNING", "who": "only a sweep", "tries": 1},
    **{(line, f"supervisor-{name}"): NOT_TOLD for line in ("3.0", "3.1", "3.2") for name in ("term", "int")},
}
"""Other values of fields of a path, by line and name of the path."""


def cases_of(line: str) -> list[Case]:
    """Return what a line plays; it is part of their names, so that two lines have no run id in common."""
    # Other moments than "wait" come last: of the first, so many begin at a time that the moment would be missed.
    at_the_ends = AT_BOTH_ENDS if line in ("2.11", "3.2") else ()
    return [_as_in(line, BY_NAME[name]) for name in (*EVERYWHERE, *at_the_ends, *MORE.get(line, ()))]


def _as_in(line: str, case: Case) -> Case:
    different = DIFFERENCES.get((line, case.path.name))
    path = replace(case.path, **different) if different else case.path
    return replace(case, path=path, suffix=f".{line}")
