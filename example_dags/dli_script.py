"""Run a script, look at its result, and go one way or the other: TaskFlow, parameters, and rows of a result."""

from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

# DLI shows no rows of jobs on its queue "default".
QUEUE = "sql"


@dag("dli_script", schedule=None, tags=["example", "dli"], doc_md=__doc__)
def dli_script() -> None:
    load = DliSubmitSqlJobOperator(
        task_id="load",
        sql="""
            -- Each statement is a DLI job of its own.
            CREATE TABLE IF NOT EXISTS orders (region STRING, amount DECIMAL(10, 2));
            INSERT INTO orders VALUES ('north; east', 1.50), ('south', 2.25);
        """,
        queue_name=QUEUE,
    )

    @task.dli_sql(queue_name=QUEUE, fetch_result=1, parameters={"regions": ["north; east", "south"]})
    def count_orders() -> str:
        return "SELECT count(*) AS orders, sum(amount) AS amount FROM orders WHERE region IN :regions"

    @task.branch
    def choose(result: list[dict[str, Any]]) -> str:
        return "report" if result[0]["orders"] else "nothing_to_do"

    @task
    def report(result: list[dict[str, Any]]) -> str:
        return f"{result[0]['orders']} orders, {result[0]['amount']} in all"

    @task
    def nothing_to_do() -> str:
        return "no orders"

    counted = count_orders()
    load >> counted
    rows = counted["result"]
    choose(rows) >> [report(rows), nothing_to_do()]


dli_script()
