"""The DAGs of the kill matrix: each DAG run is one case, and its run id is the name of the case."""

import os
from datetime import timedelta
from functools import partial
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

CALLBACKS = ("on_failure_callback", "on_retry_callback", "on_success_callback")


def note(callback, context):
    """Write down that Airflow has called it, and for which run."""
    with (Path(os.environ["AIRFLOW_HOME"]) / "callbacks.txt").open("a") as notes:
        notes.write(f"{context['dag_run'].run_id} {callback}\n")


TASK = {
    "task_id": "job",
    # Before the submit, this connection has one more call to make, which the harness can make slow.
    "dli_conn_id": "{{ 'canary_key_by_name' if 'before' in run_id else 'dli_default' }}",
    "poll_interval": 1,
    "retry_delay": timedelta(seconds=1),
    **{callback: partial(note, callback) for callback in CALLBACKS},
}
SQL = "SELECT 'case {{ run_id }}'"
MANY = {"schedule": None, "max_active_runs": 100, "max_active_tasks": 100}

with DAG("kill_once", **MANY):
    DliSubmitSqlJobOperator(**TASK, sql=SQL)

with DAG("kill_retried", **MANY):
    DliSubmitSqlJobOperator(**TASK, sql=SQL, retries=3)

with DAG("kill_execution_timeout", **MANY):
    DliSubmitSqlJobOperator(**TASK, sql=SQL, execution_timeout=timedelta(seconds=6))

with DAG("kill_dagrun_timeout", dagrun_timeout=timedelta(seconds=30), **MANY):
    DliSubmitSqlJobOperator(**TASK, sql=SQL)

with DAG("kill_paused", **MANY):
    DliSubmitSqlJobOperator(**TASK, sql=SQL)

with DAG("kill_mapped", **MANY):
    DliSubmitSqlJobOperator.partial(**TASK, retries=1).expand(sql=[f"{SQL}, {index}" for index in (0, 1, 2)])
