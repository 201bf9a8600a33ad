"""What a probe tells: tables for people, JSON for programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import __version__
from airflow_provider_dli.text import clean

if TYPE_CHECKING:
    from airflow_provider_dli.probe.jobs import Left
    from airflow_provider_dli.probe.probe import Check, Probe, Row

# Columns of a table get no narrower than this, and the whole no wider, in characters.
_NARROWEST, _WIDEST = 16, 160
# The most characters of what was seen, in a table.
_SHOWN = 400


def rows_of(probe: Probe, checks: Sequence[Check]) -> list[tuple[Check, Row | None]]:
    """Return each check of the contract with what became of it; None of those that were not reached."""
    done = {row.check.name: row for row in probe.rows}
    return [(check, done.get(check.name)) for check in checks if check.is_of_contract]


def holds(probe: Probe, checks: Sequence[Check], left: Sequence[Left]) -> bool:
    """Whether every check of the contract has held, and nothing may be left running."""
    return not left and all(row is not None and row.held for _, row in rows_of(probe, checks))


def as_json(probe: Probe, checks: Sequence[Check], left: Sequence[Left], ended_by: str | None) -> str:
    """Return the report for programs."""
    connection = probe.client.access.connection()
    report: dict[str, Any] = {
        "version": __version__,
        "probe": probe.id,
        "endpoint": connection.endpoint,
        "region": connection.region,
        "auth_type": connection.auth_type,
        "queue": probe.options.queue,
        "kinds": list(probe.options.kinds),
        "holds": holds(probe, checks, left),
        "ended_by": ended_by,
        "checks": [
            {
                "name": check.name,
                "expected": check.expected,
                "seen": row.seen if row else "not tried",
                "held": row.held if row else None,
                "seconds": round(row.seconds, 2) if row else None,
            }
            for check, row in rows_of(probe, checks)
        ],
        "open_points": [
            {
                "key": point.key,
                "number": point.number,
                "kind": point.kind,
                "question": point.question,
                "answer": answer,
                "no_answer_because": reason,
            }
            for point, answer, reason in probe.open_points()
        ],
        "may_be_left_running": [{"kind": each.kind, "job_id": each.job_id, "problem": each.problem} for each in left],
    }
    return json.dumps(report, indent=2, ensure_ascii=False)


def as_tables(probe: Probe, checks: Sequence[Check], left: Sequence[Left], ended_by: str | None) -> str:
    """Return the report for people."""
    contract = [
        [
            {True: "ok", False: "FAILED", None: "-"}[row.held if row else None],
            check.name,
            check.expected,
            clean(row.seen, _SHOWN) if row else "not tried",
            f"{row.seconds:.1f}" if row else "",
        ]
        for check, row in rows_of(probe, checks)
    ]
    points = [
        (point.question, answer, reason)
        for point, answer, reason in probe.open_points()
        if point.kind in probe.options.kinds
    ]
    others = [kind for kind in ("spark", "flink") if kind not in probe.options.kinds]
    answered = [[question, clean(answer, _SHOWN)] for question, answer, _ in points if answer]
    unanswered = [[question, clean(reason or "", _SHOWN)] for question, answer, reason in points if not answer]
    parts = [
        _table(["", "check", "expected", "seen", "seconds"], contract),
        "What this DLI answers where the documentation is silent:\n\n" + _table(["open point", "answer"], answered),
        "Without an answer:\n\n" + _table(["open point", "why"], unanswered),
        *([f"More points are about {' and '.join(others)} jobs: see --kinds."] if others else []),
        _verdict(holds(probe, checks, left), left, ended_by),
    ]
    return "\n\n".join(parts)


def _verdict(holds: bool, left: Sequence[Left], ended_by: str | None) -> str:
    lines = [f"The probe ended early: {ended_by}."] if ended_by else []
    if left:
        lines.append("MAY STILL RUN, AND COST. Look at these in DLI's console, and cancel them there:")
        lines += [f"  - {each}" for each in left]
    else:
        lines.append("Nothing of the probe is left running.")
    if holds:
        lines.append("This DLI keeps what the provider relies on.")
    elif not ended_by:
        lines.append("NOT every check has held.")
    return "\n".join(lines)


def _table(headers: list[str], rows: list[list[str]]) -> str:
    from tabulate import tabulate

    width = min(shutil.get_terminal_size((120, 24)).columns, _WIDEST)
    # What is short stays on one line; the last columns of text share what is left.
    fixed = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    wide = [index for index, length in enumerate(fixed) if length > 26]
    left = width - 2 * (len(headers) - 1) - sum(length for index, length in enumerate(fixed) if index not in wide)
    widths: list[int | None] = [None] * len(headers)
    for index in wide:
        widths[index] = max(_NARROWEST, left // len(wide))
    return tabulate(rows, headers, maxcolwidths=widths, disable_numparse=True)
