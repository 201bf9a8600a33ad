"""Run a Python program as a Spark batch, in the triggerer without a worker."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliSubmitSparkJobOperator

with DAG("dli_spark", schedule=None, params={"day": "2026-01-31"}, tags=["example", "dli"], doc_md=__doc__):
    DliSubmitSparkJobOperator(
        task_id="count_words",
        # A program of yours in OBS. When it fails, the end of its log is in the log of the task.
        file="obs://my-bucket/jobs/count_words.py",
        args=["--day", "{{ params.day }}"],
        spark_version="3.3.1",
        # The agency by which DLI reads the program and its data.
        execution_agency_urn="dli-jobs",
        # A queue of type general.
        queue_name="general",
        driver_memory="4G",
        executor_memory="4G",
        executor_cores=1,
        num_executors=2,
        conf={"spark.sql.shuffle.partitions": 200},
        deferrable=True,
        retries=1,
    )
