"""The SQL operators that Airflow itself brings, with a connection to DLI; and a script with its result, deferred."""

from airflow.providers.common.compat.sdk import DAG, task
from airflow.providers.common.sql.operators.sql import (
    BranchSQLOperator,
    SQLCheckOperator,
    SQLColumnCheckOperator,
    SQLExecuteQueryOperator,
    SQLTableCheckOperator,
    SQLThresholdCheckOperator,
    SQLValueCheckOperator,
)
from airflow.providers.common.sql.sensors.sql import SqlSensor

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

HOOK = {"queue_name": "sql", "poll_interval": 1}
DLI = {"conn_id": "dli_default", "hook_params": HOOK, "database": "{{ run_id }}"}
COUNT = "SELECT count(*) FROM orders"

with DAG("sql_tools", schedule=None):
    make = SQLExecuteQueryOperator(
        task_id="make",
        sql=[
            "CREATE DATABASE {{ run_id }}",
            "CREATE TABLE {{ run_id }}.orders AS SELECT id, id * 1.50 AS price FROM range(9)",
            "INSERT INTO {{ run_id }}.orders VALUES (:id, :price)",
        ],
        parameters={"id": 9, "price": 13.5},
        conn_id="dli_default",
        hook_params=HOOK,
    )
    checks = [
        SQLColumnCheckOperator(
            task_id="columns",
            table="orders",
            column_mapping={"id": {"null_check": {"equal_to": 0}, "max": {"leq_to": 9}}},
            **DLI,
        ),
        SQLTableCheckOperator(
            task_id="table", table="orders", checks={"rows": {"check_statement": "count(*) = 10"}}, **DLI
        ),
        SQLCheckOperator(task_id="check", sql=COUNT, **DLI),
        SQLValueCheckOperator(task_id="value", sql=COUNT, pass_value=10, **DLI),
        SQLThresholdCheckOperator(task_id="threshold", sql=COUNT, min_threshold=1, max_threshold=10, **DLI),
    ]
    branch = BranchSQLOperator(
        task_id="branch",
        sql="SELECT count(*) > 5 FROM orders",
        follow_task_ids_if_true=["sensor", "script"],
        follow_task_ids_if_false=["nothing_to_do"],
        **DLI,
    )
    sensor = SqlSensor(
        task_id="sensor",
        conn_id="dli_default",
        sql="SELECT count(*) FROM {{ run_id }}.orders",
        hook_params=HOOK,
        mode="reschedule",
        poke_interval=1,
    )
    nothing_to_do = SQLCheckOperator(task_id="nothing_to_do", sql=COUNT, **DLI)
    script = DliSubmitSqlJobOperator(
        task_id="script",
        sql="INSERT INTO orders VALUES (10, 0.25); -- one more; at the end\nSELECT max(id) AS id, sum(price) AS price FROM orders",
        database="{{ run_id }}",
        queue_name="sql",
        fetch_result=10,
        deferrable=True,
        poll_interval=1,
    )

    @task
    def report(rows, database):
        from airflow_provider_dli.hooks.dli_sql import DliSqlHook

        hook = DliSqlHook(database=database, **HOOK)
        [[count]] = hook.get_records(COUNT)
        return f"{count} orders, {rows[0]['price']} in all"

    make >> checks >> branch >> [sensor, script, nothing_to_do]
    report(script.output["result"], "{{ run_id }}")
