"""The main job: a killed DAG run cancels its DLI job."""

from __future__ import annotations

import time

from lab.airflow import LocalAirflow

from airflow_provider_dli.local.dli.admin.views import LocalJob
from airflow_provider_dli.local.handle import LocalDli


def test_a_dag_run_marked_failed_cancels_its_job(airflow: LocalAirflow, dli: LocalDli) -> None:
    airflow.api.wait_for_dag("main_job")
    run_id = airflow.api.trigger("main_job")
    dli.wait_until(lambda dli: [job for job in jobs_of(dli, run_id) if job.status == "RUNNING"], timeout=60)
    task = airflow.task_processes("main_job", run_id, "count_pairs").task

    airflow.api.mark_dag_run("main_job", run_id, "failed")

    task.wait(timeout=30)
    time.sleep(3)  # long enough for a retry, if there were one
    [job] = jobs_of(dli, run_id)
    assert job.status == "CANCELLED"
    assert len(job.cancel_requests) >= 1
    assert airflow.api.dag_run("main_job", run_id)["state"] == "failed"
    assert airflow.api.task_instance("main_job", run_id, "count_pairs")["state"] == "failed"
    assert airflow.api.xcom("main_job", run_id, "count_pairs", "job_id") == job.job_id


def test_the_example_of_a_cancel_runs_as_it_stands(airflow: LocalAirflow, dli: LocalDli) -> None:
    airflow.api.wait_for_dag("dli_cancel")
    run_id = airflow.api.trigger("dli_cancel")
    assert airflow.api.wait_for_state("dli_cancel", run_id) == "success"
    [job] = jobs_of(dli, run_id)
    assert job.status == "CANCELLED"
    assert airflow.api.xcom("dli_cancel", run_id, "cancel") == {job.job_id: "CANCELLED"}


def jobs_of(dli: LocalDli, run_id: str) -> list[LocalJob]:
    return [job for job in dli.jobs() if job.tags.get("airflow_run") == run_id]
