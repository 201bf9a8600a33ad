"""Tasks whose connection changes while they wait."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

for suffix, deferrable in (("", False), ("_deferred", True)):
    with DAG(f"rotation{suffix}", schedule=None):
        # It looks at its job so seldom that the kill is what meets the new password.
        DliSubmitSqlJobOperator(
            task_id="job",
            sql="SELECT 'rotation {{ run_id }}'",
            dli_conn_id="{{ 'short_lived' if run_id.startswith('keys') else 'rotated' }}",
            deferrable=deferrable,
            poll_interval=600,
        )
