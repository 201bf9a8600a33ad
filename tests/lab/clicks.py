"""Airflow's REST API: the calls that its UI makes when a user clicks, and what tests look at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from airflow_provider_dli.local.airflow.logs import log_line
from airflow_provider_dli.local.airflow.rest import AirflowClient, Json, run_path, task_path


class ClickingClient(AirflowClient):
    """Client of `/api/v2` (Airflow 3)."""

    def task_instances(self, dag_id: str, run_id: str) -> list[Json]:
        """All of a run, mapped ones included (the first 100)."""
        return list(self._request("GET", f"{run_path(dag_id, run_id)}/taskInstances?limit=100")["task_instances"])

    def task_instances_of(self, run_ids: Collection[str]) -> list[Json]:
        """All of these runs, of whatever DAGs, in one call as long as they are at most 100."""
        path, found = "dags/~/dagRuns/~/taskInstances/list", list[Json]()
        while True:
            body = {"dag_run_ids": list(run_ids), "page_limit": 100, "page_offset": len(found)}
            page = self._request("POST", path, body)
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def mark_task(self, dag_id: str, run_id: str, task_id: str, state: str, map_index: int = -1) -> None:
        """What "Mark as failed" or "Mark as success" of a task instance does."""
        self._request("PATCH", task_path(dag_id, run_id, task_id, map_index), {"new_state": state})

    def clear(self, dag_id: str, run_id: str, task_ids: Collection[str | tuple[str, int]] | None = None) -> None:
        """What "Clear" does: of the whole run, or of these tasks (a task id, or task id and map index)."""
        if task_ids is None:
            self._request("POST", f"{run_path(dag_id, run_id)}/clear", {"dry_run": False, "only_failed": False})
        else:
            body = {
                "dry_run": False,
                "dag_run_id": run_id,
                "only_failed": False,
                "reset_dag_runs": True,
                "task_ids": list(task_ids),
            }
            self._request("POST", f"dags/{dag_id}/clearTaskInstances", body)

    def task(self, dag_id: str, task_id: str) -> Json:
        """A task as the file has it."""
        return self._request("GET", f"dags/{dag_id}/tasks/{task_id}")

    def delete_dag_run(self, dag_id: str, run_id: str) -> None:
        self._request("DELETE", run_path(dag_id, run_id))

    def delete_dag(self, dag_id: str) -> None:
        """What "Delete" of a DAG does: with all its runs. It comes back when its file is still there."""
        self._request("DELETE", f"dags/{dag_id}")

    def pause(self, dag_id: str) -> None:
        self._request("PATCH", f"dags/{dag_id}", {"is_paused": True})

    def unpause(self, dag_id: str) -> None:
        self._request("PATCH", f"dags/{dag_id}", {"is_paused": False})

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """The log of one try, a line per event, as the UI shows it without colours."""
        path = f"{run_path(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}?map_index={map_index}"
        return "\n".join(log_line(event) for event in self._request("GET", path)["content"])

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """The value of an XCom, None if there is none."""
        path = f"{run_path(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{key}?map_index={map_index}"
        return self._request("GET", path, accept=(404,)).get("value")

    def set_connection(self, connection: Mapping[str, object]) -> None:
        """Save a connection, a new one or a changed one, as the form does."""
        body = dict(connection)
        if "detail" in self._request("POST", "connections", body, accept=(409,)):
            self._request("PATCH", f"connections/{body['connection_id']}", body)

    def delete_connection(self, conn_id: str) -> None:
        self._request("DELETE", f"connections/{conn_id}")
