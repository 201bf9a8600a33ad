"""What happens to all tasks of an Airflow at once. Cases with the same disturbance are played together, no others beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from lab.components import TASK_API, Component

from kill_matrix.stage import OVER, Run

Disturbance = Callable[[Sequence[Run]], AbstractContextManager[None]]
"""Each run has its act when the disturbance has begun; it ends after the last act."""


@contextmanager
def scheduler_restarted(runs: Sequence[Run]) -> Iterator[None]:
    """A scheduler that is shut down waits for its tasks; these go on meanwhile."""
    scheduler = runs[0].stage.airflow.component("scheduler")
    scheduler.process.terminate()
    yield
    _wait_for_jobs(runs, 60)
    try:
        scheduler.wait(20)
    except TimeoutError:
        # It waits for ever for workers that other cases have killed. Platforms wait as little.
        scheduler.kill()
    _start(runs, "scheduler")


@contextmanager
def api_server_down(runs: Sequence[Run]) -> Iterator[None]:
    """Airflow's API server for tasks is away for longer than a supervisor bears."""
    runs[0].stage.airflow.component(TASK_API).stop()
    yield
    _wait_for_jobs(runs, 120)
    _start(runs, TASK_API)


@contextmanager
def swept(runs: Sequence[Run]) -> Iterator[None]:
    """Nobody is left to cancel the jobs, and then the sweep comes."""
    yield
    _wait_until_over(runs, 90)
    api = runs[0].api
    api.wait_for_dag("sweep")
    sweep = api.trigger("sweep")
    ended = api.wait_for_state("sweep", sweep, timeout=120)
    assert ended == "success", api.task_log("sweep", sweep, "cancel")


def _triggerer_restarted(stop: Callable[[Component], None]) -> Disturbance:
    @contextmanager
    def disturbance(runs: Sequence[Run]) -> Iterator[None]:
        stop(runs[0].stage.airflow.component("triggerer"))
        _start(runs, "triggerer")
        yield

    return disturbance


triggerer_restarted = _triggerer_restarted(Component.stop)
triggerer_killed = _triggerer_restarted(Component.kill)


@contextmanager
def triggerer_down(runs: Sequence[Run]) -> Iterator[None]:
    """There is no triggerer when a user acts."""
    runs[0].stage.airflow.component("triggerer").stop()
    yield
    time.sleep(5)
    _start(runs, "triggerer")


@contextmanager
def triggerer_down_at_the_timeout(runs: Sequence[Run]) -> Iterator[None]:
    """Apart from the other: these cases have no time to wait until others are ready."""
    with triggerer_down(runs):
        yield


@contextmanager
def triggerer_frozen(runs: Sequence[Run]) -> Iterator[None]:
    """The triggerer stands still for so long that Airflow takes its triggers away, and wakes up."""
    process = runs[0].stage.airflow.component("triggerer").process
    family = [process, *process.children(recursive=True)]
    for each in family:
        each.suspend()
    yield
    time.sleep(30)
    for each in family:
        each.resume()


@contextmanager
def one_of_two_triggerers_lost(runs: Sequence[Run]) -> Iterator[None]:
    """The triggerer that has the tasks is gone for good, and users act before the other one takes over."""
    airflow = runs[0].stage.airflow
    first, second = airflow.component("triggerer"), airflow.component("triggerer-2")
    second.start()
    airflow.wait_until_healthy("triggerer-2")
    first.kill()
    yield
    _wait_until_over(runs, 120)
    _start(runs, "triggerer")
    second.stop()


def _start(runs: Sequence[Run], name: str) -> None:
    airflow = runs[0].stage.airflow
    airflow.component(name).start()
    airflow.wait_until_healthy(name)


def _wait_until_over(runs: Sequence[Run], timeout: float) -> None:
    for run in runs:
        run.until(lambda run=run: run.tasks[0]["state"] in OVER, "the task is over", timeout)  # type: ignore[misc]


def _wait_for_jobs(runs: Sequence[Run], timeout: float) -> None:
    runs[0].until(lambda: not any(job.is_active for run in runs for job in run.jobs), "no job is active", timeout)
