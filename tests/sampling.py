"""
Which part of the long tests a change plays.

Some tests take too long for every change: kills at every moment, older Airflows, Celery, thousands of deferred tasks,
generated requests. ``.ci/run`` plays a part of them, drawn by the id of the commit: some ten changes play all of them,
and the same id draws the same part again. ``.ci/full`` plays everything.

``pytest --sample ID`` deselects what is not drawn. ``python tests/sampling.py ID`` prints the draw, as variables of a
shell.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pytest

T = TypeVar("T")

#: Into how many parts the tests of a folder or file are cut; one of them is played.
PARTS = {
    "tests/unit/": 3,
    "tests/browser/": 3,
    "tests/airflow/test_demo.py": 3,
    "tests/airflow/test_many.py": 2,
    "tests/airflow/": 3,
}
#: Of the kills on the newest line, each path is played once, and one of so many parts of all others.
PARTS_OF_KILLS = 4
OLDER_LINES = ("2.11", "3.0", "3.1", "3.2")
#: Long steps, or such that need an environment of their own: one of each row is played.
LONG = (("celery", "soak"), ("integrations", "many", "thousand"))


class Draw:
    """
    What is drawn for one commit.

    :param commit: Its id, all 40 digits: a shorter one would draw something else.
    :raises ValueError: It is no such id.
    """

    def __init__(self, commit: str) -> None:
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise ValueError(f"{commit!r} is not the id of a commit: 40 hexadecimal digits are needed")
        self.commit = commit

    def number(self, name: str, below: int) -> int:
        """Draw a number from 0 on, for something with this name."""
        return _hash(f"{self.commit} {name}") % below

    def one_of(self, name: str, values: Sequence[T]) -> T:
        """Draw one of these values."""
        return values[self.number(name, len(values))]

    def is_in_part(self, name: str, whole: str, parts: int) -> bool:
        """Whether something with this name is in the part that is drawn of the whole."""
        return _hash(name) % parts == self.number(whole, parts)

    @property
    def older_line(self) -> str:
        """The older line of Airflow that is played."""
        return self.one_of("line", OLDER_LINES)

    @property
    def long(self) -> tuple[str, ...]:
        """Which long steps are played."""
        return tuple(self.one_of(f"long {row}", row) for row in LONG)

    @property
    def seed(self) -> int:
        """The seed of generated tests."""
        return self.number("seed", 10**6)

    def __str__(self) -> str:
        parts = ", ".join(f"{whole} {self.number(whole, parts) + 1}/{parts}" for whole, parts in PARTS.items())
        return (
            f"{self.commit}: Airflow {self.older_line}, {' and '.join(self.long)}, seed {self.seed}; parts: {parts}, "
            f"kills {self.number('kills', PARTS_OF_KILLS) + 1}/{PARTS_OF_KILLS}"
        )


def drawn(items: Iterable[pytest.Item], draw: Draw) -> set[pytest.Item]:
    """Return which of these tests are played: all that every change plays, and of the others what is drawn."""
    played = set()
    kills: dict[str, list[pytest.Item]] = defaultdict(list)
    paths_of_every_change = set()
    for item in items:
        is_long = item.get_closest_marker("matrix")
        case = _param(item, "case") if "test_kills.py" in item.nodeid else None
        if not is_long:
            played.add(item)
            if case:
                paths_of_every_change.add(case.path.name)
        elif case:
            kills[case.path.name].append(item)
        elif "test_lines.py" in item.nodeid:
            if _line(item) in (draw.older_line, "3.3") and _is_in_half(item, draw):
                played.add(item)
        elif _is_drawn(item, draw):
            played.add(item)
    for path, cases in kills.items():
        if path not in paths_of_every_change:
            played.add(draw.one_of(path, [item for item in cases if _param(item, "case").kind.name == "sql"] or cases))
        played.update(item for item in cases if draw.is_in_part(item.name, "kills", PARTS_OF_KILLS))
    return played


def _is_in_half(item: pytest.Item, draw: Draw) -> bool:
    """Of the kills on an older line, half are played; Airflow 2 has a minute's patience with each."""
    return _param(item, "case") is None or draw.is_in_part(item.name, "kills of a line", 2)


def _is_drawn(item: pytest.Item, draw: Draw) -> bool:
    if "test_celery.py" in item.nodeid or "test_thousand.py" in item.nodeid:
        return True  # as a whole, or not at all: see LONG
    file, name = item.nodeid.partition("::")[0], item.location[2]
    whole = next(whole for whole in PARTS if file.startswith(whole))
    return draw.is_in_part(f"{file} {name}", whole, PARTS[whole])


def _param(item: pytest.Item, name: str) -> Any:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get(name) if callspec else None


def _line(item: pytest.Item) -> str:
    return next(line for name in ("line", "of", "installed") if (line := _param(item, name)))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def drawn_for(commit: str) -> Draw:
    """Read the option of pytest."""
    try:
        return Draw(commit)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main(commit: str) -> int:
    """Print the draw, for ``eval`` of a shell; a wrong id is an error."""
    try:
        draw = Draw(commit)
    except ValueError as error:
        print(f"CI_SAMPLE: {error}", file=sys.stderr)
        return 2
    print(f"draw='{draw}' older_line={draw.older_line} long='{' '.join(draw.long)}' seed={draw.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
