"""
Cancel the DLI jobs that no task waits for any more, every quarter of an hour.

Set the option `[dli] deployment` in Airflow's configuration, then unpause this DAG. For each project that DLI jobs run
in, it needs a task with a connection to that project.
"""

from datetime import UTC, datetime, timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliCancelOrphanJobsOperator

with DAG(
    "dli_sweep",
    schedule="*/15 * * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    # One that waits for the end of its jobs shall not be overtaken by the next.
    max_active_runs=1,
    # Without the option it would fail every quarter of an hour.
    is_paused_upon_creation=True,
    tags=["example", "dli"],
    doc_md=__doc__,
):
    DliCancelOrphanJobsOperator(
        task_id="cancel_orphans",
        # Younger jobs are left alone: what DLI lists and what Airflow says may lag behind.
        older_than=timedelta(minutes=5),
    )
