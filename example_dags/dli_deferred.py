"""Wait in the triggerer instead of in a worker: for a job of one's own, and for one that another task has submitted."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator
from airflow_provider_dli.sensors.dli import DliJobSensor

# A job of some seconds.
COUNT = "SELECT count(*) AS pairs FROM range(30000) AS a CROSS JOIN range(30000) AS b WHERE (a.id + b.id) % 7 = 3"

with DAG("dli_deferred", schedule=None, tags=["example", "dli"], doc_md=__doc__):
    # Airflow's option [operators] default_deferrable makes this the default of all operators.
    DliSubmitSqlJobOperator(task_id="count_pairs", sql=COUNT, deferrable=True)

    # The sensor is for jobs that nobody waits for. It leaves them alone when it is killed.
    submit = DliSubmitSqlJobOperator(task_id="submit", sql=COUNT, wait_for_completion=False)
    DliJobSensor(task_id="wait", job_id=submit.output, deferrable=True, poke_interval=10)
