"""
Load the partitions of a table side by side: one task instance and one DLI job for each day.

A retry, or a click on *Clear*, is for one day alone.
"""

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

QUEUE = "default"

with DAG(
    "dli_mapped",
    schedule=None,
    # Shown in the form that starts a DAG run.
    params={"days": ["2026-01-29", "2026-01-30", "2026-01-31"]},
    tags=["example", "dli"],
    doc_md=__doc__,
):
    create = DliSubmitSqlJobOperator(
        task_id="create_table",
        sql="""
            CREATE TABLE IF NOT EXISTS example_revenue (region STRING, revenue DECIMAL(20, 2))
            USING parquet PARTITIONED BY (day STRING)
        """,
        queue_name=QUEUE,
    )

    @task
    def days_to_load(params: dict[str, list[str]]) -> list[dict[str, str]]:
        return [{"day": day} for day in params["days"]]

    load = DliSubmitSqlJobOperator.partial(
        task_id="load_day",
        # The name of a task instance in the UI.
        map_index_template="{{ task.parameters['day'] }}",
        # Write to a table of yours, from a table of yours.
        sql="""
            INSERT OVERWRITE TABLE example_revenue PARTITION (day = :day)
            SELECT region, sum(amount)
            FROM VALUES ('north', 12.50, '2026-01-30'), ('south', 7.25, '2026-01-31') AS orders(region, amount, day)
            WHERE day = :day
            GROUP BY region
        """,
        queue_name=QUEUE,
        # So many jobs at the same time.
        max_active_tis_per_dagrun=2,
        retries=1,
    ).expand(parameters=days_to_load())

    create >> load
