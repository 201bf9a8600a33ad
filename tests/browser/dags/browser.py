"""A task whose page has much to show. The local DLI is told to let its job run on."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

with DAG("browser", schedule=None):
    DliSubmitSqlJobOperator(
        task_id="revenue",
        sql="""
            SELECT product, sum(price) AS revenue
            FROM browser_sales
            WHERE shop = '{{ dag.dag_id }}'
            GROUP BY product
        """,
        conf={"spark.sql.shuffle.partitions": 200},
        tags={"team": "{{ dag.dag_id }}"},
        dli_conn_id="by_hand",
    )
