"""``@task.dli_sql``: the function returns the SQL, all else is as with the operator."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, TaskDeferred, task
from fakes import TaskInstance, assert_cancelled, context_of, deferral_of, execute, lose_the_worker, resume

from airflow_provider_dli.exceptions import DliJobError, DliTaskKilledError


@pytest.fixture(autouse=True)
def connected(dli_local, connect, airflow_says):
    dli_local.settings(queues={"default": 16, "sql": 4})
    connect()
    airflow_says("running")


def made(function, *args, **arguments):
    """Return the operator of a decorated function."""
    with DAG("sales"):
        return task.dli_sql(task_id="load", poll_interval=0.1, **arguments)(function)(*args).operator


def statements(dli_local):
    return [job.statement for job in sorted(dli_local.jobs(), key=lambda job: job.submitted_at)]


def test_what_the_function_returns_is_run(dli_local):
    operator = made(lambda day: f"SELECT '{day}'", "monday")
    ti = TaskInstance()
    job_id = execute(operator, context_of(ti))
    assert job_id == ti.xcoms["job_id"]
    assert statements(dli_local) == ["SELECT 'monday'"]
    assert operator.sql == "SELECT 'monday'", "for the rendered fields"


def test_with_all_that_the_operator_takes(dli_local):
    ti = TaskInstance()
    operator = made(
        lambda: ["SELECT 0", "SELECT :a AS a"],
        parameters={"a": 1},
        fetch_result=1,
        queue_name="sql",
        tags={"team": "a"},
    )
    execute(operator, context_of(ti))
    assert ti.xcoms["result"] == [{"a": 1}]
    assert {job.tags["team"] for job in dli_local.jobs()} == {"a"}


def test_the_function_sees_the_context(dli_local):
    def of_run(dag_run=None, ti=None):
        return f"SELECT '{ti.task_id}'"

    execute(made(of_run), context_of())
    assert statements(dli_local) == ["SELECT 'load'"]


def test_what_it_returns_is_no_template(dli_local):
    execute(made(lambda: "SELECT '{{ 1 + 1 }}'"), context_of())
    assert statements(dli_local) == ["SELECT '{{ 1 + 1 }}'"]


@pytest.mark.parametrize("value", [None, "", [], 7])
def test_what_is_no_sql_is_refused(dli_local, value):
    with pytest.raises(AirflowFailException, match="sql "):
        execute(made(lambda: value), context_of())
    assert dli_local.jobs() == []


def test_a_failure_is_one_of_the_job(dli_local):
    dli_local.will(then="FAILED", message="DLI.0999: lost")
    with pytest.raises(DliJobError, match=r"DLI\.0999: lost"):
        execute(made(lambda: "SELECT 1"), context_of())


def test_deferred_it_is_asked_again_for_the_next_statement_only(dli_local):
    dli_local.will(matching="SELECT 1", run_for=4)
    dli_local.will(matching="SELECT 2", run_for=2)
    calls = []

    def script():
        calls.append(1)
        return "SELECT 1; SELECT 2"

    context = context_of()
    first = deferral_of(made(script, deferrable=True), context)
    wait_for_job_of(first, dli_local)
    with pytest.raises(TaskDeferred) as second:
        resume(made(script, deferrable=True), first, context)
    wait_for_job_of(second.value, dli_local)
    resume(made(script, deferrable=True), second.value, context)
    assert statements(dli_local) == ["SELECT 1", "SELECT 2"]
    assert len(calls) == 2


def wait_for_job_of(deferral, dli_local):
    [job_id] = deferral.trigger.serialize()[1]["job_ids"]
    dli_local.wait_until(lambda dli: not dli.job(job_id).is_active)


def test_a_kill_while_the_function_of_a_later_try_runs_cancels_the_job_of_the_earlier_one(dli_local):
    dli_local.will(run_for=30)
    lose_the_worker(lambda: execute(made(lambda: "SELECT 1"), context_of()))

    def slow():
        """Runs for longer than Airflow waits for a killed task."""
        operator.on_kill()
        [job] = dli_local.jobs()
        assert_cancelled(dli_local, job.job_id)
        return "SELECT 1"

    operator = made(slow)
    with pytest.raises(DliTaskKilledError):
        execute(operator, context_of(TaskInstance(try_number=2)))
    assert len(dli_local.jobs()) == 1
