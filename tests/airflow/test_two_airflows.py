"""Two Airflows with the same DAG and the same run ids, in one DLI project: neither touches the jobs of the other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.airflow import QUICK, LocalAirflow

from airflow_provider_dli.local.dli.admin.views import LocalJob
from airflow_provider_dli.local.handle import LocalDli

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(600)]
DAG, TASK = "kill_retried", "job"


@pytest.fixture(scope="module")
def other(dli: LocalDli, airflow: LocalAirflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    dags = tmp_path_factory.mktemp("other") / "dags"
    dags.mkdir()
    shutil.copy(Path(__file__).parent / "dags" / "kill_matrix.py", dags)
    with LocalAirflow(dags, env=dli.connection_env(), settings=QUICK, task_api_apart=True) as other:
        yield other


@pytest.mark.parametrize("kill", ["clear", "sigkill"])
def test_a_next_try_in_one_leaves_the_job_of_the_other_alone(
    dli: LocalDli, airflow: LocalAirflow, other: LocalAirflow, kill: str
) -> None:
    run_id = f"two-airflows.{kill}"
    job_of = {}
    for each in (airflow, other):
        dli.will(matching=f"'case {run_id}'", run_for=25)
        each.api.wait_for_dag(DAG)
        each.api.trigger(DAG, run_id=run_id)
        found = {job.job_id for job in job_of.values()}
        [job_of[each]] = dli.wait_until(
            lambda dli, found=found: [job for job in jobs_of(dli, run_id) if job.job_id not in found], timeout=60
        )
        each.api.wait_for_state(DAG, run_id, TASK, "running")
    ours, theirs = job_of[airflow], job_of[other]
    assert ours.tags["airflow_ti"] == theirs.tags["airflow_ti"]

    if kill == "clear":
        airflow.api.clear(DAG, run_id, [TASK])
    else:
        airflow.task_processes(DAG, run_id, TASK).task.kill()
    assert airflow.api.wait_for_state(DAG, run_id, timeout=120) == "success"
    assert airflow.api.task_instance(DAG, run_id, TASK)["try_number"] == 2
    assert other.api.wait_for_state(DAG, run_id, timeout=120) == "success"
    assert other.api.task_instance(DAG, run_id, TASK)["try_number"] == 1

    assert dli.job(theirs.job_id).status == "FINISHED"
    assert dli.job(theirs.job_id).cancel_requests == ()
    assert dli.job(ours.job_id).status == ("CANCELLED" if kill == "clear" else "FINISHED")
    assert len(jobs_of(dli, run_id)) == (3 if kill == "clear" else 2)
    assert airflow.api.xcom(DAG, run_id, TASK) in {job.job_id for job in jobs_of(dli, run_id)} - {theirs.job_id}


def jobs_of(dli: LocalDli, run_id: str) -> list[LocalJob]:
    return [job for job in dli.jobs() if job.tags.get("airflow_run") == run_id]
