"""Submit a DLI job without waiting for it, and cancel it in a later task."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliCancelJobOperator, DliSubmitSqlJobOperator

with DAG("dli_cancel", schedule=None, tags=["example", "dli"], doc_md=__doc__):
    submit = DliSubmitSqlJobOperator(
        task_id="submit",
        sql="SELECT count(*) FROM range(1000000) AS a CROSS JOIN range(1000000) AS b WHERE (a.id + b.id) % 7 = 3",
        wait_for_completion=False,
    )
    # Waits until the job is really over. For jobs of other kinds: kind="spark" or kind="flink".
    DliCancelJobOperator(task_id="cancel", job_id=submit.output)
