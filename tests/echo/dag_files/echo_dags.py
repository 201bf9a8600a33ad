"""Tasks that echo, and a sweep."""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG
from echo.kind import KIND, EchoWork

from airflow_provider_dli.operators.base import DliJobOperator
from airflow_provider_dli.operators.dli import DliCancelJobOperator, DliCancelOrphanJobsOperator


class EchoOperator(DliJobOperator):
    """Echoes."""

    job_kind = KIND
    template_fields = ("say",)

    def __init__(self, *, say, **kwargs):
        super().__init__(**kwargs)
        self.say = say

    def work(self, connection):
        return EchoWork(self.say)


COMMON = {"task_id": "job", "say": "{{ run_id }}", "dli_conn_id": "echo", "poll_interval": 1}
MANY = {"schedule": None, "max_active_runs": 20, "max_active_tasks": 20}

with DAG("echo_once", **MANY):
    EchoOperator(**COMMON)

with DAG("echo_retried", **MANY):
    EchoOperator(**COMMON, retries=1, retry_delay=timedelta(seconds=1))

with DAG("echo_deferred", **MANY):
    EchoOperator(**COMMON, deferrable=True)

with DAG("echo_cancel", **MANY):
    submit = EchoOperator(**COMMON, wait_for_completion=False)
    submit >> DliCancelJobOperator(
        task_id="cancel", job_id="{{ ti.xcom_pull(task_ids='job') }}", kind="echo", dli_conn_id="echo", poll_interval=1
    )

with DAG("echo_sweep", schedule=None):
    DliCancelOrphanJobsOperator(task_id="sweep", older_than=timedelta(seconds=1), dli_conn_id="echo", poll_interval=1)
