"""The tables of ``docs/kill-guarantees.md``, from a run of the matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from kill_matrix.cases import ALL, PATHS, Case
from kill_matrix.kinds import SQL
from kill_matrix.lines import cases_of
from kill_matrix.stage import Outcome

PAGE = Path(__file__).parents[3] / "docs" / "kill-guarantees.md"
BEGIN, END = "<!-- kill-table:begin -->\n", "<!-- kill-table:end -->\n"
LINES_BEGIN, LINES_END = "<!-- lines-table:begin -->\n", "<!-- lines-table:end -->\n"
OLDER = ("2.11", "3.0", "3.1", "3.2")
LINES = (*OLDER, "3.3")
HEAD = (
    "what happens while a task waits",
    "who sees to the job",
    "DELETE after",
    "the jobs",
    "the task",
    "callbacks and emails",
)


def rows(text: str, begin: str = BEGIN, end: str = END) -> list[list[str]]:
    """The cells of the table in this text, without its head."""
    table = text.partition(begin)[2].partition(end)[0]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()[2:]]


def write(outcomes: Iterable[Outcome], page: Path = PAGE) -> None:
    """Put what came of these cases between the two marks of the table; rows of other paths stay as they are."""
    known = {cells[0]: cells for cells in rows(page.read_text())}
    known |= {outcome.case.path.title: _row(outcome) for outcome in outcomes if _is_told(outcome)}
    _put(page, BEGIN, END, HEAD, [known[path.title] for path in PATHS if path.title in known])


def write_lines(page: Path = PAGE) -> None:
    """Put what must come of the cases of all lines of Airflow between the two marks of their table."""
    _put(page, LINES_BEGIN, LINES_END, ["what happens while a task waits", *LINES], line_rows())


def line_rows() -> list[list[str]]:
    """The cells of the table of all lines, without its head: what ``test_lines`` holds them to."""
    cases = {line: {case.path.title: case for case in cases_of(line) if _is_row(case)} for line in OLDER}
    cases[LINES[-1]] = {case.path.title: case for case in ALL if _is_row(case)}
    titles = [path.title for path in PATHS if all(path.title in cases[line] for line in OLDER)]
    return [[title, *(_cell(cases[line][title]) for line in LINES)] for title in titles]


def _is_row(case: Case) -> bool:
    return case.moment.name == "wait" and case.kind is SQL


def _is_told(outcome: Outcome) -> bool:
    is_row = outcome.case.path.title in {path.title for path in PATHS}
    return is_row and outcome.case.moment.name == "wait" and outcome.problem is None


def _put(page: Path, begin: str, end: str, head: Sequence[str], body: Iterable[Sequence[str]]) -> None:
    lines = "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *body))
    before, found, rest = page.read_text().partition(begin)
    page.write_text(before + found + lines + end + rest.partition(end)[2])


def _cell(case: Case) -> str:
    jobs = ", then a new one ".join("runs on" if job == "RUNNING" else job for job in case.jobs)
    ends = "the run deleted" if case.path.ends == "gone" else f"the task {case.path.ends}"
    return f"{jobs}; {ends}"


def _row(outcome: Outcome) -> list[str]:
    case, deletes = outcome.case, outcome.until_delete
    return [
        case.path.title,
        case.path.who,
        f"{deletes:.1f} s" if deletes is not None and "CANCELLED" in case.jobs else "no DELETE",
        _jobs(case, outcome),
        "deleted" if case.path.ends == "gone" else _task(outcome),
        ", ".join(_named(name) + (f" ({times} times)" if times > 1 else "") for name, times in _counted(outcome))
        or "none",
    ]


def _jobs(case: Case, outcome: Outcome) -> str:
    if case.path.or_left:
        return "CANCELLED, or runs on"
    if case.only_a_sweep:
        return "runs on"
    return ", then a new one ".join(job.status for job in outcome.jobs)


def _task(outcome: Outcome) -> str:
    return outcome.states[0] + (f" in try {outcome.tries}" if outcome.tries > 1 else "")


def _counted(outcome: Outcome) -> list[tuple[str, int]]:
    return sorted(Counter(outcome.callbacks).items(), key=lambda found: outcome.callbacks.index(found[0]))


def _named(callback: str) -> str:
    return callback if callback == "email" else f"`{callback}`"
