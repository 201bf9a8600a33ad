"""Every operator, with what other tasks return as input: for ``mypy --strict``, and for a run."""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, XComArg, task
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from airflow_provider_dli.hooks.dli_sql import DliSqlHook
from airflow_provider_dli.operators.dli import (
    DliCancelJobOperator,
    DliCancelOrphanJobsOperator,
    DliCreateQueueOperator,
    DliDeleteQueueOperator,
    DliExportResultOperator,
    DliStartFlinkJobOperator,
    DliStopFlinkJobOperator,
    DliSubmitSparkJobOperator,
    DliSubmitSqlJobOperator,
)
from airflow_provider_dli.sensors.dli import DliJobSensor

with DAG("every_operator", schedule=None):
    create_queue = DliCreateQueueOperator(
        task_id="create_queue",
        queue_name="of_every_operator",
        elastic_resource_pool_name="pool",
        cu_count=16,
        tags={"team": "sales"},
        wait_usable=timedelta(seconds=1),
        poll_interval=0.5,
    )
    submit = DliSubmitSqlJobOperator(
        task_id="submit",
        sql=["SELECT 1 AS a", "SELECT id FROM range(:count)"],
        parameters={"count": 3},
        fetch_result=3,
        export_to="obs://exports/submit/{job_id}",
        queue_name=create_queue.output,
        conf={"spark.sql.shuffle.partitions": 2},
        retry_delay=timedelta(seconds=1),
        poll_interval=0.5,
    )
    export = DliExportResultOperator(
        task_id="export",
        job_id=XComArg(submit, key="query_job_id"),
        obs_path="obs://exports/again/{job_id}",
        data_type="json",
        with_header=False,
        deferrable=True,
        poll_interval=0.5,
    )
    sensor = DliJobSensor(task_id="sensor", job_id=submit.output, poke_interval=1)

    @task
    def names() -> list[str]:
        hook = DliSqlHook(queue_name="of_every_operator", poll_interval=0.5)
        return [name for (name,) in hook.get_records("SELECT 'it\\'s' AS name UNION ALL SELECT 'b; c'")]

    @task.dli_sql(queue_name="of_every_operator", fetch_result=1, poll_interval=0.5, parameters={"one": 1})
    def select(name: str) -> list[str]:
        return [f"SELECT {len(name)} AS length, :one AS one"]

    selected = select.expand(name=names())
    mapped = DliSubmitSqlJobOperator.partial(task_id="mapped", poll_interval=0.5).expand(sql=["SELECT 1", "SELECT 2"])
    start_spark = DliSubmitSparkJobOperator(
        task_id="start_spark",
        file="group/job.jar",
        class_name="Main",
        spark_version="2.4.5",
        args=["--of", "every operator"],
        queue_name="default",
        wait_for_completion=False,
    )
    cancel = DliCancelJobOperator(task_id="cancel", job_id=start_spark.output, kind="spark", poll_interval=0.5)
    start_flink = DliStartFlinkJobOperator(
        task_id="start_flink",
        job_type="flink_opensource_sql_job",
        sql_body="SELECT 1",
        queue_name="default",
        wait_for="running",
        start_timeout=timedelta(minutes=5),
        poll_interval=0.5,
    )
    stop_flink = DliStopFlinkJobOperator(task_id="stop_flink", job_id=start_flink.output, poll_interval=0.5)
    sweep = DliCancelOrphanJobsOperator(task_id="sweep", queue_name=create_queue.output, older_than=3600, dry_run=True)
    stock = SQLExecuteQueryOperator(
        task_id="stock",
        sql="SELECT :a",
        parameters={"a": 1},
        conn_id="dli_default",
        hook_params={"queue_name": "of_every_operator", "poll_interval": 0.5},
    )
    delete_queue = DliDeleteQueueOperator(
        task_id="delete_queue", queue_name=create_queue.output, force=True, trigger_rule="all_done", poll_interval=0.5
    )

    create_queue >> [selected, stock]
    [export, sensor, selected, mapped, cancel, stop_flink, sweep, stock] >> delete_queue
