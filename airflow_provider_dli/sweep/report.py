"""The report of a sweep: what became of each job."""

from __future__ import annotations

from collections import Counter
from typing import Any

from airflow_provider_dli.identity import MAX_VALUE
from airflow_provider_dli.sweep.verdict import Candidate, Judgement, Verdict
from airflow_provider_dli.text import clean, in_words

# How many of the jobs that are left alone are listed.
_LEFT_ALONE_SHOWN = 100
# How many failures an error names.
_FAILURES_NAMED = 10


class Report:
    """
    What became of the jobs.

    Of the jobs that are left alone, only the first hundred are listed and the others counted, for it becomes an XCom.

    :param now: Seconds since the epoch.
    :param secrets: What is masked; see :func:`.clean`.
    """

    def __init__(self, now: float, secrets: tuple[str, ...] = ()) -> None:
        self._now = now
        self._secrets = secrets
        self._counts: Counter[Verdict] = Counter()
        #: One for each job: ``job``, ``dag``, ``run``, ``task``, ``map_index``, ``try``, ``age`` in seconds,
        #: ``verdict`` and ``why``.
        self.rows: list[dict[str, Any]] = []

    def add(self, candidate: Candidate, judgement: Judgement) -> None:
        """Note what became of a job."""
        verdict = judgement.verdict
        self._counts[verdict] += 1
        if verdict is Verdict.LEFT_ALONE and self._counts[verdict] > _LEFT_ALONE_SHOWN:
            return
        # The names come from tags, in which anyone who may submit jobs can write anything.
        names = (candidate.dag_id, candidate.run_id, candidate.task_id)
        dag, run, task = (clean(name, MAX_VALUE, secrets=self._secrets) for name in names)
        self.rows.append(
            {
                "job": candidate.job_id,
                "dag": dag,
                "run": run,
                "task": task,
                "map_index": candidate.map_index,
                "try": candidate.try_number or None,
                "age": None if candidate.submitted is None else round(self._now - candidate.submitted),
                "verdict": str(verdict),
                "why": clean(judgement.why, secrets=self._secrets),
            }
        )

    def __str__(self) -> str:
        total = sum(self._counts.values())
        summary = ", ".join(f"{self._counts[verdict]} {verdict}" for verdict in Verdict if self._counts[verdict])
        lines = [f"Active jobs of this deployment: {total}" + (f" ({summary})" if summary else "")]
        hidden = self._counts[Verdict.LEFT_ALONE] - _LEFT_ALONE_SHOWN
        if self.rows:
            lines += _table(self.rows)
        if hidden > 0:
            lines.append(f"and {hidden} more left alone")
        return "\n".join(lines)

    def failures(self) -> str:
        """Name the jobs on which the sweep could not do its work; empty when there are none."""
        failed = [row for row in self.rows if Verdict(row["verdict"]).is_failure]
        lines = [
            f"job {row['job']} of {row['dag']}.{row['task']}, run {row['run']}: {row['verdict']}: {row['why']}"
            for row in failed[:_FAILURES_NAMED]
        ]
        if len(failed) > _FAILURES_NAMED:
            lines.append(f"and {len(failed) - _FAILURES_NAMED} more, see the log")
        return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    head = ("job", "dag", "run", "task", "try", "age", "verdict", "why")
    cells: list[tuple[str, ...]] = [head]
    for row in rows:
        task = row["task"] if row["map_index"] < 0 else f"{row['task']}[{row['map_index']}]"
        age = "" if row["age"] is None else in_words(row["age"])
        number = "" if row["try"] is None else str(row["try"])
        cells.append((row["job"], row["dag"], row["run"], task, number, age, row["verdict"], row["why"]))
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
