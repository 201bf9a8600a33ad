"""Which text of a task is the path of a file, and which is not."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import DAG, task
from fakes import TaskInstance, context_of

from airflow_provider_dli.operators.dli import DliStartFlinkJobOperator, DliSubmitSqlJobOperator

# What ends in .sql and is no path.
TEXT = {
    "parameters": {"day": "a.sql", "days": ["a.sql"]},
    "tags": {"file": "a.sql"},
    "conf": {"name": "a.sql"},
    "export_to": "obs://bucket/a.sql",
}


@pytest.fixture
def dag(tmp_path):
    (tmp_path / "a.sql").write_text("SELECT :day, {{ 1 + 1 }} -- of the file")
    with DAG("sales", template_searchpath=[str(tmp_path)]) as dag:
        yield dag


def rendered(operator, **context):
    ti = TaskInstance()
    ti.task = operator
    context = {**context_of(ti), "task": operator, **context}
    operator.resolve_template_files()
    operator.render_template_fields(context)
    return context["ti"].task


def texts_of(operator):
    return {name: getattr(operator, name) for name in TEXT}


@pytest.mark.parametrize("sql", ["a.sql", ["a.sql", "SELECT 2"]])
def test_only_sql_is_read_from_a_file(dag, sql):
    operator = rendered(DliSubmitSqlJobOperator(task_id="load", sql=sql, **TEXT))
    assert str(operator.sql).count("SELECT :day, 2 -- of the file") == 1
    assert texts_of(operator) == TEXT
    assert operator.template_ext == (".sql",)


def test_a_list_of_parameters_is_text_when_the_dag_is_read(dag):
    operator = DliSubmitSqlJobOperator(task_id="load", sql="a.sql", parameters=["a.sql"])
    operator.resolve_template_files()
    assert operator.parameters == ["a.sql"]
    assert operator.sql.startswith("SELECT :day")


def test_nor_of_a_mapped_task(dag):
    mapped = DliSubmitSqlJobOperator.partial(task_id="load", sql="a.sql", tags=TEXT["tags"], conf=TEXT["conf"])
    ti = TaskInstance()
    operator = mapped.expand_kwargs([{"parameters": TEXT["parameters"], "export_to": TEXT["export_to"]}])
    context = {**context_of(ti), "task": operator, "dag": dag}
    context["ti"].map_index = 0
    context["dag_run"].conf = {}
    operator.render_template_fields(context)
    assert context["task"].sql == "SELECT :day, 2 -- of the file"
    assert texts_of(context["task"]) == TEXT


def test_nor_of_a_decorated_function(dag):
    operator = rendered(task.dli_sql(task_id="load", **TEXT)(lambda name: name)("a.sql").operator)
    assert operator.op_args == ("a.sql",)
    assert texts_of(operator) == TEXT


def test_of_flink_only_the_body_is(dag):
    text = {
        "args": ["a.sql"],
        "dependency_files": ["a.sql"],
        "tags": {"file": "a.sql"},
        "runtime_config": {"a": "a.sql"},
    }
    operator = rendered(DliStartFlinkJobOperator(task_id="load", sql_body="a.sql", **text))
    assert operator.sql_body == "SELECT :day, 2 -- of the file"
    assert {name: getattr(operator, name) for name in text} == text
