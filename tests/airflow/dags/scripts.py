"""Scripts of many statements."""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

STATEMENTS = 100

for name, deferrable in (("script", False), ("script_deferred", True)):
    with DAG(name, schedule=None):
        DliSubmitSqlJobOperator(
            task_id="job",
            sql=";\n".join(f"SELECT '{{{{ run_id }}}}; --', {number} AS number" for number in range(STATEMENTS)),
            poll_interval=0.5,
            deferrable=deferrable,
            retries=9,
            retry_delay=timedelta(seconds=1),
        )
