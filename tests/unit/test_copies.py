"""Operators, hooks and the link of a task that has run: copied, pickled, and asked by Airflow at the end."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from fakes import TaskInstance, context_of, execute

from airflow_provider_dli.decorators.dli import _DliSqlDecoratedOperator
from airflow_provider_dli.exceptions import DliJobError
from airflow_provider_dli.links.dli import DliJobLink
from airflow_provider_dli.operators.dli import DliSubmitSparkJobOperator, DliSubmitSqlJobOperator
from airflow_provider_dli.sensors.dli import DliJobSensor


def statement(hook):
    return DliSubmitSqlJobOperator(task_id="load", sql="SELECT 1", poll_interval=0.1)


def batch(hook):
    return DliSubmitSparkJobOperator(
        task_id="load", file="group/a.jar", spark_version="2.4.5", queue_name="default", poll_interval=0.1
    )


def function(hook):
    return _DliSqlDecoratedOperator(task_id="load", python_callable=the_sql, poll_interval=0.1)


def sensor(hook):
    return DliJobSensor(task_id="load", job_id=hook.submit_sql_job("SELECT 1").id, poke_interval=0.1)


def stock(hook):
    return SQLExecuteQueryOperator(task_id="load", conn_id="dli_default", sql="DROP TABLE IF EXISTS t", handler=None)


def pickled(value):
    return pickle.loads(pickle.dumps(value))


def the_sql():
    return "SELECT 1"


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, pickled])
@pytest.mark.parametrize("make", [statement, batch, function, sensor, stock])
def test_an_operator_that_has_run_can_be_copied(dli_local, hook, make, copied):
    if make is batch:
        dli_local.will(times=3)
    task = make(hook)
    context = context_of()
    execute(task, context)
    again = copied(task)
    assert again.task_id == "load"
    if hasattr(task, "on_kill"):
        again.on_kill()


def test_a_copy_is_killed_by_itself():
    task = statement(None)
    assert not task.switch.killed
    again = copy.deepcopy(task)
    again.on_kill()
    assert (task.switch.killed, again.switch.killed) == (False, True)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_a_hook_that_was_used_can_be_copied(dli_local, connect, copied):
    hook = connect()
    assert list(hook.list_jobs()) == []
    assert list(copied(hook).list_jobs()) == []


class TestTheLinkAtTheEnd:
    """Airflow 3 asks for it when a task ends, and logs an error where the XCom is missing."""

    @pytest.fixture
    def link_of(self, monkeypatch):
        def asked(**names):
            raise AssertionError("Airflow is asked for an XCom that is not there")

        monkeypatch.setattr("airflow_provider_dli.links.dli.XCom.get_value", asked)
        return lambda task: DliJobLink().get_link(task, ti_key=TaskInstance())

    def test_of_a_task_that_failed_before_it_submitted(self, dli_local, hook, link_of):
        task = DliSubmitSqlJobOperator(task_id="load", sql="")
        with pytest.raises(AirflowFailException):
            execute(task, context_of())
        assert link_of(task) == ""

    def test_of_a_task_that_had_a_job(self, dli_local, hook, link_of):
        task = statement(hook)
        execute(task, context_of())
        assert link_of(task) == f"{dli_local.url}/_local/jobs"

    def test_of_a_region_without_a_console(self, dli_local, connect, link_of):
        dli_local.will(then="FAILED")
        connect(extra={"region": "eu-xx"})
        task = statement(None)
        with pytest.raises(DliJobError):
            execute(task, context_of())
        assert isinstance(link_of(task), str)


def test_a_wrong_parameter_is_one_short_traceback(dli_local, hook):
    with pytest.raises(AirflowFailException) as caught:
        execute(DliSubmitSqlJobOperator(task_id="load", sql="SELECT 1", conf=1), context_of())
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.count("Traceback") == 1
    assert "DliValueError" not in shown
    assert len(shown.splitlines()) < 25
