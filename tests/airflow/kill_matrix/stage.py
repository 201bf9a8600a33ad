"""A real Airflow and a local DLI on which cases are played side by side."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pace
import psutil
from lab.airflow import LocalAirflow

from airflow_provider_dli.local.dli.admin.views import LocalJob, LocalRequest
from airflow_provider_dli.local.handle import LocalDli
from kill_matrix.kinds import run_of
from kill_matrix.report import ALWAYS, TELLING, Delay, Event, of_component, of_log, report

if TYPE_CHECKING:
    from kill_matrix.cases import Case

T = TypeVar("T")

TASK = "job"
OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
# How long a job that shall be killed runs: longer than any kill takes, on a busy machine too.
RUN_FOR = pace.seconds(90)
# How long the calls take that a kill shall meet, in seconds.
SLOW = 8
# How long a submit may take for its answer to come before the SIGKILL that follows a kill after 5 seconds.
IN_TIME = 4
# A job that runs this much longer than its task is late, in seconds; and left behind, where nobody is to cancel it.
GRACE = 12
# How long others are waited for until they count as left behind, in seconds: on a busy machine all of Airflow may stand
# still for a while.
PATIENCE = 60
# The calls that are noted: all but those that look only.
ACTS_ON_AIRFLOW = ("trigger", "mark_task", "mark_dag_run", "clear", "delete_dag_run", "pause", "unpause")
# What is worth to be told of a look that takes longer than it should, in seconds.
LATE = 1
# So much of the end of a triggerer's log may be about a case, in bytes.
TAIL = 1_000_000


class Stage:
    """
    Looks at Airflow and at DLI a few times a second, once for all cases.

    :param side_by_side: Cases that are played at the same time.
    :param report: Called with what came of a case, in the order in which they end.
    """

    def __init__(
        self,
        airflow: LocalAirflow,
        dli: LocalDli,
        *,
        side_by_side: int = 12,
        report: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self.airflow, self.dli = airflow, dli
        self._report = report
        self._side_by_side = side_by_side
        self._jobs: dict[str, list[LocalJob]] = {}
        self._jobs_as_of = 0.0
        self._tasks: dict[str, list[dict[str, Any]]] = {}
        self._playing: set[str] = set()
        self._changes: dict[str, list[Event]] = defaultdict(list)
        self._delays: list[Delay] = []
        self._closed = threading.Event()
        self._watchers = [
            threading.Thread(target=self._keep, args=(self._look_at_dli, 0.2, "a look at DLI"), daemon=True),
            threading.Thread(target=self._keep, args=(self._look_at_airflow, 0.7, "a look at Airflow"), daemon=True),
        ]

    def __enter__(self) -> Stage:
        self.dli.settings(queues={"default": 100, "sql": 100})
        self.dli.fault("projects", "latency", times=None, seconds=SLOW)
        for watcher in self._watchers:
            watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for watcher in self._watchers:
            watcher.join()
        self.dli.clear_faults()

    def play(self, cases: Sequence[Case]) -> dict[str, Outcome]:
        """Play all cases, those that disturb others one by one at the end; returns what came of each by its name."""
        together = [case for case in cases if not case.path.alone]
        alone = [case for case in cases if case.path.alone]
        for dag_id in {case.dag for case in (*together, *alone)}:
            self.airflow.api.wait_for_dag(dag_id)
        if any(case.path.deferred for case in together):
            self._warm_up()
        with ThreadPoolExecutor(self._side_by_side) as threads:
            outcomes = [outcome for each in threads.map(self._play_again_if_need_be, together) for outcome in each]
        of_disturbance: dict[object, list[Case]] = defaultdict(list)
        for case in alone:
            of_disturbance[case.path.disturbance or case.path.name].append(case)
        for group in of_disturbance.values():
            outcomes += self._play_again_if_need_be(*group)
        return {outcome.name: outcome for outcome in outcomes}

    def _warm_up(self) -> None:
        """Defer a task that nobody kills: with the first one, a triggerer builds an API, and hears of no kill so long."""
        run_id, dag_id = f"warm-up-{time.time():.0f}", "kill_once_deferred"
        self.dli.will(matching=f"'case {run_id}'", run_for=9)
        self.airflow.api.wait_for_dag(dag_id)
        self.airflow.api.trigger(dag_id, run_id=run_id)
        self.airflow.api.wait_for_state(dag_id, run_id, timeout=120)

    def _play_again_if_need_be(self, *cases: Case) -> list[Outcome]:
        """
        On a busy machine a moment may be missed, and a kill that could not be done proves nothing: do it once more.

        What came of a kill that was done stands, also when it never came to an end.
        """
        outcomes = self.play_together(cases)
        if all(outcome.is_reached for outcome in outcomes):
            return outcomes
        again = self.play_together([replace(case, suffix=f"{case.suffix}-again") for case in cases])
        return [replace(outcome, name=case.name) for outcome, case in zip(again, cases, strict=True)]

    def jobs(self, run_id: str) -> list[LocalJob]:
        """The DLI jobs of a DAG run, oldest first."""
        return self._jobs.get(run_id, [])

    def has_active_jobs(self, run_id: str, since: float) -> bool:
        """Whether a DAG run has active DLI jobs, or may have: nobody has looked since this moment."""
        return self._jobs_as_of < since or any(job.is_active for job in self.jobs(run_id))

    def tasks(self, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a DAG run, as Airflow's REST API shows them, by map index."""
        return self._tasks.get(run_id, [])

    def task_processes(self) -> list[int]:
        """The process ids of all tasks that run, by what Airflow says."""
        tasks = [task for run_id in tuple(self._playing) for task in self.tasks(run_id)]
        return [task["pid"] for task in tasks if task["state"] == "running" and task["pid"]]

    def callbacks(self, run_id: str) -> list[str]:
        """The callbacks that Airflow has called for a DAG run."""
        notes = self.airflow.home / "callbacks.txt"
        lines = notes.read_text().splitlines() if notes.exists() else []
        return [callback for run, callback in map(str.split, lines) if run == run_id]

    def changes(self, run_id: str) -> list[Event]:
        """When the tasks of a DAG run were seen in another state for the first time."""
        return list(self._changes.get(run_id, ()))

    def delays(self, since: float) -> list[Delay]:
        """How late the looks at Airflow and at DLI were: those that tell something, and the longest of each kind."""
        return [delay for delay in tuple(self._delays) if delay.at >= since]

    def play_together(self, cases: Sequence[Case]) -> list[Outcome]:
        """Play cases that have the disturbance in common; may be called from several threads."""
        runs = [Run(self, case) for case in cases]
        disturbance = cases[0].path.disturbance or (lambda runs: contextlib.nullcontext())
        self._playing.update(run.id for run in runs)
        try:
            for run in runs:
                run.start()
            for run in runs:
                run.case.moment.reach(run)
                run.is_reached = True
                run.note(f"reached: {run.case.moment.title}")
            for run in runs:
                run.killed_at = time.time()
                run.load["at the kill"] = os.getloadavg()[0]
                if run.case.path.disturbance:
                    run.note("the disturbance begins")
            with disturbance(runs):
                for run in runs:
                    run.killed_at = time.time()
                    run.note(f"does: {run.case.path.title}")
                    run.case.path.act(run)
            for run in runs:
                run.note("done")
                run.case.moment.leave(run)
            for run in runs:
                run.settle()
        except Exception as problem:
            for run in runs:
                run.problem = problem
                if run.frozen:
                    with contextlib.suppress(psutil.Error):
                        run.frozen.resume()
        outcomes = [run.outcome() for run in runs]
        for outcome in outcomes:
            self._playing.remove(outcome.name)
            self._report(outcome)
        return outcomes

    def _keep(self, look: Callable[[], None], seconds: float, what: str) -> None:
        while True:
            began = time.monotonic()
            if self._closed.wait(seconds):
                return
            # Nobody but the machine is to blame for a wait that takes longer.
            self._was_late("the stage", time.monotonic() - began - seconds)
            began = time.monotonic()
            # Airflow is away at times, because a case may end its api-server.
            with contextlib.suppress(Exception):
                look()
            self._was_late(what, time.monotonic() - began)

    def _was_late(self, what: str, seconds: float) -> None:
        if seconds > LATE:
            self._delays.append(Delay(time.time(), seconds, what))

    def _look_at_dli(self) -> None:
        found, began_at = defaultdict(list), time.time()
        for job in self.dli.jobs():
            found[run_of(job)].append(job)
        self._jobs, self._jobs_as_of = found, began_at

    def _look_at_airflow(self) -> None:
        found = defaultdict(list)
        playing = tuple(self._playing)
        for task in self.airflow.api.task_instances_of(playing) if playing else ():
            found[task["dag_run_id"]].append(task)
        for run_id in playing:
            self._note_changes(run_id, self.tasks(run_id), found[run_id])
        self._tasks = found

    def _note_changes(self, run_id: str, before: list[dict[str, Any]], now: list[dict[str, Any]]) -> None:
        was, is_now = _states(before), _states(now)
        for task in sorted(was.keys() | is_now.keys()):
            if was.get(task) != is_now.get(task):
                self._changes[run_id].append(Event(time.time(), "task", f"{task} {is_now.get(task, 'is gone')}"))


def _states(tasks: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What to tell of each task of a run."""
    return {
        task["task_id"] + (f"[{task['map_index']}]" if task["map_index"] >= 0 else ""): (
            f"{task['state']}, try {task['try_number']}, process {task['pid']}"
        )
        for task in tasks
    }


@dataclass
class Outcome:
    """What came of one case."""

    name: str
    case: Case
    jobs: list[LocalJob]
    states: list[str]
    tries: int
    killed_at: float
    over_at: float
    callbacks: list[str]
    problem: Exception | None = None
    is_reached: bool = False
    #: What the case did, the states of its tasks, and what the triggerer said of it.
    events: list[Event] = field(default_factory=list)
    requests: list[LocalRequest] = field(default_factory=list)
    #: Texts of the logs of its tasks, by a short name.
    logs: dict[str, str] = field(default_factory=dict)
    #: Load average of the machine, by when.
    load: dict[str, float] = field(default_factory=dict)
    delays: list[Delay] = field(default_factory=list)

    @property
    def log(self) -> str:
        """All that the logs of its tasks say."""
        return "\n".join(self.logs.values())

    @property
    def until_delete(self) -> float | None:
        """Seconds from the kill to the first DELETE."""
        deletes = [at for job in self.jobs for at in job.cancel_requests if at >= self.killed_at]
        return min(deletes) - self.killed_at if deletes else None

    def __str__(self) -> str:
        return report(self)


@dataclass
class Run:
    """The DAG run of one case while it is played."""

    stage: Stage
    case: Case
    killed_at: float = 0
    over_at: float = 0
    problem: Exception | None = None
    frozen: psutil.Process | None = None
    _since: int = 0
    is_reached: bool = False
    load: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._notes: list[Event] = []
        self._connections: set[str] = set()
        self.api: Any = Noting(self.stage.airflow.api, ACTS_ON_AIRFLOW, self.note)
        self.dli: Any = Noting(self.stage.dli, ("fault",), self.note)
        self.dag_id, self.id = self.case.dag, self.case.name
        self.calls = self.case.kind.calls

    def start(self) -> None:
        """Have the first job of this run last, and start the run."""
        self._began = time.time()
        self.load["at the start"] = os.getloadavg()[0]
        self._since = max((request.seq for request in self.dli.requests()), default=0)
        self.dli.will(
            kind=self.case.kind.of or self.case.kind.name,
            matching=self.sql,
            run_for=self.case.run_for,
            times=self.case.long_jobs,
        )
        if self.case.kind.is_scripted:
            self.dli.will(kind=self.case.kind.of or self.case.kind.name, matching=self.sql, times=1000)
        # On a busy machine, Airflow takes a file of DAGs that it has not read for a while for gone.
        self.api.wait_for_dag(self.dag_id)
        self.api.trigger(self.dag_id, run_id=self.id)

    def note(self, text: str, rank: int = ALWAYS) -> None:
        """Remember what this case does: a report tells it when the case is red."""
        self._notes.append(Event(time.time(), "case", text, rank))

    @property
    def sql(self) -> str:
        """What only the statements, or names, of this run contain."""
        return f"'case {self.id}'"

    @property
    def jobs(self) -> list[LocalJob]:
        return self.stage.jobs(self.id)

    @property
    def tasks(self) -> list[dict[str, Any]]:
        return self.stage.tasks(self.id)

    @property
    def task(self) -> psutil.Process:
        """The process of the first try's task."""
        return NotedProcess(self.tasks[0]["pid"], "the task", self.note)

    @property
    def supervisor(self) -> psutil.Process:
        parent = self.task.parent()
        assert parent, "the task has lost its supervisor"
        return NotedProcess(parent.pid, "its supervisor", self.note)

    def until(self, found: Callable[[], T], what: str, timeout: float = 90) -> T:
        """Wait until this is true and return it; for longer on a slower machine."""
        timeout = pace.seconds(timeout)
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(psutil.Error, IndexError):
                if answer := found():
                    return answer
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {timeout:g} s")
            time.sleep(0.1)

    def under_way(self, call: str) -> LocalRequest | None:
        """A request of this run's task process that waits for its answer."""
        if not self.tasks or not self.tasks[0]["pid"]:
            return None
        mine = {f"{c.laddr.ip}:{c.laddr.port}" for c in self.task.net_connections() if c.laddr}
        self._connections |= mine
        requests = self.dli.requests(call, since=self._since)
        return next((each for each in requests if each.answered_at is None and each.connection in mine), None)

    def logged(self, text: str) -> float | None:
        """Epoch seconds of the first line with this text in the task's log."""
        for log in self._logs():
            for event in of_log(log.name, log.read_text()):
                if text in event.text:
                    return event.at
        return None

    def settle(self) -> None:
        """Wait until the run is over, and for its jobs as long as nobody may call them left behind."""
        self.until(self._is_over, "the task is over", timeout=200)
        self.over_at = time.time()
        time.sleep(max(0, self.killed_at + self.case.moment.lasts - time.time()))
        with contextlib.suppress(TimeoutError):
            self.until(
                lambda: not self.stage.has_active_jobs(self.id, since=self.over_at),
                "no job is active",
                timeout=self.case.patience,
            )
        # What a late retry or a late kill would still do.
        time.sleep(2)

    def outcome(self) -> Outcome:
        jobs = [job for job in self.dli.jobs() if run_of(job) == self.id]
        job_ids = {job.job_id for job in jobs}
        return Outcome(
            name=self.id,
            case=self.case,
            jobs=jobs,
            states=[task["state"] for task in self.tasks],
            tries=max((task["try_number"] for task in self.tasks), default=0),
            killed_at=self.killed_at,
            over_at=self.over_at,
            callbacks=self.stage.callbacks(self.id),
            problem=self.problem,
            is_reached=self.is_reached,
            events=[*self._notes, *self.stage.changes(self.id), *self._of_triggerer({self.id, *job_ids})],
            requests=self._requests(job_ids),
            logs={_short(log): log.read_text(errors="replace") for log in self._logs()},
            load=self.load | {"at the end": os.getloadavg()[0]},
            delays=self.stage.delays(self._began),
        )

    def _requests(self, job_ids: set[str]) -> list[LocalRequest]:
        """Those for the jobs of this run, and those for no job on the connections that they came on."""
        requests = self.dli.requests(since=self._since)
        connections = self._connections | {each.connection for each in requests if each.job_id in job_ids}
        return [
            each
            for each in requests
            if each.job_id in job_ids or (each.job_id is None and each.connection in connections)
        ]

    def _of_triggerer(self, ids: set[str]) -> list[Event]:
        """What the triggerer's own log tells of this run, and its warnings meanwhile."""
        log = self.stage.airflow.home / "triggerer.log"
        if not log.exists():
            return []
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            text = file.read().decode(errors="replace")
        return of_component("triggerer", text, ids, since=self._began)

    def _logs(self) -> list[Path]:
        return sorted(self.stage.airflow.home.glob(f"logs/dag_id={self.dag_id}/run_id={self.id}/**/*.log"))

    def _is_over(self) -> bool:
        if self.case.path.ends == "gone":
            return not self.tasks
        enough = max((task["try_number"] for task in self.tasks), default=0) >= self.case.path.tries
        return enough and all(task["state"] in OVER | {self.case.path.ends} for task in self.tasks)


def _short(log: Path) -> str:
    """The name of a task's log in a report: ``try 1``, ``try 1 t`` of the trigger, with the map index where it has one."""
    number = log.name.removeprefix("attempt=").partition(".")[0]
    index = next((part.removeprefix("map_index=") for part in log.parts if part.startswith("map_index=")), "")
    return f"try {number}" + (f"[{index}]" if index else "") + (" t" if ".trigger." in log.name else "")


class Noting:
    """
    Something on which a case acts, with a note of each act.

    :param acts: Names of the methods that are noted.
    """

    def __init__(self, actor: object, acts: Sequence[str], note: Callable[..., None]) -> None:
        self._actor, self._acts, self._note = actor, acts, note

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._actor, name)
        if name not in self._acts:
            return method

        def act(*arguments: Any, **options: Any) -> Any:
            said = ", ".join([*map(str, arguments), *(f"{key}={value}" for key, value in options.items())])
            began = time.time()
            try:
                answer = method(*arguments, **options)
            except Exception as error:
                self._note(f"{name}({said}) fails after {time.time() - began:.2f} s: {error!r}", TELLING)
                raise
            self._note(f"{name}({said}) returns after {time.time() - began:.2f} s")
            return answer

        return act


class NotedProcess(psutil.Process):
    """A process, with a note of each signal that it gets."""

    def __init__(self, pid: int, name: str, note: Callable[[str], None]) -> None:
        super().__init__(pid)
        self._of, self._noted = name, note

    def send_signal(self, sig: int) -> None:
        self._noted(f"{signal.Signals(sig).name} to {self._of}, process {self.pid}")
        super().send_signal(sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def suspend(self) -> None:
        self.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.send_signal(signal.SIGCONT)
