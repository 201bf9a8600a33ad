"""Wait in the triggerer instead of in a worker: for a job of one's own, and for one that another task has submitted."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator
from airflow_provider_dli.sensors.dli import DliJobSensor

with DAG("dli_deferred", schedule=None, tags=["example", "dli"], doc_md=__doc__):
    DliSubmitSqlJobOperator(
        task_id="count_pairs",
        sql="SELECT count(*) FROM range(30000) AS a CROSS JOIN range(30000) AS b WHERE (a.id + b.id) % 7 = 3",
        deferrable=True,
    )

    submit = DliSubmitSqlJobOperator(
        task_id="submit",
        sql="SELECT count(*) FROM range(30000) AS a CROSS JOIN range(30000) AS b WHERE (a.id + b.id) % 5 = 3",
        wait_for_completion=False,
    )
    wait = DliJobSensor(
        task_id="wait",
        job_id="{{ ti.xcom_pull(task_ids='submit') }}",
        deferrable=True,
        poke_interval=10,
    )
    submit >> wait
