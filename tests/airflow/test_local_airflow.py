"""The Airflow that the other tests rely on: its parts can be ended and started again, and it keeps to itself."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import psutil
import pytest
from lab.airflow import LocalAirflow

from airflow_provider_dli.local.airflow.launcher import AirflowStartError


@pytest.mark.matrix
def test_a_killed_scheduler_can_be_started_again(airflow: LocalAirflow) -> None:
    scheduler = airflow.component("scheduler")
    scheduler.kill()
    assert not scheduler.is_running()
    scheduler.start()
    airflow.wait_until_healthy("scheduler")
    run_id = airflow.api.trigger("quick")
    assert airflow.api.wait_for_state("quick", run_id) == "success"
    assert airflow.api.xcom("quick", run_id, "answer") == 42


@pytest.mark.matrix
def test_a_second_triggerer(airflow: LocalAirflow) -> None:
    second = airflow.component("triggerer-2")
    second.start()
    airflow.wait_until_healthy("triggerer-2")
    assert second.pid != airflow.component("triggerer").pid
    second.freeze()
    assert second.process.status() == psutil.STATUS_STOPPED
    second.thaw()
    second.stop()


@pytest.mark.matrix
def test_task_processes_are_the_supervisor_and_the_task(airflow: LocalAirflow) -> None:
    run_id = airflow.api.trigger("machinery")
    airflow.api.wait_for_state("machinery", run_id, "nap", "running")
    supervisor, task = airflow.task_processes("machinery", run_id, "nap")
    assert task.parent() == supervisor
    assert "LocalExecutor" in " ".join(supervisor.cmdline())
    airflow.api.mark_dag_run("machinery", run_id, "failed")
    task.wait(timeout=30)


def test_it_listens_on_the_loopback_interface_only(airflow: LocalAirflow) -> None:
    processes = psutil.Process(airflow.guardian.pid).children(recursive=True)
    listening = {address for process in processes for address in listening_addresses(process)}
    assert listening == {("127.0.0.1", airflow.port), ("127.0.0.1", airflow.task_port)}


def listening_addresses(process: psutil.Process) -> list[tuple[str, int]]:
    try:
        connections = process.net_connections()
    except psutil.NoSuchProcess:  # Airflow starts and ends processes all the time
        return []
    return [(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN]


def test_a_port_is_kept_until_airflow_listens_on_it() -> None:
    airflow = LocalAirflow(Path())
    with pytest.raises(OSError, match="in use"), socket.socket() as another:
        another.bind(("127.0.0.1", airflow.port))
    with socket.create_server(("127.0.0.1", airflow.port)):
        pass


def test_the_callers_own_airflow_is_out_of_its_reach(airflow: LocalAirflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://production")
    monkeypatch.setenv("AIRFLOW_CONN_PRODUCTION", "dli://production")
    assert "production" not in str(airflow.environment()).lower()


@pytest.mark.matrix
def test_a_component_that_cannot_start_is_named_with_its_log(tmp_path: Path) -> None:
    airflow = LocalAirflow(tmp_path, sql_alchemy_conn="sqlite:////nowhere/airflow.db")
    with pytest.raises(
        AirflowStartError, match=r"(?s)could not create its database.*unable to open.*The whole log: "
    ) as raised:
        airflow.start()
    log = Path(str(raised.value).rpartition(" ")[2])
    assert log.exists()
    shutil.rmtree(log.parent)
