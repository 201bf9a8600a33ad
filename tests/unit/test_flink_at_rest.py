"""A Flink job that a stop takes back to ``job_init`` has stopped: nobody waits for it any longer, and nobody deletes it."""

from __future__ import annotations

import asyncio
import threading

import fakes
import pytest
from fakes import TaskInstance, context_of, deferral_of

from airflow_provider_dli.api import flink
from airflow_provider_dli.api.flink_definition import FlinkDefinition
from airflow_provider_dli.client.patience import Patience
from airflow_provider_dli.exceptions import DliJobError
from airflow_provider_dli.job import Goal, JobState
from airflow_provider_dli.operators.dli import (
    DliCancelJobOperator,
    DliCancelOrphanJobsOperator,
    DliStartFlinkJobOperator,
    DliStopFlinkJobOperator,
)
from airflow_provider_dli.sensors.dli import DliJobSensor
from airflow_provider_dli.waiting.watcher import wait_until_stopped

JAR = {"job_type": "flink_jar_job", "entrypoint": "obs://bucket/job.jar", "queue_name": "general"}


@pytest.fixture(autouse=True)
def a_stop_resets(dli_local, connect):
    connect()
    dli_local.settings(flink_stop="resets", flink_cancel_delay=0.3)


def task_of(operator_class, **arguments):
    if not issubclass(operator_class, DliJobSensor):
        arguments = {"poll_interval": 0.1, **arguments}
    return operator_class(task_id="load", **arguments)


def execute(operator_class, ti=None, **arguments):
    return fakes.execute(task_of(operator_class, **arguments), context_of(ti or TaskInstance()))


async def fired(trigger):
    async with asyncio.timeout(20):
        return (await anext(trigger.run())).payload


def until_over(task, context):
    """Have a task defer; return how, and what its trigger has fired."""
    deferral = deferral_of(task, context)
    return deferral, asyncio.run(fired(deferral.trigger))


def see_through(operator_class, context, **arguments):
    """Run a task to its end, also across a deferral."""
    task = task_of(operator_class, **arguments)
    if not arguments["deferrable"]:
        return fakes.execute(task, context)
    deferral, event = until_over(task, context)
    return fakes.resume(task_of(operator_class, **arguments), deferral, context, event)


@pytest.fixture
def running(dli_local):
    job_id = execute(DliStartFlinkJobOperator, **JAR)
    assert dli_local.job(job_id).status == "job_running"
    return job_id


@pytest.mark.parametrize(
    ("operator_class", "kind"), [(DliStopFlinkJobOperator, {}), (DliCancelJobOperator, {"kind": "flink"})]
)
def test_an_operator_that_stops_it_ends(dli_local, running, operator_class, kind):
    result = execute(operator_class, job_id=running, **kind)
    assert result == {running: "CANCELLED"}
    # Its own retry does no harm: a job that has run is not deleted.
    assert execute(operator_class, job_id=running, **kind) == {running: "CANCELLED"}
    assert dli_local.job(running).status == "job_init"
    assert dli_local.requests("flink_delete") == []


def test_a_deferred_stop_ends(dli_local, running):
    task, context = task_of(DliStopFlinkJobOperator, job_id=running, deferrable=True), context_of()
    deferral, event = until_over(task, context)
    assert event["outcome"] == "over"
    again = task_of(DliStopFlinkJobOperator, job_id=running, deferrable=True)
    assert fakes.resume(again, deferral, context, event) == {running: "CANCELLED"}
    assert dli_local.requests("flink_delete") == []


def test_with_a_savepoint_it_is_kept(dli_local, running):
    execute(DliStopFlinkJobOperator, job_id=running, stop_with_savepoint=True)
    execute(DliStopFlinkJobOperator, job_id=running, stop_with_savepoint=True)
    assert dli_local.job(running).status == "job_init"
    assert dli_local.requests("flink_delete") == []


def test_a_stop_of_ours_is_waited_for_whoever_asks(hook, running):
    client = hook.client.patient(Patience(give_up_after=2))
    client.cancel(flink.KIND, running)
    assert wait_until_stopped(client, flink.KIND, running, poll_interval=0.1).status == "job_init"


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_sensor_fails_when_it_is_stopped(dli_local, hook, running, deferrable):
    arguments = {"job_id": running, "kind": "flink", "deferrable": deferrable, "poke_interval": 0.1, "timeout": 20}
    dli_local.settings(flink_cancel_delay=2)
    hook.client.cancel(flink.KIND, running)
    with pytest.raises(DliJobError, match="was stopped"):
        see_through(DliJobSensor, context_of(), **arguments)


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_task_that_waits_for_it_fails_when_another_stops_it(dli_local, hook, deferrable):
    arguments = {**JAR, "wait_for": "finished", "deferrable": deferrable, "start_timeout": None}

    def stop():
        dli_local.wait_until(lambda dli: [job for job in dli.jobs() if job.status == "job_running"])
        # Not before the task has seen it run.
        seen = len(dli_local.requests("flink_get"))
        dli_local.wait_until(lambda dli: len(dli.requests("flink_get")) >= seen + 3)
        hook.client.cancel(flink.KIND, dli_local.jobs()[0].job_id)

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        with pytest.raises(DliJobError, match="was stopped"):
            see_through(DliStartFlinkJobOperator, context_of(), **arguments)
    finally:
        stopper.join()


def test_the_sweep_confirms_it_and_leaves_it_alone_then(dli_local, hook, monkeypatch, airflow_says):
    monkeypatch.setenv("AIRFLOW__DLI__DEPLOYMENT", "tests")
    work = flink.FlinkWork(FlinkDefinition(**JAR))
    job = hook.send(flink.KIND.create(work, fakes.identity_of(deployment="tests")))
    hook.send(flink.run(job.id))
    dli_local.wait_until(lambda dli: dli.job(job.id).status == "job_running")
    airflow_says("failed")
    sweep = {"older_than": 0, "kinds": ["flink"]}
    report = execute(DliCancelOrphanJobsOperator, **sweep)
    assert dli_local.job(job.id).status == "job_init", report
    before = dli_local.requests()[-1].seq
    execute(DliCancelOrphanJobsOperator, **sweep)
    assert {call.call for call in dli_local.requests(since=before)} <= {"token", "flink_list"}


@pytest.mark.parametrize("goal", list(Goal))
def test_a_draft_is_not_what_a_start_waits_for(goal):
    assert goal.ends_wait(JobState.CREATED) is (goal is Goal.STOPPED)
