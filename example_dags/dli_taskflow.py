"""Write a task as a function that returns its SQL, and give the rows to the next function."""

from typing import Any

from airflow.providers.common.compat.sdk import dag, task

# One of your queues of type sql. DLI shows no rows of jobs on its queue "default".
QUEUE = "sql"


@dag("dli_taskflow", schedule=None, tags=["example", "dli"], doc_md=__doc__)
def dli_taskflow() -> None:
    # All parameters of DliSubmitSqlJobOperator can be given here.
    @task.dli_sql(queue_name=QUEUE, parameters={"least": 2}, fetch_result=100)
    def revenue_by_region(*, only_large: bool) -> str:
        # Name a table of yours here.
        sql = """
            SELECT region, sum(amount) AS revenue
            FROM VALUES ('north', 12.25), ('south', 7.75), ('north', 1.00) AS orders(region, amount)
        """
        if only_large:
            sql += " WHERE amount >= :least"
        return sql + " GROUP BY region"

    @task
    def best_region(rows: list[dict[str, Any]]) -> str:
        best = max(rows, key=lambda row: row["revenue"])
        return f"{best['region']}: {best['revenue']}"

    found = revenue_by_region(only_large=True)
    best_region(found["result"])


dli_taskflow()
