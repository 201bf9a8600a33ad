"""
A soak: tasks of a real Airflow are killed on random paths at random moments, the sweep runs, and all is counted.

Starts a local DLI and a real Airflow and plays the cases of the kill matrix a dozen at a time: tasks that wait in a
worker, and deferred ones. Every tenth is left alone, so that a wrong cancel could be seen. With ``--disturb``, meanwhile
the triggerer, the scheduler, the API server for tasks and DLI are restarted, and DLI hangs, drops connections, refuses,
and loses answers. The sweep runs again and again, and once at the end. What was left running in spite of it, ran twice, was
cancelled although wanted, or ended green after a kill is printed, with the share of kills that needed the sweep; 1 when
there was any. With ``--deferred 1000``, so many other tasks are deferred all the time: none may be lost, and in the end
all are killed at once.
Run: ``python tests/benchmarks/soak.py [--kills 200 | --minutes 5] [--disturb] [--deferred N] [--seed N]
[--side-by-side 12]``
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import requests
import tenacity

sys.path.insert(0, str(Path(__file__).parents[1] / "airflow"))
sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

import pace
from kill_matrix import verdict
from kill_matrix.cases import ALL, MOMENTS, NOBODY, NOBODY_DEFERRED, RESUMING_PATHS, Case, Moment
from kill_matrix.kinds import KINDS
from kill_matrix.report import report, summary
from kill_matrix.stage import GRACE, OVER, Outcome, Run, Stage
from lab.airflow import QUICK, LocalAirflow
from lab.components import TASK_API
from lab.deferrals import defer

from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.identity import Identity
from airflow_provider_dli.local.dli.admin.views import LocalJob
from airflow_provider_dli.local.handle import LocalDli

DAGS = Path(__file__).parents[1] / "airflow" / "dags"
SWEEP = "sweep"
WAIT = next(moment for moment in MOMENTS if moment.name == "wait")
# One case of so many is left alone.
LEFT_ALONE = 10
# How long a job runs that shall be killed, in seconds: longer than it takes the sweep to come.
DOOMED_FOR = pace.seconds(150)
# Seconds between two sweeps.
SWEEP_EVERY = 40
# Seconds between two disturbances.
PEACE = (15, 30)
# Seconds between two looks at what a process uses.
SAMPLE_EVERY = 2
# So many looks at it tell how a process grows.
LONG_LIFE = 10

#: Memory in MiB, threads and file descriptors of a process, again and again.
Life = list[tuple[float, int, int]]


def main() -> int:
    """Kill, sweep, count, and return 1 when anything went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, help="instead of a number of kills")
    parser.add_argument("--disturb", action="store_true")
    parser.add_argument("--deferred", type=int, default=0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--side-by-side", type=int, default=12)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    dice = random.Random(arguments.seed)
    began = time.monotonic()
    with PatientDli.start() as dli, tempfile.TemporaryDirectory() as folder:
        for name in ("kill_matrix.py", "sweep.py", "many.py"):
            shutil.copy(DAGS / name, folder)
        by_name = dli.connection("ak_sk", project_id=None, project_name=dli.project_name)
        env = {**dli.connection_env(), "AIRFLOW_CONN_CANARY_KEY_BY_NAME": json.dumps(by_name)}
        settings = {**QUICK, "dli.deployment": "soak", "core.parallelism": 16, "triggerer.capacity": 2000}
        with LocalAirflow(Path(folder), env=env, settings=settings, task_api_apart=True) as airflow:
            background = Background(airflow, dli, arguments.deferred) if arguments.deferred else None
            cases = _cases(dice, arguments.kills, arguments.minutes and time.monotonic() + 60 * arguments.minutes)
            with Stage(airflow, dli, report=_tell) as stage, Usage(airflow, stage) as usage:
                disturber = Disturber(airflow, dli, dice) if arguments.disturb else None
                with disturber or contextlib.nullcontext(), Sweeper(airflow) as sweeper:
                    outcomes = _play(stage, cases, arguments.side_by_side)
                # What a case has asked DLI to refuse is not refused to the last sweep: there is none after it.
                dli.clear_faults()
                sweeper.sweep()
            counts = _count(airflow, dli, outcomes)
            lost = background.end() if background else 0
    kills = sum(outcome.case.path.kills for outcome in outcomes)
    print(f"{kills} kills and {len(outcomes) - kills} cases left alone in {time.monotonic() - began:.0f} s")
    if disturber:
        print("disturbances:", ", ".join(f"{name} {times}" for name, times in sorted(disturber.done.items())))
    print(f"needed the sweep: {counts['needed the sweep']} ({100 * counts['needed the sweep'] / max(kills, 1):.1f} %)")
    print(f"not played: {counts['not played']}, never came to an end: {counts['never came to an end']}")
    print("\n".join(usage.lines()))
    if background:
        print(f"of {arguments.deferred} tasks deferred all the time, lost or not cancelled in the end: {lost}")
    print(", ".join(f"{kind}: {counts[kind]}" for kind in verdict.KINDS))
    spoilt = counts["not played"] + counts["never came to an end"]
    too_many = spoilt > len(outcomes) / (10 if disturber else 100)
    return 1 if too_many or lost or any(counts[kind] for kind in verdict.KINDS) else 0


def _cases(dice: random.Random, kills: int, end: float | None) -> Iterator[Case]:
    candidates = [case for case in ALL if case.path.kills and not case.path.alone]
    for number in itertools.count():
        if time.monotonic() > end if end else number >= kills + kills // LEFT_ALONE:
            return
        if number % (LEFT_ALONE + 1) == 0:
            yield Case(dice.choice([NOBODY, NOBODY_DEFERRED]), WAIT, suffix=f"-{number}", kind=dice.choice(KINDS))
            continue
        case = replace(dice.choice(candidates), suffix=f"-{number}", doomed_for=DOOMED_FOR, kind=dice.choice(KINDS))
        # Half of them at a moment that nobody has thought of.
        if case.path not in RESUMING_PATHS and (case.moment is WAIT or dice.random() < 0.5):
            case = replace(case, moment=_any_moment(dice.uniform(0, 6 if case.path.deferred else 3)))
        yield case


def _any_moment(seconds: float) -> Moment:
    def reach(run: Run) -> None:
        run.until(lambda: run.tasks[0]["pid"], "the process of the task")
        time.sleep(seconds)

    return Moment("any", f"{seconds:.2f} s after the start of the task", reach)


def _play(stage: Stage, cases: Iterator[Case], side_by_side: int) -> list[Outcome]:
    outcomes, turn = list[Outcome](), threading.Lock()

    def work(_: int) -> None:
        while True:
            with turn:
                case = next(cases, None)
            if case is None:
                return
            outcomes.extend(stage.play_together([case]))

    with ThreadPoolExecutor(side_by_side) as threads:
        list(threads.map(work, range(side_by_side)))
    return outcomes


def _count(airflow: LocalAirflow, dli: LocalDli, outcomes: list[Outcome]) -> Counter[str]:
    now = {job.job_id: job for job in dli.jobs()}
    for outcome in outcomes:
        outcome.jobs = [now[job.job_id] for job in outcome.jobs]
    counts = verdict.count(outcome for outcome in outcomes if outcome.is_reached)
    # A kill that could not be done proves nothing; one after which the task went on and on may be anything.
    counts["not played"] = sum(not outcome.is_reached for outcome in outcomes)
    counts["never came to an end"] = sum(outcome.is_reached and outcome.problem is not None for outcome in outcomes)
    late = [
        (outcome, job) for outcome in outcomes for job in verdict.started(outcome) if _is_late(airflow, outcome, job)
    ]
    counts["needed the sweep"] = len(late)
    left_behind = [(outcome, job) for outcome, job in late if job.state != "CANCELLED"]
    counts["orphans"] = len(left_behind)
    for outcome, job in left_behind:
        print(report(outcome, f"job {job.job_id} was left behind"))
    return counts


def _is_late(airflow: LocalAirflow, outcome: Outcome, job: LocalJob) -> bool:
    """Whether the job ran on after its task was over, for whatever reason the case did not come to its end."""
    if outcome.problem is None:
        return (job.ended_at or math.inf) > outcome.over_at + pace.seconds(GRACE)
    tasks = airflow.api.task_instances_of([outcome.name]) if job.is_active else []
    return job.is_active and all(task["state"] in OVER for task in tasks)


def _tell(outcome: Outcome) -> None:
    wrongs = {kind: times for kind, times in verdict.wrongs(outcome).items() if times}
    if outcome.problem:
        print(
            f"{'never came to an end' if outcome.is_reached else 'not played'}: {summary(outcome)}",
            flush=True,
        )
        wrongs.pop("orphans", None)
    if wrongs:
        if wrongs.keys() == {"orphans"}:
            print(f"left for the sweep: {outcome.name}, {outcome.case.moment.title}", flush=True)
        else:
            why = ", ".join(f"{kind}: {times}" for kind, times in wrongs.items())
            print(report(outcome, why), flush=True)


class PatientDli(LocalDli):
    """A local DLI that is waited for while it restarts, by those who look on."""

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(requests.ConnectionError),
        wait=tenacity.wait_fixed(0.2),
        stop=tenacity.stop_after_delay(30),
        reraise=True,
    )
    def _admin(self, method: str, path: str, **options: Any) -> Any:
        return super()._admin(method, path, **options)


class Background:
    """Tasks that are deferred all the time, of a DAG that is paused, so that nobody but the triggerer sees them."""

    DAG, TASK, RUN = "many", "job", "background"

    def __init__(self, airflow: LocalAirflow, dli: LocalDli, tasks: int) -> None:
        self._airflow = airflow
        self._dli = dli
        airflow.api.wait_for_dag(self.DAG)
        airflow.api.pause(self.DAG)
        dli.settings(queues={**dli.settings()["queues"], self.RUN: tasks})
        dli.will(matching=f"'{self.RUN}'", times=tasks, run_for=3600)
        with dli.as_connection():
            hook = DliHook()
            self._job_ids = [
                hook.submit_sql_job(f"SELECT '{self.RUN}'", queue_name=self.RUN, tags=self._tags(index)).id
                for index in range(tasks)
            ]
        airflow.api.trigger(self.DAG, {"jobs": tasks}, run_id=self.RUN)
        defer(airflow, self.DAG, self.TASK, self.RUN, self._job_ids)
        print(f"{tasks} tasks are deferred", flush=True)

    def end(self) -> int:
        """Kill all of them; return how many of their jobs were not running until then, or are still."""
        mine = [job for job in self._dli.jobs() if job.job_id in self._job_ids]
        lost = [job for job in mine if job.cancel_requests or not job.is_active]
        states = Counter(task["state"] for task in self._tasks())
        print(f"before they are killed, the deferred tasks are {dict(states)}, {len(lost)} of their jobs lost")
        self._airflow.api.mark_dag_run(self.DAG, self.RUN, "failed")
        end = time.monotonic() + 60
        while left := [job for job in self._dli.jobs() if job.job_id in self._job_ids and job.is_active]:
            if time.monotonic() > end:
                break
            time.sleep(1)
        return len(lost) + len(left) + len(self._job_ids) - states["deferred"]

    def _tasks(self) -> list[Any]:
        tasks = self._airflow.api.task_instances_of([self.RUN])
        return [task for task in tasks if task["task_id"] == self.TASK]

    def _tags(self, index: int) -> dict[str, str]:
        return Identity(self.DAG, self.RUN, self.TASK, index, 0, "1.0", 1, "task", "0" * 16, "soak").tags()


class Sweeper:
    """Runs the sweep again and again; a context manager."""

    def __init__(self, airflow: LocalAirflow) -> None:
        self._airflow = airflow
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep_sweeping, daemon=True)

    def __enter__(self) -> Sweeper:
        self._airflow.api.wait_for_dag(SWEEP)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def sweep(self) -> None:
        """Sweep once, and wait for it."""
        run_id = self._airflow.api.trigger(SWEEP)
        if (state := self._airflow.api.wait_for_state(SWEEP, run_id, timeout=180)) != "success":
            print(f"the sweep is {state}:\n{self._airflow.api.task_log(SWEEP, run_id, 'cancel')[-3000:]}", flush=True)

    def _keep_sweeping(self) -> None:
        while not self._closed.wait(SWEEP_EVERY):
            # One that a disturbance spoils is made good by the next.
            with contextlib.suppress(Exception):
                self.sweep()


class Disturber:
    """Restarts parts of Airflow and lets DLI misbehave, again and again; a context manager."""

    def __init__(self, airflow: LocalAirflow, dli: LocalDli, dice: random.Random) -> None:
        self._airflow, self._dli, self._dice = airflow, dli, dice
        self.done: Counter[str] = Counter()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._disturb, daemon=True)

    def __enter__(self) -> Disturber:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def _disturb(self) -> None:
        kinds: dict[str, Callable[[], None]] = {
            "triggerer restarted": lambda: self._restart("triggerer", kill=False),
            "triggerer killed": lambda: self._restart("triggerer", kill=True),
            "scheduler killed": lambda: self._restart("scheduler", kill=True),
            "API server restarted": lambda: self._restart(TASK_API, kill=False),
            "DLI restarted": lambda: self._dli.restart(down_for=self._dice.uniform(0, 8)),
            "DLI hangs": self._hang,
            "DLI drops connections": lambda: self._dli.fault("*", "drop_before", times=40),
            "DLI refuses": lambda: self._dli.fault("*", "status", times=40, status=503),
            "DLI loses answers": lambda: self._dli.fault("submit", "drop_after", times=2),
        }
        while not self._closed.wait(self._dice.uniform(*PEACE)):
            name = self._dice.choice(list(kinds))
            kinds[name]()
            self.done[name] += 1

    def _restart(self, name: str, *, kill: bool) -> None:
        component = self._airflow.component(name)
        if kill:
            component.kill()
        else:
            try:
                component.stop()
            except TimeoutError:
                # As a platform does when its grace period is over. A triggerer of 3.3 that has just started does not
                # look at signals while it builds its API: many seconds, on a busy machine a minute.
                component.kill()
        component.start()
        self._airflow.wait_until_healthy(name)

    def _hang(self) -> None:
        server = psutil.Process(self._dli.pid)
        server.suspend()
        time.sleep(self._dice.uniform(2, 8))
        server.resume()


class Usage:
    """Memory, threads and file descriptors of the processes that run triggers and tasks; a context manager."""

    def __init__(self, airflow: LocalAirflow, stage: Stage) -> None:
        self._airflow, self._stage = airflow, stage
        self._triggerers: dict[psutil.Process, Life] = {}
        self._tasks: dict[psutil.Process, Life] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Usage:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def lines(self) -> list[str]:
        """How much they grew: the triggerer that lived longest, and the worst of the tasks that waited for long."""
        longest = max(self._triggerers.values(), key=len, default=[])
        waited = [life for life in self._tasks.values() if len(life) >= LONG_LIFE]
        return [
            f"triggerer, in {len(longest) * SAMPLE_EVERY} s: {_growth([longest] if len(longest) >= LONG_LIFE else [])}",
            f"worst of {len(waited)} tasks that waited for {LONG_LIFE * SAMPLE_EVERY} s or longer: {_growth(waited)}",
        ]

    def _watch(self) -> None:
        while not self._closed.wait(SAMPLE_EVERY):
            with contextlib.suppress(psutil.Error, RuntimeError):
                self._sample(self._airflow.component("triggerer").process.children(), self._triggerers)
            for pid in self._stage.task_processes():
                with contextlib.suppress(psutil.Error):
                    self._sample([psutil.Process(pid)], self._tasks)

    def _sample(self, processes: list[psutil.Process], lives: dict[psutil.Process, Life]) -> None:
        for process in processes:
            used = (process.memory_info().rss / 2**20, process.num_threads(), process.num_fds())
            lives.setdefault(process, []).append(used)


def _growth(lives: list[Life]) -> str:
    """The most in the first and in the last fifth of a life; each figure of the life in which it grew most."""
    if not lives:
        return "none lived long enough"
    figures = []
    for n, name in enumerate(("memory in MiB", "threads", "file descriptors")):
        ends = [
            tuple(max(used[n] for used in part) for part in (life[: len(life) // 5], life[-(len(life) // 5) :]))
            for life in lives
        ]
        first, last = max(ends, key=lambda end: end[1] - end[0])
        figures.append(f"{name} {first:.0f} -> {last:.0f}")
    return ", ".join(figures)


if __name__ == "__main__":
    sys.exit(main())
