"""Our operators, executed by the function of another task: a kill reaches that task only."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from airflow.providers.common.compat.sdk import AirflowTaskTimeout, BaseOperator
from airflow.sdk.execution_time.context import set_current_context
from fakes import TaskInstance, assert_cancelled, context_of, execute

from airflow_provider_dli.exceptions import DliTaskKilledError
from airflow_provider_dli.operators.dli import DliCancelJobOperator, DliSubmitSqlJobOperator


class Outer(BaseOperator):
    """A task whose function executes others."""

    inner = ()

    def execute(self, context):
        return [execute(each, context) for each in self.inner]


@pytest.fixture(autouse=True)
def connected(connect, airflow_says):
    connect()
    airflow_says("running")


def outer_of(*inner, **arguments):
    outer = Outer(task_id="outer", **arguments)
    outer.inner = inner
    return outer


def run(outer):
    """Execute a task as Airflow does, with its context as the current one."""
    context = context_of(TaskInstance(task=outer))
    with set_current_context(context):
        return execute(outer, context)


def is_running(job):
    return job.status == "RUNNING"


def run_killed(outer, dli, *, when=is_running):
    """Execute a task, and call its ``on_kill`` once there is such a job."""

    def kill():
        dli.wait_until(lambda dli: [job for job in dli.jobs() if when(job)])
        outer.on_kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        return run(outer)
    finally:
        thread.join()


def sql(**arguments):
    return DliSubmitSqlJobOperator(task_id="inner", sql="SELECT 1", poll_interval=0.1, **arguments)


class TestKill:
    @pytest.mark.parametrize("deferrable", [False, True], ids=["waits", "deferrable"])
    def test_it_cancels_the_job_and_ends_the_task(self, dli_local, deferrable):
        dli_local.will(run_for=60)
        with pytest.raises(DliTaskKilledError):
            run_killed(outer_of(sql(deferrable=deferrable)), dli_local)
        [job] = dli_local.jobs()
        assert_cancelled(dli_local, job.job_id)
        assert job.tags["airflow_task"] == "load"

    def test_it_submits_nothing_more(self, dli_local):
        outer = outer_of(sql(), sql())
        run(outer)
        outer.on_kill()
        with pytest.raises(DliTaskKilledError):
            run(outer)
        assert len(dli_local.jobs()) == 2

    def test_one_that_waits_for_the_end_of_others_ends(self, dli_local):
        dli_local.will(run_for=60, cancel_takes=60)
        outer = outer_of(sql(wait_for_completion=False))
        [job_id] = run(outer)
        # One that is cancelled before it runs is over at once.
        dli_local.wait_until(lambda dli: dli.job(job_id).status == "RUNNING")
        outer = outer_of(DliCancelJobOperator(task_id="inner", job_id=job_id, poll_interval=0.1))
        with pytest.raises(DliTaskKilledError):
            run_killed(outer, dli_local, when=lambda job: job.cancel_requests)


class TestTimeout:
    def test_that_of_the_operator_holds(self, dli_local):
        dli_local.will(run_for=60)
        with pytest.raises(AirflowTaskTimeout):
            run(outer_of(sql(execution_timeout=timedelta(seconds=0.5))))
        [job] = dli_local.jobs()
        assert_cancelled(dli_local, job.job_id)

    @pytest.mark.parametrize(("of_inner", "bound"), [(None, 660), (1, 120), (20, 660)])
    def test_the_job_is_bounded_by_that_of_the_task(self, dli_local, of_inner, bound):
        of_inner = of_inner and timedelta(minutes=of_inner)
        run(outer_of(sql(execution_timeout=of_inner), execution_timeout=timedelta(minutes=10)))
        [job] = dli_local.jobs()
        assert job.conf == (f"dli.sql.job.timeout = {bound}",)


def test_deferrable_waits_here_and_returns(dli_local):
    """Airflow would resume the other task, which does not know how."""
    dli_local.will(run_for=0.3)
    [job_id] = run(outer_of(sql(deferrable=True)))
    assert dli_local.job(job_id).status == "FINISHED"
