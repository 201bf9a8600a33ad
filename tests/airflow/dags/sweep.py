"""Tasks that leave a job behind, and a sweep: first told, then done."""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliCancelOrphanJobsOperator, DliSubmitSqlJobOperator

MANY = {"schedule": None, "max_active_runs": 20, "max_active_tasks": 20}
SQL = "SELECT 'sweep {{ run_id }}'"

with DAG("sweep_once", **MANY):
    DliSubmitSqlJobOperator(task_id="job", sql=SQL, poll_interval=1)

with DAG("sweep_retried", **MANY):
    # The next try never comes within the test.
    DliSubmitSqlJobOperator(task_id="job", sql=SQL, poll_interval=1, retries=1, retry_delay=timedelta(hours=1))

with DAG("sweep_mapped", **MANY):
    DliSubmitSqlJobOperator.partial(task_id="job", poll_interval=1).expand(sql=[f"{SQL}, 0", f"{SQL}, 1"])

with DAG("sweep", **MANY):
    older_than = timedelta(seconds=1)
    tell = DliCancelOrphanJobsOperator(task_id="tell", older_than=older_than, dry_run=True)
    cancel = DliCancelOrphanJobsOperator(task_id="cancel", older_than=older_than, poll_interval=1)
    tell >> cancel
