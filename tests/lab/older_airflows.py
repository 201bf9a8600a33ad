"""Environments of Airflow lines, with our package in them as a user of that line gets it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class OlderAirflow:
    """A release of an older line.

    :param until: No library in its environment is newer than this day: with today's, not all releases start.
    :param more: Further packages: drivers of PostgreSQL, and users for Airflow 2.
    """

    version: str
    until: str
    more: tuple[str, ...] = ("psycopg2-binary", "asyncpg")


OLDER_AIRFLOWS = {
    "2.11": OlderAirflow("2.11.2", "2026-04-10", ("psycopg2-binary", "apache-airflow-providers-fab")),
    "3.0": OlderAirflow("3.0.6", "2025-09-15"),
    "3.1": OlderAirflow("3.1.8", "2026-04-10"),
    "3.2": OlderAirflow("3.2.2", "2026-07-10"),
}

# The release that the tests themselves run on; their environment has no driver for PostgreSQL.
NEWEST_LINE = "3.3"
NEWEST = OlderAirflow(version("apache-airflow"), "2026-11-21")


def install(line: str, folder: Path) -> str:
    """Make an environment in this folder, unless it is there already.

    :returns: Its interpreter.
    """
    airflow = NEWEST if line == NEWEST_LINE else OLDER_AIRFLOWS[line]
    environment = folder / f"airflow-{airflow.version}"
    python, complete = str(environment / "bin" / "python"), environment / "complete"
    if not complete.exists():
        # Airflow 2.11 and 3.0 run on no newer Python.
        _uv("venv", "--clear", "--python", ">=3.11,<3.13", str(environment))
        requirements = (f"apache-airflow=={airflow.version}", *airflow.more)
        _uv("pip", "install", "--python", python, "--exclude-newer", airflow.until, *requirements)
        complete.touch()
    # In a second step, and not from among the libraries of that time: 3.0.6 came with a common-compat that is too old.
    ours = ("--reinstall-package", "airflow-provider-dli", "apache-airflow-providers-common-compat>=1.15", str(PROJECT))
    _uv("pip", "install", "--python", python, *ours)
    return python


def _uv(*arguments: str) -> None:
    env = {**os.environ, "UV_COMPILE_BYTECODE": "1"}
    subprocess.run([os.environ.get("UV", "uv"), *arguments, "--quiet"], cwd=PROJECT, env=env, check=True)
