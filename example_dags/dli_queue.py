"""
Run a job on a queue of its own, which exists for the length of the DAG run only.

The queue is deleted when the job has failed or was killed, too: a teardown runs whatever became of the tasks before it.
"""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import (
    DliCreateQueueOperator,
    DliDeleteQueueOperator,
    DliSubmitSqlJobOperator,
)

with DAG("dli_queue", schedule=None, tags=["example", "dli"], doc_md=__doc__):
    create = DliCreateQueueOperator(
        task_id="create_queue",
        # Unlike that of every other run of this DAG.
        queue_name="run_{{ dag_run.start_date.strftime('%Y%m%d_%H%M%S_%f') }}",
        # An elastic resource pool of yours.
        elastic_resource_pool_name="pool",
        cu_count=16,
        # DLI does not tell when a new queue takes jobs.
        wait_usable=timedelta(minutes=4),
    )
    run = DliSubmitSqlJobOperator(
        task_id="count_pairs",
        sql="SELECT count(*) AS pairs FROM range(30000) AS a CROSS JOIN range(30000) AS b WHERE (a.id + b.id) % 7 = 3",
        queue_name=create.output,
    )
    delete = DliDeleteQueueOperator(
        task_id="delete_queue",
        queue_name=create.output,
        # Jobs that still run on the queue are cancelled first: DLI deletes no queue that is in use.
        force=True,
    )
    create >> run >> delete.as_teardown(setups=create)
