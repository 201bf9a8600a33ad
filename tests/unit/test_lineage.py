"""What OpenLineage is told of tasks; with its provider, which the README's test command does without."""

from __future__ import annotations

import pytest
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk.execution_time.context import set_current_context
from fakes import TaskInstance, context_of, execute

from airflow_provider_dli.exceptions import DliJobError
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.operators.dli import DliSubmitSparkJobOperator, DliSubmitSqlJobOperator

pytest.importorskip("airflow.providers.openlineage", reason="the group `integrations` is not installed")

SCRIPT = """
    CREATE TABLE sales.daily USING parquet AS WITH a AS (SELECT * FROM orders) SELECT a.id FROM a JOIN refs.days ON true;
    INSERT INTO sales.daily SELECT id FROM orders WHERE id IN :ids; -- it's; one
    SELECT count(*) AS orders, 1.50 AS price FROM sales.daily
"""


@pytest.fixture(autouse=True)
def connected(dli_local, connect, airflow_says):
    dli_local.settings(queues={"default": 16, "sql": 4})
    DliHook().wait_for_job(connect().submit_sql_job("CREATE DATABASE sales").id, poll_interval=0.1)
    connect(extra={"default_queue": "sql", "default_database": "sales"})
    airflow_says("running")


@pytest.fixture
def namespace(dli_local):
    return f"dli://127.0.0.1/{dli_local.connection('password')['extra']['project_id']}"


def task_of(sql=SCRIPT, **arguments):
    arguments = {"poll_interval": 0.1, "parameters": {"ids": [1, 2]}, **arguments}
    return DliSubmitSqlJobOperator(task_id="load", sql=sql, **arguments)


def names(datasets):
    return [dataset.name for dataset in datasets]


def test_tables_that_are_read_and_written(namespace):
    told = task_of().get_openlineage_facets_on_start()
    assert sorted(names(told.inputs)) == ["refs.days", "sales.daily", "sales.orders"]
    assert names(told.outputs) == ["sales.daily"]
    assert {dataset.namespace for dataset in (*told.inputs, *told.outputs)} == {namespace}
    assert "IN (1, 2)" in told.job_facets["sql"].query
    assert told.run_facets == {}
    assert told.outputs[0].facets["columnLineage"].fields["id"].inputFields[0].name == "sales.orders"


def test_the_job_and_the_export(dli_local, namespace):
    task = task_of("SELECT 1 AS a, 1.50 AS price", parameters=None, export_to="obs://exports/x/{job_id}")
    ti = TaskInstance()
    execute(task, context_of(ti))
    told = task.get_openlineage_facets_on_complete(ti)
    assert told.run_facets["externalQuery"].externalQueryId == ti.xcoms["job_id"]
    assert told.run_facets["externalQuery"].source == namespace
    [export] = told.outputs
    assert (export.namespace, export.name) == ("obs://exports", f"x/{ti.xcoms['query_job_id']}")
    assert [(field.name, field.type) for field in export.facets["schema"].fields] == [
        ("a", "integer"),
        ("price", "decimal(3,2)"),
    ]


def test_a_task_that_failed(dli_local):
    task = task_of("SELECT * FROM nowhere", parameters=None)
    with pytest.raises(DliJobError):
        execute(task, context_of())
    told = task.get_openlineage_facets_on_complete(None)
    assert names(told.inputs) == ["sales.nowhere"]
    assert told.run_facets["externalQuery"].externalQueryId == dli_local.jobs()[-1].job_id


def test_sql_that_cannot_be_used_tells_nothing():
    told = task_of("SELECT 'open").get_openlineage_facets_on_start()
    assert (told.inputs, told.outputs) == ([], [])


def test_other_kinds_tell_their_job(dli_local):
    task = DliSubmitSparkJobOperator(
        task_id="spark",
        file="group/job.jar",
        class_name="Main",
        spark_version="2.4.5",
        queue_name="default",
        wait_for_completion=False,
    )
    execute(task, context_of())
    told = task.get_openlineage_facets_on_complete(None)
    assert told.run_facets["externalQuery"].externalQueryId == dli_local.jobs()[-1].job_id


def test_a_stock_operator_runs_no_job_for_its_lineage(dli_local, namespace):
    operator = SQLExecuteQueryOperator(
        task_id="load", sql="SELECT id FROM range(3)", conn_id="dli_default", hook_params={"poll_interval": 0.1}
    )
    ti = TaskInstance(task=operator)
    with set_current_context(context_of(ti)):
        execute(operator, context_of(ti))
        operator.sql = "INSERT INTO daily SELECT * FROM refs.orders"
        told = operator.get_openlineage_facets_on_complete(ti)
    assert (names(told.inputs), names(told.outputs)) == (["refs.orders"], ["sales.daily"])
    assert {dataset.namespace for dataset in told.inputs} == {namespace}
    _, job = dli_local.jobs()
    assert told.run_facets["externalQuery"].externalQueryId == job.job_id
