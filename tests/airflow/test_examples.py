"""Example DAGs on a real Airflow, as they stand, and the SQL operators that Airflow brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sql_tools
from lab.airflow import LocalAirflow

from airflow_provider_dli.local.demo import example_dags
from airflow_provider_dli.local.handle import LocalDli

pytestmark = pytest.mark.matrix


def test_the_sql_operators_of_airflow(airflow: LocalAirflow, dli: LocalDli) -> None:
    sql_tools.check(airflow, dli, "sql_tools_newest")


def test_every_operator_with_what_others_return(airflow: LocalAirflow, dli: LocalDli) -> None:
    airflow.api.wait_for_dag("every_operator")
    run_id = airflow.api.trigger("every_operator")
    ended = airflow.api.wait_for_state("every_operator", run_id, timeout=240)
    tasks = airflow.api.task_instances("every_operator", run_id)
    assert ended == "success", {task["task_id"]: task["state"] for task in tasks}
    assert {task["state"] for task in tasks} == {"success"}
    assert len(tasks) == 16
    assert [job.status for job in dli.jobs() if job.job_type == "EXPORT"] == ["FINISHED", "FINISHED"]
    assert "of_every_operator" not in dli.settings()["queues"]


def test_every_example(airflow: LocalAirflow, dli: LocalDli, obs: Path) -> None:
    # Four jobs are long: one of dli_sql, two of dli_deferred, one of dli_queue.
    dli.will(kind="sql", matching="AS pairs", run_for=2, times=4)
    runs = {}
    for example in sorted(example_dags().glob("*.py")):
        dag_id = example.stem
        if airflow.api.wait_for_dag(dag_id)["is_paused"]:
            airflow.api.unpause(dag_id)
        runs[dag_id] = airflow.api.trigger(dag_id)
    ended = {dag_id: airflow.api.wait_for_state(dag_id, run_id, timeout=240) for dag_id, run_id in runs.items()}
    airflow.api.pause("dli_sweep")
    assert set(ended.values()) == {"success"}, ended
    jobs = [job for job in dli.jobs() if job.tags.get("airflow_run") in runs.values()]
    assert len(jobs) >= 20
    assert not [job for job in dli.jobs() if job.is_active and job.tags.get("airflow_dag") in runs]

    def xcom(dag_id: str, task_id: str, key: str = "return_value") -> Any:
        return airflow.api.xcom(dag_id, runs[dag_id], task_id, key)

    [row] = xcom("dli_script", "load", "result")
    assert (row["orders"], row["amount"]["__data__"]) == (2, 3.75)
    assert xcom("dli_taskflow", "best_region") == "north: 12.25"
    [cancelled] = [job for job in jobs if job.tags["airflow_dag"] == "dli_cancel"]
    assert cancelled.status == "CANCELLED"
    assert {path.suffix for path in (obs / "my-bucket" / "exports").rglob("part-*")} == {".csv", ".gz"}
    states = {task["task_id"]: task["state"] for task in airflow.api.task_instances("dli_branch", runs["dli_branch"])}
    assert (states["load"], states["nothing_to_do"]) == ("success", "skipped")
