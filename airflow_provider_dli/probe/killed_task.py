"""The check that matters most: a task of Airflow is killed, and its job must be over soon."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from airflow_provider_dli import machine
from airflow_provider_dli.api import sql
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.job import JobState
from airflow_provider_dli.probe.jobs import Started
from airflow_provider_dli.probe.probe import Check, NotAsExpectedError, Probe
from airflow_provider_dli.probe.sql import LONG, bound, tags

# How long a job has to run on before its task is killed, in seconds.
_RUNS_ON_FOR = 1.0
# How long a killed task may take until its process is gone, in seconds: it cancels for 30.
_GONE_WITHIN = 35.0
_WHAT = "killed-task"


class TaskProcess:
    """
    A task in a process of its own.

    :param orders: See :func:`.task_process.main`.
    """

    def __init__(self, orders: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "airflow_provider_dli.probe.task_process", json.dumps(orders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Ctrl-C is for the probe, which kills the task then.
            start_new_session=True,
        )
        self._told: list[dict[str, Any]] = []
        self._has_told_all = threading.Event()
        machine.start_thread(self._listen)

    def end_soon(self) -> None:
        """Kill the task if it is still there, and wait until it is gone."""
        if self.is_running:
            self.kill()
            try:
                self._process.wait(_GONE_WITHIN)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    @property
    def job_id(self) -> str | None:
        """The job that the task has announced."""
        return next((line["value"] for line in self._told if line.get("xcom") == "job_id"), None)

    @property
    def outcome(self) -> tuple[str | None, str] | None:
        """The class of the error that the task ended with, or None, and its text; None where it could not tell."""
        self._has_told_all.wait(5.0)
        return next(((line["error"], line["message"]) for line in self._told if "error" in line), None)

    @property
    def end(self) -> str:
        """How the task ended, for people; once it is not running."""
        if self.outcome is None:
            return f"without a word, exit code {self._process.returncode}"
        error, message = self.outcome
        return f"{error}: {message}" if error else "as done"

    def kill(self) -> None:
        """Kill the task, as Airflow's supervisor does."""
        self._process.terminate()

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            self._told.append(json.loads(line))
        self._has_told_all.set()


def killed_task(probe: Probe) -> str:
    own = tags(probe, _WHAT)
    arguments = {
        "sql": LONG,
        "dli_conn_id": probe.options.conn_id,
        "queue_name": probe.options.queue,
        "conf": bound(probe),
        "tags": own,
        "poll_interval": 1,
        "deferrable": False,
        "retries": 0,
    }
    started = probe.jobs.expect(sql.KIND, _WHAT, Query(tags=own))
    task = TaskProcess({"run_id": f"probe-{probe.id}", "arguments": arguments})
    try:
        return _kill(probe, task, started)
    finally:
        task.end_soon()
        started.is_settled = task.outcome is not None


def _kill(probe: Probe, task: TaskProcess, started: Started) -> str:
    while (job_id := task.job_id) is None:
        _require_running(task)
        probe.client.pause(0.1)
    started.job_id = job_id
    probe.until(sql.KIND, job_id, lambda state: state is not JobState.LAUNCHING, None)
    # A job that DLI ends by itself would look like one that the kill has cancelled.
    probe.client.pause(_RUNS_ON_FOR)
    if (job := probe.client.job(sql.KIND, job_id)).state is not JobState.RUNNING:
        raise NotAsExpectedError(f"{job.status} before the kill: {job.message or 'no reason given'}")
    _require_running(task)
    task.kill()
    killed_at = machine.monotonic()
    while task.is_running and machine.monotonic() - killed_at < _GONE_WITHIN:
        probe.client.pause(0.05)
    if task.is_running:
        raise NotAsExpectedError(f"the process of the task is still there {_GONE_WITHIN:.0f} s after the kill")
    gone_after = machine.monotonic() - killed_at
    job = probe.over(sql.KIND, job_id)
    if job.state is not JobState.CANCELLED or not task.end.startswith("DliTaskKilledError"):
        raise NotAsExpectedError(f"the job is {job.status}; the task ended {task.end}")
    if "over before" in task.end:
        raise NotAsExpectedError(f"DLI has ended the job by itself; the task ended {task.end}")
    return f"{job.status}; the task was gone {gone_after:.1f} s after the kill"


def _require_running(task: TaskProcess) -> None:
    if not task.is_running:
        raise NotAsExpectedError(f"the task ended before it was killed, {task.end}")


CHECK = Check("kill of a real task", "its job CANCELLED, the task ended as killed", killed_task)
