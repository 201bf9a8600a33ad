"""How a sensor ends, in all modes: Airflow's ``soft_fail``, ``never_fail`` and ``silent_fail``, and the triggerer's errors."""

from __future__ import annotations

import time
from contextlib import nullcontext
from datetime import timedelta

import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
)
from fakes import OVER, TaskInstance, context_of, deferral_of, execute, resume

from airflow_provider_dli.exceptions import DliJobError, DliNotFoundError
from airflow_provider_dli.hooks import dli as hooks
from airflow_provider_dli.sensors.dli import DliJobSensor

MODES = {
    "poke": {"deferrable": False},
    "reschedule": {"deferrable": False, "mode": "reschedule"},
    "deferred": {"deferrable": True},
}
UNKNOWN = "00000000-0000-0000-0000-000000000000"
ERROR = {"outcome": "error", "message": "a bug"}


@pytest.fixture
def context(connect):
    connect()
    return context_of(TaskInstance(task_id="wait", get_first_reschedule_date=lambda context: None))


@pytest.fixture
def job(dli_local, context):
    """Return a function that submits a job; it is over, unless it runs for long, when the function returns."""

    def submit(then="FINISHED", run_for=0):
        dli_local.will(run_for=run_for, then=then, message="DLI.0999: lost")
        job_id = hooks.DliHook().submit_sql_job("select 1").id
        if not run_for:
            dli_local.wait_until(lambda dli: not dli.job(job_id).is_active)
        return job_id

    return submit


def sensor(mode, **arguments):
    return DliJobSensor(task_id="wait", **{"poke_interval": 0.1, **MODES[mode], **arguments})


def defer(context, **arguments):
    return deferral_of(sensor("deferred", **arguments), context)


def resumed(context, deferral, event=OVER, **arguments):
    return resume(sensor("deferred", **arguments), deferral, context, event)


def ends(error):
    return nullcontext() if error is None else pytest.raises(error)


def how(*cases):
    names = ["".join(options) or "plain" for options, _ in cases]
    return pytest.mark.parametrize(("options", "error"), cases, ids=names)


MODE = pytest.mark.parametrize("mode", MODES)
PLAIN, SOFT, NEVER, SILENT = {}, {"soft_fail": True}, {"never_fail": True}, {"silent_fail": True}


class TestTheJobFailed:
    CASES = how(
        (PLAIN, DliJobError), (SOFT, AirflowSkipException), (NEVER, AirflowSkipException), (SILENT, DliJobError)
    )

    @MODE
    @CASES
    def test_before_the_sensor_looks(self, context, job, mode, options, error):
        with ends(error) as raised:
            execute(sensor(mode, job_id=job("FAILED"), **options), context)
        assert "DLI.0999: lost" in str(raised.value)

    @CASES
    def test_while_it_is_deferred(self, dli_local, context, job, options, error):
        job_id = job("FAILED", run_for=2)
        deferral = defer(context, job_id=job_id)
        dli_local.wait_until(lambda dli: not dli.job(job_id).is_active)
        with ends(error):
            resumed(context, deferral, job_id=job_id, **options)


class TestAnErrorOfTheStatusCall:
    CASES = how((PLAIN, DliNotFoundError), (SOFT, DliNotFoundError), (NEVER, AirflowSkipException))

    @MODE
    @CASES
    def test_a_job_that_dli_does_not_know(self, context, mode, options, error):
        with ends(error):
            execute(sensor(mode, job_id=UNKNOWN, **options), context)

    @pytest.mark.parametrize("event", [OVER, ERROR])
    @CASES
    def test_a_job_that_dli_no_longer_knows_after_a_deferral(self, context, job, event, options, error):
        deferral = defer(context, job_id=job(run_for=60))
        with ends(error):
            resumed(context, deferral, event, job_id=UNKNOWN, **options)

    @MODE
    @how((PLAIN, AirflowFailException), (SOFT, AirflowFailException), (NEVER, AirflowSkipException))
    def test_refused_credentials_are_not_retried(self, connect, context, job, mode, options, error):
        job_id = job()
        connect(password="wrong")
        with ends(error):
            execute(sensor(mode, job_id=job_id, **options), context)

    @MODE
    @how((PLAIN, AirflowFailException), (NEVER, AirflowSkipException))
    def test_nor_is_a_wrong_job_id(self, context, mode, options, error):
        with ends(error):
            execute(sensor(mode, job_id="", **options), context)

    def test_silent_fail_asks_again(self, dli_local, context, job):
        job_id = job()
        dli_local.fault("status", "status", times=2, status=403)
        execute(sensor("poke", job_id=job_id, silent_fail=True), context)
        dli_local.fault("status", "status", times=1, status=403)
        with pytest.raises(AirflowRescheduleException):
            execute(sensor("reschedule", job_id=job_id, silent_fail=True), context)
        dli_local.fault("status", "status", times=1, status=403)
        deferral = defer(context, job_id=job_id, silent_fail=True)
        dli_local.fault("status", "status", times=2, status=403)
        resumed(context, deferral, ERROR, job_id=job_id, silent_fail=True)


class TestTimeIsOver:
    CASES = how((PLAIN, None), (SOFT, AirflowSkipException), (NEVER, AirflowSkipException), (SILENT, None))

    @pytest.mark.parametrize("mode", ["poke", "reschedule"])
    @CASES
    def test_its_timeout(self, context, job, mode, options, error):
        with ends(error or AirflowSensorTimeout):
            execute(sensor(mode, job_id=job(run_for=60), timeout=0, **options), context)

    @pytest.mark.parametrize("words", ["Trigger timeout", "Trigger/execution timeout"], ids=["3", "2"])
    @CASES
    def test_its_timeout_while_deferred(self, context, words, options, error):
        with ends(error or AirflowSensorTimeout):
            sensor("deferred", job_id=UNKNOWN, **options).resume_execution("__fail__", {"error": words}, context)

    @CASES
    def test_its_execution_timeout(self, context, job, monkeypatch, options, error):
        task = sensor("poke", job_id=job(run_for=60), **options)

        def alarm(seconds):
            raise AirflowTaskTimeout("Timeout")

        monkeypatch.setattr(time, "sleep", alarm)
        with ends(error or AirflowTaskTimeout):
            execute(task, context)

    @CASES
    def test_its_execution_timeout_while_deferred(self, context, job, options, error):
        job_id = job(run_for=60)
        deferral = defer(context, job_id=job_id, execution_timeout=timedelta(seconds=60))
        with ends(error or AirflowTaskTimeout):
            resumed(context, deferral, {"outcome": "timeout"}, job_id=job_id, **options)


class TestTheTriggererCannotGoOn:
    def test_the_sensor_waits_in_the_worker(self, dli_local, context, job):
        job_id = job(run_for=1)
        resumed(context, defer(context, job_id=job_id), ERROR, job_id=job_id)
        assert dli_local.job(job_id).status == "FINISHED"

    def test_not_for_longer_than_the_sensor_may(self, context, job):
        job_id = job(run_for=60)
        deferral = defer(context, job_id=job_id, timeout=3600)
        assert deferral.kwargs["give_up_at"] == pytest.approx(time.time() + 3600, abs=5)
        deferral.kwargs["give_up_at"] -= 3599
        with pytest.raises(AirflowSensorTimeout):
            resumed(context, deferral, ERROR, job_id=job_id, timeout=3600)

    @how((PLAIN, Exception), (NEVER, AirflowSkipException))
    def test_a_triggerer_without_the_provider(self, context, options, error):
        task = sensor("deferred", job_id=UNKNOWN, **options)
        with pytest.raises(error, match="Trigger failure" if error is Exception else None):
            task.resume_execution("__fail__", {"error": "Trigger failure"}, context)


@pytest.mark.parametrize(("poke_interval", "asked_every"), [(0, 1), (0.1, 1), (30, 30)])
def test_a_trigger_asks_once_a_second_at_most(context, job, poke_interval, asked_every):
    deferral = defer(context, job_id=job(run_for=60), poke_interval=poke_interval)
    assert deferral.trigger.poll_interval == asked_every


def test_a_sensor_that_must_not_be_nested_is_resumed(context, job):
    job_id = job(run_for=2)
    resumed(context, defer(context, job_id=job_id), job_id=job_id, allow_nested_operators=False)


@pytest.mark.parametrize("options", [PLAIN, SOFT, NEVER, SILENT])
def test_a_poke_of_a_job_that_runs_is_rescheduled(context, job, options):
    with pytest.raises(AirflowRescheduleException):
        execute(sensor("reschedule", job_id=job(run_for=60), **options), context)
