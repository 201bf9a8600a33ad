"""
Kills of whole Airflow tasks on random paths at random moments, counted in the job table of the local DLI.

Starts a local DLI and a real Airflow, plays the cases a dozen at a time, and prints what was left running, ran twice,
was cancelled although wanted, or ended green after a kill; 1 when there was any. Some cases are left alone, so that a
wrong cancel could be seen. Paths and moments that only a sweep can cover are left out. Run:
``python tests/benchmarks/random_kills.py [--kills 100] [--seed N] [--side-by-side 12]``
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "airflow"))
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

from kill_matrix import verdict
from kill_matrix.cases import ALL, MOMENTS, NOBODY, Case, Moment
from kill_matrix.stage import Outcome, Run, Stage

from airflow_provider_dli.local.airflow import QUICK, LocalAirflow
from airflow_provider_dli.local.handle import LocalDli

DAGS = Path(__file__).parents[1] / "airflow" / "dags" / "kill_matrix.py"
WAIT = next(moment for moment in MOMENTS if moment.name == "wait")
# A job that is left alone in so many cases.
LEFT_ALONE = 10


def main() -> int:
    """Kill, print, and return 1 when anything went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--side-by-side", type=int, default=12)
    arguments = parser.parse_args()
    print(f"{arguments.kills} kills, seed {arguments.seed}", flush=True)
    cases = _cases(arguments.kills, random.Random(arguments.seed))
    began = time.monotonic()
    outcomes = _play(cases, arguments.side_by_side)
    print(f"{len(outcomes)} cases in {time.monotonic() - began:.0f} s")
    counts = verdict.count(outcomes)
    # A kill that could not be done proves nothing.
    counts["not played"] = sum(outcome.problem is not None for outcome in outcomes)
    print(", ".join(f"{kind}: {counts[kind]}" for kind in (*verdict.KINDS, "not played")))
    return 1 if any(counts.values()) else 0


def _cases(kills: int, dice: random.Random) -> list[Case]:
    candidates = [case for case in ALL if case.path.kills and not case.path.alone and not case.only_a_sweep]
    cases = [NOBODY] * max(1, kills // LEFT_ALONE)
    found = [Case(path, WAIT, suffix=f"-{number}") for number, path in enumerate(cases)]
    for number in range(kills):
        case = replace(dice.choice(candidates), suffix=f"-{number}")
        # Half of them at a moment that nobody has thought of.
        if case.moment is WAIT or dice.random() < 0.5:
            case = replace(case, moment=_any_moment(dice.uniform(0, 3)))
        found.append(case)
    dice.shuffle(found)
    return found


def _any_moment(seconds: float) -> Moment:
    def reach(run: Run) -> None:
        run.until(lambda: run.tasks[0]["pid"], "the process of the task")
        time.sleep(seconds)

    return Moment("any", f"{seconds:.2f} s after the start of the task", reach)


def _play(cases: list[Case], side_by_side: int) -> list[Outcome]:
    with LocalDli.start() as dli, tempfile.TemporaryDirectory() as folder:
        shutil.copy(DAGS, folder)
        by_name = dli.connection("ak_sk", project_id=None, project_name=dli.project_name)
        env = {**dli.connection_env(), "AIRFLOW_CONN_CANARY_KEY_BY_NAME": json.dumps(by_name)}
        with (
            LocalAirflow(Path(folder), env=env, settings=QUICK, task_api_apart=True) as airflow,
            Stage(airflow, dli, side_by_side=side_by_side, report=_tell) as stage,
        ):
            return list(stage.play(cases).values())


def _tell(outcome: Outcome) -> None:
    wrongs = {kind: times for kind, times in verdict.wrongs(outcome).items() if times}
    if wrongs or outcome.problem:
        print(f"{wrongs} at {outcome.case.moment.title}: {outcome}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
