"""
Histories: a list of events at chosen moments, and what must hold whatever happens.

:func:`run` plays one, lets everything come to an end, runs the sweep, and returns what went wrong:

* an orphan: a job that is active although its task instance is over. Where no process was left to cancel it (the
  simulation notes these *excuses*), the sweep has to; everywhere else there must be none before it.
* a duplicate: a second job of one try, or one submitted beside an active one, or after one that has finished, unless a
  user cleared the task in between.
* a wrong cancel: a job that its task instance waits for, or would take up again, cancelled by us.
* a green kill: a task that succeeds without a finished job of its own generation.
* a failure for no reason, a task that never ends, a killed task that does not end in time.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import pytest

from airflow_provider_dli import compat, machine
from airflow_provider_dli.client import credentials, exchange
from histories import simulation as fakes
from histories.dialects import DIALECTS, STATEMENTS
from histories.fake_airflow import OVER, FakeAirflow
from histories.fake_dli import FOREVER, FakeDli, FakeJob, Plans
from histories.simulation import Process, Simulation

# The longest that a history waits for the moment of its next event, in seconds.
PATIENCE = 200.0


# A connection without queue and database.
NO_DEFAULTS: Any = SimpleNamespace(default_queue=None, default_database=None)
_HINDRANCES = (
    "fault",
    "dli_is_away",
    "airflow_is_silent",
    "mark_failed_in_silence",
    "stop_triggerer",
    "kill_triggerer",
    "freeze_triggerer",
)


class After(NamedTuple):
    """So many seconds after the event before."""

    seconds: float


class At(NamedTuple):
    """When the next call of this name gets there; of ``xcom`` and ``start``, only ``carried out``, of ``report``, only ``sent``."""

    call: Literal["submit", "launch", "status", "list", "cancel", "xcom", "start", "report"]
    where: Literal["sent", "carried out", "answered"]


class Step(NamedTuple):
    """At the so many-th point at which the main thread of a task can be interrupted."""

    number: int


class Event(NamedTuple):
    """
    Something that happens.

    :param moment: When.
    :param what: What: a method of :class:`World`, and its arguments.
    """

    moment: After | At | Step
    what: tuple[Any, ...]


@dataclass(frozen=True)
class Settings:
    """What stays the same throughout a history; times are seconds."""

    line: Literal["3.3", "3.1", "2.11"] = "3.3"
    deferrable: bool = False
    retries: int = 1
    retry_delay: float = 5.0
    execution_timeout: float | None = None
    jobs: tuple[tuple[float, str], ...] = ((FOREVER, "FINISHED"),)
    cancel_takes: float = 0.0
    lag: float = 0.0
    #: Until the supervisor of a running task knows that a user does not want it any more.
    heartbeat: float = 2.0
    #: Until a triggerer has an answer from Airflow: hundreds of other triggers ask, too.
    channel: float = 0.02
    #: Jobs that earlier tries have left running.
    left_behind: int = 0
    #: Whether each try runs another statement, as with ``now()`` in a template.
    template_differs: bool = False
    #: Kind of the job.
    kind: Literal["sql", "script", "spark", "flink"] = "sql"


class World:
    """One DLI, one Airflow, and an observer of both."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.simulation = Simulation()
        plans = Plans(list(settings.jobs), settings.cancel_takes, settings.lag)
        self.dli = FakeDli(self.simulation, plans, self, DIALECTS[settings.kind])
        self.wrong: list[str] = []
        self.story: list[str] = []
        self.reasons: set[str] = set()
        #: Whether a trigger may give up, and so its job.
        self.no_way_on = False
        #: Whether something happened that may delay what is to be done.
        self.hindered = False
        self._awaited: At | None = None
        self.airflow = FakeAirflow(self.simulation, settings, self)
        for number in range(1, settings.left_behind + 1):
            task = DIALECTS[settings.kind].operator("", task_id="load")
            self.dli.leave_behind(number, self.airflow.generation, task.job_kind, task.works(NO_DEFAULTS))

    # Events

    def mark_failed(self) -> None:
        self.airflow.mark("failed")

    def mark_success(self) -> None:
        self.airflow.mark("success")

    def clear(self) -> None:
        self.airflow.clear()

    def clear_while_run_runs(self) -> None:
        self.airflow.clear(while_run_runs=True)

    def edit_retries(self, retries: int) -> None:
        self.airflow.edit_retries(retries)

    def terminate_supervisor(self) -> None:
        self.reason_to_fail("SIGTERM")
        self.airflow.terminate_supervisor()

    def kill_task(self) -> None:
        self.airflow.kill_task()

    def lose_supervisor(self) -> None:
        self.airflow.lose_supervisor()

    def lose_node(self) -> None:
        self.airflow.lose_node()

    def stop_triggerer(self, back_after: float) -> None:
        self.airflow.stop_triggerer(back_after)

    def kill_triggerer(self, back_after: float) -> None:
        self.airflow.kill_triggerer(back_after)

    def freeze_triggerer(self, seconds: float) -> None:
        self.airflow.freeze_triggerer(seconds)

    def airflow_is_silent(self, seconds: float) -> None:
        self.reason_to_fail("a silent Airflow")
        self.airflow.silent_until = self.simulation.now + seconds

    def mark_failed_in_silence(self, seconds: float) -> None:
        self.airflow_is_silent(seconds)
        self.mark_failed()

    def fault(self, call: str, kind: str) -> None:
        self.dli.faults[self._call(call)].append(kind)

    def dli_is_away(self, how: str, seconds: float) -> None:
        if seconds > 30:
            self.reason_to_fail("an outage of DLI")
        self.no_way_on = self.no_way_on or seconds > 1800
        self.dli.away_until, self.dli.away_how = self.simulation.now + seconds, how

    def void_token(self) -> None:
        if not self.dli.tokens or self.dli.tokens_given:
            self.reason_to_fail("a token that is void again and again")
            self.excuse("a token that is void again and again")
            self.no_way_on = True
        self.dli.tokens = set()

    def rotate_password(self, known_after: float) -> None:
        """The password is another one from now on, and in Airflow's connection a while later."""
        if self.dli.password != "secret":
            # The connection is read again once for a call that is refused, not for each of two rotations.
            self.reason_to_fail("two passwords in a row")
        self.dli.password += "!"
        self.dli.tokens = set()
        password = self.dli.password

        def know() -> None:
            if self.dli.password == password:
                self.airflow.password = password

        if known_after == 0:
            know()
            return
        self.reason_to_fail("credentials that are not good any more")
        self.excuse("credentials that are not good any more")
        self.no_way_on = True
        self.simulation.later(known_after, know)

    def user_cancels_job(self) -> None:
        for job in self.dli.jobs.values():
            if job.is_active:
                job.by_user = True
                self.reason_to_fail("a user cancelled the job")
                self.dli.finish(job, "CANCELLED")

    def sweep(self, older_than: float) -> None:
        self.airflow.sweep(older_than)

    # What the models tell

    def reached(self, call: str, where: str) -> None:
        if self._awaited == (call, where):
            self._awaited = None
            self.simulation.stop()

    def excuse(self, why: str, process: Process | None = None) -> None:
        """Note that nobody is left to cancel what runs now, or what this process, by default the task's, may still submit."""
        self.tell(f"excuse: {why}")
        for job in self.dli.jobs.values():
            if job.is_active:
                job.excuse = why
        process = process or self.airflow.ti.worker
        if process is not None:
            process.notes.excuse = why

    def reason_to_fail(self, why: str) -> None:
        self.reasons.add(why)

    def on_announced(self, worker: Process, job_id: str) -> None:
        # Taken up by a later try, which can cancel it.
        if job_id in self.dli.jobs:
            self.dli.jobs[job_id].excuse = getattr(worker.notes, "excuse", "")

    def on_failed_call(self, call: str, fault: str, process: Process) -> None:
        self.tell(f"{call} of {process.name}: {fault}")
        process.notes.bad_calls = True
        if fault == "slow":
            return
        calls = process.notes.__dict__.setdefault("failed_calls", [])
        calls.append(call)
        if call == "submit" and fault in ("503", "unseen"):
            self.reason_to_fail("a submit that was not carried out")
        if fault == "silent" and call != "status":
            self.reason_to_fail("a call that hung for as long as calls are repeated")
        calls += [call] * (fault == "hung")  # of these, two are enough to use up a kill's few seconds
        if calls.count("cancel") > 3 or (
            call in ("cancel", "token", "list") and self.dli.away_until > self.simulation.now
        ):
            self.excuse("calls that failed", process)

    def on_submit(self, job: FakeJob) -> None:
        self.tell(f"{job.id} is submitted by {job.submitter.name}, generation {job.attempt.generation}")
        job.excuse = getattr(job.submitter.notes, "excuse", "")
        for other in self.dli.jobs.values():
            if other is job or other.status in ("CREATED", "DELETED") or _is_zombie(job) or _is_zombie(other):
                continue
            if other.is_active:
                self.wrong.append(f"duplicate: {job.id} is submitted while {other.id} is active")
            if other.attempt.statement_index != job.attempt.statement_index:
                continue
            if other.attempt.try_number == job.attempt.try_number:
                self.wrong.append(f"duplicate: {job.id} is submitted by the try that has submitted {other.id}")
            if other.status == "FINISHED" and other.submitter.notes.wish == job.submitter.notes.wish:
                self.wrong.append(f"duplicate: {job.id} is submitted although {other.id} has finished")

        self._check_order(job)

    def _check_order(self, job: FakeJob) -> None:
        """Of a script, each statement begins when the one before it is done."""
        done = [
            other.attempt.statement_index
            for other in self.dli.jobs.values()
            if other.status == "FINISHED" and other.attempt.generation == job.attempt.generation
        ]
        index = job.attempt.statement_index
        if index > 0 and index - 1 not in done:
            self.wrong.append(f"order: {job.id} runs statement {index}, and only {done} are done")

    def on_discard(self, job: FakeJob, process: Process) -> None:
        self.tell(f"{job.id} is deleted by {process.name}")
        if job.status != "CREATED":
            self.wrong.append(f"wrong deletion: {process.name} deletes {job.id}, which is {job.status}")

    def on_cancel(self, job: FakeJob, process: Process) -> None:
        self.tell(f"{job.id} is cancelled by {process.name}")
        if self._wants(job) and not self._may_cancel(process):
            self.wrong.append(f"wrong cancel: {process.name} cancels {job.id}, its task is {self.airflow.ti.state}")

    def on_success(self, worker: Process, result: Any) -> None:
        self.tell(f"{worker.name} succeeds with {result}")
        self._check_timeout(worker)
        job = self.dli.jobs.get(result)
        if job is None or job.status != "FINISHED":
            self.wrong.append(f"green kill: success, but {result} is {job and job.status}")
        elif job.over_at is not None and job.over_at < self.airflow.wanted_at:
            self.wrong.append(f"green kill: success with {result}, which was over before the clear")
        elif job.attempt.generation != self.airflow.generation:
            self.wrong.append(f"green kill: success with {result}, which is from before the clear")
        elif self.settings.kind == "script" and job.attempt.statement_index != STATEMENTS - 1:
            self.wrong.append(f"green kill: success with {result}, which runs statement {job.attempt.statement_index}")

    def on_failure(self, worker: Process) -> None:
        error = worker.notes.end
        self._check_timeout(worker)
        self.tell(f"{worker.name} fails: {type(error).__name__}: {error}")
        failed = any(job.status == "FAILED" for job in self.dli.jobs.values())
        if not (failed or self.reasons or worker.notes.signalled or worker.notes.timed_out):
            self.wrong.append(f"failure for no reason: {error!r}")

    def on_late_end(self, worker: Process) -> None:
        self.tell(f"{worker.name} gets SIGKILL")
        if getattr(worker.notes, "bad_calls", False) or self.airflow.silent_until:
            self.excuse("a SIGKILL while calls failed", worker)
        else:
            self.wrong.append(f"late end: {worker.name} has not ended in time after a kill")

    def tell(self, what: str) -> None:
        self.story.append(f"{self.simulation.now - fakes.START:8.2f}  {self.airflow.ti.state or 'waiting':12} {what}")

    # The course of a history

    def play(self, events: Sequence[Event]) -> None:
        for event in events:
            self._wait_for(event.moment)
            self.tell(f"* {' '.join(str(part) for part in event.what)}")
            name, *arguments = event.what
            self.hindered = self.hindered or name in _HINDRANCES
            getattr(self, name)(*arguments)
        self._come_to_an_end()

    def _wait_for(self, moment: After | At | Step) -> None:
        if isinstance(moment, After):
            self.simulation.run(moment.seconds)
        elif isinstance(moment, At):
            self._awaited = At(self._call(moment.call), moment.where)  # type: ignore[arg-type]
            self.simulation.run(PATIENCE)
            self._awaited = None
        else:
            self.simulation.steps_left = moment.number
            self.simulation.run(PATIENCE)
            self.simulation.steps_left = None

    def _come_to_an_end(self) -> None:
        ti = self.airflow.ti
        self.simulation.run(100)
        # Nothing is in the way any more.
        self.dli.away_until = self.airflow.silent_until = 0.0
        self.airflow.password = self.dli.password
        self.dli.faults.clear()
        for _ in range(12):
            self.simulation.run(400)
            if ti.state in OVER:
                break
            job = self.dli.jobs.get(ti.xcoms.get("job_id", ""))
            if job is not None and not job.cancel_asked:
                self.dli.finish(job, "FINISHED")
        else:
            self.wrong.append(f"no end: the task is still {ti.state or 'waiting'}")
        self.simulation.run(200)
        if orphans := [job.id for job in self.dli.jobs.values() if job.is_active and not _excuse(job)]:
            self.wrong.append(f"orphan: {orphans} active, the task is {ti.state}")
        sweep = self.airflow.sweep(300)
        self.simulation.run(700)
        if ti.state in OVER and self._active():
            self.wrong.append(f"orphan: {self._active()} active after the sweep, the task is {ti.state}")
        if sweep.notes.__dict__.get("error"):
            self.wrong.append(f"failed sweep: {sweep.notes.error}")
        finished = [job for job in self.dli.jobs.values() if job.status == "FINISHED" and not _is_zombie(job)]
        wishes = [(job.submitter.notes.wish, job.attempt.statement_index) for job in finished]
        if len(set(wishes)) < len(wishes):
            self.wrong.append(f"duplicate: {[job.id for job in finished]} have finished")

    def _call(self, name: str) -> str:
        """Return the call that a kind has in the place of this one."""
        return "submit" if name == "launch" and not self.dli.dialect.is_launched else name

    def _active(self) -> list[str]:
        return [job.id for job in self.dli.jobs.values() if job.is_active]

    def _check_timeout(self, worker: Process) -> None:
        timeout = self.settings.execution_timeout
        took = self.simulation.now - self.airflow.ti.began
        # Half a minute for a cancel that takes its time.
        if timeout is not None and took > timeout + 45 and not self.hindered:
            self.wrong.append(f"late timeout: {worker.name} took {took:.0f} s")

    def _wants(self, job: FakeJob) -> bool:
        """Whether the task instance waits for this job, or would take it up again in its next try."""
        ti = self.airflow.ti
        if ti.state in OVER or job.attempt.generation != self.airflow.generation or ti.state == "restarting":
            return False
        pushed = ti.xcoms.get("job_id")
        if ti.state in ("running", "deferred", "scheduled"):
            return bool(pushed == job.id)
        return job is list(self.dli.jobs.values())[-1]

    def _may_cancel(self, process: Process) -> bool:
        ti = self.airflow.ti
        if process.notes.role == "worker":
            # The task itself; whether it had a reason is seen when it ends. One that Airflow has given up leaves the job
            # to the next try. Only a request may be late that was on its way when its process ended: the task submits
            # another job then, once.
            return ti.worker is process or not process.alive
        if process.notes.role == "triggerer":
            timeout = self.settings.execution_timeout
            timed_out = timeout is not None and self.simulation.now >= fakes.START + timeout
            return timed_out or self.no_way_on
        return False


def _is_zombie(job: FakeJob) -> bool:
    """Whether it is of a worker that Airflow has given up, but that goes on."""
    return not job.submitter.notes.supervised


def _excuse(job: FakeJob) -> str:
    notes = job.submitter.notes
    # Killed, a task waits for the answer to its submit, but not for ever.
    lost = "submit" in getattr(notes, "failed_calls", []) and (notes.signalled or notes.timed_out)
    return job.excuse or ("a lost answer" if lost else "")


@dataclass
class Outcome:
    """What went wrong, and what happened."""

    wrong: list[str]
    story: list[str]

    def __str__(self) -> str:
        return "\n".join([*self.wrong, "", *self.story])


def run(settings: Settings, events: Sequence[Event] = ()) -> Outcome:
    """Play a history; needs :func:`installed`."""
    random.seed(0)
    credentials._known.clear()
    world = World(settings)
    with _of_world(world):
        try:
            world.play(events)
        finally:
            world.simulation.close()
    return Outcome(world.wrong, world.story)


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Put the models behind the ports of the package: the machine, the wire, and Airflow."""
    with pytest.MonkeyPatch.context() as patch:
        names = ("time", "monotonic", "sleep", "new_lock", "process_id", "parent_process_id", "start_thread")
        for name in names:
            patch.setattr(machine, name, getattr(fakes, name))
        patch.setattr(exchange, "new_session", lambda: _world[-1].dli.session())
        for name in ("connection", "task_states", "xcom"):
            patch.setattr(compat, name, lambda *what, _name=name: getattr(_world[-1].airflow, _name)(*what))
        patch.setattr(compat, "supervisor", lambda ti: fakes.parent_process_id())
        # So that Airflow's configuration needs not be read again and again.
        patch.setattr(compat, "deployment", lambda: "ours")
        yield


@contextlib.contextmanager
def _of_world(world: World) -> Iterator[None]:
    _world.append(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compat, "TRIGGERS_ARE_TOLD_OF_KILLS", world.settings.line == "3.3")
        try:
            yield
        finally:
            _world.pop()


_world: list[World] = []
