"""Operators and sensor that wait in the triggerer, over HTTP against the local DLI; kills are in ``tests/airflow``."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from functools import partial

import pace
import pytest
from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)
from fakes import OVER, assert_cancelled, context_of, deferral_of, execute, resume

from airflow_provider_dli.client import client as client_module
from airflow_provider_dli.client import credentials
from airflow_provider_dli.client.patience import Patience
from airflow_provider_dli.exceptions import (
    DliAuthenticationError,
    DliError,
    DliJobError,
    DliNotFoundError,
    DliTaskKilledError,
)
from airflow_provider_dli.operators.dli import DliCancelJobOperator, DliSubmitSqlJobOperator
from airflow_provider_dli.sensors.dli import DliJobSensor
from airflow_provider_dli.tasks import run as machine_room
from airflow_provider_dli.tasks.deferral import Deferral
from airflow_provider_dli.waiting.watcher import JobWatcher


@pytest.fixture
def context(connect):
    connect()
    return context_of()


@pytest.fixture(autouse=True)
def it_runs(airflow_says):
    airflow_says("running")


def task_of(cls, **arguments):
    if cls is not DliJobSensor:
        arguments.setdefault("poll_interval", 0.1)
    return cls(task_id="load", **{"deferrable": True, **arguments})


def resumed(cls, deferral, context, event=OVER, **arguments):
    return resume(task_of(cls, **arguments), deferral, context, event)


class TestSubmit:
    def test_it_defers_with_all_that_it_needs_later(self, dli_local, context):
        dli_local.will(run_for=60)
        task = task_of(
            DliSubmitSqlJobOperator, sql="select 1", region="eu-de", execution_timeout=timedelta(seconds=100)
        )
        began = time.time()
        deferral = deferral_of(task, context)
        [job] = dli_local.jobs()
        assert context["ti"].xcoms["job_id"] == job.job_id
        arguments = deferral.trigger.serialize()[1]
        assert arguments["deadline"] == pytest.approx(began + 100, abs=5)
        assert arguments == {
            "job_ids": [job.job_id],
            "kind": "sql",
            "dli_conn_id": "dli_default",
            "region": "eu-de",
            "project_id": None,
            "poll_interval": 0.1,
            "deadline": arguments["deadline"],
            "cancel_on_kill": True,
            "stop_with_savepoint": False,
            "goal": "finished",
            "start_by": None,
        }
        # Should no triggerer be there, the scheduler ends it.
        assert deferral.timeout.total_seconds() == pytest.approx(160, abs=5)

    @pytest.mark.parametrize("state", ["failed", "restarting", "gone"])
    def test_a_kill_that_airflow_has_not_told_of_yet_cancels(self, dli_local, context, airflow_says, state):
        dli_local.will(run_for=60)
        airflow_says(state)
        task = task_of(DliSubmitSqlJobOperator, sql="select 1")
        began = time.monotonic()
        # Airflow tells the task a second later.
        threading.Timer(1, task.on_kill).start()
        with pytest.raises(DliTaskKilledError):
            execute(task, context)
        assert 1 <= time.monotonic() - began < pace.seconds(10)
        [job] = dli_local.jobs()
        assert_cancelled(dli_local, job.job_id)
        assert len(job.cancel_requests) == 1

    def test_nor_has_it_told_a_minute_later(self, dli_local, context, airflow_says, monkeypatch):
        monkeypatch.setattr(machine_room, "_TOLD_WITHIN", 1)
        dli_local.will(run_for=60)
        airflow_says("failed")
        with pytest.raises(DliTaskKilledError):
            execute(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        assert_cancelled(dli_local, dli_local.jobs()[0].job_id)

    def test_an_airflow_that_does_not_tell_keeps_no_task_from_deferring(self, dli_local, context, airflow_says):
        dli_local.will(run_for=60)
        airflow_says(RuntimeError("no answer"))
        deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        assert dli_local.jobs()[0].is_active

    @pytest.mark.parametrize("state", ["scheduled", "queued", "up_for_retry"])
    def test_a_next_try_that_will_look_for_the_job_keeps_it_from_being_cancelled(
        self, dli_local, context, airflow_says, state
    ):
        """Besides, ``dag.test()`` of Airflow 2 runs a task that is scheduled."""
        dli_local.will(run_for=60)
        airflow_says(state)
        deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        assert dli_local.jobs()[0].is_active

    def test_a_job_that_a_kill_leaves_alone_is_not_asked_for(self, dli_local, context, airflow_says):
        dli_local.will(run_for=60)
        airflow_says("failed")
        deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1", cancel_on_kill=False), context)
        assert dli_local.jobs()[0].is_active

    def test_a_job_that_is_over_at_once_is_not_worth_a_deferral(self, dli_local, context):
        dli_local.will(run_for=0)
        # The job is over when the answer comes.
        dli_local.fault("submit", "latency", seconds=0.5, work_done=True)
        assert execute(task_of(DliSubmitSqlJobOperator, sql="select 1"), context) == dli_local.jobs()[0].job_id

    def test_one_that_is_soon_over_is_waited_for_in_the_worker(self, dli_local, context, monkeypatch):
        """A deferral takes longer, and a worker that has to start."""
        monkeypatch.setattr(Deferral, "worker_waits", 20)
        dli_local.will(run_for=0.5)
        assert execute(task_of(DliSubmitSqlJobOperator, sql="select 1"), context) == dli_local.jobs()[0].job_id

    def test_an_outage_right_after_the_submit_is_left_to_the_trigger(self, dli_local, context):
        dli_local.will(run_for=60)
        dli_local.fault("status", "status", times=None, status=503)
        deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        assert dli_local.jobs()[0].cancel_requests == ()

    def test_the_result_is_that_of_the_job(self, dli_local, context):
        dli_local.will(run_for=2)
        deferral = deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        dli_local.wait_until(lambda dli: not dli.jobs()[0].is_active)
        assert resumed(DliSubmitSqlJobOperator, deferral, context, sql="select 1") == dli_local.jobs()[0].job_id

    def test_dag_test_passes_on_nothing_but_the_event(self, dli_local, context):
        dli_local.will(run_for=2)
        deferral = deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        [job] = dli_local.jobs()
        dli_local.wait_until(lambda dli: not dli.jobs()[0].is_active)
        task = task_of(DliSubmitSqlJobOperator, sql="select 1")
        event = {**OVER, "job_ids": [job.job_id]}
        assert task.resume_execution(deferral.method_name, {"event": event}, context) == job.job_id

    def test_a_failed_job_fails_the_task_with_the_words_of_dli(self, dli_local, context):
        dli_local.will(run_for=2, then="FAILED", message="DLI.0999: lost")
        deferral = deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        dli_local.wait_until(lambda dli: not dli.jobs()[0].is_active)
        with pytest.raises(DliJobError, match=r"DLI\.0999: lost"):
            resumed(DliSubmitSqlJobOperator, deferral, context, sql="select 1")

    @pytest.mark.parametrize(
        ("event", "error"),
        [
            ({"outcome": "timeout", "message": "It is over."}, AirflowTaskTimeout),
            ({"outcome": "error", "message": "the connection is gone"}, DliError),
        ],
    )
    def test_a_trigger_that_gave_up_fails_the_task_and_the_job_is_cancelled(self, dli_local, context, event, error):
        dli_local.will(run_for=60)
        deferral = deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        with pytest.raises(error, match=event["message"]):
            resumed(DliSubmitSqlJobOperator, deferral, context, event, sql="select 1")
        assert_cancelled(dli_local, dli_local.jobs()[0].job_id)

    @pytest.mark.parametrize("error", ["Trigger timeout", "Trigger failure"])
    def test_a_deferral_that_failed_cancels_the_job_of_the_task(self, dli_local, context, airflow_says, error):
        dli_local.will(run_for=60)
        deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        [job] = dli_local.jobs()
        airflow_says("running", context["ti"].xcoms["job_id"])
        task = task_of(DliSubmitSqlJobOperator, sql="select 1")
        with pytest.raises(Exception, match=error):
            task.resume_execution("__fail__", {"error": error}, context)
        assert_cancelled(dli_local, job.job_id)
        assert task.current_job_id == job.job_id

    def test_a_kill_before_the_task_has_come_to_its_job_cancels_it(self, dli_local, context):
        dli_local.will(run_for=60)
        deferral = deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        # A process that is resumed has no token, and Airflow's 5 seconds have begun.
        credentials._known.clear()
        dli_local.fault("token", "latency", seconds=0.6)
        task = task_of(DliSubmitSqlJobOperator, sql="select 1")
        task.on_kill()
        with pytest.raises(DliTaskKilledError):
            task.resume_execution(deferral.method_name, {**deferral.kwargs, "event": OVER}, context)
        assert_cancelled(dli_local, dli_local.jobs()[0].job_id)

    def test_a_kill_before_airflow_knows_of_the_deferral_cancels_the_job(self, dli_local, context):
        dli_local.will(run_for=60)
        task = task_of(DliSubmitSqlJobOperator, sql="select 1")
        deferral_of(task, context)
        task.on_kill()
        assert_cancelled(dli_local, dli_local.jobs()[0].job_id)

    def test_a_kill_at_the_moment_of_the_deferral_ends_the_task(self, dli_local, context):
        class Killed(DliSubmitSqlJobOperator):
            def defer(self, **arguments):
                self.on_kill()
                super().defer(**arguments)

        dli_local.will(run_for=60)
        task = task_of(Killed, sql="select 1")
        with pytest.raises(DliTaskKilledError):
            execute(task, context)
        assert_cancelled(dli_local, dli_local.jobs()[0].job_id)

    def test_the_time_of_the_deferral_counts_when_dli_is_away_afterwards(self, dli_local, context, monkeypatch):
        monkeypatch.setattr(machine_room, "_TOLD_ONCE_MORE_WITHIN", 2)
        dli_local.will(run_for=60)
        task = task_of(DliSubmitSqlJobOperator, sql="select 1", execution_timeout=timedelta(seconds=2))
        deferral = deferral_of(task, context)
        dli_local.fault("status", "status", times=None, status=503)
        began = time.monotonic()
        with pytest.raises(AirflowTaskTimeout):
            resumed(DliSubmitSqlJobOperator, deferral, context, sql="select 1")
        assert time.monotonic() - began < pace.seconds(5)
        assert_cancelled(dli_local, dli_local.jobs()[0].job_id)

    @pytest.mark.parametrize("event", [OVER, {"outcome": "timeout"}], ids=lambda event: event["outcome"])
    def test_a_job_that_finished_is_a_success_however_late_a_worker_is_there(self, dli_local, context, event):
        dli_local.will(run_for=2)
        arguments = {"sql": "select 1", "execution_timeout": timedelta(seconds=4)}
        deferral = deferral_of(task_of(DliSubmitSqlJobOperator, **arguments), context)
        [job] = dli_local.jobs()
        dli_local.wait_until(lambda dli: dli.job(job.job_id).status == "FINISHED")
        time.sleep(max(0, deferral.kwargs["deadline"] - time.time()) + 0.5)
        assert resumed(DliSubmitSqlJobOperator, deferral, context, event, **arguments) == job.job_id

    def test_nor_does_a_dli_that_stumbles_when_the_worker_is_late_make_a_timeout_of_it(self, dli_local, context):
        dli_local.will(run_for=2)
        arguments = {"sql": "select 1", "execution_timeout": timedelta(seconds=4)}
        deferral = deferral_of(task_of(DliSubmitSqlJobOperator, **arguments), context)
        [job] = dli_local.jobs()
        time.sleep(max(0, deferral.kwargs["deadline"] - time.time()) + 0.5)
        dli_local.fault("status", "status", times=3, status=503)
        assert resumed(DliSubmitSqlJobOperator, deferral, context, **arguments) == job.job_id

    def test_a_kill_at_the_first_look_of_a_resumed_task_does_not_end_well(self, dli_local, context, monkeypatch):
        dli_local.will(run_for=0)
        dli_local.fault("status", "unknown_state")  # so that it defers
        deferral = deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        task = task_of(DliSubmitSqlJobOperator, sql="select 1")
        look = JobWatcher.look

        def killed_meanwhile(watcher):
            job = look(watcher)
            task.on_kill()
            return job

        monkeypatch.setattr(JobWatcher, "look", killed_meanwhile)
        with pytest.raises(DliTaskKilledError):
            task.resume_execution(deferral.method_name, {**deferral.kwargs, "event": OVER}, context)

    def test_a_job_that_finished_is_a_success_also_when_the_deferral_failed(self, dli_local, context, airflow_says):
        dli_local.will(run_for=2)
        deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        [job] = dli_local.jobs()
        dli_local.wait_until(lambda dli: dli.job(job.job_id).status == "FINISHED")
        airflow_says("running", job.job_id)
        task = task_of(DliSubmitSqlJobOperator, sql="select 1")
        assert task.resume_execution("__fail__", {"error": "Trigger timeout"}, context) == job.job_id

    def test_credentials_that_are_refused_when_it_is_resumed_let_airflow_try_again(self, dli_local, context):
        """The job runs on, and only a next try can see to it."""
        dli_local.will(run_for=60)
        deferral = deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        dli_local.settings(rotated_secret="another")
        credentials._known.clear()
        with pytest.raises(DliAuthenticationError):
            resumed(DliSubmitSqlJobOperator, deferral, context, {"outcome": "error"}, sql="select 1")

    def test_an_earlier_job_that_was_cancelled_meanwhile_is_submitted_afresh_once(self, dli_local, context):
        dli_local.will(run_for=60)
        first = deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        context["ti"].try_number = 2
        second = deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        assert second.kwargs["job_ids"] == first.kwargs["job_ids"]
        execute(task_of(DliCancelJobOperator, job_id=first.kwargs["job_ids"], deferrable=False), context)
        dli_local.will(run_for=60)
        with pytest.raises(TaskDeferred) as third:
            resumed(DliSubmitSqlJobOperator, second, context, sql="select 1")
        _, afresh = sorted(dli_local.jobs(), key=lambda job: job.submitted_at)
        assert third.value.kwargs["job_ids"][0] == afresh.job_id == context["ti"].xcoms["job_id"]
        assert "is_earlier" not in third.value.kwargs

    def test_without_cancel_on_kill_the_trigger_leaves_the_job_alone(self, dli_local, context):
        dli_local.will(run_for=60)
        deferral = deferral_of(task_of(DliSubmitSqlJobOperator, sql="select 1", cancel_on_kill=False), context)
        assert deferral.trigger.cancel_on_kill is False
        event = {"outcome": "timeout"}
        with pytest.raises(AirflowTaskTimeout):
            resumed(DliSubmitSqlJobOperator, deferral, context, event, sql="select 1", cancel_on_kill=False)
        assert dli_local.jobs()[0].cancel_requests == ()


class TestCancel:
    def test_it_waits_in_the_triggerer_for_what_is_not_over(self, dli_local, context):
        dli_local.will(run_for=60, cancel_takes=2)
        job_id = execute(task_of(DliSubmitSqlJobOperator, sql="select 1", wait_for_completion=False), context)
        dli_local.wait_until(lambda dli: dli.job(job_id).status == "RUNNING")
        deferral = deferral_of(task_of(DliCancelJobOperator, job_id=job_id), context)
        assert deferral.trigger.job_ids == [job_id]
        assert deferral.trigger.cancel_on_kill is False
        dli_local.wait_until(lambda dli: not dli.job(job_id).is_active)
        assert resumed(DliCancelJobOperator, deferral, context, job_id=job_id) == {job_id: "CANCELLED"}

    def test_what_is_over_is_not_worth_a_deferral(self, dli_local, context):
        dli_local.will(run_for=0)
        dli_local.fault("submit", "latency", seconds=0.5, work_done=True)
        job_id = execute(task_of(DliSubmitSqlJobOperator, sql="select 1"), context)
        assert execute(task_of(DliCancelJobOperator, job_id=job_id), context) == {job_id: "FINISHED"}


class TestSensor:
    @pytest.fixture
    def job_id(self, dli_local, context):
        dli_local.will(run_for=2)
        return execute(task_of(DliSubmitSqlJobOperator, sql="select 1", wait_for_completion=False), context)

    @pytest.fixture
    def failed_job_id(self, dli_local, context):
        dli_local.will(run_for=2, then="FAILED", message="DLI.0999: lost")
        return execute(task_of(DliSubmitSqlJobOperator, sql="select 1", wait_for_completion=False), context)

    def test_poking_it_waits_until_the_job_has_finished(self, dli_local, context, job_id):
        sensor = task_of(DliJobSensor, job_id=job_id, deferrable=False, poke_interval=0.1)
        assert not sensor.poke(context)
        execute(sensor, context)
        assert dli_local.job(job_id).status == "FINISHED"

    @pytest.mark.parametrize("deferrable", [True, False])
    def test_it_fails_early_with_the_words_of_dli(self, dli_local, context, failed_job_id, deferrable):
        dli_local.wait_until(lambda dli: not dli.job(failed_job_id).is_active)
        with pytest.raises(DliJobError, match=r"DLI\.0999: lost"):
            execute(task_of(DliJobSensor, job_id=failed_job_id, deferrable=deferrable), context)

    def test_soft_fail_skips_it(self, dli_local, context, failed_job_id):
        deferral = deferral_of(task_of(DliJobSensor, job_id=failed_job_id), context)
        dli_local.wait_until(lambda dli: not dli.job(failed_job_id).is_active)
        with pytest.raises(AirflowSkipException):
            resumed(DliJobSensor, deferral, context, job_id=failed_job_id, soft_fail=True)

    def test_deferred_it_leaves_the_job_alone(self, dli_local, context, job_id):
        deferral = deferral_of(task_of(DliJobSensor, job_id=job_id, timeout=100), context)
        assert deferral.trigger.cancel_on_kill is False
        assert deferral.timeout.total_seconds() == pytest.approx(100, abs=1)
        with pytest.raises(AirflowTaskTimeout):
            resumed(DliJobSensor, deferral, context, {"outcome": "timeout"}, job_id=job_id)
        assert dli_local.job(job_id).cancel_requests == ()
        dli_local.wait_until(lambda dli: not dli.job(job_id).is_active)
        resumed(DliJobSensor, deferral, context, job_id=job_id)

    def test_its_timeout_holds_while_deferred(self, context, job_id):
        task = task_of(DliJobSensor, job_id=job_id)
        with pytest.raises(AirflowSensorTimeout):
            task.resume_execution("__fail__", {"error": "Trigger timeout"}, context)

    def test_an_outage_is_waited_out(self, dli_local, context, job_id, monkeypatch):
        monkeypatch.setattr(client_module, "Patience", partial(Patience, give_up_after=0))
        dli_local.fault("status", "status", times=3, status=503)
        execute(task_of(DliJobSensor, job_id=job_id, deferrable=False, poke_interval=0.1), context)
        assert dli_local.job(job_id).status == "FINISHED"

    def test_a_job_that_dli_does_not_know(self, context):
        with pytest.raises(DliNotFoundError):
            execute(task_of(DliJobSensor, job_id="00000000-0000-0000-0000-000000000000"), context)


@pytest.mark.parametrize("configured", ["True", pytest.param("False", marks=pytest.mark.matrix)])
def test_the_default_is_that_of_airflow(configured):
    code = (
        "from airflow_provider_dli.operators.dli import DliCancelJobOperator as C, DliSubmitSqlJobOperator as S\n"
        "from airflow_provider_dli.sensors.dli import DliJobSensor as J\n"
        "print(S(task_id='a', sql='').deferrable, C(task_id='b', job_id='').deferrable, J(task_id='c', job_id='').deferrable)"
    )
    env = {**os.environ, "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": configured}
    answer = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert answer.stdout.split()[-3:] == [configured] * 3
