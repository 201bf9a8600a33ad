"""
Load, check, publish: readers of a table see only what has passed the checks.

The checks are operators that Airflow brings (apache-airflow-providers-common-sql). With a connection of type dli they
run in DLI, and a kill cancels their jobs, too.
"""

from airflow.providers.common.compat.sdk import DAG
from airflow.providers.common.sql.operators.sql import SQLColumnCheckOperator, SQLTableCheckOperator

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

# One of your queues of type sql. DLI shows no rows of jobs on its queue "default".
QUEUE = "sql"
DLI = {"conn_id": "dli_default", "hook_params": {"queue_name": QUEUE}}

with DAG("dli_checks", schedule=None, tags=["example", "dli"], doc_md=__doc__):
    load = DliSubmitSqlJobOperator(
        task_id="load",
        sql="""
            CREATE TABLE IF NOT EXISTS example_staging (id INT, amount DECIMAL(10, 2));
            INSERT OVERWRITE TABLE example_staging VALUES (1, 12.50), (2, 7.25)
        """,
        queue_name=QUEUE,
    )
    columns = SQLColumnCheckOperator(
        task_id="check_columns",
        table="example_staging",
        column_mapping={
            "id": {"null_check": {"equal_to": 0}, "unique_check": {"equal_to": 0}},
            "amount": {"min": {"geq_to": 0}},
        },
        **DLI,
    )
    rows = SQLTableCheckOperator(
        task_id="check_rows",
        table="example_staging",
        checks={"there_are_orders": {"check_statement": "count(*) > 0"}},
        **DLI,
    )
    publish = DliSubmitSqlJobOperator(
        task_id="publish",
        sql="""
            CREATE TABLE IF NOT EXISTS example_published (id INT, amount DECIMAL(10, 2));
            INSERT OVERWRITE TABLE example_published SELECT * FROM example_staging
        """,
        queue_name=QUEUE,
    )
    load >> [columns, rows] >> publish
