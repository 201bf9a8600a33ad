"""Runs the DAG of Airflow's own SQL operators, on whatever line of Airflow."""

from __future__ import annotations

from lab.airflow import LocalAirflow

from airflow_provider_dli.local.handle import LocalDli

DAG = "sql_tools"


def check(airflow: LocalAirflow, dli: LocalDli, run_id: str) -> None:
    """
    Run the DAG.

    :param run_id: The run, which is also the name of its database.
    :raises AssertionError: A task has ended in another way than it must, or a job was not tagged.
    """
    airflow.api.wait_for_dag(DAG)
    airflow.api.trigger(DAG, run_id=run_id)
    ended = airflow.api.wait_for_state(DAG, run_id, timeout=240)
    states = {task["task_id"]: task["state"] for task in airflow.api.task_instances(DAG, run_id)}
    assert (ended, states.pop("nothing_to_do")) == ("success", "skipped"), states
    assert set(states.values()) == {"success"}, states
    assert airflow.api.xcom(DAG, run_id, "report") == "11 orders, 67.75 in all"
    of_tasks = {job.tags["airflow_task"] for job in dli.jobs() if job.tags.get("airflow_run") == run_id}
    assert of_tasks == states.keys() - {"nothing_to_do"}
