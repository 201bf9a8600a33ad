"""A real Airflow 3 in a temporary home: loopback only, and gone at the end."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from airflow_provider_dli.local.airflow.database import number_triggers_once
from airflow_provider_dli.local.airflow.guardian import Guardian
from airflow_provider_dli.local.airflow.logs import readable, tail
from airflow_provider_dli.local.airflow.ports import hold_port
from airflow_provider_dli.local.airflow.process import AirflowProcess
from airflow_provider_dli.local.airflow.rest import AirflowClient


class AirflowLauncher:
    """
    Airflow with LocalExecutor and SQLite; each component is a process of its own.

    Use it as a context manager. However the owner ends (return, exception, any signal, SIGKILL included), its
    guardian ends all processes and removes the temporary home. Variables named `AIRFLOW...` of the caller's
    environment are not passed on, so it cannot touch another Airflow's database.

    :param dags_folder: The folder with the DAG files.
    :param env: More environment variables for the components, e.g. `AIRFLOW_CONN_DLI_DEFAULT`.
    :param port: Port of the api-server. Default: a free one.
    :param report: Called with a line whenever a step of the start begins or is done.
    :param timeout: Seconds the whole start may take. Default 180.
    """

    components: tuple[str, ...] = ("api-server", "scheduler", "dag-processor", "triggerer")
    python = sys.executable

    def __init__(
        self,
        dags_folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        port: int | None = None,
        report: Callable[[str], None] = lambda line: None,
        timeout: float = 180,
    ) -> None:
        self.dags_folder = dags_folder
        self._held = [hold_port(port or 0)]
        self.port = port or self._held[0].getsockname()[1]
        self.username, self.password = "admin", secrets.token_urlsafe(12)
        self.secret = secrets.token_hex(32)
        self.api = AirflowClient(self.url, self.username, self.password)
        self._env = dict(env or {})
        self._report, self._timeout = report, timeout
        self._processes: dict[str, AirflowProcess] = {}
        self._guardian: Guardian | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def home(self) -> Path:
        return self.guardian.home

    @property
    def _sqlite(self) -> Path:
        """The database, where it is not another one."""
        return self.home / "airflow.db"

    @property
    def guardian(self) -> Guardian:
        if self._guardian is None:
            raise RuntimeError("this Airflow is not started")
        return self._guardian

    def start(self) -> None:
        """
        Create the database, start all components, and return when all of them are healthy.

        :raises AirflowStartError: a component ended or was not healthy in time; with the tail of its log.
        """
        self._guardian = Guardian()
        try:
            self._report("Airflow: creating its database")
            self.run("db", "migrate", to="create its database")
            if self._sqlite.exists():
                number_triggers_once(self._sqlite)
            self.create_user()
            self._report(f"Airflow: starting {', '.join(self.components)}")
            for name in self.components:
                self.component(name).start()
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

    def __enter__(self) -> AirflowLauncher:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def component(self, name: str) -> AirflowProcess:
        """The component of this name, started or not."""
        return self._processes.setdefault(name, AirflowProcess(name, self))

    def wait_until_healthy(self, *names: str, timeout: float = 120) -> None:
        """
        Wait until these components, by default all, have given a sign of life since they were started.

        :raises AirflowStartError: one of them ended, or was not healthy in time.
        """
        began = time.monotonic()
        waiting = [self.component(name) for name in names or self.components]
        while waiting:
            reported = self.api.heartbeats()
            for process in list(waiting):
                if not process.is_running():
                    raise AirflowStartError(f"Airflow's {process.name} ended", process)
                if (seconds := process.heartbeat(reported) - process.started_at) > 0:
                    waiting.remove(process)
                    self._report(f"Airflow: {process.name} is ready, after {seconds:.1f} s")
            if waiting and time.monotonic() - began > timeout:
                late = waiting[0]
                raise AirflowStartError(f"Airflow's {late.name} was not healthy after {timeout:g} s", late)
            time.sleep(0.1)

    def run(self, command: str, *arguments: str, to: str) -> None:
        """
        Run a command of Airflow's command line to its end.

        :param to: What for, in words.
        :raises AirflowStartError: it failed.
        """
        process = AirflowProcess(command, self, arguments)
        process.start()
        if process.wait(self._timeout) != 0:
            raise AirflowStartError(f"Airflow could not {to}", process)

    def create_user(self) -> None:
        (self.home / "passwords.json").write_text(json.dumps({self.username: self.password}))

    def log_tails(self, lines: int = 30) -> str:
        """The last lines of the log of every component and every task, for a failure report."""
        components = [f"--- {p.log}\n{p.log_tail(lines)}" for p in self._processes.values()]
        return "\n".join([*components, self.task_log_tails(lines)])

    def task_log_tails(self, lines: int = 30) -> str:
        """The last lines of the log of every task; empty if none has started."""
        logs = sorted(self.home.glob("logs/dag_id=*/**/attempt=*.log"))
        return "\n".join(f"--- {log}\n{readable(tail(log, lines))}" for log in logs)

    def environment(self) -> dict[str, str]:
        """The environment of every component: the caller's without its Airflow and its proxies, and the settings."""
        env = {name: value for name, value in os.environ.items() if not _is_foreign(name)}
        env["AIRFLOW_HOME"] = str(self.home)
        if env.pop("PYTHONDONTWRITEBYTECODE", None):
            # Four processes that compile all of Airflow at the same time take twice as long to start.
            env["PYTHONPYCACHEPREFIX"] = str(self.home / "pycache")
        for name, value in self.settings().items():
            section, key = name.upper().split(".")
            env[f"AIRFLOW__{section}__{key}"] = str(value)
        return env | self._env

    def settings(self) -> dict[str, object]:
        """Airflow's settings as `{"section.key": value}`."""
        return {
            "api.base_url": self.url,
            "api.host": "127.0.0.1",
            "api.port": self.port,
            "api.secret_key": self.secret,
            "api.workers": 1,
            "api_auth.jwt_secret": self.secret,
            "core.dags_are_paused_at_creation": False,
            "core.dags_folder": self.dags_folder,
            "core.execution_api_server_url": f"{self.url}/execution/",
            "core.executor": "LocalExecutor",
            "core.fernet_key": "",
            # The default asks the name service, which may be slow or absent.
            "core.hostname_callable": "socket.gethostname",
            "core.load_examples": False,
            "core.simple_auth_manager_passwords_file": self.home / "passwords.json",
            "core.simple_auth_manager_users": f"{self.username}:admin",
            # SQLite has one writer at a time: the others wait for it up to this long instead of failing.
            "database.sql_alchemy_conn": f"sqlite:///{self._sqlite}?timeout=60",
            "logging.colored_console_log": False,
            "logging.namespace_levels": "http.access=WARNING",
            "usage_data_collection.enabled": False,
        }


class AirflowStartError(RuntimeError):
    """Airflow did not start. The text has the last lines of the log that tells why, and where it is."""

    def __init__(self, reason: str, process: AirflowProcess) -> None:
        super().__init__(f"{reason}. The end of its log:\n{process.log_tail()}\nThe whole log: {process.log}")


def _is_foreign(variable: str) -> bool:
    # All traffic stays on the loopback interface, where a proxy would only be in the way.
    return variable.startswith("AIRFLOW") or variable.lower().endswith("_proxy")
