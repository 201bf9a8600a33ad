"""The cases that older lines of Airflow play, and what must come of them where it is not what 3.3 does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kill_matrix.cases import BY_NAME, Case
from kill_matrix.kinds import FLINK, SPARK, STOCK

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
)
"""Names of cases that every line plays."""

ON_THE_OLDEST = (
    "triggerer-down-timeout.wait",
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
"""Names of cases that the oldest line plays: what happens there does not depend on the line."""

OF_KINDS = (
    "mark-failed.wait",
    "clear-task.wait",
    "execution-timeout.wait",
    "task-kill.wait",
    "mark-failed-deferred.wait",
    "clear-task-deferred.wait",
    "execution-timeout-deferred.wait",
    "triggerer-term.wait",
)
"""Names of the cases that every line plays for each of the other kinds of job, too."""

OF_STOCK_OPERATORS = ("mark-failed.wait", "clear-task.wait", "execution-timeout.wait", "task-kill.wait")
"""Names of the cases that every line plays for an operator of Airflow with our hook."""

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
    "3.0": {
        # A cleared task stays in `restarting`, is found lost at every look, and each time its file is read for the
        # callback only. Airflow takes that for a reading in which the DAGs of the file were missing.
        "dag_processor.stale_dag_threshold": 3600,
    },
}
"""More settings with short cycles, by line."""

# The supervisor ends without a word to its task, or not at all.
NOT_TOLD: Mapping[str, Any] = {"job": "FINISHED", "who": "nobody", "tries": 1, "kills": False}
DIFFERENCES: Mapping[tuple[str, str], Mapping[str, Any]] = {
    # The task runs on beside its next try. When both are done at the same moment, one of them fails and is tried again.
    **{("2.11", f"supervisor-{name}"): {"by_itself": True} for name in ("int", "kill")},
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
    oldest = ON_THE_OLDEST if line == "2.11" else ()
    everywhere, more = ([BY_NAME[name] for name in names] for names in (EVERYWHERE, (*oldest, *MORE.get(line, ()))))
    of_kinds = [replace(BY_NAME[name], kind=kind) for name in OF_KINDS for kind in (SPARK, FLINK)]
    stock = [replace(BY_NAME[name], kind=STOCK) for name in OF_STOCK_OPERATORS]
    return [_as_in(line, case) for case in (*everywhere, *of_kinds, *stock, *more)]


def _as_in(line: str, case: Case) -> Case:
    different = DIFFERENCES.get((line, case.path.name))
    path = replace(case.path, **different) if different else case.path
    return replace(case, path=path, suffix=f".{line}")
