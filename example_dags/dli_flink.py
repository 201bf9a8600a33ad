"""Start a streaming job, let it run for the length of the DAG run, and stop it with a savepoint."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import (
    DliStartFlinkJobOperator,
    DliStopFlinkJobOperator,
    DliSubmitSqlJobOperator,
)

with DAG("dli_flink", schedule=None, tags=["example", "dli"], doc_md=__doc__):
    start = DliStartFlinkJobOperator(
        task_id="start",
        job_type="flink_opensource_sql_job",
        sql_body="""
            CREATE TABLE clicks (id INT, page STRING) WITH ('connector' = 'datagen', 'rows-per-second' = '5');
            CREATE TABLE sink (page STRING, clicks BIGINT) WITH ('connector' = 'print');
            INSERT INTO sink SELECT page, count(*) FROM clicks GROUP BY page
        """,
        queue_name="general",
        cu_number=2,
    )
    load = DliSubmitSqlJobOperator(task_id="load", sql="SELECT count(*) FROM range(1000)")
    stop = DliStopFlinkJobOperator(
        task_id="stop",
        job_id="{{ ti.xcom_pull(task_ids='start') }}",
        stop_with_savepoint=True,
        # Also when the task in between has failed.
        trigger_rule="all_done",
    )
    start >> load >> stop
