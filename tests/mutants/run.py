"""
Breaks one rule of the package at a time, and sees that a quick test finds it.

Each patch beside this file begins with the rule that it breaks and the test files that can see it. It is applied in a
copy of the repository, which comes first on the path of all that the tests start. Those of the files that the README's
test command runs have to be red then; the one that found it last time goes first. Fails when a patch cannot be applied
any more, when no test finds it, or when the test that does is red without it too.

    uv run --group test python tests/mutants/run.py [--only NAME ...] [--workers 2] [--table FILE]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = HERE / "README.md"
HEAD = "| mutant | rule that it breaks | found by | seconds |"
# Seconds after which a test counts as hanging, and so does all of a run.
TEST_HANGS_AFTER, RUN_HANGS_AFTER = 120, 1200
NOT_COPIED = shutil.ignore_patterns(".*", "mutants", "node_modules", "dist", "build")


class MutantError(Exception):
    """A mutant proves nothing."""


@dataclass(frozen=True)
class Mutant:
    """A patch, and what became of it."""

    name: str
    rule: str
    tests: tuple[str, ...]
    diff: str
    found_by: str = ""
    seconds: float = 0.0
    problem: str = ""


def read(patch: Path) -> Mutant:
    """Read a patch; its first lines are ``# <rule>`` and ``# Tests: <files>``."""
    rule, tests, diff = patch.read_text().split("\n", 2)
    if not rule.startswith("# ") or not tests.startswith("# Tests: "):
        raise MutantError(f"{patch.name}: its first lines have to be `# <rule>` and `# Tests: <files>`")
    return Mutant(patch.stem, rule[2:], tuple(tests.removeprefix("# Tests: ").split()), diff)


def apply(diff: str, folder: Path) -> None:
    """
    Apply a patch. Lines may have moved, but each hunk has to fit in exactly one place.

    :raises MutantError: One does not.
    """
    for part in re.split(r"^--- .*\n", diff, flags=re.MULTILINE)[1:]:
        name, hunks = part.split("\n", 1)
        name = name.removeprefix("+++ b/").strip()
        path = folder / name
        text = path.read_text() if path.exists() else ""
        for hunk in re.split(r"^@@ .*\n", hunks, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if line[0] in " -")
            after = "".join(line[1:] for line in lines if line[0] in " +")
            # At the beginning of a line: one that is indented less would fit inside a line as well.
            places = ("\n" + text).count("\n" + before)
            if places != 1:
                raise MutantError(f"the patch does not apply: these lines are {places} times in {name}:\n{before}")
            text = ("\n" + text).replace("\n" + before, "\n" + after)[1:]
        path.write_text(text)


def environment(copy: Path) -> dict[str, str]:
    """Return the environment in which all processes import the copy."""
    return {**{key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}, "PYTHONPATH": str(copy)}


@contextmanager
def copied() -> Iterator[Path]:
    """Copy the repository into a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder, "repository")
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED, symlinks=True)
        where = "import airflow_provider_dli; print(airflow_provider_dli.__file__)"
        command = [sys.executable, "-c", where]
        shown = subprocess.run(command, env=environment(copy), cwd=copy, capture_output=True, text=True, check=True)
        if not Path(shown.stdout.strip()).is_relative_to(copy):
            raise MutantError(f"the copy is not what is imported, but {shown.stdout.strip()}")
        yield copy


def pytest(copy: Path, tests: list[str], *options: str) -> tuple[int, str]:
    """Run tests as the README's command does; return the exit code and what was said."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider"]
    command += [f"--timeout={TEST_HANGS_AFTER}", *options, *tests]
    try:
        run = subprocess.run(
            command,
            env=environment(copy),
            cwd=copy,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_HANGS_AFTER,
        )
    except subprocess.TimeoutExpired as error:
        return -1, str(error.stdout or "")
    return run.returncode, run.stdout


def red(output: str) -> list[str]:
    """Return the ids of the tests that failed."""
    return [found[1] for found in re.finditer(r"^(?:FAILED|ERROR) (tests/.*?)(?: - .*)?$", output, re.MULTILINE)]


def hunt(mutant: Mutant, last_time: str) -> Mutant:
    """Run the tests against a mutant until one finds it."""
    began = time.monotonic()
    try:
        with copied() as copy:
            apply(mutant.diff, copy)
            attempts = [[last_time]] if last_time else []
            for tests in [*attempts, list(mutant.tests)]:
                code, output = pytest(copy, tests, "-n", "0", "-x")
                found = red(output)
                seconds = time.monotonic() - began
                if code == 1 and found:
                    return replace(mutant, found_by=found[0], seconds=seconds)
                if code not in (0, 1, 4, 5) or (code != 0 and tests == list(mutant.tests)):
                    raise MutantError(f"the tests could not be run (exit code {code}):\n{output[-2000:]}")
            raise MutantError(f"no test of {', '.join(mutant.tests)} finds it")
    except MutantError as error:
        return replace(mutant, problem=str(error), seconds=time.monotonic() - began)


def checked(mutants: list[Mutant], workers: int) -> list[Mutant]:
    """Run the tests that found a mutant without any: those that are red then have found nothing."""
    tests = sorted({mutant.found_by for mutant in mutants if mutant.found_by})
    if not tests:
        return mutants
    with copied() as copy:
        code, output = pytest(copy, tests, "-n", str(workers))
        if code not in (0, 1):
            raise MutantError(f"the tests could not be run without a mutant (exit code {code}):\n{output[-2000:]}")
    failed = red(output)
    return [
        replace(mutant, problem=f"{mutant.found_by} is red without the mutant too")
        if mutant.found_by in failed
        else mutant
        for mutant in mutants
    ]


def table(mutants: list[Mutant]) -> str:
    """Return what became of all mutants, as Markdown."""
    rows = [
        f"| {each.name} | {each.rule.replace('|', chr(92) + '|')} "
        f"| {f'`{each.found_by}`'.replace('|', chr(92) + '|') if not each.problem else '**nothing**'} | {each.seconds:.0f} |"
        for each in mutants
    ]
    found = sum(not each.problem for each in mutants)
    tests = len({each.found_by for each in mutants if not each.problem})
    last = f"{found} of {len(mutants)} are found, by {tests} tests."
    return "\n".join([HEAD, "|---|---|---|---:|", *rows, "", last, ""])


def found_last_time() -> dict[str, str]:
    """Return the test that found each mutant, as the page tells."""
    text = PAGE.read_text() if PAGE.exists() else ""
    rows = re.finditer(r"^\| (\S+) \| .* \| `(.*)` \| \d+ \|$", text, re.MULTILINE)
    return {row[1]: row[2].replace("\\|", "|") for row in rows}


def main() -> None:
    """Hunt them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these mutants")
    parser.add_argument("-j", "--workers", type=int, default=2, help="mutants at the same time; default 2")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help=f"write the table into this file, such as {PAGE.name}"
    )
    parser.add_argument("--patches", type=Path, default=HERE, metavar="FOLDER", help="where the patches are")
    arguments = parser.parse_args()
    known = {path.stem: path for path in sorted(arguments.patches.glob("*.patch"))}
    names = [name.removesuffix(".patch") for name in arguments.only or known]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no such mutant: {', '.join(unknown)}")
    if not names:
        parser.error(f"no patches in {arguments.patches}")
    if arguments.table and arguments.only:
        parser.error("--table needs all mutants, without --only")
    last_time = found_last_time()

    def one(name: str) -> Mutant:
        mutant = hunt(read(known[name]), last_time.get(name, ""))
        said = mutant.problem or f"found by {mutant.found_by}"
        print(f"{name} ({mutant.seconds:.0f} s): {said}", flush=True)
        return mutant

    try:
        with ThreadPoolExecutor(max(arguments.workers, 1)) as pool:
            mutants = list(pool.map(one, names))
        mutants = checked(mutants, max(arguments.workers, 1))
    except MutantError as error:
        sys.exit(f"{error}")
    written = table(mutants)
    print(f"\n{written}")
    if arguments.table:
        before = arguments.table.read_text().partition(HEAD)[0] if arguments.table.exists() else ""
        arguments.table.write_text(before + written)
    if lost := [mutant for mutant in mutants if mutant.problem]:
        sys.exit("\n".join(f"{mutant.name}: {mutant.problem}" for mutant in lost))


if __name__ == "__main__":
    main()
