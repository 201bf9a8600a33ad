"""Deferred tasks that nobody kills, on a real triggerer; the kills are in ``kill_matrix``."""

from __future__ import annotations

import pytest
from lab.airflow import LocalAirflow

from airflow_provider_dli.local.dli.admin.views import LocalJob
from airflow_provider_dli.local.handle import LocalDli


@pytest.mark.matrix
def test_the_sensor_waits_in_each_of_its_modes(airflow: LocalAirflow, dli: LocalDli) -> None:
    dli.will(matching="deferral waits", run_for=15)
    run_id = run(airflow, "deferral_waits")
    [job] = jobs_of(dli, run_id)
    assert (job.status, job.cancel_requests) == ("FINISHED", ())
    log = airflow.api.task_log("deferral_waits", run_id, "defer")
    assert "TriggerEvent" in log or "Trigger fired event" in log


@pytest.mark.matrix
def test_a_sensor_fails_early_when_the_job_failed(airflow: LocalAirflow, dli: LocalDli) -> None:
    dli.will(matching="deferral waits", run_for=8, then="FAILED", message="DLI.0999: lost")
    run_id = run(airflow, "deferral_waits", ends="failed")
    states = {task["task_id"]: task["state"] for task in airflow.api.task_instances("deferral_waits", run_id)}
    assert states == {"submit": "success", "poke": "failed", "reschedule": "failed", "defer": "failed"}
    assert "DLI.0999: lost" in airflow.api.task_log("deferral_waits", run_id, "defer")


@pytest.mark.matrix
def test_a_cancel_that_takes_its_time_is_waited_for_in_the_triggerer(airflow: LocalAirflow, dli: LocalDli) -> None:
    dli.will(matching="deferral cancel", run_for=60, cancel_takes=9)
    run_id = run(airflow, "deferral_cancel")
    [job] = jobs_of(dli, run_id)
    assert job.status == "CANCELLED"
    assert airflow.api.xcom("deferral_cancel", run_id, "cancel") == {job.job_id: "CANCELLED"}


def test_a_trigger_that_cannot_be_loaded_leaves_no_job_behind(airflow: LocalAirflow, dli: LocalDli) -> None:
    dli.will(matching="lost trigger", run_for=60)
    run_id = run(airflow, "deferral_lost_trigger", ends="failed")
    [job] = jobs_of(dli, run_id)
    assert job.status == "CANCELLED"


def run(airflow: LocalAirflow, dag_id: str, ends: str = "success") -> str:
    airflow.api.wait_for_dag(dag_id)
    run_id = airflow.api.trigger(dag_id)
    assert airflow.api.wait_for_state(dag_id, run_id, timeout=120) == ends
    return run_id


def jobs_of(dli: LocalDli, run_id: str) -> list[LocalJob]:
    return [job for job in dli.jobs() if job.tags.get("airflow_run") == run_id]
