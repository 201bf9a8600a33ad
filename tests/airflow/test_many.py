"""
Hundreds of deferred tasks in one triggerer: a hand-over cancels no job, and a kill leaves none running.

``pytest -m matrix -n 0 tests/airflow/test_many.py``, with PostgreSQL and uv on the machine. The environments of the
Airflows stay for the next time in the folder that ``DLI_AIRFLOW_LINES`` names; ``DLI_MANY_LINES`` (such as
``2.11,3.3``) names the lines to try instead of those at which each test is aimed.

Triggerers, API server and database are real. The deferrals are written to the database as workers would: those manage
one to four a second on two cores.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pace
import psutil
import pytest
from lab.airflow import QUICK, LocalAirflow
from lab.components import Component
from lab.deferrals import defer
from lab.older_airflows import install
from lab.postgres import Postgres, path

from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.local.dli.admin.views import LocalJob
from airflow_provider_dli.local.handle import LocalDli

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(900)]
DAG, TASK = "many", "job"
# For how long the triggerer stands still: it is missed after `triggerer_health_check_threshold`, 15 seconds.
FROZEN_FOR = 35
# Within how many seconds all jobs of a killed DAG run must be cancelled, and a wrong cancel would have come.
CANCELLED_WITHIN = 30
CANCELS_WOULD_COME_WITHIN = 35


def lines(*aimed_at: str) -> list[str]:
    """The lines of Airflow on which a test is played."""
    return os.environ["DLI_MANY_LINES"].split(",") if "DLI_MANY_LINES" in os.environ else list(aimed_at)


@pytest.fixture
def many_dli() -> Iterator[LocalDli]:
    """A local DLI of its own, which runs all jobs at once and for longer than the test."""
    with LocalDli.start() as dli:
        dli.settings(queues={"default": 1000})
        dli.will(matching="'many ", times=1000, run_for=900)
        yield dli


@pytest.fixture
def many(
    request: pytest.FixtureRequest, many_dli: LocalDli, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalAirflow]:
    """Airflow of the line that the test asks for, with PostgreSQL: two triggerers are too many for SQLite."""
    if not path("postgres"):
        # Where it has to be played, a skip would look like a success.
        (pytest.fail if os.environ.get("DLI_TEST_NO_SKIP") else pytest.skip)("PostgreSQL is not installed")
    python = install(request.param, Path(os.environ.get("DLI_AIRFLOW_LINES") or tmp_path_factory.mktemp("lines")))
    dags = tmp_path_factory.mktemp("dags")
    shutil.copy(Path(__file__).parent / "dags" / "many.py", dags)
    settings = {**QUICK, "core.parallelism": 16, "dli.deployment": "many"}
    with (
        Postgres() as database,
        LocalAirflow(
            dags, python=python, sql_alchemy_conn=database.url, env=many_dli.connection_env(), settings=settings
        ) as airflow,
    ):
        yield airflow
        # Not the logs of all tasks, as `conftest` shows them with a failed test.
        for name in ("triggerer", "triggerer-2"):
            print(f"--- {name}\n{airflow.component(name).log_tail(50)}")


@pytest.mark.parametrize("many", lines("3.3"), indirect=True)
def test_a_triggerer_that_wakes_up_cancels_none_of_the_jobs_that_it_has_lost(
    many: LocalAirflow, many_dli: LocalDli
) -> None:
    """And then all of its DAG runs are marked failed, and the triggerer that has taken over cancels every job."""
    runs = {"mapped": 200, "other-1": 20, "other-2": 20}
    defer_all(many, many_dli, runs)
    [owner] = owners(many, runs)
    first, second = many.component("triggerer"), many.component("triggerer-2")
    second.start()
    many.wait_until_healthy("triggerer-2")

    freeze(first)
    time.sleep(FROZEN_FOR)
    wait_until_others_own(many, runs, owner)
    woken_at = time.time()
    thaw(first)
    time.sleep(CANCELS_WOULD_COME_WITHIN)
    wrongly_cancelled = [job for job in many_dli.jobs() if job.cancel_requests]
    report("hand-over", many_dli.jobs(), woken_at)

    killed_at = kill(many, runs)
    left = wait_until_none_is_left(many_dli)
    report("kill", many_dli.jobs(), killed_at)

    told = f"of {sum(runs.values())} jobs, {len(wrongly_cancelled)} got a DELETE at the hand-over, which nobody wanted"
    assert not wrongly_cancelled, f"{told}, and {len(left)} are left running after the kill"
    assert not left, f"{len(left)} of {sum(runs.values())} jobs are left running after the kill"
    assert {job.status for job in many_dli.jobs()} == {"CANCELLED"}


@pytest.mark.parametrize("many", lines("3.2"), indirect=True)
def test_a_kill_of_very_many_deferred_tasks_leaves_no_job_running(many: LocalAirflow, many_dli: LocalDli) -> None:
    runs = {"killed": 400}
    defer_all(many, many_dli, runs)

    killed_at = kill(many, runs)
    left = wait_until_none_is_left(many_dli)
    report("kill", many_dli.jobs(), killed_at)

    assert not left, f"{len(left)} of {sum(runs.values())} jobs are left running"
    assert {job.status for job in many_dli.jobs()} == {"CANCELLED"}


def defer_all(airflow: LocalAirflow, dli: LocalDli, runs: Mapping[str, int]) -> None:
    """Start these runs, with so many jobs each, and wait until the triggerer waits for all of them."""
    airflow.api.wait_for_dag(DAG)
    airflow.component("scheduler").stop()
    with dli.as_connection():
        hook = DliHook()
        for run_id, jobs in runs.items():
            job_ids = [hook.submit_sql_job(f"SELECT 'many {run_id}', {number}").id for number in range(jobs)]
            airflow.api.trigger(DAG, {"jobs": jobs}, run_id=run_id)
            defer(airflow, DAG, TASK, run_id, job_ids)
    since = last_request(dli)
    deadline = time.monotonic() + pace.seconds(90)
    while None in owners(airflow, runs):
        assert time.monotonic() < deadline, "the triggerer has not taken all triggers"
        time.sleep(1)
    time.sleep(10)
    assert dli.requests("list", since), "the triggerer has not looked at the jobs"


def owners(airflow: LocalAirflow, runs: Mapping[str, int]) -> set[int | None]:
    """The triggerers that have the triggers of these runs, as Airflow numbers them; None where none has."""
    tasks = airflow.api.task_instances_of(runs)
    return {(task["triggerer_job"] or {}).get("id") for task in tasks if task["state"] == "deferred"}


def wait_until_others_own(airflow: LocalAirflow, runs: Mapping[str, int], owner: int) -> None:
    """Wait until this triggerer has none of the triggers any more."""
    deadline = time.monotonic() + pace.seconds(60)
    while owner in (found := owners(airflow, runs)):
        assert time.monotonic() < deadline, f"triggerer {owner} still has triggers, of {found} that have some"
        time.sleep(1)


def last_request(dli: LocalDli) -> int:
    return max((request.seq for request in dli.requests()), default=0)


def freeze(triggerer: Component) -> None:
    for process in family_of(triggerer):
        process.suspend()


def thaw(triggerer: Component) -> None:
    for process in family_of(triggerer):
        process.resume()


def family_of(triggerer: Component) -> list[psutil.Process]:
    """The triggerer, and the process in which its triggers run."""
    return [triggerer.process, *triggerer.process.children(recursive=True)]


def kill(airflow: LocalAirflow, runs: Mapping[str, int]) -> float:
    """Mark all runs failed at once; returns when that was done."""
    began = time.time()
    for run_id in runs:
        airflow.api.mark_dag_run(DAG, run_id, "failed")
    print(f"marked failed within {time.time() - began:.1f} s")
    return time.time()


def wait_until_none_is_left(dli: LocalDli) -> list[LocalJob]:
    """Wait until no job is active; returns those that still are when the time is over."""
    end = time.monotonic() + pace.seconds(CANCELLED_WITHIN)
    while (left := [job for job in dli.jobs() if job.is_active]) and time.monotonic() < end:
        time.sleep(0.5)
    return left


def report(what: str, jobs: list[LocalJob], since: float) -> None:
    """Show how many jobs were cancelled, and when."""
    first_deletes = sorted(
        min(deletes) for job in jobs if (deletes := [at for at in job.cancel_requests if at >= since])
    )
    when = f", {first_deletes[0] - since:+.1f} to {first_deletes[-1] - since:+.1f} s" if first_deletes else ""
    print(f"{what}: {len(first_deletes)} DELETEs{when}; the jobs: {dict(Counter(job.status for job in jobs))}")
