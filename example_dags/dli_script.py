"""Run several statements in one task, with parameters."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

with DAG(
    "dli_script", schedule=None, params={"regions": ["north; east", "south"]}, tags=["example", "dli"], doc_md=__doc__
):
    DliSubmitSqlJobOperator(
        task_id="load",
        # Or the name of a file beside this one: sql="load.sql"
        sql="""
            -- Each statement is a DLI job of its own, and begins when the one before it is done.
            CREATE TABLE IF NOT EXISTS example_orders (region STRING, amount DECIMAL(10, 2));

            INSERT OVERWRITE TABLE example_orders VALUES ('north; east', 1.50), ('south', 2.25), ('west', 4.00);

            SELECT count(*) AS orders, sum(amount) AS amount FROM example_orders WHERE region IN :regions
        """,
        # Values are put in as literals: whatever users type cannot change what the statements do.
        parameters={"regions": "{{ params.regions }}"},
        # One of your queues of type sql. DLI shows no rows of jobs on its queue "default".
        queue_name="sql",
        # The first rows of the last statement: in the log, and as XCom "result".
        fetch_result=10,
    )
