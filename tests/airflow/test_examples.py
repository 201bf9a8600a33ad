"""Example DAGs on a real Airflow, as they stand, and the SQL operators that Airflow brings."""

from __future__ import annotations

import pytest
import sql_tools
from lab.airflow import LocalAirflow

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


def test_a_script_and_its_result(airflow: LocalAirflow, dli: LocalDli) -> None:
    airflow.api.wait_for_dag("dli_script")
    run_id = airflow.api.trigger("dli_script")
    assert airflow.api.wait_for_state("dli_script", run_id, timeout=120) == "success"
    states = {task["task_id"]: task["state"] for task in airflow.api.task_instances("dli_script", run_id)}
    assert states == {
        "load": "success",
        "count_orders": "success",
        "choose": "success",
        "report": "success",
        "nothing_to_do": "skipped",
    }
    assert airflow.api.xcom("dli_script", run_id, "report") == "2 orders, 3.75 in all"
    jobs = [job for job in dli.jobs() if job.tags.get("airflow_run") == run_id]
    assert [job.status for job in jobs] == ["FINISHED"] * 3
    assert max(jobs, key=lambda job: job.submitted_at).statement.endswith("region IN ('north; east', 'south')")
