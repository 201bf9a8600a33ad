"""What ``.ci/run`` draws: the same for the same commit, and all of it within some ten commits."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import sampling
from sampling import LONG, OLDER_LINES, PARTS, Draw

PROJECT = Path(__file__).parents[2]
COMMITS = [hashlib.sha1(b"%d" % number).hexdigest() for number in range(200)]
NAMES = [f"test_{number}" for number in range(300)]


def test_the_same_commit_draws_the_same() -> None:
    assert str(Draw(COMMITS[0])) == str(Draw(COMMITS[0])) != str(Draw(COMMITS[1]))


@pytest.mark.parametrize("parts", {*PARTS.values(), sampling.PARTS_OF_KILLS})
def test_each_test_is_in_one_part(parts: int) -> None:
    draws = [Draw(commit) for commit in COMMITS]
    drawn = {draw.number("whole", parts): {n for n in NAMES if draw.is_in_part(n, "whole", parts)} for draw in draws}
    assert len(drawn) == parts
    assert sorted(name for part in drawn.values() for name in part) == sorted(NAMES)
    assert max(map(len, drawn.values())) < 1.5 * len(NAMES) / parts


def test_ten_commits_play_nearly_all() -> None:
    played = [len({Draw(commit).number("whole", 3) for commit in COMMITS[i : i + 10]}) / 3 for i in range(0, 200, 10)]
    assert sum(played) / len(played) > 0.95
    assert {Draw(commit).older_line for commit in COMMITS[:20]} == set(OLDER_LINES)
    assert {each for commit in COMMITS[:20] for each in Draw(commit).long} == {each for row in LONG for each in row}


class Item(SimpleNamespace):
    """What the draw looks at of a test."""

    __hash__ = object.__hash__


def item(file: str, name: str, *, matrix: bool = True, **params: object) -> Item:
    return Item(
        nodeid=f"{file}::{name}",
        name=name,
        location=(file, 1, name),
        callspec=SimpleNamespace(params=params),
        get_closest_marker=lambda marker: matrix if marker == "matrix" else None,
    )


def kill(path: str, moment: str, kind: str = "sql") -> Item:
    case = SimpleNamespace(path=SimpleNamespace(name=path), kind=SimpleNamespace(name=kind))
    return item("tests/airflow/test_kills.py", f"test_a_kill[{path}.{moment}.{kind}]", case=case)


@pytest.mark.parametrize("commit", COMMITS[:5])
def test_each_path_of_a_kill_is_played(commit: str) -> None:
    kills = [kill(path, str(n), kind) for path in ("a", "b", "c") for n in range(9) for kind in ("sql", "spark")]
    played = sampling.drawn(kills, Draw(commit))
    assert {each.callspec.params["case"].path.name for each in played if "sql" in each.name} == {"a", "b", "c"}
    assert len(played) < len(kills) / 2


def test_one_older_line_is_played() -> None:
    draw = Draw(COMMITS[0])
    lines = [item("tests/airflow/test_lines.py", f"test_x[{n}]", line=n) for n in (*OLDER_LINES, "3.3")]
    played = sampling.drawn(lines, draw)
    assert {each.callspec.params["line"] for each in played} == {draw.older_line, "3.3"}


def test_what_every_change_plays_is_never_left_out() -> None:
    quick = item("tests/unit/test_x.py", "test_x", matrix=False)
    assert all(quick in sampling.drawn([quick], Draw(commit)) for commit in COMMITS[:10])


@pytest.mark.parametrize("wrong", ["abc", "main", "HEAD~1", "-x", "0" * 40])
def test_what_is_no_commit_is_an_error(wrong: str) -> None:
    env = {**os.environ, "CI_SAMPLE": wrong}
    ended = subprocess.run(["bash", ".ci/run"], cwd=PROJECT, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith("CI_SAMPLE: ")
    assert wrong in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_option_of_pytest_takes_nothing_else() -> None:
    command = [sys.executable, "-m", "pytest", "--sample", "abc", "--co", "-q", "tests/unit/test_sampling.py"]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 4
    assert "'abc' is not the id of a commit" in ended.stderr
