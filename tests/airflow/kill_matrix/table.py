"""The table "what happens when" of the README, from a run of the matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from kill_matrix.cases import PATHS, Case
from kill_matrix.stage import Outcome

README = Path(__file__).parents[3] / "README.md"
BEGIN, END = "<!-- kill-table:begin -->\n", "<!-- kill-table:end -->\n"
HEAD = ("what happens while a task waits", "who sees to the job", "DELETE after", "the jobs", "the task", "callbacks")


def rows(text: str) -> list[list[str]]:
    """The cells of the table in this text, without its head."""
    table = text.partition(BEGIN)[2].partition(END)[0]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()[2:]]


def write(outcomes: Mapping[str, Outcome], readme: Path = README) -> None:
    """Put the table between its two marks.

    :raises KeyError: A path was not played while its task waits.
    """
    table = [HEAD, ["---"] * len(HEAD), *(_row(outcomes[f"{path.name}.wait"]) for path in PATHS)]
    lines = "".join(f"| {' | '.join(cells)} |\n" for cells in table)
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    readme.write_text(before + begin + lines + end + after)


def _row(outcome: Outcome) -> list[str]:
    case, deletes = outcome.case, outcome.until_delete
    return [
        case.path.title,
        case.path.who,
        f"{deletes:.1f} s" if deletes is not None and "CANCELLED" in case.jobs else "no DELETE",
        _jobs(case, outcome),
        "deleted" if case.path.ends == "gone" else _task(outcome),
        ", ".join(f"`{name}`" + (f" ({times} times)" if times > 1 else "") for name, times in _counted(outcome))
        or "none",
    ]


def _jobs(case: Case, outcome: Outcome) -> str:
    if case.only_a_sweep:
        return "runs on"
    return ", then a new one ".join(job.status for job in outcome.jobs)


def _task(outcome: Outcome) -> str:
    return outcome.states[0] + (f" in try {outcome.tries}" if outcome.tries > 1 else "")


def _counted(outcome: Outcome) -> list[tuple[str, int]]:
    return sorted(Counter(outcome.callbacks).items(), key=lambda found: outcome.callbacks.index(found[0]))
