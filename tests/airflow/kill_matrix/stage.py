"""A real Airflow and a local DLI on which cases are played side by side."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
from lab.airflow import LocalAirflow

from airflow_provider_dli.local.dli.admin.views import LocalJob, LocalRequest
from airflow_provider_dli.local.handle import LocalDli
from kill_matrix.kinds import run_of, tags_of

if TYPE_CHECKING:
    from kill_matrix.cases import Case

T = TypeVar("T")

TASK = "job"
OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
# How long a job that shall be killed runs: longer than any kill takes, on a busy machine too.
RUN_FOR = 90
# How long the calls take that a kill shall meet, in seconds.
SLOW = 8
# How long a submit may take for its answer to come before the SIGKILL that follows a kill after 5 seconds.
IN_TIME = 4
# A job that runs this much longer than its task is late, in seconds; and left behind, where nobody is to cancel it.
GRACE = 12
# How long others are waited for until they count as left behind, in seconds: on a busy machine all of Airflow may stand
# still for a while.
PATIENCE = 60


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
        self._closed = threading.Event()
        self._watchers = [
            threading.Thread(target=self._keep, args=(self._look_at_dli, 0.2), daemon=True),
            threading.Thread(target=self._keep, args=(self._look_at_airflow, 0.7), daemon=True),
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
        self.dli.will(matching=f"'case {run_id}'", run_for=3)
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
            for run in runs:
                run.killed_at = time.time()
            with disturbance(runs):
                for run in runs:
                    run.killed_at = time.time()
                    run.case.path.act(run)
            for run in runs:
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

    def _keep(self, look: Callable[[], None], seconds: float) -> None:
        while not self._closed.wait(seconds):
            # Airflow is away at times, for a case may end its api-server.
            with contextlib.suppress(Exception):
                look()

    def _look_at_dli(self) -> None:
        found, began_at = defaultdict(list), time.time()
        for job in self.dli.jobs():
            found[run_of(job)].append(job)
        self._jobs, self._jobs_as_of = found, began_at

    def _look_at_airflow(self) -> None:
        found = defaultdict(list)
        for task in self.airflow.api.task_instances_of(self._playing) if self._playing else ():
            found[task["dag_run_id"]].append(task)
        self._tasks = found


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
    log: str
    problem: Exception | None = None
    is_reached: bool = False

    @property
    def until_delete(self) -> float | None:
        """Seconds from the kill to the first DELETE."""
        deletes = [at for job in self.jobs for at in job.cancel_requests if at >= self.killed_at]
        return min(deletes) - self.killed_at if deletes else None

    def __str__(self) -> str:
        lines = [
            f"{self.name}: task {self.states} after {self.tries} tries, problem: {self.problem!r}, {self.callbacks}"
        ]
        moments = {"killed": self.killed_at, "over": self.over_at}
        for number, job in enumerate(self.jobs, start=1):
            moments |= {f"job {number} submitted": job.submitted_at, f"job {number} {job.state}": job.ended_at or 0}
            moments |= {f"DELETE of job {number} ({n})": at for n, at in enumerate(job.cancel_requests)}
        lines += [f"{at - self.killed_at:+8.2f} s  {what}" for what, at in sorted(moments.items(), key=lambda m: m[1])]
        return "\n".join([*lines, *(tags_of(job).get("airflow_attempt", "") for job in self.jobs), self.log])


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

    def __post_init__(self) -> None:
        self.api, self.dli = self.stage.airflow.api, self.stage.dli
        self.dag_id, self.id = self.case.dag, self.case.name
        self.calls = self.case.kind.calls

    def start(self) -> None:
        """Have the first job of this run last, and start the run."""
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
        return psutil.Process(self.tasks[0]["pid"])

    @property
    def supervisor(self) -> psutil.Process:
        parent = self.task.parent()
        assert parent, "the task has lost its supervisor"
        return parent

    def until(self, found: Callable[[], T], what: str, timeout: float = 90) -> T:
        """Wait until this is true and return it."""
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
        requests = self.dli.requests(call, since=self._since)
        return next((each for each in requests if each.answered_at is None and each.connection in mine), None)

    def logged(self, text: str) -> float | None:
        """Epoch seconds of the first line with this text in the task's log."""
        for log in self._logs():
            for line in log.read_text().splitlines():
                if text in line:
                    return _logged_at(line)
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
        return Outcome(
            name=self.id,
            case=self.case,
            jobs=[job for job in self.dli.jobs() if run_of(job) == self.id],
            states=[task["state"] for task in self.tasks],
            tries=max((task["try_number"] for task in self.tasks), default=0),
            killed_at=self.killed_at,
            over_at=self.over_at,
            callbacks=self.stage.callbacks(self.id),
            log="\n".join(f"--- {log}\n{log.read_text()[-6000:]}" for log in self._logs()),
            problem=self.problem,
            is_reached=self.is_reached,
        )

    def _logs(self) -> list[Path]:
        return sorted(self.stage.airflow.home.glob(f"logs/dag_id={self.dag_id}/run_id={self.id}/**/*.log"))

    def _is_over(self) -> bool:
        if self.case.path.ends == "gone":
            return not self.tasks
        enough = max((task["try_number"] for task in self.tasks), default=0) >= self.case.path.tries
        return enough and all(task["state"] in OVER | {self.case.path.ends} for task in self.tasks)


def _logged_at(line: str) -> float:
    """Epoch seconds of a line of a task log: a JSON object, or in Airflow 2 a text like ``[2026-11-21T10:00:00+0000] …``."""
    stamp = json.loads(line)["timestamp"] if line.startswith("{") else line[1:].partition("]")[0]
    return datetime.fromisoformat(stamp).timestamp()
