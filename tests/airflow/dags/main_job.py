from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

with DAG("main_job", schedule=None):
    DliSubmitSqlJobOperator(
        task_id="count_pairs",
        sql="SELECT count(*) FROM range(1000000) AS a CROSS JOIN range(1000000) AS b WHERE (a.id + b.id) % 7 = 3",
        # A killed task must not come back, not even when it may be retried.
        retries=2,
        retry_delay=timedelta(seconds=1),
    )
