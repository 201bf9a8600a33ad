"""The calls of Airflow's REST API that the demo needs."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import requests

Json = dict[str, Any]


class AirflowClient:
    """
    Client of `/api/v2` (Airflow 3) of one Airflow, logged in as one user.

    May be used from several threads; it sends one request at a time.

    Every method raises `requests.HTTPError`, with Airflow's explanation, unless the answer is a 2xx. Methods that
    wait raise `TimeoutError` with the last state seen.

    :param url: Base URL, e.g. `http://127.0.0.1:8080`.
    """

    _api, _health, _server = "api/v2", "monitor/health", "api-server"

    def __init__(self, url: str, username: str, password: str) -> None:
        self._url = url
        self._username, self._password = username, password
        self._session, self._turn = requests.Session(), threading.Lock()
        # No proxy and no netrc: this talks to the loopback interface.
        self._session.trust_env = False

    def heartbeats(self) -> dict[str, float]:
        """
        Epoch seconds of the last sign of life of each component.

        The api-server has no heartbeat: its sign of life is that it answers now. Nothing while it does not.
        """
        try:
            health = self._session.get(f"{self._url}/{self._api}/{self._health}", timeout=10).json()
        except requests.RequestException:
            return {}
        reported = {
            "scheduler": health["scheduler"]["latest_scheduler_heartbeat"],
            "dag-processor": health["dag_processor"]["latest_dag_processor_heartbeat"],
            "triggerer": health["triggerer"]["latest_triggerer_heartbeat"],
        }
        beats = {name: datetime.fromisoformat(beat).timestamp() for name, beat in reported.items() if beat}
        return beats | {self._server: time.time()}

    def wait_for_dag(self, dag_id: str, timeout: float = 60) -> Json:
        """
        Wait until the DAG is known, which is when its file was parsed.

        :raises RuntimeError: Airflow cannot import a DAG file; with the traceback.
        """
        deadline = time.monotonic() + timeout
        while True:
            answer = self._request("GET", f"dags/{dag_id}", accept=(404,))
            if answer.get("dag_id"):
                return answer
            if errors := self._request("GET", "importErrors")["import_errors"]:
                raise RuntimeError(f"Airflow cannot import a DAG file:\n{errors[0]['stack_trace']}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"Airflow knows no DAG {dag_id} after {timeout:g} s")
            time.sleep(0.2)

    def trigger(self, dag_id: str, conf: Mapping[str, object] | None = None, run_id: str | None = None) -> str:
        """
        Start a DAG run.

        :returns: Its run id.
        """
        body = {"logical_date": None, "conf": dict(conf or {}), "dag_run_id": run_id}
        return str(self._request("POST", f"dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def dag_run(self, dag_id: str, run_id: str) -> Json:
        return self._request("GET", run_path(dag_id, run_id))

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Json:
        return self._request("GET", task_path(dag_id, run_id, task_id, map_index))

    def mark_dag_run(self, dag_id: str, run_id: str, state: str) -> None:
        """What "Mark as failed" or "Mark as success" of a DAG run does."""
        self._request("PATCH", run_path(dag_id, run_id), {"state": state})

    def wait_for_state(
        self,
        dag_id: str,
        run_id: str,
        task_id: str | None = None,
        state: str | Collection[str] = ("success", "failed"),
        *,
        map_index: int = -1,
        timeout: float = 60,
    ) -> str:
        """
        Wait until the task instance, or without `task_id` the DAG run, is in (one of) these states.

        :param state: Default: the end of a run.
        :returns: The state.
        """
        wanted = {state} if isinstance(state, str) else set(state)
        deadline = time.monotonic() + timeout
        while True:
            found = (
                self.task_instance(dag_id, run_id, task_id, map_index) if task_id else self.dag_run(dag_id, run_id)
            )["state"]
            if found in wanted:
                return str(found)
            if time.monotonic() > deadline:
                what = f"task {task_id} of {run_id}" if task_id else f"DAG run {run_id}"
                raise TimeoutError(f"{what} is {found}, not {' or '.join(sorted(wanted))}, after {timeout:g} s")
            time.sleep(0.2)

    def _request(self, method: str, path: str, body: Json | None = None, accept: tuple[int, ...] = ()) -> Json:
        with self._turn:
            if "Authorization" not in self._session.headers:
                self._log_in()
            answer = self._session.request(method, f"{self._url}/{self._api}/{path}", json=body, timeout=60)
        if answer.status_code not in accept:
            raise_for_status(answer)
        return dict(answer.json()) if answer.content else {}

    def _log_in(self) -> None:
        credentials = {"username": self._username, "password": self._password}
        answer = self._session.post(f"{self._url}/auth/token", json=credentials, timeout=60)
        raise_for_status(answer)
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


def run_path(dag_id: str, run_id: str) -> str:
    return f"dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"


def task_path(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    path = f"{run_path(dag_id, run_id)}/taskInstances/{task_id}"
    return path if map_index < 0 else f"{path}/{map_index}"


def raise_for_status(answer: requests.Response) -> None:
    if not answer.ok:
        call = f"{answer.request.method} {answer.url}"
        raise requests.HTTPError(f"{call} answered {answer.status_code}: {answer.text[:500]}", response=answer)
