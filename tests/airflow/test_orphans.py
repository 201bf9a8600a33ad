"""The sweep in a real Airflow: it cancels exactly the jobs that no task waits for any more."""

from __future__ import annotations

from collections.abc import Iterator

import pace
import pytest
from lab.airflow import LocalAirflow

from airflow_provider_dli.local.dli.admin.views import LocalJob
from airflow_provider_dli.local.handle import LocalDli

pytestmark = pytest.mark.timeout(600)
TASK = "job"
# Left behind (their processes are killed with SIGKILL, which runs no code of theirs), or not.
ORPHANS = {
    "last-try": "sweep_once",
    "deleted": "sweep_once",
    "dag-removed": "sweep_removed",
    "mapped": "sweep_mapped",
}
OTHERS = {"healthy": "sweep_once", "next-try-to-come": "sweep_retried"}


@pytest.fixture(scope="module")
def runs(airflow: LocalAirflow, dli: LocalDli) -> Iterator[dict[str, str]]:
    """DAG runs by the name of their case, each with a job that is active."""
    airflow.api.wait_for_dag("sweep")
    dli.settings(queues={"default": 100})
    dli.will(matching="'sweep ", times=20, run_for=600)
    runs = {}
    for case, dag_id in {**ORPHANS, **OTHERS}.items():
        airflow.api.wait_for_dag(dag_id)
        runs[case] = airflow.api.trigger(dag_id, run_id=f"sweep~{case}")
    expected = len(runs) + 1  # a mapped run has two
    dli.wait_until(
        lambda dli: len([job for job in active(dli) if job.status == "RUNNING"]) == expected, timeout=pace.seconds(90)
    )

    for case in ("last-try", "deleted", "dag-removed", "next-try-to-come"):
        kill(airflow, {**ORPHANS, **OTHERS}[case], runs[case])
    kill(airflow, "sweep_mapped", runs["mapped"], map_index=1)
    airflow.api.wait_for_state("sweep_once", runs["last-try"], TASK, "failed")
    airflow.api.wait_for_state("sweep_once", runs["deleted"])
    airflow.api.delete_dag_run("sweep_once", runs["deleted"])
    airflow.api.wait_for_state("sweep_removed", runs["dag-removed"])
    for file in airflow.dags_folder.rglob("sweep_removed.py"):
        file.unlink()
    airflow.api.delete_dag("sweep_removed")
    airflow.api.wait_for_state("sweep_retried", runs["next-try-to-come"], TASK, "up_for_retry")
    airflow.api.wait_for_state("sweep_mapped", runs["mapped"], TASK, "failed", map_index=1)
    yield runs
    for case, dag_id in OTHERS.items():
        airflow.api.mark_dag_run(dag_id, runs[case], "failed")
    airflow.api.mark_dag_run("sweep_mapped", runs["mapped"], "failed")


def test_a_sweep_cancels_exactly_the_orphans(airflow: LocalAirflow, dli: LocalDli, runs: dict[str, str]) -> None:
    jobs = {case: [job.job_id for job in active(dli) if job.tags["airflow_run"] == tag(runs[case])] for case in runs}
    mapped = {int(dli.job(job_id).tags["airflow_attempt"].split(":")[3]): job_id for job_id in jobs["mapped"]}
    orphans = {jobs["last-try"][0], jobs["deleted"][0], jobs["dag-removed"][0], mapped[1]}
    others = {jobs["healthy"][0], jobs["next-try-to-come"][0], mapped[0]}

    told, done = sweep(airflow, orphans | others)

    assert verdicts(told) == {**dict.fromkeys(orphans, "would be cancelled"), **dict.fromkeys(others, "left alone")}
    assert verdicts(done) == {**dict.fromkeys(orphans, "cancelled"), **dict.fromkeys(others, "left alone")}
    assert {job_id: done[job_id]["why"] for job_id in sorted(done)} == {
        jobs["last-try"][0]: "its task instance is failed",
        jobs["deleted"][0]: "its task instance is gone from Airflow",
        jobs["dag-removed"][0]: "its task instance is gone from Airflow",
        mapped[1]: "its task instance is failed",
        jobs["healthy"][0]: "its task instance is running",
        jobs["next-try-to-come"][0]: "its task instance is up_for_retry",
        mapped[0]: "its task instance is running",
    }
    row = done[mapped[1]]
    assert (row["dag"], row["run"], row["task"], row["map_index"], row["try"]) == (
        "sweep_mapped",
        runs["mapped"],
        TASK,
        1,
        1,
    )
    assert {dli.job(job_id).status for job_id in orphans} == {"CANCELLED"}
    assert {dli.job(job_id).status for job_id in others} == {"RUNNING"}
    assert not any(dli.job(job_id).cancel_requests for job_id in others)

    # Now the user gives up the retry that would have seen to the job: nobody else is left to do it.
    airflow.api.mark_dag_run("sweep_retried", runs["next-try-to-come"], "failed")
    airflow.api.wait_for_state("sweep_retried", runs["next-try-to-come"], TASK, ("failed", "skipped"))
    _, done = sweep(airflow, others)
    assert verdicts(done) == {
        jobs["healthy"][0]: "left alone",
        jobs["next-try-to-come"][0]: "cancelled",
        mapped[0]: "left alone",
    }


@pytest.mark.matrix
def test_the_example_runs_as_it_stands_and_leaves_young_jobs_alone(
    airflow: LocalAirflow, dli: LocalDli, runs: dict[str, str]
) -> None:
    assert airflow.api.wait_for_dag("dli_sweep")["is_paused"]
    before = {job.job_id for job in active(dli)}
    assert before
    run_id = airflow.api.trigger("dli_sweep")
    airflow.api.unpause("dli_sweep")
    try:
        assert airflow.api.wait_for_state("dli_sweep", run_id, timeout=120) == "success"
    finally:
        airflow.api.pause("dli_sweep")
    assert {job.job_id for job in active(dli)} == before


def sweep(airflow: LocalAirflow, job_ids: set[str]) -> list[dict[str, dict[str, object]]]:
    """Run the DAG of the sweep; returns the rows of its two tasks, of these jobs only: others share this DLI."""
    run_id = airflow.api.trigger("sweep")
    assert airflow.api.wait_for_state("sweep", run_id, timeout=120) == "success"
    found = [airflow.api.xcom("sweep", run_id, task_id) for task_id in ("tell", "cancel")]
    return [{row["job"]: row for row in rows if row["job"] in job_ids} for rows in found]


def verdicts(rows: dict[str, dict[str, object]]) -> dict[str, object]:
    return {job_id: row["verdict"] for job_id, row in rows.items()}


def kill(airflow: LocalAirflow, dag_id: str, run_id: str, map_index: int = -1) -> None:
    airflow.api.wait_for_state(dag_id, run_id, TASK, "running", map_index=map_index)
    airflow.task_processes(dag_id, run_id, TASK, map_index).task.kill()


def active(dli: LocalDli) -> list[LocalJob]:
    return [job for job in dli.jobs() if job.is_active and job.tags.get("airflow_dag", "").startswith("sweep_")]


def tag(run_id: str) -> str:
    return run_id.replace("~", "@7e")
