"""What kills a task (paths), when (moments), and what must come of it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import psutil
import requests

from kill_matrix.disturbances import (
    Disturbance,
    api_server_down,
    one_of_two_triggerers_lost,
    scheduler_restarted,
    swept,
    triggerer_down,
    triggerer_down_at_the_timeout,
    triggerer_frozen,
    triggerer_killed,
    triggerer_restarted,
)
from kill_matrix.kinds import FLINK, SPARK, SQL, STOCK, Kind
from kill_matrix.stage import GRACE, IN_TIME, OVER, PATIENCE, RUN_FOR, SLOW, TASK, Run


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
    :param tries: Tries of the task until the end; the second one runs its own job unless it took over the first. One
        that is played alone may take more: without an API server a try can be over before it has begun.
    :param dag: DAG that the case is a run of.
    :param disturbance: What happens to the tasks of all cases meanwhile; it is played at one moment only.
    :param by_itself: Whether no other path can be played beside it.
    :param kills: Whether the job shall end.
    :param or_left: Whether it is a matter of luck, and the job may be left to a sweep.
    :param moments: Names of the moments at which it can be played; all by default.
    """

    name: str
    title: str
    act: Callable[[Run], None]
    ends: str
    job: str = "CANCELLED"
    who: str = "the killed task"
    tries: int = 1
    dag: str = "kill_retried"
    disturbance: Disturbance | None = None
    by_itself: bool = False
    kills: bool = True
    or_left: bool = False
    moments: tuple[str, ...] = ()

    @property
    def alone(self) -> bool:
        """Whether other cases cannot go on beside it."""
        return self.by_itself or self.disturbance is not None

    @property
    def deferred(self) -> bool:
        """Whether the task waits in the triggerer."""
        return self.dag.endswith(DEFERRED)


@dataclass(frozen=True)
class Moment:
    """
    A moment in the life of a task.

    :param reach: Returns when it has come; the calls that are slow then last long enough.
    :param leave: Lets what was held go on, after the kill.
    :param has_job: Whether the killed try has, or will have, a job.
    :param lasts: Seconds after the kill within which its job may still come.
    :param paths: Names of the paths that are played at it; by default those that say so, or do not limit their moments.
    """

    name: str
    title: str
    reach: Callable[[Run], None]
    leave: Callable[[Run], None] = lambda run: None
    has_job: bool = True
    lasts: float = 0
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """A path at a moment."""

    path: Path
    moment: Moment
    suffix: str = ""
    #: Seconds that a job runs which shall be killed: until the end of the test, to see that none is left behind.
    doomed_for: float = RUN_FOR
    #: Kind of the job.
    kind: Kind = SQL

    @property
    def name(self) -> str:
        """Also the run id."""
        kind = "" if self.kind is SQL else f".{self.kind.name}"
        return f"{self.path.name}.{self.moment.name}{kind}{self.suffix}"

    @property
    def dag(self) -> str:
        """The DAG that it is a run of."""
        return self.path.dag if self.kind is SQL else f"{self.kind.name}_{self.path.dag}"

    @property
    def run_for(self) -> float:
        """Seconds that the first job runs when nobody cancels it: one that the next try takes over ends sooner."""
        if self.path is CLEARED_WHEN_DONE:
            return 3
        if self.moment.name == "resume":
            return 9
        # A triggerer that was lost is missed after 15 seconds only; one that is shut down gives its triggers back.
        if self.path.deferred and self.path.alone and self.path.name != "triggerer-term":
            return 55 if self.path.job == "FINISHED" else 150
        return 25 if self.path.job == "FINISHED" or self.path in MAPPED_PATHS else self.doomed_for

    @property
    def long_jobs(self) -> int:
        """Number of jobs that run that long; later ones are done at once."""
        return 3 if self.path in MAPPED_PATHS else 1

    @property
    def jobs(self) -> tuple[str, ...]:
        """The end states of the jobs, in the order of their submits."""
        jobs = EXCEPTIONS.get((self.path.name, self.moment.name))
        if jobs is None:
            jobs = (self.path.job,) if self.moment.has_job else ()
            jobs = jobs if self.path.tries == 1 or "FINISHED" in jobs else (*jobs, "FINISHED")
        if self.kind is STOCK and jobs == ("FINISHED",):
            return ("CANCELLED", "FINISHED")
        # A task that has lost its supervisor goes on for a while.
        if self.kind.is_launched and self.moment.name in BEFORE_LAUNCH and self.path.name != "supervisor-kill":
            return tuple(job if job == "FINISHED" else "CREATED" for job in jobs)
        return jobs

    @property
    def may_be(self) -> tuple[tuple[str, ...], ...]:
        """What the end states of the jobs may be, the most likely first."""
        if self.moment.name == "answer" and "CREATED" in self.jobs:
            # A task that was frozen may start its job in the instant before it handles the signal.
            return self.jobs, tuple("CANCELLED" if job == "CREATED" else job for job in self.jobs)
        if self.path.name == "supervisor-kill" and self.moment.name in (*BEFORE_LAUNCH, "before", "push"):
            # A task that has lost its supervisor leaves its job to the next try, unless it was not yet started.
            return self.jobs, ("CREATED", "FINISHED"), ("CANCELLED", "FINISHED")
        if self.moment.name == "late":
            # On a busy machine the SIGKILL comes late, and the task has its answer before.
            return self.jobs, (self.path.job, *["FINISHED"] * (self.path.tries - 1))
        return (self.jobs,)

    @property
    def only_a_sweep(self) -> bool:
        """Whether nobody is left to cancel the job."""
        return "RUNNING" in self.jobs

    @property
    def may_be_left(self) -> bool:
        """Whether the job may run on after its task."""
        return self.path.or_left or self.only_a_sweep

    @property
    def patience(self) -> float:
        """Seconds that a job may run on after its task until it is called left behind."""
        return GRACE if self.may_be_left else PATIENCE


# Paths: what a user does in the UI.


def mark_task(state: str) -> Callable[[Run], None]:
    return lambda run: run.api.mark_task(run.dag_id, run.id, TASK, state)


def clear_task(run: Run) -> None:
    run.api.clear(run.dag_id, run.id, [TASK])


def clear_run(run: Run) -> None:
    run.api.clear(run.dag_id, run.id)


def mark_run_failed(run: Run) -> None:
    run.api.mark_dag_run(run.dag_id, run.id, "failed")


def clear_when_done(run: Run) -> None:
    # Of a run that is just being marked as a success, Airflow forgets the clear.
    run.until(lambda: run.api.dag_run(run.dag_id, run.id)["state"] == "success", "the DAG run is done")
    clear_run(run)


def delete_run(run: Run) -> None:
    """Airflow refuses it (409) while the run goes on, so fail it first."""
    mark_run_failed(run)
    # A scheduler of 3.3.2 that is just looking at the run when it is deleted ends with ObjectDeletedError.
    time.sleep(2)
    deadline = time.monotonic() + 30
    while True:
        try:
            return run.api.delete_dag_run(run.dag_id, run.id)
        except requests.HTTPError as error:
            if error.response.status_code != 409 or time.monotonic() > deadline:
                raise
        time.sleep(0.3)


# Paths: what Airflow does by itself.


def wait_for_execution_timeout(run: Run) -> None:
    if run.case.path.deferred:
        run.killed_at = datetime.fromisoformat(run.tasks[0]["start_date"]).timestamp() + 15
        run.until(lambda: run.tasks[0]["state"] in OVER, "the timeout", timeout=120)
        return
    if run.frozen:
        time.sleep(7)
        return
    run.killed_at = run.until(lambda: run.logged("Process timed out"), "the timeout", timeout=60)


def wait_for_dagrun_timeout(run: Run) -> None:
    started = datetime.fromisoformat(run.api.dag_run(run.dag_id, run.id)["start_date"]).timestamp()
    run.until(lambda: run.tasks[0]["state"] in OVER, "the timeout", timeout=60)
    run.killed_at = started + 30


def leave_alone(run: Run) -> None:
    """Nobody kills it."""


def mark_one_of_three(run: Run) -> None:
    run.until(lambda: len(run.jobs) == 3, "three jobs")
    if run.case.path.deferred:
        run.until(lambda: {task["state"] for task in run.tasks} == {"deferred"}, "three deferrals")
        time.sleep(2)  # until the triggerer has them
    run.killed_at = time.time()
    run.api.mark_task(run.dag_id, run.id, TASK, "failed", map_index=1)


def pause_and_unpause(run: Run) -> None:
    run.api.pause(run.dag_id)
    time.sleep(10)
    run.api.unpause(run.dag_id)


# Paths: what a platform does to processes.


def signal_supervisor(number: int) -> Callable[[Run], None]:
    return lambda run: run.supervisor.send_signal(number)


def signal_task(number: int) -> Callable[[Run], None]:
    return lambda run: run.task.send_signal(number)


# Moments.


def before_submit(run: Run) -> None:
    run.until(lambda: run.under_way("projects"), "the call before the submit")


def during_submit(run: Run, *, seconds: float = IN_TIME, work_done: bool = False) -> None:
    call = run.calls["submit"]
    run.dli.fault(call, "latency", matching=run.sql, seconds=seconds, work_done=work_done)
    run.until(lambda: run.under_way(call), "the submit")


def during_launch(run: Run, *, work_done: bool = False) -> None:
    """The job is created, and the task has it started."""
    run.dli.fault(run.calls["submit"], "latency", matching=run.sql, seconds=3, work_done=True)
    run.until(lambda: run.jobs, "the job")
    call = run.calls["launch"]
    run.dli.fault(call, "latency", matching=run.jobs[0].job_id, seconds=IN_TIME, work_done=work_done)
    run.until(lambda: run.under_way(call), "the start")


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
    if run.case.path.deferred:
        run.until(lambda: run.tasks[0]["state"] == "deferred", "the deferral")
        begun = len(_polls(run, answered=True))
        run.until(lambda: len(_polls(run, answered=True)) > begun, "a status call of the trigger")
        return
    run.until(lambda: _polls(run, answered=True), "a status call that was answered")
    run.until(lambda: run.tasks[0]["pid"], "the process of the task")


def during_poll(run: Run) -> None:
    while_waiting(run)
    run.dli.fault(run.calls["status"], "latency", matching=run.jobs[0].job_id, seconds=SLOW)
    run.until(lambda: _polls(run, answered=False), "a slow status call")


def while_cancelling(run: Run) -> None:
    """The task was killed already, and its DELETE takes a while."""
    while_waiting(run)
    run.dli.fault(run.calls["cancel"], "latency", matching=run.jobs[0].job_id, seconds=2.5)
    run.task.terminate()
    job_id = run.jobs[0].job_id
    cancels = partial(run.dli.requests, run.calls["cancel"], run._since)
    run.until(lambda: [each for each in cancels() if each.job_id == job_id], "the cancel")


def while_dli_is_busy(run: Run) -> None:
    """DLI refuses the first two cancels, and asks to be left alone for longer than Airflow waits for a killed task."""
    while_waiting(run)
    run.dli.fault(run.calls["cancel"], "status", matching=run.jobs[0].job_id, times=2, status=429, retry_after="30")


def with_a_cancel_that_hangs(run: Run) -> None:
    """DLI never answers the first cancel; another one, on a connection of its own, it does."""
    while_waiting(run)
    run.dli.fault(run.calls["cancel"], "hang", matching=run.jobs[0].job_id)


def while_dli_is_unavailable(run: Run) -> None:
    """DLI answers the first six cancels with 503: for longer than Airflow waits for a task that it kills itself."""
    while_waiting(run)
    run.dli.fault(run.calls["cancel"], "status", matching=run.jobs[0].job_id, times=6, status=503)


def while_dli_refuses(run: Run) -> None:
    """DLI refuses the first two cancels, with a text and no code, although the job runs."""
    while_waiting(run)
    run.dli.fault(run.calls["cancel"], "soft_failure", matching=run.jobs[0].job_id, times=2)


def with_a_slow_cancel(run: Run) -> None:
    """Airflow cancels a trigger again every second while it cancels the job."""
    while_waiting(run)
    run.dli.fault(run.calls["cancel"], "latency", matching=run.jobs[0].job_id, seconds=2.5, times=2)


def while_resuming(run: Run) -> None:
    """The job is over, and the task asks DLI how it ended."""
    run.until(lambda: run.jobs and run.tasks[0]["state"] == "deferred", "the deferral")
    run.dli.fault(run.calls["status"], "latency", matching=run.jobs[0].job_id, times=None, seconds=SLOW)
    run.until(lambda: run.tasks[0]["state"] == "running" and run.under_way(run.calls["status"]), "a slow status call")


def _polls(run: Run, answered: bool) -> list[object]:
    job_id = run.jobs[0].job_id
    calls = [each for each in run.dli.requests(run.calls["status"], run._since) if each.job_id == job_id]
    return [each for each in calls if (each.answered_at is not None) == answered]


NEXT_TRY = "the next try"
ONLY_A_SWEEP = "only a sweep"
TRIGGER = "the trigger"
# It depends on whether Airflow gives the trigger to another triggerer before it deletes it.
TRIGGER_OR_SWEEP = "the trigger, or a sweep"
DEFERRED = "_deferred"
LAST = {"dag": "kill_once", "moments": ("wait",)}
PATHS = [
    Path("mark-failed", "task marked failed", mark_task("failed"), "failed"),
    Path("mark-success", "task marked success", mark_task("success"), "success"),
    Path("mark-failed-last", "task marked failed in its last try", mark_task("failed"), "failed", **LAST),
    Path("mark-success-last", "task marked success in its last try", mark_task("success"), "success", **LAST),
    Path("clear-task", "task cleared", clear_task, "success", tries=2),
    Path("clear-run", "DAG run cleared", clear_run, "success", tries=2),
    Path("run-failed", "DAG run marked failed", mark_run_failed, "failed"),
    Path("run-failed-last", "DAG run marked failed in the task's last try", mark_run_failed, "failed", **LAST),
    Path("run-deleted", "DAG run marked failed, then deleted", delete_run, "gone"),
    Path(
        "execution-timeout",
        "`execution_timeout`",
        wait_for_execution_timeout,
        "failed",
        dag="kill_execution_timeout",
        moments=("before", "submit", "started", "late", "unanswered", "answer", "push", "poll", "wait"),
    ),
    Path(
        "dagrun-timeout",
        "`dagrun_timeout`",
        wait_for_dagrun_timeout,
        "skipped",
        dag="kill_dagrun_timeout",
        moments=("wait",),
    ),
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
        "supervisor-kill-last",
        "SIGKILL of the supervisor in the task's last try",
        signal_supervisor(signal.SIGKILL),
        "failed",
        who="the task that is left",
        **LAST,
    ),
    Path(
        "last-try-kill",
        "SIGKILL of the task process in its last try",
        signal_task(signal.SIGKILL),
        "failed",
        "RUNNING",
        ONLY_A_SWEEP,
        dag="kill_once",
    ),
    Path(
        "last-try-kill-swept",
        "SIGKILL of the task process in its last try, then the sweep",
        signal_task(signal.SIGKILL),
        "failed",
        who="the sweep",
        dag="kill_once",
        disturbance=swept,
    ),
    Path(
        "scheduler",
        "scheduler shut down and started again",
        leave_alone,
        "success",
        "FINISHED",
        "nobody",
        disturbance=scheduler_restarted,
        kills=False,
    ),
    Path(
        "api-server-term",
        "SIGTERM to the supervisor while the API server is down",
        signal_supervisor(signal.SIGTERM),
        "success",
        tries=2,
        dag="kill_retried_later",
        disturbance=api_server_down,
    ),
    Path(
        "api-server",
        "API server down for long",
        leave_alone,
        "success",
        tries=2,
        dag="kill_retried_later",
        disturbance=api_server_down,
    ),
]
NOBODY = Path("nobody", "nothing", leave_alone, "success", "FINISHED", "nobody", kills=False)
NOBODY_DEFERRED = replace(NOBODY, name="nobody-deferred", dag="kill_retried_deferred")
PAUSED = Path(
    "pause",
    "DAG paused",
    pause_and_unpause,
    "success",
    "FINISHED",
    "nobody",
    dag="kill_paused",
    kills=False,
    moments=("wait",),
)
CLEARED_WHEN_DONE = Path(
    "clear-done",
    "DAG run cleared when all is done",
    clear_when_done,
    "success",
    "FINISHED",
    "nobody",
    tries=2,
    kills=False,
    moments=("wait",),
)
PATHS += [PAUSED, CLEARED_WHEN_DONE]


def deferred(
    name: str, who: str = TRIGGER, moments: tuple[str, ...] = ("answer", "wait", "poll", "busy", "slow", "resume")
) -> Path:
    """The same path while the task waits in the triggerer, or is about to."""
    path = next(path for path in PATHS if path.name == name)
    title = f"{path.title}, deferred"
    return replace(path, name=f"{name}-deferred", title=title, who=who, dag=f"{path.dag}{DEFERRED}", moments=moments)


IN_THE_TRIGGERER = {"dag": "kill_retried_deferred", "moments": ("wait",)}
RESUME = ("resume",)
DEFERRED_PATHS = [
    deferred("mark-failed"),
    deferred("mark-success"),
    deferred("clear-task", "the trigger and the next try"),
    deferred("clear-run", "the trigger and the next try"),
    deferred("run-failed"),
    deferred("run-deleted", moments=("answer", "wait", "slow")),
    deferred("execution-timeout", moments=("wait",)),
    deferred("dagrun-timeout", moments=("wait",)),
    deferred("pause", "nobody", moments=("wait",)),
    Path(
        "triggerer-term",
        "triggerer restarted",
        leave_alone,
        "success",
        "FINISHED",
        "nobody",
        kills=False,
        disturbance=triggerer_restarted,
        **IN_THE_TRIGGERER,
    ),
    Path(
        "triggerer-kill",
        "SIGKILL of the triggerer, started again",
        leave_alone,
        "success",
        "FINISHED",
        "nobody",
        kills=False,
        disturbance=triggerer_killed,
        **IN_THE_TRIGGERER,
    ),
    Path(
        "triggerer-frozen",
        "triggerer stands still for 30 s",
        leave_alone,
        "success",
        "FINISHED",
        "nobody",
        kills=False,
        disturbance=triggerer_frozen,
        **IN_THE_TRIGGERER,
    ),
    Path(
        "triggerer-lost",
        "SIGKILL of one of two triggerers",
        leave_alone,
        "success",
        "FINISHED",
        "nobody",
        kills=False,
        disturbance=one_of_two_triggerers_lost,
        **IN_THE_TRIGGERER,
    ),
    Path(
        "triggerer-lost-clear",
        "SIGKILL of one of two triggerers, task cleared",
        clear_task,
        "success",
        who=NEXT_TRY,
        tries=2,
        disturbance=one_of_two_triggerers_lost,
        **IN_THE_TRIGGERER,
    ),
    Path(
        "triggerer-lost-failed",
        "SIGKILL of one of two triggerers, task marked failed",
        mark_task("failed"),
        "failed",
        who=TRIGGER_OR_SWEEP,
        or_left=True,
        disturbance=one_of_two_triggerers_lost,
        **IN_THE_TRIGGERER,
    ),
    Path(
        "triggerer-down-failed",
        "triggerer down, task marked failed, triggerer back",
        mark_task("failed"),
        "failed",
        who=TRIGGER_OR_SWEEP,
        or_left=True,
        disturbance=triggerer_down,
        **IN_THE_TRIGGERER,
    ),
    Path(
        "triggerer-down-clear",
        "triggerer down, task cleared, triggerer back",
        clear_task,
        "success",
        who=NEXT_TRY,
        tries=2,
        disturbance=triggerer_down,
        **IN_THE_TRIGGERER,
    ),
    Path(
        "triggerer-down-timeout",
        "triggerer down, `execution_timeout`",
        wait_for_execution_timeout,
        "failed",
        who="the resumed task",
        disturbance=triggerer_down_at_the_timeout,
        **{**IN_THE_TRIGGERER, "dag": "kill_execution_timeout_deferred"},
    ),
]
RESUMING_PATHS = [
    deferred("task-kill", NEXT_TRY, RESUME),
    deferred("task-term", NEXT_TRY, RESUME),
    deferred("supervisor-kill", NEXT_TRY, RESUME),
    deferred("supervisor-term", NEXT_TRY, RESUME),
]
"""Kills that need a process: a deferred task has one only when it is resumed."""
PATHS += DEFERRED_PATHS
MAPPED_PATHS = [
    Path(name, "one of three mapped tasks marked failed", mark_one_of_three, "failed", dag=dag)
    for name, dag in (("mapped", "kill_mapped"), ("mapped-deferred", "kill_mapped_deferred"))
]

MOMENTS = [
    Moment("before", "before the submit", before_submit, has_job=False),
    Moment("submit", "during the submit request", during_submit, lasts=IN_TIME),
    Moment("started", "during the submit request, the job runs", lambda run: during_submit(run, work_done=True)),
    Moment(
        "late",
        "during a submit request that is answered after Airflow's SIGKILL",
        lambda run: during_submit(run, seconds=SLOW),
        lasts=SLOW,
    ),
    Moment(
        "unanswered",
        "during a submit request that is answered after Airflow's SIGKILL, the job runs",
        lambda run: during_submit(run, seconds=SLOW, work_done=True),
    ),
    Moment("answer", "between the answer and the first poll", with_unread_answer, thaw),
    Moment("push", "during an XCom push", during_push, thaw),
    Moment("poll", "during a status call", during_poll),
    Moment("wait", "while waiting", while_waiting),
    Moment("cancel", "while cancelling", while_cancelling),
    Moment(
        "busy",
        "while waiting, DLI refuses the first cancels for load",
        while_dli_is_busy,
        paths=("mark-failed", "clear-task", "execution-timeout", "mark-failed-deferred", "clear-task-deferred"),
    ),
    Moment(
        "hung",
        "while waiting, DLI does not answer the first cancel",
        with_a_cancel_that_hangs,
        paths=("mark-failed", "mark-failed-deferred"),
    ),
    Moment(
        "unavailable",
        "while waiting, DLI is unavailable for the first cancels",
        while_dli_is_unavailable,
        # Nobody sends them SIGKILL.
        paths=("supervisor-term", "task-term"),
    ),
    Moment("refused", "while waiting, DLI refuses the first cancels", while_dli_refuses, paths=("mark-failed",)),
    Moment("slow", "while deferred, the cancel takes long", with_a_slow_cancel),
    Moment("resume", "while resuming after the deferral", while_resuming),
]
LAUNCH_MOMENTS = [
    Moment("launch", "during the start of a job that is created", during_launch, lasts=IN_TIME),
    Moment(
        "launched",
        "during the start of a job that is created, the job runs",
        lambda run: during_launch(run, work_done=True),
    ),
]
"""What only kinds have that are created first and started then."""
BEFORE_LAUNCH = ("submit", "started", "late", "unanswered", "answer")
ONLY_DEFERRED = ("slow", "resume")
EXCEPTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    # Airflow's SIGKILL comes before the task knows its job, and there is no next try.
    **{(path, "late"): ("RUNNING",) for path in ("mark-failed", "mark-success", "run-failed", "run-deleted")},
    # The same, and Airflow does not tell the next try that a user cleared the task while it ran: it takes the job over.
    **{(path, "late"): ("FINISHED",) for path in ("clear-task", "clear-run")},
    # The DELETE was on its way.
    **{(path, "cancel"): ("CANCELLED", "FINISHED") for path in ("supervisor-int", "supervisor-kill", "task-kill")},
    ("last-try-kill", "cancel"): ("CANCELLED",),
    # The job was over when the task was killed.
    **{
        (f"{path}-deferred", "resume"): ("FINISHED",)
        for path in (
            "mark-failed",
            "mark-success",
            # Airflow does not tell the next try that a user cleared the task while it ran: it takes the result.
            "clear-task",
            "clear-run",
            "run-failed",
            "task-kill",
            "task-term",
            "supervisor-kill",
            "supervisor-term",
        )
    },
    # A user who clears what is done wants it again.
    ("clear-done", "wait"): ("FINISHED", "FINISHED"),
}
"""End states of the jobs, where they do not follow from the path."""


# What comes first is luck: the user's mark, or the end of the task whose job was cancelled. Airflow forgets a task that
# ends by itself just when a user marks it: it stays `up_for_retry`.
LUCK = {(path.name, "cancel") for path in PATHS if path.name.startswith(("mark", "run", "clear"))}
# Here, Airflow's own timeout or the start of the job.
LUCK_OF_OTHER_KINDS = LUCK | {("execution-timeout", "submit"), ("execution-timeout", "started")}

# What happens to the task is what happens to it on the path before: these are played at a third of the moments.
LIKE_THE_PATH_BEFORE = ("clear-run", "run-failed", "run-deleted", "supervisor-int", "last-try-kill", "mark-success")


def is_played(path: Path, moment: Moment) -> bool:
    if (path.name, moment.name) in LUCK:
        return False
    if path.name in LIKE_THE_PATH_BEFORE and moment.name != "wait":
        number = LIKE_THE_PATH_BEFORE.index(path.name) + MOMENTS.index(moment)
        if number % 3:
            return False
    if moment.paths:
        return path.name in moment.paths
    if path.moments:
        return moment.name in path.moments
    return moment.name == "wait" if path.alone else moment.name not in ONLY_DEFERRED


ALL = [Case(path, moment) for path in (*PATHS, *RESUMING_PATHS) for moment in MOMENTS if is_played(path, moment)]
"""Every path at every moment at which it can happen."""

# Airflow 2.11 leaves a task that it kills 60 seconds before it sends SIGKILL; the other lines leave it 5.
ONLY_IN_2 = [
    Case(path, moment)
    for path in PATHS
    for moment in MOMENTS
    if (path.name, moment.name) == ("mark-failed", "unavailable")
]
BY_NAME = {case.name: case for case in (*ALL, *ONLY_IN_2)}
MAPPED = [Case(path, moment) for path in MAPPED_PATHS for moment in MOMENTS if moment.name == "wait"]


def of_kind(kind: Kind, offset: int) -> list[Case]:
    """Every path once, and every moment: what depends on their pair is the machine's, which all kinds share."""
    found: list[Case] = []
    paths = [path for path in (*PATHS, *RESUMING_PATHS) if not path.alone]
    by_name = {path.name: path for path in paths}
    for index, path in enumerate(paths):
        moments = [
            moment
            for moment in MOMENTS
            if is_played(path, moment) and (path.name, moment.name) not in LUCK_OF_OTHER_KINDS
        ]
        found.append(Case(path, moments[(index + offset) % len(moments)], kind=kind))
    missing = [moment for moment in MOMENTS if moment not in [case.moment for case in found]]
    for each in missing:
        path = next(
            path for path in paths if is_played(path, each) and (path.name, each.name) not in LUCK_OF_OTHER_KINDS
        )
        found.append(Case(path, each, kind=kind))
    if kind.is_launched:
        names = ("mark-failed", "clear-task", "task-kill", "supervisor-term")
        found += [Case(by_name[name], moment, kind=kind) for name in names for moment in LAUNCH_MOMENTS]
    # Those that are played alone are played for all kinds at the same time.
    found += [
        Case(path, moment, kind=kind) for path in PATHS if path.alone for moment in MOMENTS if is_played(path, moment)
    ]
    return found


OF_STOCK_OPERATORS = [
    Case(BY_NAME[name].path, BY_NAME[name].moment, kind=STOCK)
    for name in (
        "mark-failed.wait",
        "mark-failed.submit",
        "mark-success.poll",
        "clear-task.wait",
        "run-deleted.wait",
        "execution-timeout.wait",
        "supervisor-term.wait",
        "supervisor-kill.answer",
        "task-term.wait",
        "task-kill.wait",
        "task-kill.submit",
        "last-try-kill-swept.wait",
    )
]
"""One proof of each mechanism: the machine is that of SQL jobs."""

OF_KINDS = [*of_kind(SPARK, 0), *of_kind(FLINK, 3), *OF_STOCK_OPERATORS]

QUICK = {
    "mark-failed": "wait",
    "mark-success": "poll",
    "clear-task": "started",
    "clear-run": "wait",
    "run-failed": "answer",
    "run-deleted": "wait",
    "execution-timeout": "wait",
    "dagrun-timeout": "wait",
    "supervisor-term": "push",
    "supervisor-int": "wait",
    "supervisor-kill": "wait",
    "supervisor-kill-last": "wait",
    "task-term": "answer",
    "task-kill": "submit",
    "last-try-kill": "wait",
    "pause": "wait",
    "clear-done": "wait",
    "mark-failed-deferred": "slow",
    "clear-task-deferred": "wait",
    "run-failed-deferred": "resume",
    "execution-timeout-deferred": "wait",
    "triggerer-term": "wait",
}
"""One moment of most paths of a SQL job. Cases that are slow, or played alone, are left to the matrix."""

IN_README_COMMAND = QUICK.keys() - {
    # As others are: a clear of the task, a run marked as failed, another signal, a lost supervisor with a try left.
    "clear-run",
    "run-deleted",
    "dagrun-timeout",
    "supervisor-int",
    "supervisor-kill-last",
    "pause",
    # Nobody of ours acts.
    "last-try-kill",
    # It stops all others for half a minute.
    "triggerer-term",
}
"""The paths that the README's test command plays, so that it takes less than five minutes."""
