"""Look at the result of a query, and go one way or the other."""

from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

# One of your queues of type sql. DLI shows no rows of jobs on its queue "default".
QUEUE = "sql"

with DAG("dli_branch", schedule=None, tags=["example", "dli"], doc_md=__doc__):
    count = DliSubmitSqlJobOperator(
        task_id="count_new_orders",
        # Name a table of yours here.
        sql="SELECT count(*) AS orders FROM VALUES ('2026-01-30'), ('2026-01-31') AS orders(day) WHERE day > :last",
        parameters={"last": "2026-01-30"},
        queue_name=QUEUE,
        fetch_result=1,
    )

    @task.branch
    def choose(rows: list[dict[str, Any]]) -> str:
        return "load" if rows[0]["orders"] else "nothing_to_do"

    @task.dli_sql(queue_name=QUEUE)
    def load() -> str:
        return "SELECT 'what loads the new orders'"

    @task
    def nothing_to_do() -> None:
        print("No new orders.")  # noqa: T201 - for the log of the task

    choose(count.output["result"]) >> [load(), nothing_to_do()]
