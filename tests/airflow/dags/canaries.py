"""Tasks that succeed and tasks that fail in every way that prints something."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliCancelJobOperator, DliSubmitSqlJobOperator

with DAG("canaries", schedule=None):
    DliSubmitSqlJobOperator(task_id="works", sql="select 1")
    DliSubmitSqlJobOperator(task_id="works_with_a_key", sql="select 1", dli_conn_id="canary_key")
    DliSubmitSqlJobOperator(task_id="unknown_queue", sql="select 1", queue_name="nowhere")
    DliSubmitSqlJobOperator(task_id="bad_sql", sql="select * from no_such_table")
    DliSubmitSqlJobOperator(task_id="wrong_password", sql="select 1", dli_conn_id="canary_wrong_password")
    DliSubmitSqlJobOperator(task_id="wrong_key", sql="select 1", dli_conn_id="canary_wrong_key")
    DliSubmitSqlJobOperator(task_id="bad_field", sql="select 1", dli_conn_id="canary_bad_field")
    DliCancelJobOperator(task_id="unknown_job", job_id="00000000-0000-0000-0000-000000000000")
