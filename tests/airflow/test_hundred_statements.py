"""A script of a hundred statements whose task is killed again and again: each statement runs to its end exactly once."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pace
import psutil
import pytest
from dags.scripts import STATEMENTS
from lab.airflow import LocalAirflow

from airflow_provider_dli.identity import Attempt, read_attempt
from airflow_provider_dli.local.dli.admin.views import LocalJob
from airflow_provider_dli.local.handle import LocalDli

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(900)]

# The process that gets it: of the supervisor and the task.
KILLS = ((1, signal.SIGKILL), (1, signal.SIGTERM), (0, signal.SIGTERM), (0, signal.SIGKILL))


def test_each_statement_runs_to_its_end_once(airflow: LocalAirflow, dli: LocalDli) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    # Side by side, for both wait most of the time.
    with ThreadPoolExecutor() as pool:
        for played in [pool.submit(play, airflow, dli, dag_id, seed) for dag_id in ("script", "script_deferred")]:
            played.result()


def play(airflow: LocalAirflow, dli: LocalDli, dag_id: str, seed: int) -> None:
    """Run the script, kill its task in every way, and look at what has become of each statement."""
    chance = random.Random(f"{dag_id} {seed}")
    airflow.api.wait_for_dag(dag_id)
    numbers = sorted(chance.sample(range(2, STATEMENTS - 2), 2 * len(KILLS)))
    run_id = f"{dag_id}-{seed}"
    for number in numbers:
        # Long enough to be deferred, and to be met while it runs.
        dli.will(matching=f"'{run_id}; --', {number} AS", run_for=8)
    airflow.api.trigger(dag_id, run_id=run_id)
    for number, (process, number_of_signal) in zip(numbers[::2], KILLS, strict=True):
        dli.wait_until(lambda dli, number=number: runs(dli, run_id, number), timeout=pace.seconds(120))
        kill(airflow.task_processes(dag_id, run_id, "job"), process, number_of_signal)
    assert airflow.api.wait_for_state(dag_id, run_id, timeout=400) == "success"
    jobs = jobs_of(dli, run_id)
    assert [job for job in jobs if job.is_active] == []
    done = [attempt_of(job).statement_index for job in jobs if job.status == "FINISHED"]
    assert done == list(range(STATEMENTS))
    assert {job.status for job in jobs} <= {"FINISHED", "CANCELLED"}


def kill(processes: Sequence[psutil.Process], index: int, number: int) -> None:
    """Send a signal to one of the processes of a task; a deferred task has none."""
    if processes:
        processes[index].send_signal(number)


def runs(dli: LocalDli, run_id: str, number: int) -> bool:
    return any(attempt_of(job).statement_index == number and job.status == "RUNNING" for job in jobs_of(dli, run_id))


def jobs_of(dli: LocalDli, run_id: str) -> list[LocalJob]:
    """Return the jobs of a DAG run, in the order in which they were submitted."""
    jobs = [job for job in dli.jobs() if f"'{run_id};" in job.statement]
    return sorted(jobs, key=lambda job: job.submitted_at)


def attempt_of(job: LocalJob) -> Attempt:
    attempt = read_attempt(job.tags)
    assert attempt is not None
    return attempt
