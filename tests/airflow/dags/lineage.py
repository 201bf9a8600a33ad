"""Tasks that fail, with tables in their statements; and data frames, where pandas and polars are installed."""

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

with DAG("lineage", schedule=None):
    for name, deferrable in (("fails", False), ("fails_deferred", True)):
        DliSubmitSqlJobOperator(
            task_id=name, sql="SELECT * FROM sales.nowhere", deferrable=deferrable, poll_interval=0.5, retries=0
        )

    @task
    def frames():
        from airflow_provider_dli.hooks.dli_sql import DliSqlHook

        hook = DliSqlHook(queue_name="sql", poll_interval=0.5)
        sql, parameters = "SELECT id, id * CAST(:price AS DECIMAL(10, 2)) AS price FROM range(3)", {"price": 1.5}
        pandas = hook.get_df(sql, parameters)
        polars = hook.get_df(sql, parameters, df_type="polars")
        return [[len(pandas), str(pandas["price"][1])], [len(polars), str(polars["price"][1])]]

    frames()
