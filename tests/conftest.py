"""What every test needs, and one Airflow for all tests that need one.

The fixture ``dli_local`` comes from the package's own pytest plugin.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before anything imports Airflow, which would take the home of whoever runs the tests.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-home-")
# Where Python must not write bytecode, each of hundreds of processes would compile the package and the tests again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.path.insert(0, str(Path(__file__).parent))

import pace
import pytest
import sampling
from cryptography.fernet import Fernet
from documentation import dag_files
from lab.airflow import QUICK, LocalAirflow

from airflow_provider_dli.local.demo import QUEUES, example_dags
from airflow_provider_dli.local.handle import LocalDli

# Files of DAGs that no test of the README's command runs.
ONLY_IN_THE_MATRIX = (
    "every_operator.py",
    "lineage.py",
    "machinery.py",
    "many.py",
    "rotation.py",
    "scripts.py",
    "sql_tools.py",
)


@pytest.fixture(scope="session")
def obs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder behind obs:// of the local DLI, with the programs of the example DAGs."""
    folder = tmp_path_factory.mktemp("obs")
    dag_files.put_programs(folder)
    return folder


@pytest.fixture(scope="session")
def dli(obs: Path) -> Iterator[LocalDli]:
    # Canaries: one test looks for them in everything that was written down.
    secrets = {
        "password": "canary-password-secret",
        "secret_key": "canary-key-secret",
        "security_token": "canary-session-secret",
    }
    with LocalDli.start(**secrets, obs=str(obs), queues=QUEUES) as dli:
        yield dli


@pytest.fixture(scope="session")
def airflow(
    dli: LocalDli, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalAirflow]:
    """Airflow with short cycles and a *Test* button, the DAGs in `dags/` folders here and the example DAGs."""
    dags = tmp_path_factory.mktemp("airflow") / "dags"
    is_quick = request.config.option.markexpr == "not matrix"
    for folder in Path(__file__).parent.glob("*/dags"):
        # Each file that Airflow reads takes the machine from the tasks.
        ignored = shutil.ignore_patterns(*ONLY_IN_THE_MATRIX) if is_quick else None
        shutil.copytree(folder, dags / folder.parent.name, ignore=ignored)
    if not is_quick:
        shutil.copytree(example_dags(), dags / "examples")
        queue = dags / "examples" / "dli_queue.py"
        # A queue of the local DLI takes jobs at once.
        queue.write_text(queue.read_text().replace("timedelta(minutes=4)", "timedelta(seconds=4)"))
    # With a key, as no password that is typed into a form may be found in the database.
    key = Fernet.generate_key().decode()
    settings = {**QUICK, "core.test_connection": "Enabled", "core.fernet_key": key, "dli.deployment": "tests"}
    # Two that may do different things on the page DLI jobs.
    settings["core.simple_auth_manager_users"] = "admin:admin,viewer:viewer"
    settings["email.email_backend"] = "lab.email_notes.note"
    # A dozen cases of the kill matrix side by side, and one to spare: each worker is a process.
    settings["core.parallelism"] = 16
    env = {**dli.connection_env(), **canaries(dli), "ON_CALL": "on-call@example.org"}
    env["PYTHONPATH"] = str(Path(__file__).parent)
    if is_quick:
        env["KILL_MATRIX_KINDS"] = "sql"
    with LocalAirflow(dags, env=env, settings=settings, task_api_apart=True) as airflow:
        yield airflow


def pytest_configure() -> None:
    # Before pytest-xdist starts its workers, which would measure each other.
    pace.factor()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-kill-table",
        action="store_true",
        help="write what the kill matrix measures into docs/kill-guarantees.md",
    )
    parser.addoption("--write-screenshots", action="store_true", help="write what the browser shows into docs/images")
    parser.addoption(
        "--write-fault-page", action="store_true", help="write what the fault matrix sees into docs/faults.md"
    )
    parser.addoption("--write-stories", action="store_true", help="write what logs tell into tests/unit/stories.txt")
    parser.addoption(
        "--sample", type=sampling.drawn_for, help="of the long tests, play what is drawn for this commit id"
    )


def pytest_report_header(config: pytest.Config) -> list[str]:
    draw = config.getoption("--sample")
    slower = (
        f"pace: this machine takes {pace.factor():.1f} times as long as the reference; bounds of time scale with it"
    )
    return [slower, *([f"drawn for {draw}"] if draw else [])]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not drawn."""
    if draw := config.getoption("--sample"):
        played = sampling.drawn(items, draw)
        config.hook.pytest_deselected(items=[item for item in items if item not in played])
        items[:] = [item for item in items if item in played]


def canaries(dli: LocalDli) -> dict[str, str]:
    """Connections of every kind, and keys in the environment, whose secrets must not show up anywhere; some are wrong."""
    password, key = dli.connection("password"), dli.connection("ak_sk")
    connections = {
        "canary_key": key,
        "canary_key_by_name": dli.connection("ak_sk", project_id=None, project_name=dli.project_name),
        "canary_temporary_key": dli.connection("ak_sk", security_token=dli.security_token),
        "short_lived": dli.connection("agency"),
        "agency_of_password": {**password, "extra": {**dli.connection("agency")["extra"], "agency_source": "password"}},
        "of_machine": dli.connection("metadata"),
        "of_environment": dli.connection("environment"),
        "canary_wrong_password": {**password, "password": "canary-wrong-secret"},
        "canary_wrong_key": {**key, "password": "canary-wrong-secret"},
        "canary_bad_field": {**password, "extra": {**password["extra"], "security_token": "canary-token-secret"}},
    }
    keys = {"AK": dli.access_key, "SK": dli.secret_key, "SECURITY_TOKEN": dli.security_token}
    return {
        **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(connection) for name, connection in connections.items()},
        **{f"HUAWEICLOUD_SDK_{name}": value for name, value in keys.items()},
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the end of the last logs with a failed test: what went wrong, went wrong in another process."""
    report = yield
    airflow = getattr(item, "funcargs", {}).get("airflow")
    if call.excinfo is not None and "Seconds from the " in str(call.excinfo.value):
        # A kill that is red has told all that is known of it, and what came of other cases is not about it.
        report.sections.clear()
    elif report.failed and isinstance(airflow, LocalAirflow):
        report.sections.append(("Airflow's last logs", airflow.last_logs()))
    return report


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep the tests that share an Airflow in one process: starting a second one costs more than it saves."""
    if "airflow" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("xdist_group"):
        item.add_marker(pytest.mark.xdist_group("airflow"))
