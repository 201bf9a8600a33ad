"""The Airflow of the tests: of any line, with any database and executor, and components that can be killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from airflow_provider_dli.local.airflow.launcher import AirflowLauncher
from airflow_provider_dli.local.airflow.logs import readable, tail
from airflow_provider_dli.local.airflow.ports import hold_port
from lab import airflow2
from lab.clicks import ClickingClient
from lab.components import CELERY_WORKER, TASK_API, CeleryWorker, Component, TaskApi

QUICK: Mapping[str, object] = {
    "dag_processor.refresh_interval": 2,
    "dag_processor.bundle_refresh_check_interval": 1,
    # A file that changes is read at once. To read the others again takes the machine from the tasks.
    "dag_processor.min_file_process_interval": 60,
    "scheduler.job_heartbeat_sec": 2,
    "scheduler.scheduler_idle_sleep_time": 0.2,
    "scheduler.task_instance_heartbeat_timeout": 15,
    "scheduler.task_instance_heartbeat_timeout_detection_interval": 2,
    "scheduler.trigger_timeout_check_interval": 1,
    "triggerer.job_heartbeat_sec": 2,
    "triggerer.triggerer_health_check_threshold": 15,
    "workers.min_heartbeat_interval": 1,
}
"""Settings with short cycles: a kill reaches a task within about a second instead of five."""


class LocalAirflow(AirflowLauncher):
    """Airflow, 2.11 or newer.

    :param settings: Airflow settings as `{"section.key": value}`, over the defaults. See `QUICK`. Those that had
        another name in Airflow 2 get that one there.
    :param sql_alchemy_conn: Metadata database. Default: a new SQLite file in the home. Airflow 2 refuses SQLite.
    :param python: Interpreter of the environment that Airflow runs from, which may be an older one. Default: this one.
    :param task_api_apart: Have an api-server of their own ("api-server-2") for the tasks. With SQLite, one that serves
        both stands still for a minute when a user's click and a report of a task meet: Airflow writes its audit log
        on the event loop, waits there for the other writer, and that one needs the event loop to commit.
    """

    def __init__(
        self,
        dags_folder: Path,
        *,
        settings: Mapping[str, object] | None = None,
        sql_alchemy_conn: str | None = None,
        python: str = sys.executable,
        task_api_apart: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(dags_folder, **options)
        self.python = python
        self._is_2 = version_of(python).startswith("2.")
        client = airflow2.Airflow2Client if self._is_2 else ClickingClient
        self.api = client(self.url, self.username, self.password)
        if self._is_2:
            self.components = airflow2.COMPONENTS
        self.task_port = self.port
        if task_api_apart:
            self._held.append(hold_port())
            self.task_port = self._held[-1].getsockname()[1]
            self.components += (TASK_API,)
        self._settings = dict(settings or {})
        if sql_alchemy_conn:
            self._settings["database.sql_alchemy_conn"] = sql_alchemy_conn

    def component(self, name: str) -> Component:
        """One of those that were started, or one more of a kind, like "triggerer-2" or "celery worker-1"; start it."""
        if name not in self._processes:
            self._processes[name] = self._new(name)
        return self._processes[name]

    def create_user(self) -> None:
        airflow2.create_user(self) if self._is_2 else super().create_user()

    def settings(self) -> dict[str, object]:
        tasks = {"core.execution_api_server_url": f"http://127.0.0.1:{self.task_port}/execution/"}
        if not self._is_2:
            return super().settings() | tasks | self._settings
        found = super().settings() | airflow2.settings(self) | self._settings
        return {airflow2.OLD_NAMES.get(name, name): value for name, value in found.items()}

    def task_processes(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> TaskProcesses:
        """The supervisor and the task process of a running task instance.

        :raises LookupError: the task instance has no process at this moment.
        """
        pid = self.api.task_instance(dag_id, run_id, task_id, map_index)["pid"]
        with contextlib.suppress(psutil.NoSuchProcess):
            task = psutil.Process(pid) if pid else None
            if task and (supervisor := task.parent()):
                return TaskProcesses(supervisor, task)
        raise LookupError(f"no process {pid} for task {task_id} of run {run_id}")

    def last_logs(self, files: int = 6, lines: int = 15) -> str:
        """The last lines of the logs that were written last, the newest at the end: of components and of tasks."""
        if self._guardian is None:  # its end failed, and the logs are gone
            return ""
        logs = sorted(filter(Path.is_file, self.home.rglob("*.log")), key=lambda log: log.stat().st_mtime)[-files:]
        return "\n".join(f"--- {log.relative_to(self.home)}\n{readable(tail(log, lines))}" for log in logs)

    def _new(self, name: str) -> Component:
        if name == TASK_API:
            return TaskApi(self, self.task_port)
        return (CeleryWorker if name.startswith(CELERY_WORKER) else Component)(name, self)


class TaskProcesses(NamedTuple):
    """What runs one task instance: the supervisor (a worker of LocalExecutor) and its child, the task."""

    supervisor: psutil.Process
    task: psutil.Process


def version_of(python: str) -> str:
    """The version of Airflow in the environment of this interpreter."""
    ask = "from importlib.metadata import version; print(version('apache-airflow'))"
    return subprocess.run([python, "-I", "-c", ask], stdout=subprocess.PIPE, text=True, check=True).stdout
