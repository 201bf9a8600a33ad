"""
All lines of Airflow, the older ones each from an environment of its own, two at a time: every DAG of the documentation and every
example DAG runs to its end. On the older ones, kills of a running task, Airflow's SQL operators, and the page *DLI jobs*, too.

``pytest -m matrix -n 2 tests/airflow/test_lines.py``, with uv on the machine, and PostgreSQL for the kills. The environments stay for
the next time in the folder that ``DLI_AIRFLOW_LINES`` names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pace
import pytest
import sql_tools
from _pytest.mark import ParameterSet
from conftest import canaries
from documentation import dag_files
from kill_matrix import verdict
from kill_matrix.cases import Case
from kill_matrix.lines import SETTINGS, cases_of
from kill_matrix.stage import Outcome, Stage
from lab import jobs_page
from lab.airflow import QUICK, LocalAirflow
from lab.older_airflows import NEWEST_LINE, OLDER_AIRFLOWS, install
from lab.postgres import Postgres, path

from airflow_provider_dli.local.handle import LocalDli

# The lines that have the page *DLI jobs*.
WITH_PAGE = ("3.1", "3.2")

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(pace.seconds(1200))]


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the environments."""
    return Path(os.environ.get("DLI_AIRFLOW_LINES") or tmp_path_factory.mktemp("lines"))


@pytest.fixture(scope="module")
def line(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def airflow(line: str, lines: Path, dli: LocalDli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    """Airflow of this line, with the DAGs of the kill matrix."""
    if not path("postgres"):
        # Where it has to be played, a skip would look like a success.
        (pytest.fail if os.environ.get("DLI_TEST_NO_SKIP") else pytest.skip)("PostgreSQL is not installed")
    python = install(line, lines)
    dags = tmp_path_factory.mktemp("dags")
    for name in ("kill_matrix.py", "sweep.py", "sql_tools.py"):
        shutil.copy(Path(__file__).parent / "dags" / name, dags)
    env = {**dli.connection_env(), **canaries(dli)}
    settings = {**QUICK, **SETTINGS.get(line, {}), "core.parallelism": 16, "dli.deployment": "lines"}
    settings["core.simple_auth_manager_users"] = "admin:admin,viewer:viewer"
    with (
        Postgres() as database,
        LocalAirflow(dags, python=python, sql_alchemy_conn=database.url, env=env, settings=settings) as airflow,
    ):
        yield airflow


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, line: str, airflow: LocalAirflow, dli: LocalDli) -> dict[str, Outcome]:
    """What came of the cases of this line that were asked for, played side by side."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    params = [call.params for call in calls if call and "case" in call.params]
    cases = [each["case"] for each in params if each["line"] == line and isinstance(each["case"], Case)]
    # The other line has its cases at the same time.
    with Stage(airflow, dli, side_by_side=8) as stage:
        return stage.play(cases)


def of_line(*values: object, line: str, name: str) -> ParameterSet:
    """A parameter set; those of one line are played by one worker, as they share its Airflow."""
    return pytest.param(*values, id=name, marks=pytest.mark.xdist_group(line))


# Not by the fixture `line`: pytest would play its tests in between those of the kills, and start each Airflow again.
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "of", [of_line(line, line=line, name=f"documentation.{line}") for line in (*OLDER_AIRFLOWS, NEWEST_LINE)]
)
def test_every_dag_of_the_documentation_runs(of: str, lines: Path, tmp_path: Path) -> None:
    python = sys.executable if of == NEWEST_LINE else install(of, lines)
    dags, home = tmp_path / "dags", tmp_path / "home"
    origins = dag_files.write_dags(dags)
    with dag_files.local_dli(tmp_path / "obs") as dli:
        found = dag_files.read(dags, home, python, run=True, **dli.connection_env())
        found.check(origins)
        found.check_runs(origins)
        assert not [job for job in dli.jobs() if job.is_active]


@pytest.mark.parametrize("installed", [of_line(line, line=line, name=line) for line in OLDER_AIRFLOWS])
def test_the_page_dli_jobs_is_there_or_silently_not(installed: str, lines: Path, tmp_path: Path) -> None:
    code = (
        "from airflow import plugins_manager as manager; manager.ensure_plugins_loaded();"
        "[ours] = [each for each in getattr(manager, 'plugins', None) or manager._get_plugins()[0] if each.name == 'dli_jobs'];"
        "print(len(ours.fastapi_apps), len(getattr(ours, 'external_views', [])))"
    )
    env = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
    command = [install(installed, lines), "-W", "default", "-c", code]
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == ("1 1" if installed in WITH_PAGE else "0 0")
    assert "dli" not in found.stderr


# With the kills in one function: pytest starts the Airflow of a line once for each.
@pytest.mark.parametrize(
    ("line", "case"),
    [
        of_line(line, case, line=line, name=case.name if isinstance(case, Case) else f"{case}.{line}")
        for line in OLDER_AIRFLOWS
        for case in (*cases_of(line), "sql-operators", *(["jobs-page"] if line in WITH_PAGE else []))
    ],
    indirect=["line"],
    scope="module",
)
def test_a_kill_or_what_else_needs_an_airflow(
    line: str, case: Case | str, outcomes: dict[str, Outcome], airflow: LocalAirflow, dli: LocalDli
) -> None:
    if isinstance(case, Case):
        verdict.check(outcomes[case.name])
    elif case == "sql-operators":
        sql_tools.check(airflow, dli, f"sql_tools_{line.replace('.', '_')}")
    elif shutil.which("chromium"):
        jobs_page.check(airflow, dli, f"jobs-page~{line}")
    else:
        (pytest.fail if os.environ.get("DLI_TEST_NO_SKIP") else pytest.skip)("no Chromium: apt-get install chromium")
