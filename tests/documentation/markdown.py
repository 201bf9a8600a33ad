"""The pages of the documentation, and what stands in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).parents[2]

_FENCE = re.compile(r"( *)(`{3,})\s*([\w.+-]*)\s*$")
_HEADING = re.compile(r"(#{1,6}) +(.*?)(?: +#+)?$")
_NOT_RUN = re.compile(r"<!--\s*not run:\s*((?:(?!-->).)+?)\s*-->\s*$", re.DOTALL)
# The text of a link may hold an image, which is a link itself.
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\]\([^()]*\))*\]\(\s*<?([^\s()<>]+)>?[^()]*\)")
_IMAGE_IN_LINK = re.compile(r"!\[[^\[\]]*\]\(\s*([^\s()]+)[^()]*\)")
_HTML_LINK = re.compile(r"""<(?:a|img)\b[^>]*?\b(?:href|src)=["']([^"']+)["']""")
_DEFINITION = re.compile(r"\[[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)")


@dataclass(frozen=True)
class Block:
    """
    A fenced block.

    :param line: The line of its first line of text, counted from 1.
    :param language: What follows the fence, such as ``python``; may be empty.
    :param not_run: What the comment ``<!-- not run: ... -->`` right above it says; None without one.
    """

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def where(self) -> str:
        """Page and line, for whoever has to mend it."""
        return f"{self.page.relative_to(PROJECT)}:{self.line}"


@dataclass(frozen=True)
class Table:
    """
    A table.

    :param line: The line of its head.
    :param headings: The headings that it stands under, the outermost first.
    :param rows: The cells of all rows, that of the head first.
    """

    page: Path
    line: int
    headings: tuple[str, ...]
    rows: list[list[str]]

    @property
    def where(self) -> str:
        """Page and line."""
        return f"{self.page.relative_to(PROJECT)}:{self.line}"


def pages() -> list[Path]:
    """README.md and all below docs/: what users read."""
    return [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]


@cache
def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    lines, found, number = page.read_text().splitlines(), list[Block](), 0
    while number < len(lines):
        if opening := _FENCE.match(lines[number]):
            end = next(at for at in range(number + 1, len(lines)) if lines[at].strip() == opening[2])
            text = "".join(f"{line.removeprefix(opening[1])}\n" for line in lines[number + 1 : end])
            before = _NOT_RUN.search("\n".join(lines[:number]))
            found.append(Block(page, number + 2, opening[3], text, before and before[1]))
            number = end
        number += 1
    return found


def all_blocks(*languages: str) -> list[Block]:
    """Return the blocks of all pages in one of these languages."""
    return [block for page in pages() for block in blocks(page) if block.language in languages]


def _prose(page: Path) -> Iterator[tuple[int, str]]:
    """The lines outside of blocks, by number."""
    of_blocks = {
        line for each in blocks(page) for line in range(each.line - 1, each.line + len(each.text.splitlines()) + 1)
    }
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if number not in of_blocks:
            yield number, line


def anchors(page: Path) -> set[str]:
    """Return what may follow ``#`` in a link to a page: the headings as GitHub writes them, and names in HTML."""
    seen, found = Counter[str](), set[str]()
    for _, line in _prose(page):
        found |= set(re.findall(r"""\b(?:id|name)=["']([^"']+)["']""", line))
        if heading := _HEADING.match(line):
            slug = _slug(heading[2])
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found


def _slug(heading: str) -> str:
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # of a link, its text
    text = re.sub(r"[*`]", "", text).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Return the targets of all links and images of a page, with their lines."""
    lines = dict(_prose(page))
    # Code in backticks is no link. A link may go on in the next line.
    text = "\n".join(re.sub(r"`[^`]*`", "``", lines.get(number, "")) for number in range(1, max(lines) + 1))
    for pattern in (_LINK, _IMAGE_IN_LINK, _HTML_LINK):
        for found in pattern.finditer(text):
            yield text.count("\n", 0, found.start()) + 1, found[1]
    for number, line in lines.items():
        if found := _DEFINITION.match(line):
            yield number, found[1]


def tables(page: Path) -> Iterator[Table]:
    """Return the tables of a page."""
    headings: dict[int, str] = {}
    table: Table | None = None
    for number, line in _prose(page):
        if heading := _HEADING.match(line):
            level = len(heading[1])
            headings = {at: text for at, text in headings.items() if at < level} | {level: heading[2]}
        if not line.startswith("|"):
            if table:
                yield table
            table = None
            continue
        # A pipe in a cell is written as \|.
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if table is None:
            table = Table(page, number, tuple(headings[at] for at in sorted(headings)), [cells])
        elif not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            table.rows.append(cells)
    if table:
        yield table
