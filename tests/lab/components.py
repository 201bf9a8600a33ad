"""Components of Airflow that tests stop, kill, freeze and start again."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import psutil
import requests

from airflow_provider_dli.local.airflow.process import AirflowProcess, Owner

TASK_API = "api-server-2"
CELERY_WORKER = "celery worker"


class Component(AirflowProcess):
    """A component, or one more of its kind: "scheduler", "triggerer-2".

    Signals go to the process itself and not to its children, like a platform's would.
    """

    def __init__(self, name: str, airflow: Owner, *arguments: str) -> None:
        super().__init__(name, airflow, arguments)
        self.command = re.sub(r"-\d+$", "", name)

    @property
    def pid(self) -> int:
        return self.process.pid

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


class TaskApi(Component):
    """An api-server for tasks only."""

    def __init__(self, airflow: Owner, port: int) -> None:
        super().__init__(TASK_API, airflow, "--apps", "execution", "--port", str(port))
        self._health = f"http://127.0.0.1:{port}/execution/health"

    def heartbeat(self, reported: Mapping[str, float]) -> float:
        try:
            return time.time() if requests.get(self._health, timeout=10, proxies={"http": ""}).ok else 0
        except requests.RequestException:
            return 0


class CeleryWorker(Component):
    """A worker of Celery: "celery worker-1"."""

    def __init__(self, name: str, airflow: Owner) -> None:
        super().__init__(name, airflow, "--skip-serve-logs", "--celery-hostname", name.removeprefix("celery "))
        self._log_start = 0

    def start(self) -> None:
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        super().start()

    def heartbeat(self, reported: Mapping[str, float]) -> float:
        """Airflow knows nothing of Celery's workers: their log says that they are ready."""
        return time.time() if b" ready." in self.log.read_bytes()[self._log_start :] else 0
