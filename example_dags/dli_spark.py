"""Run a Python program as a Spark batch, in the triggerer without a worker."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliSubmitSparkJobOperator

with DAG("dli_spark", schedule=None, tags=["example", "dli"], doc_md=__doc__):
    DliSubmitSparkJobOperator(
        task_id="count_words",
        file="obs://my-bucket/jobs/count_words.py",
        args=["--day", "{{ ds }}"],
        spark_version="3.3.1",
        execution_agency_urn="dli-jobs",
        queue_name="general",
        driver_memory="4G",
        executor_memory="4G",
        executor_cores=1,
        num_executors=2,
        conf={"spark.sql.shuffle.partitions": 200},
        deferrable=True,
        retries=1,
    )
