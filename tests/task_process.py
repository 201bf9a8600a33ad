"""
Runs operators in processes that can be killed, the way Airflow's task runner does.

``python tests/task_process.py`` imports Airflow once, then forks a process per line of JSON on its standard input.
The forked process installs the same SIGTERM handler as Airflow's task runner (``_on_term`` in ``task_runner.py``) and
the same ``execution_timeout`` path, and calls ``execute``. What a whole Airflow does is proved in ``tests/airflow``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pace


class TaskProcesses:
    """Starts task processes; a context manager."""

    def __init__(self, home: Path, env: dict[str, str]) -> None:
        self._home = home
        self._count = 0
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )

    def __enter__(self) -> TaskProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.wait(timeout=10)

    def start(
        self,
        operator: str,
        *,
        timeout: float | None = None,
        run_id: str | None = None,
        start_date: str = "2026-11-22",
        try_number: int = 1,
        **arguments: object,
    ) -> TaskProcess:
        """
        Run an operator in a process of its own.

        :param operator: Name of the class in ``airflow_provider_dli.operators.dli``.
        :param timeout: ``execution_timeout`` in seconds.
        :param run_id: Id of the DAG run; by default another one each time.
        :param start_date: Start of the DAG run.
        :param try_number: Number of the try.
        :param arguments: Arguments of the operator.
        """
        self._count += 1
        outcome = self._home / f"task-{self._count}.json"
        order = {"operator": operator, "arguments": arguments, "timeout": timeout, "outcome": str(outcome)}
        order["run_id"] = run_id or f"run-{self._count}"
        order.update(start_date=start_date, try_number=try_number)
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return TaskProcess(int(self._server.stdout.readline()), outcome)


class TaskProcess:
    """One running task."""

    def __init__(self, pid: int, outcome: Path) -> None:
        self.pid = pid
        self._outcome = outcome

    def kill(self, number: int = signal.SIGTERM) -> float:
        """Send a signal; returns the moment."""
        moment = time.time()
        os.kill(self.pid, number)
        return moment

    def wait(self, timeout: float = 20) -> SimpleNamespace:
        """
        Wait until the process is gone.

        :returns: ``result``, ``error`` (class name), ``message``, ``log``, ``xcoms``, ``imported_by_kill``,
            ``on_kill_took`` (seconds), ``ended`` (epoch seconds).
        """
        end = time.monotonic() + pace.seconds(timeout)
        while Path(f"/proc/{self.pid}").exists():
            assert time.monotonic() < end, f"task process {self.pid} is still there after {timeout} s"
            time.sleep(0.005)
        ended = time.time()
        if not self._outcome.exists():
            return SimpleNamespace(result=None, error=None, message="", log="", xcoms={}, ended=ended)
        return SimpleNamespace(**json.loads(self._outcome.read_text()), ended=ended)


def _serve() -> None:
    import requests  # noqa: F401 -- what a forked process imports, it imports again and again

    from airflow_provider_dli.operators.dli import (  # noqa: F401 -- the other operators are loaded by those who run them
        DliCancelJobOperator,
        DliSubmitSqlJobOperator,
    )

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them, so let them vanish
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _log_to(json.loads(line)["outcome"] + ".log")
            _run(json.loads(line))
            os._exit(0)
        print(pid, flush=True)


def _log_to(path: str) -> None:
    """Send what Airflow logs to a file: the standard output belongs to the process that forked this one."""
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for standard in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(file, standard)


def _run(order: dict) -> None:
    import pendulum

    from airflow_provider_dli.operators import dli

    outcome: dict = {"result": None, "error": None, "message": "", "xcoms": {}}
    task = getattr(dli, order["operator"])(task_id="task", **order["arguments"])
    ti = SimpleNamespace(
        dag_id="dag",
        run_id=order["run_id"],
        task_id="task",
        map_index=-1,
        try_number=order["try_number"],
        max_tries=0,
        xcom_push=lambda key, value: outcome["xcoms"].__setitem__(key, value),
    )
    context = {"ti": ti, "dag_run": SimpleNamespace(start_date=pendulum.parse(order["start_date"]))}

    def on_term(*_: object) -> None:
        before, began = set(sys.modules), time.monotonic()
        task.on_kill()
        outcome["on_kill_took"] = time.monotonic() - began
        outcome["imported_by_kill"] = sorted(set(sys.modules) - before)

    signal.signal(signal.SIGTERM, on_term)
    try:
        outcome["result"] = _execute(task, context, order["timeout"])
    except BaseException as error:
        outcome.update(error=type(error).__name__, message=str(error))
    sys.stdout.flush()
    outcome["log"] = Path(order["outcome"] + ".log").read_text()
    Path(order["outcome"]).write_text(json.dumps(outcome))


def _execute(task: object, context: dict, timeout: float | None) -> object:
    from airflow.providers.common.compat.sdk import AirflowTaskTimeout
    from airflow.providers.common.compat.sdk import timeout as airflow_timeout

    execute = type(task).execute.__wrapped__  # without Airflow's guard against calls outside a task runner
    if timeout is None:
        return execute(task, context)
    try:
        with airflow_timeout(timeout):
            return execute(task, context)
    except AirflowTaskTimeout:
        task.on_kill()
        raise


if __name__ == "__main__":
    _serve()
