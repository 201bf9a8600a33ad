"""Airflow 2: how its settings, users, REST API and UI differ from those of Airflow 3."""

from __future__ import annotations

import re
import time
from ast import literal_eval
from base64 import b64encode
from collections.abc import Collection, Mapping
from typing import Any

import requests

from airflow_provider_dli.local.airflow.launcher import AirflowLauncher
from airflow_provider_dli.local.airflow.rest import Json, raise_for_status, run_path, task_path
from lab.clicks import ClickingClient

COMPONENTS = ("webserver", "scheduler", "dag-processor", "triggerer")
# Names of settings, by those of Airflow 3.
OLD_NAMES = {
    "dag_processor.min_file_process_interval": "scheduler.min_file_process_interval",
    "dag_processor.refresh_interval": "scheduler.dag_dir_list_interval",
    "scheduler.task_instance_heartbeat_timeout": "scheduler.scheduler_zombie_task_threshold",
    "scheduler.task_instance_heartbeat_timeout_detection_interval": "scheduler.zombie_detection_interval",
}


def settings(airflow: AirflowLauncher) -> dict[str, object]:
    return {
        "api.auth_backends": "airflow.providers.fab.auth_manager.api.auth.backend.basic_auth",
        "scheduler.standalone_dag_processor": True,
        "webserver.base_url": airflow.url,
        "webserver.secret_key": airflow.secret,
        "webserver.web_server_host": "127.0.0.1",
        "webserver.web_server_port": airflow.port,
        "webserver.workers": 1,
    }


def create_user(airflow: AirflowLauncher) -> None:
    """Users are in the database."""
    user = {
        "username": airflow.username,
        "password": airflow.password,
        "role": "Admin",
        "email": "admin@localhost",
        "firstname": "Local",
        "lastname": "Admin",
    }
    airflow.run("users", "create", *(f"--{name}={value}" for name, value in user.items()), to="create its user")


class Airflow2Client(ClickingClient):
    """Client of `/api/v1`."""

    _api, _health, _server = "api/v1", "health", "webserver"

    def trigger(self, dag_id: str, conf: Mapping[str, object] | None = None, run_id: str | None = None) -> str:
        body = {"conf": dict(conf or {}), **({"dag_run_id": run_id} if run_id else {})}
        return str(self._request("POST", f"dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def mark_task(self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int = -1) -> None:
        body: Json = {"dry_run": False, "new_state": state}
        if map_index >= 0:
            self._request("PATCH", task_path(dag_id, run_id, task_id, map_index), body)
            return
        body |= dict.fromkeys(("include_upstream", "include_downstream", "include_future", "include_past"), False)
        self._request(
            "POST", f"dags/{dag_id}/updateTaskInstancesState", {**body, "task_id": task_id, "dag_run_id": run_id}
        )

    def clear(self, dag_id: str, run_id: str, task_ids: Collection[str | tuple[str, int]] | None = None) -> None:
        if task_ids is None:
            self._request("POST", f"{run_path(dag_id, run_id)}/clear", {"dry_run": False})
            return
        run = {"dag_id": dag_id, "execution_date": self.dag_run(dag_id, run_id)["execution_date"], "confirmed": "true"}
        for task in task_ids:
            task_id, *map_indexes = (task,) if isinstance(task, str) else task
            # The API's `clearTaskInstances` does not save the state of a running task, which may then run on.
            self._click_until_cleared({**run, "task_id": task_id, "map_index": map_indexes}, run_id)

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        path = f"{run_path(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}?map_index={map_index}"
        # The repr of a list of pairs of host and text.
        pairs = literal_eval(self._request("GET", f"{path}&full_content=true")["content"])
        return "\n".join(text for _, text in pairs)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        path = f"{run_path(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{key}"
        return self._request("GET", f"{path}?map_index={map_index}&stringify=false", accept=(404,)).get("value")

    def _click_until_cleared(self, form: Mapping[str, Any], run_id: str) -> None:
        """Clear a task as a user does, who looks and clicks again.

        Airflow 2 may answer that it cleared a deferred task, and lose that: what it does to the task meanwhile wins.
        """

        def look() -> tuple[Any, ...]:
            task = self.task_instance(form["dag_id"], run_id, form["task_id"], *form["map_index"])
            return task["state"], task["try_number"]

        before, answers = look(), list[str]()
        while len(answers) < 3:
            answers.append(self._click("clear", form))
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                if look() != before:
                    return
                time.sleep(0.2)
        raise TimeoutError(f"Task {form['task_id']} stays {before} after it was cleared: {answers}")

    def _click(self, path: str, form: Mapping[str, Any]) -> str:
        """Send a form of the UI.

        :returns: The answer's text.
        """
        login = f"{self._url}/login/"
        user = {"username": self._username, "password": self._password}
        with requests.Session() as browser:
            browser.trust_env = False
            browser.headers["Accept"] = "application/json"
            browser.post(login, {**user, "csrf_token": _csrf_token(browser.get(login, timeout=60))}, timeout=60)
            token = _csrf_token(browser.get(f"{self._url}/home", timeout=60))
            answer = browser.post(f"{self._url}/{path}", {**form, "csrf_token": token}, timeout=60)
            raise_for_status(answer)
            return answer.text

    def _log_in(self) -> None:
        token = b64encode(f"{self._username}:{self._password}".encode()).decode()
        self._session.headers.update({"Authorization": f"Basic {token}", "Accept": "application/json"})


def _csrf_token(page: requests.Response) -> str:
    found = re.search(r"""csrf(?:_token"[^>]* value="|Token = ')([^"']+)""", page.text)
    if not found:
        raise requests.HTTPError(f"Airflow's page {page.url} has no form", response=page)
    return found[1]
