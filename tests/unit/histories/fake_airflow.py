"""
A model of Airflow around one task instance: its states, tries, workers, triggerers and what users do to it.

What it does was measured with real Airflows; ``line`` says of which: 3.3 tells triggers of kills and forwards SIGTERM to
the task, older ones do not, and 2.11 raises in the task after ``on_kill``.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, TaskDeferred
from greenlet import GreenletExit

from airflow_provider_dli.api.iam import Token
from airflow_provider_dli.client.connection import DliConnection
from airflow_provider_dli.client.credentials import credentials_of
from airflow_provider_dli.operators.dli import DliCancelOrphanJobsOperator
from airflow_provider_dli.tasks.kill_states import State
from airflow_provider_dli.triggers.dli import DliJobTrigger
from histories.dialects import DIALECTS
from histories.simulation import EventLoop, Process, Simulation, current_process, sleep

OVER = ("success", "failed")
# Seconds.
SCHEDULED_AFTER = 0.5
REPORT_TAKES = 0.3
NOTICES_AN_EXIT = 1.0
HEARTBEAT_TIMEOUT = 30.0
TRIGGERER_CYCLE = 1.0
TRIGGERER_TIMEOUT = 30.0
ASKED = 0.02
_FAR = pendulum.datetime(2099, 1, 1)

_PROTOTYPES: dict[Any, Any] = {}


class TaskTerminated(BaseException):
    """What the signal handler of Airflow 2.11 raises after ``on_kill``."""


@dataclass
class Row:
    """A row of the table of triggers."""

    id: int
    arguments: str
    next_kwargs: dict[str, Any]
    times_out_at: float | None
    owner: Triggerer | None = None


@dataclass
class TaskInstance:
    """A row of the table of task instances."""

    max_tries: int
    run_start: datetime
    state: str | None = None
    try_number: int = 0
    began: float = 0.0
    xcoms: dict[str, Any] = field(default_factory=dict)
    row: Row | None = None
    worker: Process | None = None
    by_user: bool = False
    result: Any = None


class FakeAirflow:
    """Scheduler, API server and supervisors."""

    def __init__(self, simulation: Simulation, settings: Any, world: Any) -> None:
        self.simulation = simulation
        self.settings = settings
        self.world = world
        self.ti = TaskInstance(
            max_tries=settings.retries + settings.left_behind, run_start=self._now(), try_number=settings.left_behind
        )
        self.rows: dict[int, Row] = {}
        self.triggerers: list[Triggerer] = []
        self.workers: list[Process] = []
        self.silent_until = 0.0
        #: In the connection.
        self.password = "secret"
        #: In the DAG file.
        self.retries = settings.retries
        #: When somebody wanted it to run for the last time.
        self.wanted_at = simulation.now
        #: How often somebody wanted it to run. (Not the generation: 2.11 does not change that when a running task is
        #: cleared.)
        self.wishes = 1
        self._plan = 0
        self._row_ids = 0
        self.start_triggerer()
        self._schedule(SCHEDULED_AFTER)

    @property
    def generation(self) -> str:
        start = self.ti.run_start
        return f"{int(start.timestamp()) * 1_000_000 + start.microsecond}.{self.ti.max_tries}"

    # What users and machines do

    def mark(self, state: str) -> None:
        if self.ti.state in (None, *OVER):
            return
        self._note_kill_while_away()
        self.ti.state, self.ti.by_user = state, True
        self._forget()
        self._tell_supervisor()

    def edit_retries(self, retries: int) -> None:
        """In the file. What is stored stays as it is."""
        self.retries = retries

    def clear(self, *, while_run_runs: bool = False) -> None:
        ti = self.ti
        if ti.state is None:
            return
        self._note_kill_while_away()
        if ti.state in OVER and not while_run_runs:
            ti.run_start = self._now()
        self.wishes += 1
        self.wanted_at = self.simulation.now
        new_max_tries = ti.try_number + self.retries
        ti.by_user = False
        self._forget()
        if ti.state in ("running", "restarting"):
            ti.state = "restarting"
            if self.settings.line != "2.11":
                ti.max_tries = new_max_tries
            self._tell_supervisor()
        else:
            ti.max_tries, ti.state = new_max_tries, None
            self._schedule(SCHEDULED_AFTER)

    def terminate_supervisor(self) -> None:
        """SIGTERM to the supervisor: only Airflow 3.3 forwards it."""
        worker = self.ti.worker
        if worker is None or not worker.alive:
            return
        if self.settings.line == "3.3":
            worker.notes.signalled = True
            worker.signal(worker.notes.on_signal)
        else:
            self.lose_supervisor()

    def kill_task(self) -> None:
        """SIGKILL, or out of memory: the supervisor sees it."""
        worker = self.ti.worker
        if worker is not None and worker.alive:
            self.world.excuse("a SIGKILL")
            self._sigkill(worker)

    def lose_supervisor(self) -> None:
        """The task goes on, but nobody listens to it."""
        worker = self.ti.worker
        if worker is not None and worker.alive and worker.notes.supervised:
            worker.notes.supervised = False
            self.world.excuse("a supervisor was lost")
            self.simulation.later(HEARTBEAT_TIMEOUT, lambda: self._gone(worker))

    def lose_node(self) -> None:
        self.lose_supervisor()
        if self.ti.worker is not None:
            self.ti.worker.kill()

    def sweep(self, older_than: float) -> Process:
        """Run the sweep, in a process of its own."""
        process = Process("sweep")
        process.notes.supervised = True
        process.notes.role = "sweep"

        def run() -> None:
            task = copy.copy(_sweeper())
            task.older_than = timedelta(seconds=older_than)
            try:
                DliCancelOrphanJobsOperator.execute.__wrapped__(task, {})  # type: ignore[attr-defined]
            except Exception as error:
                process.notes.error = error

        process.start(run)
        return process

    def start_triggerer(self) -> Triggerer:
        triggerer = Triggerer(self)
        self.triggerers.append(triggerer)
        self.triggers_changed()
        return triggerer

    def kill_triggerer(self, back_after: float) -> None:
        self._note_loss_while_killing()
        for triggerer in self.triggerers:
            triggerer.process.kill()
        self.simulation.later(back_after, self.start_triggerer)

    def stop_triggerer(self, back_after: float) -> None:
        """SIGTERM: it cancels its triggers without a word, and ends."""
        self._note_loss_while_killing()
        for triggerer in self.triggerers:
            triggerer.stop()
        self.simulation.later(back_after, self.start_triggerer)

    def freeze_triggerer(self, seconds: float) -> None:
        """It stands still for a while, and another one takes over meanwhile."""
        self._note_loss_while_killing()
        for triggerer in self.triggerers:
            triggerer.process.frozen_until = self.simulation.now + seconds
        self.simulation.later(5.0, self.start_triggerer)

    # What processes ask Airflow for

    def ask(self, *, may_go_without: bool = False) -> None:
        """Wait for the answer to a question; raise when there is none."""
        process = current_process()
        sleep(self.settings.channel if process.notes.role == "triggerer" else ASKED)
        if self.silent_until > self.simulation.now:
            # Airflow 3.3 only tells a trigger when it has been killed, so that it knows enough.
            if not may_go_without and (process.notes.role != "triggerer" or self.settings.line != "3.3"):
                self.world.excuse("a silent Airflow")
            sleep(5.0)
            raise RuntimeError("Airflow does not answer")
        if not process.notes.supervised:
            raise RuntimeError("the supervisor is gone")

    def task_states(
        self, dag_id: str, run_ids: list[str], task_ids: list[str]
    ) -> dict[tuple[str, str, int], str | None]:
        # A task that is not told whether it still runs must not be deferred.
        self.ask(may_go_without=current_process().notes.role == "worker")
        notes = current_process().notes
        notes.told_running = notes.role == "worker" and self.ti.state == "running"
        return {(run_ids[0], task_ids[0], -1): self.ti.state}

    def xcom(self, key: Any, name: str) -> Any:
        self.ask()
        return self.ti.xcoms.get(name)

    def connection(self, conn_id: str) -> Any:
        self.ask()
        connection = SimpleNamespace(
            conn_id=conn_id,
            login="user",
            password=self.password,
            host="http://dli",
            port=None,
            schema=None,
            extra_dejson={"project_id": "p", "domain_name": "account", "iam_endpoint": "http://iam", "region": "eu-de"},
        )
        process = current_process()
        if self.password == "secret" and not process.has_token:
            # All processes start with a token that is good, for what IAM does is not the subject here.
            process.has_token = True
            credentials_of(DliConnection.from_airflow(connection)).issued = Token("token-0", _FAR, "p", None)
        return connection

    # The life of a try

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.simulation.now, UTC)

    def _forget(self) -> None:
        """Drop whatever was planned for the task instance."""
        self._plan += 1
        if self.ti.row is not None:
            self.rows.pop(self.ti.row.id, None)
            self.ti.row = None
            self.triggers_changed()

    def _schedule(self, seconds: float, *resume: Any) -> None:
        self._plan += 1
        plan = self._plan

        def launch() -> None:
            if plan == self._plan:
                self._launch(*resume)

        self.simulation.later(seconds, launch)

    def _launch(self, next_method: str | None = None, next_kwargs: dict[str, Any] | None = None) -> None:
        ti = self.ti
        left: list[str] = []
        if next_method is None:
            ti.try_number += 1
            ti.began = self.simulation.now
            left = list(ti.xcoms)
            ti.xcoms.clear()
        ti.state = "running"
        ti.worker = worker = Process(f"try {ti.try_number}" + (" resumed" if next_method else ""))
        self.workers.append(worker)
        worker.notes.role = "worker"
        worker.notes.supervised = True
        worker.notes.signalled = False
        worker.notes.timed_out = False
        worker.notes.told_running = False
        worker.notes.end = None
        worker.notes.try_number = ti.try_number
        worker.notes.wish = self.wishes
        worker.start(lambda: self._run_try(worker, next_method, next_kwargs, left))

    def _run_try(
        self, worker: Process, next_method: str | None, next_kwargs: dict[str, Any] | None, left: list[str]
    ) -> None:
        ti, task = self.ti, self._operator()
        self.world.reached("start", "carried out")
        seen = SimpleNamespace(
            dag_id="sales",
            run_id="run 1",
            task_id="load",
            map_index=-1,
            try_number=ti.try_number,
            max_tries=ti.max_tries,
            _ti_context_from_server=SimpleNamespace(xcom_keys_to_clear=left),
        )
        seen.xcom_push = self._xcom_push(worker, ti.try_number)
        context = {"ti": seen, "dag_run": SimpleNamespace(start_date=ti.run_start)}

        def on_signal() -> None:
            is_ready = task.switch.state is not State.IDLE
            task.on_kill()
            if self.settings.line == "2.11":
                if not is_ready:
                    self.world.excuse("a kill that ended the task before it had looked for jobs of earlier tries")
                raise TaskTerminated

        worker.notes.on_signal = on_signal
        try:
            result = self._with_timeout(worker, task, lambda: _execute(task, context, next_method, next_kwargs))

            def report() -> None:
                self._succeeded(worker, result)
                for callback in task.on_success_callback:
                    callback(context)
        except GreenletExit:
            raise
        except TaskDeferred as deferral:
            worker.notes.end = found = deferral
            report = lambda: self._deferred(found)  # noqa: E731
        except BaseException as error:
            worker.notes.end = error
            report = lambda: self._failed(worker)  # noqa: E731
        self.world.reached("report", "sent")
        try:
            sleep(REPORT_TAKES)
        except TaskTerminated:
            report = lambda: self._failed(worker)  # noqa: E731
        if worker.notes.supervised and ti.worker is worker and ti.state == "running":
            report()
        elif isinstance(worker.notes.end, TaskDeferred) and not worker.notes.signalled and worker.notes.told_running:
            self.world.excuse("a kill after the task had asked for the last time, because it was just deferring")
        worker.alive = False
        self._exited(worker)

    def _with_timeout(self, worker: Process, task: Any, work: Callable[[], Any]) -> Any:
        if task.execution_timeout is None:
            return work()
        done = False

        def alarm() -> None:
            if not done:
                raise AirflowTaskTimeout("Timeout")

        self.simulation.later(task.execution_timeout.total_seconds(), lambda: worker.signal(alarm), worker)
        try:
            result = work()
            done = True
            return result
        except AirflowTaskTimeout:
            done = True
            worker.notes.timed_out = True
            task.on_kill()
            raise
        finally:
            done = True

    def _xcom_push(self, worker: Process, try_number: int) -> Callable[..., None]:
        def push(key: str, value: Any) -> None:
            self.ask()
            # As the API server does: it only listens to the try that it knows.
            if self.ti.try_number != try_number:
                raise RuntimeError("this is not the try that runs")
            self.ti.xcoms[key] = value
            if key == "job_id":
                self.world.on_announced(worker, value)
            self.world.reached("xcom", "carried out")

        return push

    def _operator(self) -> Any:
        settings = self.settings
        suffix = f" -- {self.ti.try_number}" if settings.template_differs else ""
        key = (settings.kind, settings.deferrable, settings.execution_timeout, settings.retry_delay, suffix)
        if key not in _PROTOTYPES:
            _PROTOTYPES[key] = DIALECTS[settings.kind].operator(
                suffix,
                task_id="load",
                deferrable=settings.deferrable,
                retry_delay=timedelta(seconds=settings.retry_delay),
                execution_timeout=timedelta(seconds=settings.execution_timeout) if settings.execution_timeout else None,
            )
        return copy.copy(_PROTOTYPES[key])

    def _succeeded(self, worker: Process, result: Any) -> None:
        self.ti.state, self.ti.result = "success", result
        self.world.on_success(worker, result)

    def _failed(self, worker: Process) -> None:
        self.world.on_failure(worker)
        if isinstance(worker.notes.end, AirflowFailException):
            self.ti.state = "failed"
        else:
            self._retry_or_fail()

    def _retry_or_fail(self) -> None:
        ti = self.ti
        if ti.max_tries and ti.try_number <= ti.max_tries:
            ti.state = "up_for_retry"
            self._schedule(self.settings.retry_delay)
        else:
            ti.state = "failed"

    def _deferred(self, deferral: TaskDeferred) -> None:
        self._row_ids += 1
        arguments = json.dumps(deferral.trigger.serialize()[1])
        times_out_at = self.simulation.now + deferral.timeout.total_seconds() if deferral.timeout else None
        row = Row(self._row_ids, arguments, json.loads(json.dumps(deferral.kwargs)), times_out_at)
        self.rows[row.id] = row
        self.ti.state, self.ti.row = "deferred", row
        self.triggers_changed()
        if times_out_at is not None:
            self.simulation.later(
                times_out_at - self.simulation.now + 1.0, lambda: self._deferral_failed(row, "timeout")
            )

    def fired(self, row: Row, event: Any) -> None:
        """A trigger has fired: the task goes on."""
        if self.ti.row is row and self.ti.state == "deferred":
            self.ti.state, self.ti.row = "scheduled", None
            self.rows.pop(row.id, None)
            self._schedule(SCHEDULED_AFTER, "execute_complete", {**row.next_kwargs, "event": event})

    def crashed(self, row: Row) -> None:
        self._deferral_failed(row, "failure")

    def _deferral_failed(self, row: Row, what: str) -> None:
        if self.ti.row is row and self.ti.state == "deferred":
            self.world.reason_to_fail(f"trigger {what}")
            self.ti.state, self.ti.row = "scheduled", None
            self.rows.pop(row.id, None)
            self.triggers_changed()
            self._schedule(SCHEDULED_AFTER, "__fail__", {"error": f"Trigger {what}"})

    def _tell_supervisor(self) -> None:
        worker = self.ti.worker
        if worker is None or not worker.alive:
            return
        grace = 60.0 if self.settings.line == "2.11" else 5.0

        def heartbeat() -> None:
            if worker.alive and worker.notes.supervised:
                worker.notes.signalled = True
                worker.signal(worker.notes.on_signal)
                self.simulation.later(grace, lambda: self._escalate(worker), worker)

        self.simulation.later(self.settings.heartbeat, heartbeat, worker)

    def _escalate(self, worker: Process) -> None:
        self.world.on_late_end(worker)
        self._sigkill(worker)

    def _sigkill(self, worker: Process) -> None:
        worker.kill()
        if worker.notes.supervised:
            self._exited(worker)

    def _exited(self, worker: Process) -> None:
        if worker.notes.supervised:
            self.simulation.later(NOTICES_AN_EXIT, lambda: self._gone(worker))

    def _gone(self, worker: Process) -> None:
        """Airflow gives up a worker that has not reported."""
        ti = self.ti
        if ti.worker is not worker:
            return
        if ti.state == "restarting":
            ti.state = None
            self._schedule(SCHEDULED_AFTER)
        elif ti.state == "running":
            self._retry_or_fail()

    def triggers_changed(self) -> None:
        for triggerer in self.triggerers:
            self.simulation.later(TRIGGERER_CYCLE, triggerer.cycle, triggerer.process)

    def _note_loss_while_killing(self) -> None:
        if any(row_id not in self.rows for triggerer in self.triggerers for row_id in triggerer.running):
            self.world.excuse("a triggerer that was lost before it had cancelled")

    def _note_kill_while_away(self) -> None:
        ti = self.ti
        if ti.state == "deferred" and ti.row is not None:
            owner = ti.row.owner
            if owner is None or ti.row.id not in owner.running:
                self.world.excuse("a kill before a triggerer had the trigger")
            elif not owner.works or len(self.triggerers) > 1:
                self.world.excuse("a kill while triggerers were changing")
            elif ti.row.times_out_at is not None and ti.row.times_out_at < self.simulation.now:
                self.world.excuse("a kill after the deferral was over")
        elif ti.state in ("scheduled", "up_for_retry", None):
            self.world.excuse("a kill between two processes")


class Triggerer:
    """A triggerer: an event loop, and the triggers that run in it."""

    def __init__(self, airflow: FakeAirflow) -> None:
        self.airflow = airflow
        self.process = Process("triggerer")
        self.process.notes.role = "triggerer"
        self.process.notes.supervised = True
        self.loop = EventLoop(self.process)
        self.running: dict[int, tuple[Row, asyncio.Task[None]]] = {}
        self.stopping = False

    @property
    def works(self) -> bool:
        return self.process.alive and not self.stopping and self.process.frozen_until <= self.airflow.simulation.now

    def cycle(self) -> None:
        """Take the triggers that nobody runs, and cancel those that nobody wants."""
        if self.stopping:
            return
        now = self.airflow.simulation.now
        for row in self.airflow.rows.values():
            if row.owner is None or (not row.owner.works and self._is_given_up(row.owner)):
                row.owner = self
        for row in self.airflow.rows.values():
            if row.owner is self and row.id not in self.running:
                self.running[row.id] = row, self.loop.create_task(self._run(row))
            elif row.owner is not self and row.owner is not None and not row.owner.works:
                self.airflow.simulation.later(TRIGGERER_TIMEOUT / 3, self.cycle, self.process)
        for row_id, (row, task) in list(self.running.items()):
            if task.done():
                del self.running[row_id]
            elif self.airflow.rows.get(row_id) is not row or row.owner is not self:
                timed_out = row.times_out_at is not None and row.times_out_at < now
                task.cancel("" if timed_out else "user-action")
                self.airflow.simulation.later(TRIGGERER_CYCLE, self.cycle, self.process)

    def stop(self) -> None:
        self.stopping = True
        for row, task in self.running.values():
            task.cancel()
            if row.owner is self:
                row.owner = None
        self.airflow.simulation.later(2.0, self.process.kill)

    def _is_given_up(self, owner: Triggerer) -> bool:
        if owner.stopping:
            return True
        frozen_for = self.airflow.simulation.now - getattr(owner, "last_seen", self.airflow.simulation.now)
        if not hasattr(owner, "last_seen"):
            owner.last_seen = self.airflow.simulation.now  # type: ignore[attr-defined]
        return frozen_for >= TRIGGERER_TIMEOUT

    async def _run(self, row: Row) -> None:
        trigger = DliJobTrigger(**json.loads(row.arguments))
        trigger.task_instance = SimpleNamespace(  # type: ignore[assignment]
            dag_id="sales", run_id="run 1", task_id="load", map_index=-1
        )
        try:
            async for event in trigger.run():
                self.airflow.fired(row, event.payload)
        except asyncio.CancelledError as cancelled:
            if self.airflow.settings.line == "3.3" and cancelled.args == ("user-action",):
                with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                    await asyncio.wait_for(trigger.on_kill(), 30)
            raise
        except Exception:
            self.airflow.crashed(row)


def _execute(task: Any, context: Any, next_method: str | None, next_kwargs: dict[str, Any] | None) -> Any:
    if next_method is None:
        return type(task).execute.__wrapped__(task, context)
    return task.resume_execution(next_method, next_kwargs, context)


def _sweeper() -> DliCancelOrphanJobsOperator:
    if "sweep" not in _PROTOTYPES:
        _PROTOTYPES["sweep"] = DliCancelOrphanJobsOperator(task_id="sweep", poll_interval=5)  # type: ignore[assignment]
    return _PROTOTYPES["sweep"]  # type: ignore[return-value]
