"""``docs/faults.md``, from a run of the matrix."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from fault_matrix.roles import ROLES, Cell

PAGE = Path(__file__).parents[3] / "docs" / "faults.md"
BEGIN = "<!-- generated: pytest -n 0 -m '' tests/unit/test_fault_matrix.py --write-fault-page -->\n"

# What differs from run to run, and what stands for it.
_PLACEHOLDERS = [
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "8ecb…"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "48cc…"),
    (re.compile(r"https?://(127\.0\.0\.1|dli\.test):\d+"), "https://dli…"),
    (re.compile(r"\bdli\.test\b"), "dli…"),
    (re.compile(r"\bfaults_\d+(_\w+)?\b"), "dli_default"),
    (re.compile(r"\brun \d+\b"), "run …"),
    (re.compile(r"\b\d+(\.\d+)? s\b"), "n s"),
    (re.compile(r"\b[0-9a-f]{40}\b"), "5f2c…"),
    (re.compile(r", at request \d+"), ""),
]


def shown(sentence: str) -> str:
    """Return a sentence as it stands on the page."""
    for pattern, placeholder in _PLACEHOLDERS:
        sentence = pattern.sub(placeholder, sentence)
    return " ".join(sentence.replace("|", "\\|").split())


def rows(text: str, title: str) -> dict[str, tuple[str, str]]:
    """
    Return what the page says of a role: outcome and sentence, by the name of the fault.

    :param text: The page.
    :param title: Title of the role.
    """
    parts = re.split(r"^## (.*)$", text.partition(BEGIN)[2], flags=re.MULTILINE)
    section = dict(zip(parts[1::2], parts[2::2], strict=True))[title]
    cells = [re.split(r"(?<!\\) ?\| ?", line) for line in section.splitlines() if line.startswith("| ")][2:]
    return {name: (outcome, sentence) for _, names, outcome, sentence, _ in cells for name in names.split("; ")}


def write(cells: Mapping[tuple[str, str], Cell]) -> None:
    """Write what came of all cells below the introduction."""
    before = PAGE.read_text().partition(BEGIN)[0]
    PAGE.write_text(before + BEGIN + "".join(_section(role.name, role.title, cells) for role in ROLES))


def _section(name: str, title: str, cells: Mapping[tuple[str, str], Cell]) -> str:
    faults: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (role, fault), cell in cells.items():
        if role == name:
            faults[cell.outcome, shown(cell.sentence)].append(fault)
    # What goes well first, and of the rest what happens most.
    rows = sorted(faults.items(), key=lambda row: (bool(row[0][1]), -len(row[1])))
    lines = [f"| {'; '.join(names)} | {outcome} | {sentence} |\n" for (outcome, sentence), names in rows]
    head = "| what goes wrong | what happens | what the user reads |\n| --- | --- | --- |\n"
    return f"\n## {title}\n\n{head}{''.join(lines)}"
