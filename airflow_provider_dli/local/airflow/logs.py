"""Log files of Airflow, as text for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def tail(log: Path, lines: int) -> str:
    """The last lines of a file; empty if there is none."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def readable(task_log: str) -> str:
    """The lines of a task log file, which are JSON, as text."""
    lines = []
    for line in task_log.splitlines():
        try:
            lines.append(log_line(json.loads(line)))
        except ValueError:
            lines.append(line)
    return "\n".join(lines)


def log_line(event: dict[str, Any] | str) -> str:
    """An event of a task log as a line of text, with the messages of the exceptions that it carries."""
    if isinstance(event, str):
        return event
    text = " ".join(str(event[key]) for key in ("timestamp", "level", "event") if event.get(key))
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in event.get("error_detail") or ()]
    return "\n    ".join([text, *errors])
