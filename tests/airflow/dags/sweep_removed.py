"""A DAG that the test removes, file and all, while a job of it is still there."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

with DAG("sweep_removed", schedule=None):
    DliSubmitSqlJobOperator(task_id="job", sql="SELECT 'sweep {{ run_id }}'", poll_interval=1)
