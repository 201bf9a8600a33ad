"""Airflow's REST API, with the calls that its UI makes when a user clicks."""

from __future__ import annotations

import re
import threading
import time
from ast import literal_eval
from base64 import b64encode
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import requests

Json = dict[str, Any]


class AirflowClient:
    """Client of `/api/v2` (Airflow 3) of one Airflow, logged in as one user.

    May be used from several threads; it sends one request at a time.

    Every method raises `requests.HTTPError`, with Airflow's explanation, unless the answer is a 2xx; waiting
    methods raise `TimeoutError` with the last state seen.

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
        """Epoch seconds of the last sign of life of each component.

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

    def answers_tasks(self, port: int) -> float:
        """Epoch seconds when the API for tasks, at this port, answers now; else 0."""
        try:
            return time.time() if self._session.get(f"http://127.0.0.1:{port}/execution/health", timeout=10).ok else 0
        except requests.RequestException:
            return 0

    def wait_for_dag(self, dag_id: str, timeout: float = 60) -> Json:
        """Wait until the DAG is known, which is when its file was parsed.

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
        """Start a DAG run; returns its run id."""
        body = {"logical_date": None, "conf": dict(conf or {}), "dag_run_id": run_id}
        return str(self._request("POST", f"dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def dag_run(self, dag_id: str, run_id: str) -> Json:
        return self._request("GET", _run(dag_id, run_id))

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Json:
        return self._request("GET", _task(dag_id, run_id, task_id, map_index))

    def task_instances(self, dag_id: str, run_id: str) -> list[Json]:
        """All of a run, mapped ones included (the first 100)."""
        return list(self._request("GET", f"{_run(dag_id, run_id)}/taskInstances?limit=100")["task_instances"])

    def task_instances_of(self, run_ids: Collection[str]) -> list[Json]:
        """All of these runs, of whatever DAGs, in one call as long as they are at most 100."""
        path, found = "dags/~/dagRuns/~/taskInstances/list", list[Json]()
        while True:
            body = {"dag_run_ids": list(run_ids), "page_limit": 100, "page_offset": len(found)}
            page = self._request("POST", path, body)
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def mark_dag_run(self, dag_id: str, run_id: str, state: str) -> None:
        """What "Mark as failed" or "Mark as success" of a DAG run does."""
        self._request("PATCH", _run(dag_id, run_id), {"state": state})

    def mark_task(self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int = -1) -> None:
        """What "Mark as failed" or "Mark as success" of a task instance does."""
        self._request("PATCH", _task(dag_id, run_id, task_id, map_index), {"new_state": state})

    def clear(self, dag_id: str, run_id: str, task_ids: Collection[str | tuple[str, int]] | None = None) -> None:
        """What "Clear" does: of the whole run, or of these tasks (a task id, or task id and map index)."""
        if task_ids is None:
            self._request("POST", f"{_run(dag_id, run_id)}/clear", {"dry_run": False, "only_failed": False})
        else:
            body = {
                "dry_run": False,
                "dag_run_id": run_id,
                "only_failed": False,
                "reset_dag_runs": True,
                "task_ids": list(task_ids),
            }
            self._request("POST", f"dags/{dag_id}/clearTaskInstances", body)

    def delete_dag_run(self, dag_id: str, run_id: str) -> None:
        self._request("DELETE", _run(dag_id, run_id))

    def delete_dag(self, dag_id: str) -> None:
        """What "Delete" of a DAG does: with all its runs. It comes back when its file is still there."""
        self._request("DELETE", f"dags/{dag_id}")

    def pause(self, dag_id: str) -> None:
        self._request("PATCH", f"dags/{dag_id}", {"is_paused": True})

    def unpause(self, dag_id: str) -> None:
        self._request("PATCH", f"dags/{dag_id}", {"is_paused": False})

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """The log of one try, a line per event, as the UI shows it without colours."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}?map_index={map_index}"
        return "\n".join(log_line(event) for event in self._request("GET", path)["content"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """The value of an XCom; None if there is none."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{key}?map_index={map_index}"
        return self._request("GET", path, accept=(404,)).get("value")

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
        """Wait until the task instance, or without `task_id` the DAG run, is in (one of) these states.

        The default is the end of a run; returns the state.
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

    def set_connection(self, connection: Mapping[str, object]) -> None:
        """Save a connection of the form, a new one or a changed one."""
        body = dict(connection)
        if "detail" in self._request("POST", "connections", body, accept=(409,)):
            self._request("PATCH", f"connections/{body['connection_id']}", body)

    def delete_connection(self, conn_id: str) -> None:
        self._request("DELETE", f"connections/{conn_id}")

    def _request(self, method: str, path: str, body: Json | None = None, accept: tuple[int, ...] = ()) -> Json:
        with self._turn:
            if "Authorization" not in self._session.headers:
                self._log_in()
            answer = self._session.request(method, f"{self._url}/{self._api}/{path}", json=body, timeout=60)
        if answer.status_code not in accept:
            _raise_for_status(answer)
        return dict(answer.json()) if answer.content else {}

    def _log_in(self) -> None:
        credentials = {"username": self._username, "password": self._password}
        answer = self._session.post(f"{self._url}/auth/token", json=credentials, timeout=60)
        _raise_for_status(answer)
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"


class Airflow2Client(AirflowClient):
    """The same for `/api/v1` (Airflow 2)."""

    _api, _health, _server = "api/v1", "health", "webserver"

    def trigger(self, dag_id: str, conf: Mapping[str, object] | None = None, run_id: str | None = None) -> str:
        body = {"conf": dict(conf or {}), **({"dag_run_id": run_id} if run_id else {})}
        return str(self._request("POST", f"dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def mark_task(self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int = -1) -> None:
        body: Json = {"dry_run": False, "new_state": state}
        if map_index >= 0:
            self._request("PATCH", _task(dag_id, run_id, task_id, map_index), body)
            return
        body |= dict.fromkeys(("include_upstream", "include_downstream", "include_future", "include_past"), False)
        self._request(
            "POST", f"dags/{dag_id}/updateTaskInstancesState", {**body, "task_id": task_id, "dag_run_id": run_id}
        )

    def clear(self, dag_id: str, run_id: str, task_ids: Collection[str | tuple[str, int]] | None = None) -> None:
        if task_ids is None:
            self._request("POST", f"{_run(dag_id, run_id)}/clear", {"dry_run": False})
            return
        run = {"dag_id": dag_id, "execution_date": self.dag_run(dag_id, run_id)["execution_date"], "confirmed": "true"}
        for task in task_ids:
            task_id, *map_indexes = (task,) if isinstance(task, str) else task
            # The API's `clearTaskInstances` does not save the state of a task that is running, so that it may go on.
            self._click("clear", {**run, "task_id": task_id, "map_index": map_indexes})

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}?map_index={map_index}"
        # The text of a list of pairs: host and text.
        pairs = literal_eval(self._request("GET", f"{path}&full_content=true")["content"])
        return "\n".join(text for _, text in pairs)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{key}"
        return self._request("GET", f"{path}?map_index={map_index}&stringify=false", accept=(404,)).get("value")

    def _click(self, path: str, form: Mapping[str, Any]) -> None:
        """Send a form of the UI."""
        login = f"{self._url}/login/"
        user = {"username": self._username, "password": self._password}
        with requests.Session() as browser:
            browser.trust_env = False
            browser.headers["Accept"] = "application/json"
            browser.post(login, {**user, "csrf_token": _csrf_token(browser.get(login, timeout=60))}, timeout=60)
            token = _csrf_token(browser.get(f"{self._url}/home", timeout=60))
            _raise_for_status(browser.post(f"{self._url}/{path}", {**form, "csrf_token": token}, timeout=60))

    def _log_in(self) -> None:
        token = b64encode(f"{self._username}:{self._password}".encode()).decode()
        self._session.headers.update({"Authorization": f"Basic {token}", "Accept": "application/json"})


def _csrf_token(page: requests.Response) -> str:
    found = re.search(r"""csrf(?:_token"[^>]* value="|Token = ')([^"']+)""", page.text)
    if not found:
        raise requests.HTTPError(f"Airflow's page {page.url} has no form", response=page)
    return found[1]


def _run(dag_id: str, run_id: str) -> str:
    return f"dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"


def _task(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}"
    return path if map_index < 0 else f"{path}/{map_index}"


def log_line(event: Json | str) -> str:
    """An event of a task log as a line of text, with the messages of the exceptions that it carries."""
    if isinstance(event, str):
        return event
    text = " ".join(str(event[key]) for key in ("timestamp", "level", "event") if event.get(key))
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in event.get("error_detail") or ()]
    return "\n    ".join([text, *errors])


def _raise_for_status(answer: requests.Response) -> None:
    if not answer.ok:
        call = f"{answer.request.method} {answer.url}"
        raise requests.HTTPError(f"{call} answered {answer.status_code}: {answer.text[:500]}", response=answer)
