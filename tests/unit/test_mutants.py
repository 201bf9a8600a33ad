"""The mutants fit the code as it is; ``tests/mutants/run.py`` sees that each is found."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from mutants import run

PATCHES = sorted(run.HERE.glob("*.patch"))


def test_there_are_enough_of_them() -> None:
    assert len(PATCHES) >= 30


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_it_still_applies_and_its_tests_are_there(patch: Path, tmp_path: Path) -> None:
    mutant = run.read(patch)
    assert all((run.ROOT / test).exists() for test in mutant.tests)
    for name in re.findall(r"^\+\+\+ b/(\S+)", mutant.diff, flags=re.MULTILINE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run.ROOT / name, tmp_path / name)
    run.apply(mutant.diff, tmp_path)


def test_the_table_names_each_of_them() -> None:
    rows = [line for line in run.PAGE.read_text().partition(run.HEAD)[2].splitlines() if line.startswith("| ")]
    assert {row.split(" | ")[0].removeprefix("| ") for row in rows} == {patch.stem for patch in PATCHES}
