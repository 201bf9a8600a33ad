"""Who makes a call that goes wrong, and what must come of it: each is played over HTTP, against a local DLI of its own."""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from types import SimpleNamespace
from urllib.parse import urlsplit

import pace
from fakes import START, TaskInstance, context_of, execute, identity_of

from airflow_provider_dli.api.sql import SqlWork
from airflow_provider_dli.client import credentials
from airflow_provider_dli.exceptions import DliTaskKilledError
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.local.dli.admin.views import LocalJob
from airflow_provider_dli.local.handle import LocalDli
from airflow_provider_dli.operators.dli import (
    DliCancelJobOperator,
    DliCancelOrphanJobsOperator,
    DliSubmitSqlJobOperator,
)
from airflow_provider_dli.triggers.dli import DliJobTrigger
from fault_matrix.faults import CONNECTION, LASTING, ONCE, WIRE, Fault
from fault_matrix.wire import Wire

DEPLOYMENT = "faults"
SQL = "SELECT 1"
#: Seconds that a job runs which shall be cancelled.
LONG = 120.0
#: Seconds that a cell may take: a kill lasts for 30, the budgets of other calls are shortened.
BOUND = pace.seconds(90.0)


@dataclass
class Place:
    """
    Where a cell is played: a local DLI that nothing else uses meanwhile, and a task instance.

    :param dli: The local DLI.
    :param wire: What lies before it.
    :param conn_id: The connection to it.
    :param run_id: The DAG run of the task.
    :param states: What Airflow says of task instances, by run id.
    :param log: What all tasks and triggers have logged so far.
    """

    dli: LocalDli
    wire: Wire
    conn_id: str
    run_id: str
    states: dict[str, str]
    log: io.StringIO

    def operator(self) -> DliSubmitSqlJobOperator:
        return DliSubmitSqlJobOperator(task_id="load", sql=SQL, dli_conn_id=self.conn_id, poll_interval=0.2)

    def ti(self, try_number: int = 1) -> TaskInstance:
        return TaskInstance(dag_id="faults", run_id=self.run_id, try_number=try_number)

    def run(self, try_number: int = 1) -> Attempt:
        operator = self.operator()
        return Attempt(lambda: execute(operator, context_of(self.ti(try_number), START)), operator)

    def leave_a_job(self, run_for: float = LONG) -> str:
        """Submit a job as the first try does, whose worker is then lost, or free again."""
        mine = identity_of(dag_id="faults", run_id=self.run_id, work=SqlWork(SQL).digest, deployment=DEPLOYMENT)
        self.dli.will(run_for=run_for)
        DliHook(self.conn_id).submit_sql_job(SQL, tags=mine.tags())
        return self.running_job()

    def running_job(self) -> str:
        return self.dli.wait_until(lambda dli: [job.job_id for job in dli.jobs() if job.status == "RUNNING"])[0]

    def waited_for_job(self) -> str:
        """The job that runs, once a task or a trigger has asked for it: then that has its connection."""
        self.dli.wait_until(lambda dli: dli.requests("status"))
        return self.running_job()

    def says_that_it_may_run(self, job_id: str) -> bool:
        """Whether a log says of a job that it may run on."""
        return any(job_id in line and "may still run" in line for line in self.log.getvalue().splitlines())

    def forget_credentials(self) -> None:
        """Forget what this process knows of the connection: not of others, which other cells are using."""
        for key in list(credentials._known):
            if key[1].conn_id == self.conn_id:
                credentials._known.pop(key, None)

    def sweep(self) -> Attempt:
        self.states[self.run_id] = "failed"
        # That credentials are refused is known for a minute only, and in one process.
        self.forget_credentials()
        task = DliCancelOrphanJobsOperator(
            task_id="sweep", dli_conn_id=self.conn_id, older_than=timedelta(0), poll_interval=0.1
        )
        return Attempt(lambda: execute(task, {"ti": SimpleNamespace()}))


class Attempt:
    """Something that runs in a thread, and how it ends."""

    def __init__(self, run: Callable[[], object], operator: DliSubmitSqlJobOperator | None = None) -> None:
        self._run, self._operator = run, operator
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """What Airflow's signal handler does."""
        assert self._operator is not None
        self._operator.on_kill()

    def end(self) -> BaseException | None:
        """Wait for the end; return the error."""
        self._thread.join(BOUND)
        assert not self._thread.is_alive(), f"not over within {BOUND:g} s"
        return self.error

    def _go(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.error = error


@dataclass(frozen=True)
class Cell:
    """
    What came of a fault in a role.

    :param outcome: In the words of the page.
    :param sentence: What the user reads; empty when nothing failed.
    """

    outcome: str
    sentence: str
    seconds: float


@dataclass(frozen=True)
class Role:
    """
    Who makes a call.

    :param name: Short name.
    :param title: In the words of the page.
    :param call: The call that goes wrong.
    :param play: Plays it, and returns what came of it.
    :param faults: What goes wrong.
    """

    name: str
    title: str
    call: str
    play: Callable[[Place, Fault, str], Cell]
    faults: Sequence[Fault] = (*ONCE, *LASTING, *WIRE)


def play(role: Role, fault: Fault, place: Place) -> Cell:
    """
    Play a cell.

    :raises AssertionError: A job was left running, submitted twice, or its task green after a kill; or it took too long.
    """
    began = time.monotonic()
    cell = role.play(place, fault, role.call)
    return Cell(cell.outcome, cell.sentence, time.monotonic() - began)


def _submit(place: Place, fault: Fault, call: str) -> Cell:
    place.dli.will(run_for=LONG if fault.meets_every_call else 0.3, times=3)
    with fault.on(place, call):
        error = place.run().end()
    return _of_one_run(place, fault, error)


def _connect(place: Place, fault: Fault, call: str) -> Cell:
    fields = dict(fault.details)
    connection = place.dli.connection(fields.pop("auth_type", "password"), timeout=3.0)
    place.dli.settings(clock_skew=fields.pop("clock_skew", 0))
    port = urlsplit(place.dli.url).port
    for name, value in fields.items():
        where = connection if name in ("host", "password") else connection["extra"]
        where[name] = value.replace("{port}", str(port))
    if "host" in fields:
        connection.pop("port", None)
    if "project_id" in fields:
        connection["extra"].pop("project_name", None)
    name = f"AIRFLOW_CONN_{place.conn_id.upper()}"
    before = os.environ[name]
    os.environ[name] = json.dumps(connection)
    try:
        return _of_one_run(place, fault, place.run().end())
    finally:
        os.environ[name] = before
        place.dli.settings(clock_skew=0)


def _poll(place: Place, fault: Fault, call: str) -> Cell:
    place.dli.will(run_for=LONG if fault.is_lasting else 2.0)
    attempt = place.run()
    place.waited_for_job()
    with fault.on(place, call):
        error = attempt.end()
    return _of_one_run(place, fault, error)


def _of_one_run(place: Place, fault: Fault, error: BaseException | None) -> Cell:
    if fault.meets_every_call and (job_id := _left_running(place)):
        assert error is not None, "green although its job runs"
        assert "may still run" in str(error) or place.says_that_it_may_run(job_id), "nothing tells of the job"
        _sweep_up(place, job_id)
        return Cell("the task fails; its job runs on, which is said, until a sweep cancels it", str(error), 0)
    jobs = _settled(place)
    done = [job for job in jobs if job.status == "FINISHED"]
    assert len(done) <= 1, "the work was done twice"
    assert not _overlapping(jobs), "two jobs ran at the same time"
    if error is None:
        assert len(done) == 1, "green without a job"
        return Cell("goes on, and succeeds", "", 0)
    what = "no job was started" if not jobs else "its job is cancelled" if not done else "its job had finished"
    return Cell(f"the task fails; {what}", str(error), 0)


def _cancel(place: Place, fault: Fault, call: str) -> Cell:
    """A user's task that cancels a job."""
    job_id = place.leave_a_job()
    task = DliCancelJobOperator(task_id="cancel", job_id=job_id, dli_conn_id=place.conn_id, poll_interval=0.2)
    with fault.on(place, call):
        error = Attempt(lambda: execute(task, context_of(place.ti(), START))).end()
    return _of_a_kill(place, fault, error, job_id)


def _kill(place: Place, fault: Fault, call: str) -> Cell:
    place.dli.will(run_for=LONG)
    attempt = place.run()
    job_id = place.waited_for_job()
    if fault.kind == "clock":
        # The wait would fail of it before the kill: meanwhile it gets no answer.
        place.dli.fault("status", "hang", times=None)
        asked = len(place.dli.requests("status"))
        place.dli.wait_until(lambda dli: len(dli.requests("status")) > asked)
    with fault.on(place, call):
        attempt.kill()
        error = attempt.end()
    place.dli.clear_faults()
    assert isinstance(error, DliTaskKilledError), f"ended with {error!r} after a kill"
    return _of_a_kill(place, fault, error, job_id)


def _of_a_kill(place: Place, fault: Fault, error: BaseException | None, job_id: str) -> Cell:
    if not _left_running(place):
        assert place.dli.job(job_id).status == "CANCELLED"
        return Cell("the job is cancelled", str(error or ""), 0)
    assert fault.is_lasting, f"not cancelled: {error}"
    assert error is not None, "green although the job runs"
    # It is not silent, and not the end: the sweep is left.
    assert job_id in str(error), f"the job is not named: {error}"
    _sweep_up(place, job_id)
    return Cell("the job runs on, which is said, until a sweep cancels it", str(error), 0)


def _deferred(place: Place, fault: Fault, call: str) -> Cell:
    place.states[place.run_id] = "deferred"
    job_id = place.leave_a_job(LONG if fault.is_lasting else 2.0)
    trigger = _trigger_of(place, job_id)
    found: list[dict[str, str]] = []
    with fault.on(place, call):
        error = Attempt(lambda: found.append(asyncio.run(_event_of(trigger)))).end()
    assert error is None, f"the trigger failed: {error!r}"
    [event] = found
    if fault.meets_every_call and _left_running(place):
        assert event["outcome"] == "error"
        assert place.says_that_it_may_run(job_id), "nothing tells of the job"
        _sweep_up(place, job_id)
        return Cell(
            "the task is resumed; its job runs on, which is logged, until a sweep cancels it", event["message"], 0
        )
    [job] = _settled(place)
    if event["outcome"] == "over":
        assert job.status == "FINISHED"
        return Cell("goes on, and succeeds", "", 0)
    if job.status == "FINISHED":
        return Cell("the task is resumed, and looks for itself", event["message"], 0)
    return Cell("the task is resumed and fails; its job is cancelled", event["message"], 0)


def _deferred_kill(place: Place, fault: Fault, call: str) -> Cell:
    place.states[place.run_id] = "deferred"
    job_id = place.leave_a_job()
    trigger = _trigger_of(place, job_id)
    with ExitStack() as faults:
        error = Attempt(
            lambda: asyncio.run(_killed(place, trigger, lambda: faults.enter_context(fault.on(place, call))))
        ).end()
    assert error is None, f"the trigger failed: {error!r}"
    if not _left_running(place):
        assert place.dli.job(job_id).status == "CANCELLED"
        return Cell("the job is cancelled", "", 0)
    assert fault.is_lasting, "not cancelled"
    assert place.says_that_it_may_run(job_id), "nothing tells of the job"
    _sweep_up(place, job_id)
    return Cell("the job runs on; the triggerer's log says so, and the sweep cancels it", "", 0)


def _trigger_of(place: Place, job_id: str) -> DliJobTrigger:
    trigger = DliJobTrigger(job_ids=[job_id], dli_conn_id=place.conn_id, poll_interval=0.2, cancel_on_kill=True)
    trigger.task_instance = place.ti()
    return trigger


async def _event_of(trigger: DliJobTrigger) -> dict[str, str]:
    return (await anext(trigger.run())).payload


async def _killed(place: Place, trigger: DliJobTrigger, begin_fault: Callable[[], object]) -> None:
    """What a triggerer of Airflow 3.3 does."""
    task = asyncio.create_task(_event_of(trigger))
    await asyncio.to_thread(place.waited_for_job)
    begin_fault()
    place.states[place.run_id] = "failed"
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    await trigger.on_kill()


def _look_up(place: Place, fault: Fault, call: str) -> Cell:
    """The next try, after the worker of the first was lost."""
    place.leave_a_job()
    with fault.on(place, call):
        attempt = place.run(try_number=2)
        # Taken over, it is waited for; a user has seen enough then.
        threading.Event().wait(2.5)
        attempt.kill()
        error = attempt.end()
    jobs = place.dli.jobs()
    assert len(jobs) == 1, "the work was begun twice"
    assert error is not None, "green although its job was running"
    if jobs[0].status == "CANCELLED":
        if isinstance(error, DliTaskKilledError):
            return Cell("the job is taken over, and a kill cancels it", "", 0)
        return Cell("the try fails; the job is cancelled", str(error), 0)
    _sweep_up(place, jobs[0].job_id)
    what = "a kill of this try does not find the job" if isinstance(error, DliTaskKilledError) else "the try fails"
    return Cell(f"nothing is started; {what}; the next try or a sweep does", str(error), 0)


def _sweep(place: Place, fault: Fault, call: str) -> Cell:
    job_id = place.leave_a_job()
    with fault.on(place, call):
        error = place.sweep().end()
    if place.dli.job(job_id).status == "CANCELLED":
        return Cell("the orphan is cancelled", str(error or ""), 0)
    assert error is not None, "green although the orphan runs"
    _sweep_up(place, job_id)
    return Cell("the sweep fails; the next one cancels the orphan", str(error), 0)


def _sweep_up(place: Place, job_id: str) -> None:
    """Sweep, after the fault; that cancels the job."""
    problem = place.sweep().end()
    assert place.dli.job(job_id).status == "CANCELLED", f"the sweep did not cancel it: {problem}"


def _left_running(place: Place) -> str | None:
    """The id of the job, if it does not end in a moment."""
    with suppress(TimeoutError):
        place.dli.wait_until(lambda dli: not [job for job in dli.jobs() if job.is_active], timeout=pace.seconds(1))
    return next((job.job_id for job in place.dli.jobs() if job.is_active), None)


def _settled(place: Place) -> list[LocalJob]:
    """The jobs, none of which is left running."""
    place.dli.wait_until(lambda dli: not [job for job in dli.jobs() if job.is_active], timeout=pace.seconds(5))
    return sorted(place.dli.jobs(), key=lambda job: job.submitted_at)


def _overlapping(jobs: list[LocalJob]) -> bool:
    return any((first.ended_at or 0) > second.submitted_at for first, second in pairwise(jobs))


ROLES = [
    Role("connect", "A task connects", "submit", _connect, CONNECTION),
    Role("submit", "A task submits its job", "submit", _submit),
    Role("credentials", "A task fetches its token", "token", _submit, (*ONCE, *LASTING)),
    Role("poll", "A task asks for the state of its job", "status", _poll),
    Role("kill", "A killed task cancels its job", "cancel", _kill),
    Role("deferred", "A deferred task waits", "status", _deferred),
    Role("deferred-kill", "A deferred task is killed", "cancel", _deferred_kill),
    Role("cancel", "`DliCancelJobOperator` cancels a job", "cancel", _cancel),
    Role("look-up", "A later try looks for the job of a lost one", "list", _look_up),
    Role("sweep", "The sweep looks for orphans", "list", _sweep),
]
