"""The DAGs of the kill matrix: each DAG run is one case, and its run id is the name of the case."""

import os
from datetime import timedelta
from functools import partial
from pathlib import Path

from airflow.providers.common.compat.sdk import DAG
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from airflow_provider_dli.operators.dli import (
    DliStartFlinkJobOperator,
    DliSubmitSparkJobOperator,
    DliSubmitSqlJobOperator,
)

CALLBACKS = ("on_failure_callback", "on_retry_callback", "on_success_callback")


def note(callback, context):
    """Write down that Airflow has called it, and for which run."""
    with (Path(os.environ["AIRFLOW_HOME"]) / "callbacks.txt").open("a") as notes:
        notes.write(f"{context['dag_run'].run_id} {callback}\n")


OF_AIRFLOW = {
    "task_id": "job",
    "retry_delay": timedelta(seconds=1),
    # To whom Airflow writes of failures and retries; see `email_notes`.
    "email": os.environ.get("ON_CALL"),
    **{callback: partial(note, callback) for callback in CALLBACKS},
}
TASK = {
    **OF_AIRFLOW,
    # Before the submit, this connection has one more call to make, which the harness can make slow.
    "dli_conn_id": "{{ 'canary_key_by_name' if 'before' in run_id else 'dli_default' }}",
    "poll_interval": 1,
}
SQL = "SELECT 'case {{ run_id }}'"
MANY = {"schedule": None, "max_active_runs": 100, "max_active_tasks": 100}


# All of them, unless only some are played: each DAG costs Airflow time.
KINDS = os.environ.get("KILL_MATRIX_KINDS", "sql spark flink stock").split()
JOBS = {
    "sql": partial(DliSubmitSqlJobOperator, sql=SQL),
    "spark": partial(
        DliSubmitSparkJobOperator,
        file="group/job.jar",
        class_name="Main",
        spark_version="2.4.5",
        queue_name="default",
        name="'case {{ run_id }}'",
    ),
    "flink": partial(
        DliStartFlinkJobOperator,
        job_type="flink_opensource_sql_job",
        sql_body=SQL,
        queue_name="default",
        wait_for="finished",
    ),
}

# An operator that knows nothing of DLI, with our hook.
STOCK = partial(
    SQLExecuteQueryOperator,
    **OF_AIRFLOW,
    sql=SQL,
    conn_id="dli_default",
    hook_params={"poll_interval": 1, "queue_name": "sql"},
)
if "stock" in KINDS:
    with DAG("stock_kill_once", **MANY):
        STOCK()

    with DAG("stock_kill_retried", **MANY):
        STOCK(retries=6)

    with DAG("stock_kill_execution_timeout", **MANY):
        STOCK(execution_timeout=timedelta(seconds=6))

# Every task twice: it waits in a worker, and in the triggerer.
for suffix, deferrable in (("", False), ("_deferred", True)):
    task = {**TASK, "deferrable": deferrable}

    for name in [kind for kind in JOBS if kind in KINDS]:
        run_job, kind = JOBS[name], "" if name == "sql" else f"{name}_"
        with DAG(f"{kind}kill_once{suffix}", **MANY):
            run_job(**task)

        with DAG(f"{kind}kill_retried{suffix}", **MANY):
            # More than two, for Airflow itself fails a try now and then on a busy machine.
            run_job(**task, retries=6)

        with DAG(f"{kind}kill_execution_timeout{suffix}", **MANY):
            # Long enough to come to its deferral.
            run_job(**task, execution_timeout=timedelta(seconds=15 if deferrable else 6))

        with DAG(f"{kind}kill_dagrun_timeout{suffix}", dagrun_timeout=timedelta(seconds=30), **MANY):
            run_job(**task)

        with DAG(f"{kind}kill_paused{suffix}", **MANY):
            run_job(**task)

        if not deferrable:
            with DAG(f"{kind}kill_retried_later", **MANY):
                # When the API server is back: without it, a try is over before it begins, and when two tries end at
                # the same time, the scheduler forgets one of them.
                run_job(**{**task, "retries": 2, "retry_delay": timedelta(seconds=45)})

    with DAG(f"kill_mapped{suffix}", **MANY):
        DliSubmitSqlJobOperator.partial(**task, retries=1).expand(sql=[f"{SQL}, {index}" for index in (0, 1, 2)])
