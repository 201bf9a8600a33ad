"""Credentials that end while a task waits, and then the task is killed: the cancel uses new ones."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pace
import pytest
from lab.airflow import LocalAirflow

from airflow_provider_dli.local.handle import LocalDli

pytestmark = pytest.mark.matrix


@pytest.fixture
def rotate(airflow: LocalAirflow, dli: LocalDli) -> Iterator[object]:
    """A function that rotates the password, in DLI and in the connection that Airflow keeps in its database."""
    connection = dli.connection()
    body = {
        "connection_id": "rotated",
        "conn_type": "dli",
        "host": connection["host"],
        "login": connection["login"],
        "password": connection["password"],
        "extra": json.dumps(connection["extra"]),
    }
    airflow.api.set_connection(body)

    def run() -> None:
        dli.settings(rotated_secret="rotated-password")
        airflow.api.set_connection({**body, "password": "rotated-password"})

    yield run
    dli.settings(rotated_secret=None)
    airflow.api.delete_connection("rotated")


DAGS = pytest.mark.parametrize("dag_id", ["rotation", "rotation_deferred"])


@DAGS
def test_a_kill_after_the_password_was_rotated_cancels_the_job(
    airflow: LocalAirflow, dli: LocalDli, rotate, dag_id: str
) -> None:
    run_id, job_id = waiting(airflow, dli, dag_id, "password")
    rotate()
    killed(airflow, dli, dag_id, run_id, job_id)


@DAGS
def test_a_kill_after_temporary_keys_have_ended_cancels_the_job(
    airflow: LocalAirflow, dli: LocalDli, dag_id: str
) -> None:
    dli.settings(keys_lifetime=12)
    try:
        run_id, job_id = waiting(airflow, dli, dag_id, "keys")
        time.sleep(12)  # until those that the task began with have ended
        killed(airflow, dli, dag_id, run_id, job_id)
    finally:
        dli.settings(keys_lifetime=3600)


def waiting(airflow: LocalAirflow, dli: LocalDli, dag_id: str, name: str) -> tuple[str, str]:
    """Run a DAG until its task waits for its job; return the ids of the run and of the job."""
    airflow.api.wait_for_dag(dag_id)
    dli.will(matching="'rotation ", run_for=120)
    run_id = airflow.api.trigger(dag_id, run_id=f"{name}.{dag_id}")
    state = "deferred" if dag_id.endswith("deferred") else "running"
    deadline = time.monotonic() + pace.seconds(60)
    while True:
        jobs = [job for job in dli.jobs() if job.tags.get("airflow_run") == run_id]
        task = airflow.api.task_instance(dag_id, run_id, "job")
        if jobs and task["state"] == state:
            break
        assert time.monotonic() < deadline, (jobs, task)
        time.sleep(0.2)
    time.sleep(3)  # until the short looks of the beginning are over
    return run_id, jobs[0].job_id


def killed(airflow: LocalAirflow, dli: LocalDli, dag_id: str, run_id: str, job_id: str) -> None:
    """Mark the run as failed, and wait until its job is cancelled."""
    airflow.api.mark_dag_run(dag_id, run_id, "failed")
    dli.wait_until(lambda dli: dli.job(job_id).status == "CANCELLED", timeout=pace.seconds(40))
