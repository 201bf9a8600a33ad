"""Run one SQL statement in DLI and wait for it. Kill the task or the DAG run, and the DLI job is cancelled."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

with DAG("dli_sql", schedule=None, tags=["example", "dli"], doc_md=__doc__):
    DliSubmitSqlJobOperator(
        task_id="count_pairs",
        # A trillion pairs: long enough to be killed.
        sql="""
            SELECT count(*) AS pairs
            FROM range(1000000) AS a CROSS JOIN range(1000000) AS b
            WHERE (a.id + b.id) % 7 = 3
        """,
        queue_name="default",
        tags={"team": "analytics"},
    )
