"""What kills a task (paths), when (moments), and what must come of it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import requests

from airflow_provider_dli.local.airflow import TASK_API
from kill_matrix.stage import OVER, RUN_FOR, SLOW, TASK, Run


@dataclass(frozen=True)
class Path:
    """
    Something that kills a task, and what must come of it.

    :param name: Short name, part of the DAG run id.
    :param title: In the words of whom it happens to.
    :param act: Does it.
    :param ends: State of the task at the end; ``gone`` when its run is deleted.
    :param job: State of the job that ran at the moment of the kill, at the end.
    :param who: Who sees to the job.
    :param tries: Tries of the task until the end; the second one runs its own job unless it took over the first.
    :param dag: DAG that the case is a run of.
    :param alone: Whether other cases cannot go on beside it.
    """

    name: str
    title: str
    act: Callable[[Run], None]
    ends: str
    job: str = "CANCELLED"
    who: str = "the killed task"
    tries: int = 1
    dag: str = "kill_retried"
    alone: bool = False
    long_jobs: int = 1


@dataclass(frozen=True)
class Moment:
    """
    A moment in the life of a task.

    :param reach: Returns when it has come; the calls that are slow then last long enough.
    :param leave: Lets what was held go on, after the kill.
    :param has_job: Whether the killed try has, or will have, a job.
    """

    name: str
    title: str
    reach: Callable[[Run], None]
    leave: Callable[[Run], None] = lambda run: None
    has_job: bool = True


@dataclass(frozen=True)
class Case:
    """A path at a moment."""

    path: Path
    moment: Moment
    suffix: str = ""

    @property
    def name(self) -> str:
        """Also the run id."""
        return f"{self.path.name}.{self.moment.name}{self.suffix}"

    @property
    def run_for(self) -> float:
        """Seconds that the first job runs when nobody cancels it: one that the next try takes over ends sooner."""
        return 40 if self.path.job == "FINISHED" else RUN_FOR

    @property
    def jobs(self) -> tuple[str, ...]:
        """The end states of the jobs, in the order of their submits."""
        first = EXCEPTIONS.get((self.path.name, self.moment.name), self.path.job)
        jobs = (first,) if self.moment.has_job else ()
        return jobs if self.path.tries == 1 or "FINISHED" in jobs else (*jobs, "FINISHED")


# Paths: what a user does in the UI.


def mark_task(state: str) -> Callable[[Run], None]:
    return lambda run: run.api.mark_task(run.dag_id, run.id, TASK, state)


def clear_task(run: Run) -> None:
    run.api.clear(run.dag_id, run.id, [TASK])


def clear_run(run: Run) -> None:
    run.api.clear(run.dag_id, run.id)


def mark_run_failed(run: Run) -> None:
    run.api.mark_dag_run(run.dag_id, run.id, "failed")


def delete_run(run: Run) -> None:
    """Airflow refuses it (409) while the run goes on, so fail it first."""
    mark_run_failed(run)
    deadline = time.monotonic() + 30
    while True:
        try:
            return run.api.delete_dag_run(run.dag_id, run.id)
        except requests.HTTPError as error:
            if error.response.status_code != 409 or time.monotonic() > deadline:
                raise
        time.sleep(0.3)


# Paths: what Airflow does by itself.


def wait_for_timeout(run: Run) -> None:
    run.until(lambda: run.tasks[0]["state"] in OVER or run.jobs[0].cancel_requests, "the timeout", timeout=60)


# Paths: what a platform does to processes.


def signal_supervisor(number: int) -> Callable[[Run], None]:
    return lambda run: run.supervisor.send_signal(number)


def signal_task(number: int) -> Callable[[Run], None]:
    return lambda run: run.task.send_signal(number)


def restart_scheduler(run: Run) -> None:
    """A scheduler that is shut down waits for its tasks; this one's goes on meanwhile."""
    scheduler = run.stage.airflow.component("scheduler")
    scheduler.process.terminate()
    run.until(lambda: not any(job.is_active for job in run.jobs), "the job is over", timeout=60)
    scheduler.wait(60)
    scheduler.start()
    run.stage.airflow.wait_until_healthy("scheduler")


def stop_api_server(run: Run) -> None:
    """Airflow's API server for tasks is away for longer than a supervisor bears."""
    run.stage.airflow.component(TASK_API).stop()
    run.until(lambda: not any(job.is_active for job in run.jobs), "the job is over", timeout=120)
    start_api_server(run)


def terminate_while_api_server_is_down(run: Run) -> None:
    supervisor = run.supervisor
    run.stage.airflow.component(TASK_API).stop()
    run.killed_at = time.time()
    supervisor.terminate()
    run.until(lambda: not any(job.is_active for job in run.jobs), "the job is over", timeout=60)
    start_api_server(run)


def start_api_server(run: Run) -> None:
    run.stage.airflow.component(TASK_API).start()
    run.stage.airflow.wait_until_healthy(TASK_API)


# Moments.


def before_submit(run: Run) -> None:
    run.until(lambda: run.under_way("projects"), "the call before the submit")


def during_submit(run: Run, *, work_done: bool = False) -> None:
    run.dli.fault("submit", "latency", matching=run.sql, seconds=SLOW, work_done=work_done)
    run.until(lambda: run.under_way("submit"), "the submit")


def with_unread_answer(run: Run) -> None:
    """The task stands still while the answer to its submit arrives."""
    during_submit(run)
    freeze(run, run.task)
    run.until(lambda: run.jobs, "the job")
    time.sleep(0.5)


def during_push(run: Run) -> None:
    """The supervisor stands still, so the task hangs in the push of the job id, holding the way to Airflow."""
    during_submit(run)
    freeze(run, run.supervisor)
    run.until(lambda: run.jobs, "the job")
    time.sleep(1)


def freeze(run: Run, process: psutil.Process) -> None:
    run.frozen = process
    process.suspend()


def thaw(run: Run) -> None:
    """Go on, once a kill has had the time to arrive."""
    time.sleep(1.5)
    with contextlib.suppress(psutil.NoSuchProcess):
        assert run.frozen
        run.frozen.resume()


def while_waiting(run: Run) -> None:
    run.until(lambda: run.jobs, "the job")
    run.until(lambda: _polls(run, answered=True), "a status call that was answered")
    run.until(lambda: run.tasks[0]["pid"], "the process of the task")


def during_poll(run: Run) -> None:
    while_waiting(run)
    run.dli.fault("status", "latency", matching=run.jobs[0].job_id, seconds=SLOW)
    run.until(lambda: _polls(run, answered=False), "a slow status call")


def while_cancelling(run: Run) -> None:
    """The task was killed already, and its DELETE takes a while."""
    while_waiting(run)
    run.dli.fault("cancel", "latency", matching=run.jobs[0].job_id, seconds=2.5)
    run.task.terminate()
    job_id = run.jobs[0].job_id
    run.until(lambda: [each for each in run.dli.requests("cancel", run._since) if each.job_id == job_id], "the DELETE")


def _polls(run: Run, answered: bool) -> list[object]:
    job_id = run.jobs[0].job_id
    calls = [each for each in run.dli.requests("status", run._since) if each.job_id == job_id]
    return [each for each in calls if (each.answered_at is not None) == answered]


NEXT_TRY = "the next try"
PATHS = [
    Path("mark-failed", "task marked failed", mark_task("failed"), "failed"),
    Path("mark-success", "task marked success", mark_task("success"), "success"),
    Path("clear-task", "task cleared", clear_task, "success", tries=2),
    Path("clear-run", "DAG run cleared", clear_run, "success", tries=2),
    Path("run-failed", "DAG run marked failed", mark_run_failed, "failed"),
    Path("run-deleted", "DAG run marked failed, then deleted", delete_run, "gone"),
    Path("execution-timeout", "`execution_timeout`", wait_for_timeout, "failed", dag="kill_execution_timeout"),
    Path("dagrun-timeout", "`dagrun_timeout`", wait_for_timeout, "skipped", dag="kill_dagrun_timeout"),
    Path("supervisor-term", "SIGTERM to the supervisor", signal_supervisor(signal.SIGTERM), "success", tries=2),
    Path(
        "supervisor-int",
        "SIGINT to the supervisor",
        signal_supervisor(signal.SIGINT),
        "success",
        "FINISHED",
        NEXT_TRY,
        2,
    ),
    Path(
        "supervisor-kill",
        "SIGKILL of the supervisor",
        signal_supervisor(signal.SIGKILL),
        "success",
        "FINISHED",
        NEXT_TRY,
        2,
    ),
    Path("task-term", "SIGTERM to the task process", signal_task(signal.SIGTERM), "success", tries=2),
    Path(
        "task-kill",
        "SIGKILL of the task process (out of memory)",
        signal_task(signal.SIGKILL),
        "success",
        "FINISHED",
        NEXT_TRY,
        2,
    ),
    Path(
        "last-try-kill",
        "SIGKILL of the task process in its last try",
        signal_task(signal.SIGKILL),
        "failed",
        "RUNNING",
        "only a sweep",
        dag="kill_once",
    ),
    Path(
        "scheduler",
        "scheduler shut down and started again",
        restart_scheduler,
        "success",
        "FINISHED",
        "nobody",
        alone=True,
    ),
    Path(
        "api-server-term",
        "SIGTERM to the supervisor while the API server is down",
        terminate_while_api_server_is_down,
        "success",
        tries=2,
        alone=True,
    ),
    Path("api-server", "API server down for long", stop_api_server, "success", tries=2, alone=True),
]
MOMENTS = [
    Moment("before", "before the submit", before_submit, has_job=False),
    Moment("submit", "during the submit request", during_submit),
    Moment("started", "during the submit request, the job runs", lambda run: during_submit(run, work_done=True)),
    Moment("answer", "between the answer and the first poll", with_unread_answer, thaw),
    Moment("push", "during an XCom push", during_push, thaw),
    Moment("poll", "during a status call", during_poll),
    Moment("wait", "while waiting", while_waiting),
    Moment("cancel", "while cancelling", while_cancelling),
]
# The first job, where it is not the path's.
EXCEPTIONS: dict[tuple[str, str], str] = {}
