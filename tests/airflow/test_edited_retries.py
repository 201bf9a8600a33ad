"""A clear runs the task again, also when `retries` in its file has changed so that Airflow's numbers stay the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.airflow import LocalAirflow

from airflow_provider_dli.local.handle import LocalDli

pytestmark = pytest.mark.matrix

DAG = """
import pendulum
from airflow.providers.common.compat.sdk import DAG
from airflow.providers.standard.operators.python import PythonOperator
from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator
import time

with DAG("edited_retries", schedule=None, start_date=pendulum.datetime(2026, 1, 1)):
    DliSubmitSqlJobOperator(task_id="load", sql="SELECT 'edited retries'", retries={retries})
    PythonOperator(task_id="other", python_callable=lambda: time.sleep(600))
"""


def test_a_finished_task_that_is_cleared_runs_again(airflow: LocalAirflow, dli: LocalDli) -> None:
    file = Path(airflow.dags_folder) / "edited_retries.py"
    file.write_text(DAG.format(retries=1))
    airflow.api.wait_for_dag("edited_retries")
    run_id = airflow.api.trigger("edited_retries")
    try:
        assert airflow.api.wait_for_state("edited_retries", run_id, "load", timeout=120) == "success"
        file.write_text(DAG.format(retries=0))
        dli.wait_until(lambda _: airflow.api.task("edited_retries", "load")["retries"] == 0, timeout=120)
        before = airflow.api.task_instance("edited_retries", run_id, "load")
        airflow.api.clear("edited_retries", run_id, ["load"])
        dli.wait_until(lambda dli: len(jobs_of(dli, run_id)) == 2, timeout=120)
        after = airflow.api.task_instance("edited_retries", run_id, "load")
        assert (before["max_tries"], after["max_tries"]) == (1, 1)
    finally:
        airflow.api.mark_dag_run("edited_retries", run_id, "failed")
        file.unlink()


def jobs_of(dli: LocalDli, run_id: str) -> list[object]:
    return [job for job in dli.jobs() if job.tags.get("airflow_run") == run_id]
