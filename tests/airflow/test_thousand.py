"""
A thousand deferred tasks in one real triggerer of the current Airflow: they run to their end, and all are killed at once.

``pytest -m matrix -n 0 tests/airflow/test_thousand.py``, with PostgreSQL on the machine. Triggerer, API server and
database are real. Only the deferrals are written to the database as a thousand workers would: those take ten minutes.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pace
import psutil
import pytest
from lab.airflow import QUICK, LocalAirflow
from lab.deferrals import defer
from lab.older_airflows import install
from lab.postgres import Postgres, path

from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.local.handle import LocalDli

pytestmark = [
    pytest.mark.matrix,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not path("postgres"), reason="PostgreSQL is not installed"),
]
DAG, TASK = "many", "job"
MANY, FEW = 1000, 50


@pytest.fixture
def dli() -> Iterator[LocalDli]:
    """A local DLI of its own, which runs all jobs at once."""
    with LocalDli.start() as dli:
        dli.settings(queues={"default": 5000})
        yield dli


@pytest.fixture
def airflow(dli: LocalDli, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    """Airflow with PostgreSQL, and without a scheduler: what ends would be resumed, a few tasks a second."""
    (tmp_path / "many.py").write_text((Path(__file__).parent / "dags" / "many.py").read_text())
    python = install("3.3", Path(os.environ.get("DLI_AIRFLOW_LINES") or tmp_path_factory.mktemp("lines")))
    settings = {**QUICK, "triggerer.capacity": MANY + FEW}
    with (
        Postgres() as database,
        LocalAirflow(
            tmp_path, python=python, sql_alchemy_conn=database.url, env=dli.connection_env(), settings=settings
        ) as airflow,
    ):
        airflow.api.wait_for_dag(DAG)
        airflow.component("scheduler").stop()
        yield airflow
        print(f"--- triggerer\n{airflow.component('triggerer').log_tail(50)}")


def test_a_thousand_jobs_to_their_end_and_a_thousand_killed_at_once(
    airflow: LocalAirflow, dli: LocalDli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in dli.connection_env().items():
        monkeypatch.setenv(name, value)
    open_no_more_files_than(airflow, 1024)  # as on most systems; Airflow itself keeps a log open for each trigger
    submitted_and_deferred(airflow, dli, "ends", MANY, run_for=60)
    wait_until(lambda: states(airflow, "ends")["deferred"] == 0, 150, lambda: states(airflow, "ends"))
    assert {job.status for job in dli.jobs()} == {"FINISHED"}
    assert not [job for job in dli.jobs() if job.cancel_requests]
    polled = Counter(request.call for request in dli.requests() if request.call != "submit")
    print(f"1,000 jobs: {dict(polled)}")
    assert polled["progress"] == 0

    open_no_more_files_than(airflow, 8192)
    long = submitted_and_deferred(airflow, dli, "goes-on", FEW, run_for=600)
    killed = submitted_and_deferred(airflow, dli, "killed", MANY, run_for=600)
    wait_until(
        lambda: are_with_the_triggerer(airflow, "killed"), 120, lambda: "the triggerer has not taken all triggers"
    )
    time.sleep(10)
    dli.fault("*", "latency", times=None, seconds=0.1)
    airflow.api.mark_dag_run(DAG, "killed", "failed")
    wait_until(
        lambda: not [job for job in dli.jobs() if job.is_active and job.job_id in killed],
        40,
        lambda: len(dli.requests("cancel")),
    )
    time.sleep(5)
    deletes = dli.requests("cancel")
    assert {request.job_id for request in deletes} == killed
    assert {dli.job(job_id).status for job_id in long} == {"RUNNING"}
    first = {}
    for request in sorted(deletes, key=lambda request: request.at):
        first.setdefault(request.job_id, request.at)
    took = max(first.values()) - min(first.values())
    begin = min(first.values())
    print(
        f"{len(first)} DELETEs within {took:.1f} s of the first: {sorted(Counter(int(at - begin) for at in first.values()).items())}"
    )
    assert took <= pace.seconds(10)  # (5 are wanted; the machine is shared)


def open_no_more_files_than(airflow: LocalAirflow, limit: int) -> None:
    """Start the triggerer again with this limit: it is a child of Airflow's guardian."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    psutil.Process(airflow.guardian.pid).rlimit(psutil.RLIMIT_NOFILE, (limit, hard))
    airflow.component("triggerer").restart()
    airflow.wait_until_healthy("triggerer")


def submitted_and_deferred(airflow: LocalAirflow, dli: LocalDli, run_id: str, jobs: int, run_for: float) -> set[str]:
    """Submit jobs, and have a task of this run wait for each."""
    dli.will(run_for=run_for, times=jobs)
    hook = DliHook()
    job_ids = [hook.submit_sql_job(f"SELECT {number}").id for number in range(jobs)]
    airflow.api.trigger(DAG, {"jobs": jobs}, run_id=run_id)
    defer(airflow, DAG, TASK, run_id, job_ids)
    return set(job_ids)


def states(airflow: LocalAirflow, run_id: str) -> Counter[str]:
    tasks = airflow.api.task_instances_of([run_id])
    return Counter(task["state"] for task in tasks if task["task_id"] == TASK)


def are_with_the_triggerer(airflow: LocalAirflow, run_id: str) -> bool:
    """Whether the triggerer has taken all triggers; a few seconds later, all of them run."""
    tasks = [task for task in airflow.api.task_instances_of([run_id]) if task["task_id"] == TASK]
    return all(task["triggerer_job"] for task in tasks)


def wait_until(holds, seconds, tell):
    """Wait until something holds."""
    end = time.monotonic() + pace.seconds(seconds)
    while not holds():
        assert time.monotonic() < end, tell()
        time.sleep(1)
