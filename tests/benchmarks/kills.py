"""
How long a killed task takes to cancel its job, and whether one is ever left behind.

Kills processes with SIGTERM at random moments of submit, poll and wait, one after the other, and prints the time
from the signal to the moment the DELETE reached the local DLI, and what is left running. Run:
``python tests/benchmarks/kills.py [--kills 200] [--seed N]``
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

from task_process import TaskProcesses

from airflow_provider_dli.local.handle import LocalDli


def main() -> int:
    """Measure and print; 1 when a job was left running or a killed task ended green."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    print(f"{arguments.kills} kills, seed {arguments.seed}")
    with LocalDli.start() as dli, tempfile.TemporaryDirectory() as folder:
        env = {"AIRFLOW_CONN_DLI_DEFAULT": json.dumps(dli.connection())}
        with TaskProcesses(Path(folder), env) as processes:
            results = [_kill_one(dli, processes, moments) for _ in range(arguments.kills)]
    delays = sorted(delay for delay, _, _ in results if delay is not None)
    print(f"SIGTERM to DELETE received, {len(delays)} kills with a job:")
    print(f"  median {statistics.median(delays) * 1000:.1f} ms  (target: at most 20 ms)")
    print(f"  99th percentile {delays[int(len(delays) * 0.99)] * 1000:.1f} ms  (target: at most 100 ms)")
    print(f"  largest {delays[-1] * 1000:.1f} ms")
    orphans, green = sum(left for _, left, _ in results), sum(ok for _, _, ok in results)
    print(f"orphans left: {orphans}, green after a kill: {green}")
    return 1 if orphans or green else 0


def _kill_one(dli: LocalDli, processes: TaskProcesses, moments: random.Random) -> tuple[float | None, int, bool]:
    dli.reset()
    dli.will(run_for=60)
    # Long enough that a kill often falls into the request, short enough that the token is mostly in hand.
    dli.fault("submit", "latency", seconds=0.03)
    task = processes.start("DliSubmitSqlJobOperator", sql="select 1", poll_interval=1)
    dli.wait_until(lambda found: found.requests(call="token"), timeout=10)
    time.sleep(moments.choice([moments.uniform(0, 0.1), moments.uniform(0, 1.5)]))
    killed = task.kill()
    green = task.wait().error is None
    left = sum(job.is_active for job in dli.jobs())
    deletes = dli.requests(call="cancel")
    submitted = [job.submitted_at for job in dli.jobs()]
    if not deletes:
        return None, left, green
    # A job whose submit was under way can only be cancelled once its id is known.
    return deletes[0].at - max([killed, *submitted]), left, green


if __name__ == "__main__":
    sys.exit(main())
