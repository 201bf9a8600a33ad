"""Export the result of a query to files in OBS."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliExportResultOperator, DliSubmitSqlJobOperator

# A bucket of yours. {job_id} is replaced by the id of the query's job, so that runs do not mix.
FOLDER = "obs://my-bucket/exports/{job_id}"
QUERY = "SELECT id, id * id AS square FROM range(10)"

with DAG("dli_export", schedule=None, tags=["example", "dli"], doc_md=__doc__):
    # As CSV, in one task.
    DliSubmitSqlJobOperator(task_id="query_to_csv", sql=QUERY, export_to=f"{FOLDER}/csv")

    # In another format, in a task of its own.
    query = DliSubmitSqlJobOperator(task_id="query", sql=QUERY)
    DliExportResultOperator(
        task_id="export_as_json", job_id=query.output, obs_path=f"{FOLDER}/json", data_type="json", compress="gzip"
    )
