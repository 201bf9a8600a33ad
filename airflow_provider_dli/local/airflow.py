"""A real Airflow in a temporary home, for the demo and for tests: loopback only, and gone at the end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import psutil

from airflow_provider_dli.local.airflow_client import log_line
from airflow_provider_dli.local.airflow_lines import line_of
from airflow_provider_dli.local.guardian import Guardian

TASK_API = "api-server-2"
CELERY_WORKER = "celery worker"

QUICK: Mapping[str, object] = {
    "dag_processor.refresh_interval": 2,
    "dag_processor.bundle_refresh_check_interval": 1,
    "dag_processor.min_file_process_interval": 5,
    "scheduler.job_heartbeat_sec": 2,
    "scheduler.scheduler_idle_sleep_time": 0.2,
    "scheduler.task_instance_heartbeat_timeout": 15,
    "scheduler.task_instance_heartbeat_timeout_detection_interval": 2,
    "scheduler.trigger_timeout_check_interval": 1,
    "triggerer.job_heartbeat_sec": 2,
    "triggerer.triggerer_health_check_threshold": 15,
    "workers.min_heartbeat_interval": 1,
}
"""Settings with short cycles, for tests: a kill reaches a task within about a second instead of five."""


class LocalAirflow:
    """Airflow, 2.11 or newer, with LocalExecutor; each component is a process of its own.

    Use it as a context manager. However the owner ends (return, exception, any signal, SIGKILL included), its
    guardian ends all processes and removes the temporary home. Variables named `AIRFLOW...` of the caller's
    environment are not passed on, so it cannot touch another Airflow's database.

    :param dags_folder: The folder with the DAG files.
    :param env: More environment variables for the components, e.g. `AIRFLOW_CONN_DLI_DEFAULT`.
    :param settings: Airflow settings as `{"section.key": value}`, over the defaults here. See `QUICK`. Those that had
        another name in Airflow 2 get that one there.
    :param sql_alchemy_conn: Metadata database. Default: a new SQLite file in the home. Airflow 2 refuses SQLite.
    :param python: Interpreter of the environment that Airflow runs from, which may be an older one. Default: this one.
    :param port: Port of the api-server. Default: a free one.
    :param task_api_apart: Have an api-server of their own ("api-server-2") for the tasks. With SQLite, one that serves
        both stands still for a minute when a user's click and a report of a task meet: Airflow writes its audit log
        on the event loop, waits there for the other writer, and that one needs the event loop to commit.
    :param report: Called with a line whenever something was begun or reached during the start.
    :param timeout: Seconds the whole start may take. Default 180.
    """

    def __init__(
        self,
        dags_folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        settings: Mapping[str, object] | None = None,
        sql_alchemy_conn: str | None = None,
        python: str = sys.executable,
        port: int | None = None,
        task_api_apart: bool = False,
        report: Callable[[str], None] = lambda line: None,
        timeout: float = 180,
    ) -> None:
        self.dags_folder = dags_folder
        self.python = python
        self._held = [hold_port(port or 0), *([hold_port()] if task_api_apart else [])]
        self.port = port or self._held[0].getsockname()[1]
        self.task_port = self._held[-1].getsockname()[1] if task_api_apart else self.port
        self.username, self.password = "admin", secrets.token_urlsafe(12)
        self.secret = secrets.token_hex(32)
        self._line = line_of(python)
        self.api = self._line.client(self.url, self.username, self.password)
        self.startup_seconds: dict[str, float] = {}
        self._env, self._settings = dict(env or {}), dict(settings or {})
        self._sql_alchemy_conn = sql_alchemy_conn
        self._report, self._timeout = report, timeout
        self._components: dict[str, Component] = {}
        self._guardian: Guardian | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def home(self) -> Path:
        return self.guardian.home

    @property
    def guardian(self) -> Guardian:
        if self._guardian is None:
            raise RuntimeError("this Airflow is not started")
        return self._guardian

    def start(self) -> None:
        """Create the database, start all components, and return when all of them are healthy.

        :raises AirflowStartError: a component ended or was not healthy in time; with the tail of its log.
        """
        self._guardian = Guardian()
        try:
            self._components = {name: Component(name, self) for name in self._line.components}
            self._create_database()
            self._report(f"Airflow: starting {', '.join(self._line.components)}")
            if self.task_port != self.port:
                arguments = ("--apps", "execution", "--port", str(self.task_port))
                self._components[TASK_API] = Component(TASK_API, self, arguments)
            for component in self._components.values():
                component.start()
            self.wait_until_healthy(timeout=self._timeout)
        except BaseException as error:
            if isinstance(error, AirflowStartError):
                self.keep_home()
            self.stop()
            raise

    def stop(self) -> None:
        """End every process and remove the temporary home."""
        guardian, self._guardian = self._guardian, None
        if guardian:
            try:
                self._report("Airflow: ending its processes")
            finally:
                guardian.close()
                for holder in self._held:
                    holder.close()

    def keep_home(self) -> None:
        """Leave the temporary home behind at the end, for the logs in it."""
        self.guardian.keep_home()

    def __enter__(self) -> LocalAirflow:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait_until_healthy(self, *names: str, timeout: float = 120) -> None:
        """Wait until these components, by default all that were started, have reported themselves since then.

        :raises AirflowStartError: one of them ended, or was not healthy in time.
        """
        began = time.monotonic()
        waiting = {name: self.component(name) for name in names or self._components}
        while waiting:
            heartbeats = self.api.heartbeats()
            for component in list(waiting.values()):
                if not component.is_running():
                    raise AirflowStartError(f"Airflow's {component.name} ended", component)
                if component.name == TASK_API:
                    heartbeats[TASK_API] = self.api.answers_tasks(self.task_port)
                elif component.command == CELERY_WORKER and component.has_logged(" ready."):
                    # Airflow knows nothing of Celery's workers.
                    heartbeats[component.name] = time.time()
                seconds = heartbeats.get(component.name, heartbeats.get(component.command, 0)) - component.started_at
                if seconds > 0:
                    del waiting[component.name]
                    self.startup_seconds[component.name] = round(seconds, 1)
                    self._report(f"Airflow: {component.name} is ready, after {seconds:.1f} s")
            if waiting and time.monotonic() - began > timeout:
                late = next(iter(waiting.values()))
                raise AirflowStartError(f"Airflow's {late.name} was not healthy after {timeout:g} s", late)
            time.sleep(0.1)

    def component(self, name: str) -> Component:
        """One of those that were started, or one more of a kind, like "triggerer-2" or "celery worker-1"; start it."""
        if name not in self._components:
            self._components[name] = Component(name, self)
        return self._components[name]

    def run(self, command: str, *arguments: str, to: str) -> None:
        """Run a command of Airflow's command line to its end.

        :param to: What for, in words.
        :raises AirflowStartError: it failed.
        """
        process = Component(command, self, arguments)
        process.start()
        if process.wait(self._timeout) != 0:
            raise AirflowStartError(f"Airflow could not {to}", process)

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

    def log_tails(self, lines: int = 30) -> str:
        """The last lines of the log of every component and every task, for a failure report."""
        components = [f"--- {c.log}\n{c.log_tail(lines)}" for c in self._components.values()]
        return "\n".join([*components, self.task_log_tails(lines)])

    def task_log_tails(self, lines: int = 30) -> str:
        """The last lines of the log of every task; empty if none has started."""
        logs = sorted(self.home.glob("logs/dag_id=*/**/attempt=*.log"))
        return "\n".join(f"--- {log}\n{_readable(tail(log, lines))}" for log in logs)

    def environment(self) -> dict[str, str]:
        """The environment of every component: the caller's without its Airflow and its proxies, and the settings."""
        env = {name: value for name, value in os.environ.items() if not _is_foreign(name)}
        env["AIRFLOW_HOME"] = str(self.home)
        if env.pop("PYTHONDONTWRITEBYTECODE", None):
            # Four processes that compile all of Airflow at the same time take twice as long to start.
            env["PYTHONPYCACHEPREFIX"] = str(self.home / "pycache")
        for name, value in (self._default_settings() | self._line.settings(self) | self._settings).items():
            section, key = self._line.old_names.get(name, name).upper().split(".")
            env[f"AIRFLOW__{section}__{key}"] = str(value)
        return env | self._env

    def _default_settings(self) -> dict[str, object]:
        # SQLite has one writer at a time: the others wait for it up to this long instead of failing.
        sqlite = f"sqlite:///{self.home / 'airflow.db'}?timeout=60"
        return {
            "core.dags_are_paused_at_creation": False,
            "core.dags_folder": self.dags_folder,
            "core.executor": "LocalExecutor",
            "core.fernet_key": "",
            # The default asks the name service, which may be slow or absent.
            "core.hostname_callable": "socket.gethostname",
            "core.load_examples": False,
            "database.sql_alchemy_conn": self._sql_alchemy_conn or sqlite,
            "logging.colored_console_log": False,
            "usage_data_collection.enabled": False,
        }

    def _create_database(self) -> None:
        self._report("Airflow: creating its database")
        began = time.monotonic()
        self.run("db", "migrate", to="create its database")
        self._line.create_user(self)
        self.startup_seconds["database"] = round(time.monotonic() - began, 1)


class Component:
    """One process of Airflow (with its children), by the name of its command: "scheduler", "celery worker-2".

    Signals go to the process itself and not to its children, like a platform's would.
    """

    def __init__(self, name: str, airflow: LocalAirflow, arguments: Sequence[str] = ()) -> None:
        self.name = name
        self.command = re.sub(r"-\d+$", "", name)
        self.started_at = 0.0
        self._log_start = 0
        self._airflow, self._arguments = airflow, arguments
        self._process: psutil.Process | None = None

    @property
    def process(self) -> psutil.Process:
        if self._process is None:
            raise RuntimeError(f"Airflow's {self.name} was not started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> Path:
        return self._airflow.home / f"{self.name}.log"

    def log_tail(self, lines: int = 30) -> str:
        return tail(self.log, lines)

    def has_logged(self, text: str) -> bool:
        """Whether it has, since it was started."""
        return text.encode() in self.log.read_bytes()[self._log_start :]

    def start(self) -> None:
        """Start the process; `LocalAirflow.wait_until_healthy` waits until it works."""
        argv = [self._airflow.python, "-m", "airflow", *self.command.split(), *self._arguments]
        if self.command in ("scheduler", "triggerer", CELERY_WORKER):
            # Their log servers would listen on every address; the logs are read from disk anyway.
            argv.append("--skip-serve-logs")
        if self.command == CELERY_WORKER:
            argv += ["--celery-hostname", self.name.removeprefix("celery ")]
        self.started_at = time.time()
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._process = self._airflow.guardian.start(argv, env=self._airflow.environment(), log=self.log)

    def stop(self, timeout: float = 60) -> None:
        """SIGTERM, and wait for the end."""
        self.process.terminate()
        self.wait(timeout)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.wait(10)

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: the process stays, and does nothing. Returns when it has stopped."""
        self.process.suspend()
        while self.process.status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.resume()

    def is_running(self) -> bool:
        return self._airflow.guardian.exit_code(self.process) is None

    def wait(self, timeout: float) -> int:
        """Wait for the end; returns the exit code, negative for a signal.

        :raises TimeoutError: it still runs.
        """
        deadline = time.monotonic() + timeout
        while True:
            code = self._airflow.guardian.exit_code(self.process)
            if code is not None:
                return code
            if time.monotonic() > deadline:
                raise TimeoutError(f"Airflow's {self.name} (pid {self.pid}) still runs after {timeout:g} s")
            time.sleep(0.05)


class TaskProcesses(NamedTuple):
    """What runs one task instance: the supervisor (a worker of LocalExecutor) and its child, the task."""

    supervisor: psutil.Process
    task: psutil.Process


class AirflowStartError(RuntimeError):
    """Airflow did not start. The text has the last lines of the log that tells why, and where it is."""

    def __init__(self, reason: str, component: Component) -> None:
        super().__init__(f"{reason}. The end of its log:\n{component.log_tail()}\nThe whole log: {component.log}")


def hold_port(port: int = 0) -> socket.socket:
    """Keep a TCP port of the loopback interface, by default a free one, from everybody but who listens on it.

    It may take a server half a minute from its start to its port: long enough for another one to take it.
    """
    holder = socket.socket()
    # As uvicorn does: two may have the same port as long as one does not listen.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.suppress(OSError):  # the server will say it better
        holder.bind(("127.0.0.1", port))
    return holder


def _is_foreign(variable: str) -> bool:
    # All traffic stays on the loopback interface, where a proxy would only be in the way.
    return variable.startswith("AIRFLOW") or variable.lower().endswith("_proxy")


def tail(log: Path, lines: int) -> str:
    """The last lines of a file; empty if there is none."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


def _readable(task_log: str) -> str:
    """The lines of a task log file, which are JSON, as text."""
    lines = []
    for line in task_log.splitlines():
        try:
            lines.append(log_line(json.loads(line)))
        except ValueError:
            lines.append(line)
    return "\n".join(lines)
