"""Start a streaming job, stop it with a savepoint for maintenance, and let it go on from there."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import (
    DliStartFlinkJobOperator,
    DliStopFlinkJobOperator,
    DliSubmitSqlJobOperator,
)

with DAG("dli_flink", schedule=None, tags=["example", "dli"], doc_md=__doc__):
    # The task is done when the job runs. The job then belongs to no task: no kill stops it.
    start = DliStartFlinkJobOperator(
        task_id="start",
        job_type="flink_opensource_sql_job",
        sql_body="""
            CREATE TABLE clicks (id INT, page STRING) WITH ('connector' = 'datagen', 'rows-per-second' = '5');
            CREATE TABLE sink (page STRING, clicks BIGINT) WITH ('connector' = 'print');
            INSERT INTO sink SELECT page, count(*) FROM clicks GROUP BY page
        """,
        # A queue of type general.
        queue_name="general",
        cu_number=2,
    )
    pause = DliStopFlinkJobOperator(task_id="pause", job_id=start.output, stop_with_savepoint=True)
    maintain = DliSubmitSqlJobOperator(task_id="maintain", sql="SELECT 'what must not meet the job'")
    resume = DliStartFlinkJobOperator(task_id="resume", job_id=start.output, resume_savepoint=True)
    # A teardown runs whatever became of the tasks before it. Without this task, the job runs on.
    stop = DliStopFlinkJobOperator(task_id="stop", job_id=start.output, stop_with_savepoint=True)

    start >> pause >> maintain >> resume >> stop.as_teardown(setups=start, on_failure_fail_dagrun=True)
