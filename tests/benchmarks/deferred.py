"""
What thousands of deferred tasks cost a triggerer: our trigger beside that of Databricks, in the same run.

Each measurement is a process of its own with one event loop, beside a stub of the service in another one. Prints calls,
how late the event loop is, the share of one core, memory, connections and threads, writes a plot, and says which goals
were missed. Run: ``uv run --group test --group peers python tests/benchmarks/deferred.py [--jobs 1 200 1000 10000]
[--seconds 30] [--plot FILE] [--alone]``
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import importlib.util
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

POLL_INTERVAL = 10
# By when all triggers have begun, in seconds: the figures of the steady state are taken after that.
BEGUN_AFTER = 22.0
TICK = 0.005
HERE = Path(__file__).parent


def main() -> int:
    """Measure and print; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 200, 1000, 10000])
    parser.add_argument("--seconds", type=float, default=20, help="length of the steady state that is measured")
    parser.add_argument("--plot", type=Path, help="where to write a PNG")
    parser.add_argument("--alone", action="store_true", help="without Databricks")
    parser.add_argument("--measure", choices=["dli", "databricks"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.jobs[0], arguments.seconds)))
        return 0
    peers = ["dli"] if arguments.alone else ["dli", "databricks"]
    if "databricks" in peers and not importlib.util.find_spec("airflow.providers.databricks"):
        print("Databricks' provider is not installed: `--group peers` brings it, `--alone` goes without.")
        return 2
    found: dict[tuple[str, int], dict[str, Any]] = {}
    print(f"{'jobs':>6} {'':<11}{COLUMNS}")
    for jobs in arguments.jobs:
        for peer in peers:
            found[peer, jobs] = figures = in_process(peer, jobs, arguments.seconds)
            print(f"{jobs:>6} {peer:<11}{row(figures)}", flush=True)
    if arguments.plot:
        plot(found, arguments.jobs, peers, arguments.plot)
    return report_goals(found)


FIGURES = [
    ("calls / 10 s", "calls", 1),
    ("core %", "core", 100),
    ("late p99 ms", "late_p99", 1000),
    ("late worst ms", "late_worst", 1000),
    ("late at begin ms", "late_at_begin", 1000),
    ("KiB / trigger", "memory", 1 / 1024),
    ("connections", "connections", 1),
    ("threads", "threads", 1),
    ("1-s job, s late", "short_job", 1),
]
COLUMNS = "".join(f"{name:>18}" for name, _, _ in FIGURES)


def row(figures: dict[str, Any]) -> str:
    """Write the figures of one measurement."""
    return "".join(
        f"{'-':>18}"
        if figures.get(name) is None
        else f"{figures[name] * factor:>18.{1 if name == 'core' else 2 if name == 'short_job' else 0}f}"
        for _, name, factor in FIGURES
    )


def report_goals(found: dict[tuple[str, int], dict[str, Any]]) -> int:
    """Compare with what is wanted at ten thousand jobs."""
    ours, theirs = found.get(("dli", 10000)), found.get(("databricks", 10000))
    if ours is None:
        return 0
    goals = [
        ("API calls per round", ours["calls"], 110),
        ("event loop late, p99, ms", ours["late_p99"] * 1000, 10),
        ("event loop late, worst, ms", ours["late_worst"] * 1000, 100),
        ("event loop late while all begin, ms", ours["late_at_begin"] * 1000, 500),
        ("share of one core", ours["core"], 0.15),
        ("KiB per trigger beyond Airflow", ours["memory"] / 1024, 6),
        ("connections", ours["connections"], 8),
        ("threads", ours["threads"], 8),
        ("end of a 1-s job known after, s", ours["short_job"], 1),
    ]
    if theirs:
        goals.append(("share of Databricks' core", ours["core"] / theirs["core"], 1 / 3))
    print("\n10,000 jobs:")
    for what, figure, goal in goals:
        print(f"  {what:<40} {figure:>9.2f}   goal: at most {goal:.2f}{'' if figure <= goal else '   MISSED'}")
    return int(any(figure > goal for _, figure, goal in goals))


def in_process(peer: str, jobs: int, seconds: float) -> dict[str, Any]:
    """Measure in a process of its own, beside a stub of the service."""
    with stub(jobs) as port, tempfile.TemporaryDirectory() as home:
        command = [sys.executable, __file__, "--measure", peer, "--jobs", str(jobs), "--seconds", str(seconds)]
        env = {**os.environ, **connections(port), "AIRFLOW_HOME": home, "STUB_PORT": str(port)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
        if done.returncode:
            raise SystemExit(done.stderr[-4000:])
        return dict(json.loads(done.stdout.splitlines()[-1]))


@contextlib.contextmanager
def stub(jobs: int, latency: float = 0.0) -> Iterator[int]:
    """Run the service; its port."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "stub_service.py"), str(jobs), str(latency)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def connections(port: int) -> dict[str, str]:
    """Airflow's connections to the stub."""
    url = f"http://127.0.0.1:{port}"
    extra = {"auth_type": "password", "iam_endpoint": url, "project_id": "p", "domain_name": "d"}
    dli = {"conn_type": "dli", "login": "u", "password": "s", "host": url, "extra": extra}
    databricks = {"conn_type": "databricks", "schema": "http", "host": "127.0.0.1", "port": port, "password": "token"}
    return {"AIRFLOW_CONN_DLI_DEFAULT": json.dumps(dli), "AIRFLOW_CONN_DATABRICKS_DEFAULT": json.dumps(databricks)}


def ask(path: str) -> dict[str, Any]:
    """Ask the stub itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['STUB_PORT']}/{path}", timeout=30) as answer:
        return dict(json.load(answer))


def measure(peer: str, jobs: int, seconds: float) -> dict[str, Any]:
    """Measure one peer, in this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # Databricks' trigger needs one each
    logging.disable(logging.CRITICAL)
    return {**asyncio.run(_measured(peer, jobs, seconds)), "memory": _memory(peer, jobs)}


def trigger(peer: str, number: int) -> Any:
    """Make the trigger of a job."""
    if peer == "bare":
        return _bare_trigger()()
    if peer == "dli":
        from stub_service import job_id

        from airflow_provider_dli.triggers.dli import DliJobTrigger

        return DliJobTrigger(job_ids=[job_id(number)], poll_interval=POLL_INTERVAL, cancel_on_kill=True)
    from airflow.providers.databricks.triggers.databricks import DatabricksExecutionTrigger

    return DatabricksExecutionTrigger(
        run_id=number, databricks_conn_id="databricks_default", polling_period_seconds=POLL_INTERVAL
    )


async def _until_it_fires(trigger: Any) -> None:
    async for _ in trigger.run():
        return


async def _measured(peer: str, jobs: int, seconds: float) -> dict[str, Any]:
    late: list[float] = []
    ticking = asyncio.create_task(_tick(late))
    triggers = [trigger(peer, number) for number in range(jobs)]
    await asyncio.sleep(0.1)
    late.clear()
    tasks = [asyncio.create_task(_until_it_fires(each)) for each in triggers]
    await asyncio.sleep(BEGUN_AFTER)
    late_at_begin, counted = max(late), await asyncio.to_thread(ask, "_counts")
    late.clear()
    process = psutil.Process()
    connections, threads, used, began = 0, 0, time.process_time(), time.monotonic()
    while time.monotonic() < began + seconds:
        await asyncio.sleep(min(1.0, seconds))
        if jobs <= 1000 or peer == "dli":  # (with thousands of sockets, to look would be what is measured)
            connections = max(connections, len(process.net_connections("tcp")))
        threads = max(threads, process.num_threads() - 1)
    took, used = time.monotonic() - began, time.process_time() - used
    steady, late_now = await asyncio.to_thread(ask, "_counts"), sorted(late)
    short = await _short_job(peer, jobs) if peer == "dli" else None
    ticking.cancel()
    assert not any(task.done() for task in tasks), [task for task in tasks if task.done()][:3]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "calls": (sum(steady["calls"].values()) - sum(counted["calls"].values())) * POLL_INTERVAL / took,
        "core": used / took,
        "late_p99": late_now[int(len(late_now) * 0.99)],
        "late_worst": late_now[-1],
        "late_at_begin": late_at_begin,
        "connections": connections or steady["connections"],
        "threads": threads,
        "short_job": short,
    }


async def _tick(late: list[float]) -> None:
    while True:
        wanted = time.monotonic() + TICK
        await asyncio.sleep(TICK)
        late.append(time.monotonic() - wanted)


async def _short_job(peer: str, jobs: int) -> float:
    """How long after its end the end of a job that runs for a second is known, in seconds."""
    await asyncio.to_thread(ask, f"_add?job={jobs}&for=1")
    ends = time.monotonic() + 1
    await _until_it_fires(trigger(peer, jobs))
    return time.monotonic() - ends


@functools.cache
def _bare_trigger() -> type[Any]:
    """What Airflow itself takes: a trigger that waits for ever."""
    from airflow.triggers.base import BaseTrigger

    class BareTrigger(BaseTrigger):
        def serialize(self) -> tuple[str, dict[str, Any]]:
            return "", {}

        async def run(self) -> Any:
            await asyncio.Event().wait()
            yield

    return BareTrigger


def _memory(peer: str, jobs: int) -> float:
    """Bytes that a trigger takes beyond a bare one, when all are looked at."""
    jobs = min(jobs, 2000 if peer == "databricks" else jobs)

    async def allocated(peer: str) -> int:
        trigger(peer, 0)
        gc.collect()
        tracemalloc.start(1)
        before = tracemalloc.get_traced_memory()[0]
        tasks = [asyncio.create_task(_until_it_fires(trigger(peer, number))) for number in range(jobs)]
        await asyncio.sleep(12)
        gc.collect()
        found = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return found

    if jobs < 100:
        return 0.0
    return (asyncio.run(allocated(peer)) - asyncio.run(allocated("bare"))) / jobs


def plot(found: dict[tuple[str, int], dict[str, Any]], jobs: list[int], peers: list[str], path: Path) -> None:
    """Draw calls and core share as jobs grow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    names = {"dli": "airflow-provider-dli", "databricks": "Databricks' provider"}
    for axes, name, title, factor in [
        (left, "calls", "API calls per 10 s", 1),
        (right, "core", "share of one core, %", 100),
    ]:
        for peer in peers:
            axes.plot(jobs, [found[peer, each][name] * factor for each in jobs], marker="o", label=names[peer])
        axes.set(xscale="log", yscale="log", xlabel="deferred jobs", title=title)
        axes.grid(alpha=0.3)
    left.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    sys.exit(main())
