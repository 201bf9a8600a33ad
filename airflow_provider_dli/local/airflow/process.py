"""One process of Airflow, with its children."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import psutil

from airflow_provider_dli.local.airflow.guardian import Guardian
from airflow_provider_dli.local.airflow.logs import tail


class Owner(Protocol):
    """The Airflow that a process belongs to."""

    @property
    def python(self) -> str: ...
    @property
    def guardian(self) -> Guardian: ...
    def environment(self) -> dict[str, str]: ...


class AirflowProcess:
    """
    A command of Airflow's command line: "scheduler", "db migrate".

    :param name: Name of its log file.
    :param arguments: Of the command.
    """

    def __init__(self, name: str, airflow: Owner, arguments: Sequence[str] = ()) -> None:
        self.name = self.command = name
        self.started_at = 0.0
        self._airflow, self._arguments = airflow, arguments
        self._process: psutil.Process | None = None

    @property
    def process(self) -> psutil.Process:
        if self._process is None:
            raise RuntimeError(f"Airflow's {self.name} was not started")
        return self._process

    @property
    def log(self) -> Path:
        return self._airflow.guardian.home / f"{self.name}.log"

    def log_tail(self, lines: int = 30) -> str:
        return tail(self.log, lines)

    def start(self) -> None:
        """Start the process, without waiting until it works."""
        argv = [self._airflow.python, "-m", "airflow", *self.command.split(), *self._arguments]
        if self.command in ("scheduler", "triggerer"):
            # Their log servers would listen on every address; the logs are read from disk anyway.
            argv.append("--skip-serve-logs")
        self.started_at = time.time()
        self._process = self._airflow.guardian.start(argv, env=self._airflow.environment(), log=self.log)

    def heartbeat(self, reported: Mapping[str, float]) -> float:
        """
        Epoch seconds of its last sign of life, 0 without any.

        :param reported: What Airflow says, by command.
        """
        return reported.get(self.command, 0)

    def is_running(self) -> bool:
        return self._airflow.guardian.exit_code(self.process) is None

    def wait(self, timeout: float) -> int:
        """
        Wait for the end.

        :returns: The exit code, negative for a signal.
        :raises TimeoutError: it still runs.
        """
        deadline = time.monotonic() + timeout
        while (code := self._airflow.guardian.exit_code(self.process)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"Airflow's {self.name} (pid {self.process.pid}) still runs after {timeout:g} s")
            time.sleep(0.05)
        return code
