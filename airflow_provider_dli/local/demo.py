"""``dli-local demo``: a real Airflow runs a DLI job, its DAG run is killed, and the job is seen cancelled."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from airflow_provider_dli.local.airflow.launcher import AirflowLauncher
    from airflow_provider_dli.local.dli.admin.views import LocalJob
    from airflow_provider_dli.local.handle import LocalDli

DAG_ID, TASK_ID = "dli_sql", "count_pairs"

RUN_FOR = 2.0
"""Seconds that the job may run before it is killed."""

STEP_TIMEOUT = 60.0
"""Seconds that a step may take: from the trigger to a RUNNING job, from the kill to its end."""

QUEUES = {"default": 16, "sql": 16}
"""Jobs that run at a time, by queue. DLI shows no rows of jobs on `default`: an example uses the other one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``dli-local demo``."""
    parser.description = (
        "Starts a local DLI and a real Airflow, runs a DAG with a long DLI job, marks the DAG run failed as the "
        "button in Airflow's UI does, and shows what becomes of the job. Exits with 0 only if the job is CANCELLED "
        "and no job is left running. Takes about a minute."
    )
    parser.add_argument("--keep", action="store_true", help="leave both running until Ctrl-C, to click around in")
    parser.add_argument("--airflow-port", type=int, metavar="PORT", help="port of Airflow (default: a free one)")
    parser.add_argument("--dli-port", type=int, metavar="PORT", help="port of the local DLI (default: a free one)")


def run(args: argparse.Namespace) -> int:
    """
    Run the demo.

    :returns: 0 if it went well, 1 if not, 2 if it cannot run here, 128 + n after signal n.
    """
    if obstacle := _obstacle(args):
        print(f"dli-local demo: {obstacle}", file=sys.stderr)
        return 2
    from rich.console import Console

    console = Console(highlight=False)
    # Everything here talks to the loopback interface; a proxy would only be in the way.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    try:
        with _signals_raise():
            return _run(args, console)
    except RuntimeError as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return 1
    except Interrupted as interrupted:
        console.print(f"Ended by {interrupted}.")
        return interrupted.exit_code


class DemoError(Exception):
    """Something did not go as promised. The text is a sentence for the user."""


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP came. Not an Exception, so that nothing on the way handles it as a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def example_dags() -> Path:
    """The folder of the example DAGs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "example_dags"
    return installed if installed.is_dir() else package.parent / "example_dags"


def _obstacle(args: argparse.Namespace) -> str | None:
    """Why the demo cannot run here, and what to do about it; None if it can."""
    if sys.platform == "win32":
        return "Airflow does not run on Windows; use WSL, macOS or Linux."
    install = "pip install 'airflow-provider-dli[local]'"
    missing = [name for name in ("duckdb", "fastapi", "psutil", "rich", "sqlglot", "uvicorn") if not find_spec(name)]
    if missing:
        return f"the extra [local] is not installed (no {', '.join(missing)}): {install}"
    try:
        airflow = version("apache-airflow")
    except PackageNotFoundError:
        return f"Airflow is not installed in this environment: {install}"
    if int(airflow.split(".")[0]) < 3:
        return f"it needs Airflow 3, and this environment has {airflow}."
    for option, port in (("--airflow-port", args.airflow_port), ("--dli-port", args.dli_port)):
        if port and (trouble := _port_trouble(port)):
            return f"port {port} cannot be used ({trouble}); choose another {option}, or leave it out for a free one."
    return None


def _port_trouble(port: int) -> str | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            return getattr(error, "strerror", None) or str(error)
    return None


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """
    Turn every signal that ends a program into an exception, so that it ends only after all it has started.

    A second signal ends it at once; what is left then ends on its own within seconds, as it does when this process is
    killed.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _run(args: argparse.Namespace, console: Console) -> int:
    from airflow_provider_dli.local.airflow.launcher import AirflowLauncher
    from airflow_provider_dli.local.handle import LocalDli

    with _Progress(console) as progress, contextlib.ExitStack() as stack:
        progress("Local DLI: starting")
        dli = stack.enter_context(LocalDli.start(args.dli_port or 0, queues=QUEUES))
        # There is no program in its OBS for the example of Spark.
        dli.will(kind="spark", run_for=20, times=1000)
        progress(f"Local DLI: ready on {dli.url}")
        # With a name, the sweep and the orphans on the page DLI jobs work too.
        env = {**dli.connection_env(), "AIRFLOW__DLI__DEPLOYMENT": "demo"}
        airflow = AirflowLauncher(example_dags(), env=env, port=args.airflow_port, report=progress)
        stack.enter_context(airflow)
        progress(f"Airflow: ready on {airflow.url}")
        problem = _kill_a_run(airflow, dli, progress)
        progress.stop()
        if problem:
            _show_problem(console, problem, airflow)
        if args.keep:
            _keep(console, airflow, dli)
    return 1 if problem else 0


def _kill_a_run(airflow: AirflowLauncher, dli: LocalDli, progress: _Progress) -> str | None:
    """
    The story of the demo.

    :returns: What went wrong, as a sentence; None if nothing did.
    """
    try:
        airflow.api.wait_for_dag(DAG_ID)
        progress(f"Triggering the DAG {DAG_ID}")
        run_id = airflow.api.trigger(DAG_ID)
        _wait_until_running(airflow, dli, run_id)
        progress("The job is RUNNING in DLI")
        time.sleep(RUN_FOR)
        progress("Killing it: marking the DAG run failed, through Airflow's REST API")
        killed_at = time.time()
        airflow.api.mark_dag_run(DAG_ID, run_id, "failed")
        job = _wait_until_over(dli)
        state = airflow.api.wait_for_state(DAG_ID, run_id, TASK_ID, ("failed", "success"))
        progress.stop()
        _show_timeline(progress.console, job, killed_at)
        _show_jobs(progress.console, dli)
        _check(job, dli, state)
    except (DemoError, RuntimeError, OSError) as error:  # OSError: time-outs and HTTP errors
        return str(error)
    return None


def _wait_until_running(airflow: AirflowLauncher, dli: LocalDli, run_id: str) -> None:
    deadline = time.monotonic() + STEP_TIMEOUT
    while not any(job.status == "RUNNING" for job in dli.jobs()):
        state = airflow.api.task_instance(DAG_ID, run_id, TASK_ID)["state"]
        if state in ("success", "failed", "up_for_retry"):
            raise DemoError(f"The task ended ({state}) before its job was RUNNING in DLI.")
        if time.monotonic() > deadline:
            raise DemoError(f"No job was RUNNING in DLI {STEP_TIMEOUT:.0f} s after the trigger; the task is {state}.")
        time.sleep(0.1)


def _wait_until_over(dli: LocalDli) -> LocalJob:
    deadline = time.monotonic() + STEP_TIMEOUT
    while True:
        job = dli.jobs()[0]
        if not job.is_active or time.monotonic() > deadline:
            return job
        time.sleep(0.05)


def _check(job: LocalJob, dli: LocalDli, task_state: str) -> None:
    """
    :raises DemoError: the promise was not kept.
    """
    jobs = dli.jobs()
    if active := [job for job in jobs if job.is_active]:
        raise DemoError(f"{len(active)} job(s) still running in DLI {STEP_TIMEOUT:.0f} s after the kill.")
    if job.status != "CANCELLED":
        raise DemoError(f"The job ended {job.status}, not CANCELLED.")
    if len(jobs) != 1:
        raise DemoError(f"The task submitted {len(jobs)} jobs instead of one.")
    if task_state != "failed":
        raise DemoError(f"The killed task ended {task_state}, not failed.")


def _show_timeline(console: Console, job: LocalJob, killed_at: float) -> None:
    deletes = [(moment, "DLI received DELETE for the job") for moment in job.cancel_requests[:1]]
    moments = [
        (job.submitted_at, "the task submitted the job"),
        (job.started_at, "the job was RUNNING"),
        (killed_at, "the DAG run was marked failed"),
        *deletes,
        (job.ended_at, f"the job was {job.status}"),
    ]
    table = _table("time", "after the kill", "what happened", title="What happened")
    for moment, event in sorted((moment, event) for moment, event in moments if moment is not None):
        table.add_row(_clock(moment), f"{moment - killed_at:+.2f} s", event)
    console.print(table)


def _show_jobs(console: Console, dli: LocalDli) -> None:
    table = _table("job", "queue", "state", "DELETEs", title="The local DLI's jobs")
    for job in dli.jobs():
        table.add_row(job.job_id, job.queue_name, job.status, str(len(job.cancel_requests)))
    console.print(table)
    console.print(f"Jobs left running: {sum(job.is_active for job in dli.jobs())}")


def _show_problem(console: Console, problem: str, airflow: AirflowLauncher) -> None:
    airflow.keep_home()
    console.print(airflow.task_log_tails() or airflow.log_tails(), markup=False, soft_wrap=True)
    console.print(f"It went wrong. {problem}", style="bold red", markup=False, soft_wrap=True)
    console.print(f"All logs stay in {airflow.home}", markup=False, soft_wrap=True)


def _keep(console: Console, airflow: AirflowLauncher, dli: LocalDli) -> None:
    from rich.panel import Panel

    lines = [
        f"Airflow    {airflow.url}",
        f"login      {airflow.username} / {airflow.password}",
        "DLI jobs   in Airflow's menu, under Browse",
        f"local DLI  {dli.url}/_local/jobs",
    ]
    with contextlib.suppress(Interrupted):
        console.print(Panel("\n".join(lines), title="Both are running; Ctrl-C ends them", expand=False))
        while True:
            time.sleep(1)


def _table(*columns: str, title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in ("after the kill", "DELETEs") else "left")
    return table


def _clock(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment):%H:%M:%S.%f}"[:-3]


class _Progress:
    """Says what is going on: lines with the seconds since the start and, on a terminal, a spinner."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._began = time.monotonic()
        self._spinner = console.status("")

    def __call__(self, line: str) -> None:
        self.console.print(f"{time.monotonic() - self._began:5.1f} s  {line}", markup=False)
        self._spinner.update(line)

    def stop(self) -> None:
        self._spinner.stop()

    def __enter__(self) -> _Progress:
        self._spinner.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
