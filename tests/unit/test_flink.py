"""The Flink operators over HTTP, against the local DLI, in this process. Kills are in test_kinds.py and in histories."""

from __future__ import annotations

import re
import time
from datetime import timedelta

import fakes
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred
from fakes import TaskInstance

from airflow_provider_dli import identity
from airflow_provider_dli.api import flink
from airflow_provider_dli.api.flink_definition import FlinkDefinition
from airflow_provider_dli.exceptions import DliError, DliJobError, DliNotFoundError, DliValueError
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.operators.dli import (
    DliCancelJobOperator,
    DliStartFlinkJobOperator,
    DliStopFlinkJobOperator,
)
from airflow_provider_dli.sensors.dli import DliJobSensor
from airflow_provider_dli.tasks import start
from airflow_provider_dli.waiting import watcher

JAR = {"job_type": "flink_jar_job", "entrypoint": "obs://bucket/job.jar", "queue_name": "general"}
SQL = {"job_type": "flink_opensource_sql_job", "sql_body": "select 1", "queue_name": "general"}


@pytest.fixture
def execute(connect):
    """Return a function that executes an operator, and gives its result and its task instance."""
    connect()

    def run(operator_class, ti=None, **arguments):
        if operator_class is not DliJobSensor:
            arguments.setdefault("poll_interval", 0.1)
        task = operator_class(task_id="load", **arguments)
        ti = ti or TaskInstance()
        return fakes.execute(task, fakes.context_of(ti)), ti

    return run


@pytest.fixture
def existing(hook):
    """Create a job, as a user does in the console."""
    created = hook.send(flink.create(FlinkDefinition(**JAR), name=f"mine-{time.monotonic_ns()}", description="mine"))
    return created.id


def calls(dli_local, *names):
    return [request.call for request in dli_local.requests() if request.call in names]


class TestStart:
    def test_a_jar_job_is_created_and_started_and_left_running(self, dli_local, execute):
        result, ti = execute(DliStartFlinkJobOperator, **JAR, args=["--rate", "3"], tags={"team": "sales"})
        [job] = dli_local.jobs()
        assert (job.kind, job.status) == ("flink", "job_running")
        assert result == ti.xcoms["job_id"] == job.job_id
        assert re.fullmatch(r"sales-load-[0-9a-f]{24}-[0-9a-f]{8}", job.name)

    def test_it_carries_its_identity_and_belongs_to_nobody_once_it_runs(self, hook, execute):
        result, _ = execute(DliStartFlinkJobOperator, **JAR)
        attempt = identity.read_attempt(hook.get_job(result, "flink").tags)
        assert attempt.owner == "detached"

    def test_a_bounded_sql_job_runs_to_its_end(self, dli_local, hook, execute):
        dli_local.will(kind="flink", run_for=0.3)
        result, _ = execute(DliStartFlinkJobOperator, **SQL, wait_for="finished")
        assert dli_local.job(result).status == "job_finish"
        assert identity.read_attempt(hook.get_job(result, "flink").tags).owner == "task"

    def test_a_failed_job_fails_the_task_with_its_reason(self, dli_local, execute):
        dli_local.will(kind="flink", run_for=0.2, then="FAILED", message="the connector is not known")
        with pytest.raises(DliJobError, match=r"Flink job \d+ ended job_running_exception: the connector is not known"):
            execute(DliStartFlinkJobOperator, **SQL, wait_for="finished")

    def test_a_finished_job_is_deleted_where_that_is_asked_for(self, dli_local, hook, execute):
        dli_local.will(kind="flink", run_for=0.2)
        result, _ = execute(DliStartFlinkJobOperator, **SQL, wait_for="finished", delete_on_finish=True)
        assert calls(dli_local, "flink_delete") == ["flink_delete"]
        with pytest.raises(DliNotFoundError):
            hook.get_job(result, "flink")

    def test_a_job_that_does_not_start_in_time_is_stopped(self, dli_local, execute):
        dli_local.will(kind="flink", launching_for=60)
        with pytest.raises(DliError, match="has not started within start_timeout"):
            execute(DliStartFlinkJobOperator, **JAR, start_timeout=timedelta(seconds=0))
        [job] = dli_local.jobs()
        assert job.cancel_requests

    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch):
        monkeypatch.setattr("airflow_provider_dli.tasks.run._STARTED_MEANWHILE", 1.0)

    def test_deferred_it_waits_in_the_triggerer(self, dli_local, connect):
        connect()
        dli_local.will(kind="flink", launching_for=60)
        task = DliStartFlinkJobOperator(task_id="load", **JAR, deferrable=True, stop_with_savepoint=True)
        with pytest.raises(TaskDeferred) as deferral:
            fakes.execute(task, fakes.context_of(TaskInstance()))
        _, arguments = deferral.value.trigger.serialize()
        assert (arguments["kind"], arguments["goal"], arguments["stop_with_savepoint"]) == ("flink", "running", True)
        assert arguments["start_by"] == pytest.approx(time.time() + 900, abs=10)


class TestExisting:
    def test_it_is_started(self, dli_local, execute, existing):
        result, _ = execute(DliStartFlinkJobOperator, job_id=existing)
        assert result == existing
        assert [(job.job_id, job.status) for job in dli_local.jobs()] == [(existing, "job_running")]

    def test_one_that_runs_is_not_started_again_and_left_alone_when_the_task_fails(
        self, dli_local, hook, execute, existing
    ):
        hook.send(flink.run(existing))
        dli_local.wait_until(lambda dli: dli.job(existing).status == "job_running")
        dli_local.fault("flink_get", "status", times=None, status=400, error_code="DLI.0001")
        with pytest.raises(DliError):
            execute(DliStartFlinkJobOperator, job_id=existing, wait_for="finished")
        dli_local.clear_faults()
        assert calls(dli_local, "flink_run") == ["flink_run"]
        assert not dli_local.job(existing).cancel_requests

    def test_a_retry_takes_the_result_of_the_job_that_the_try_before_has_started(self, dli_local, execute, existing):
        dli_local.will(kind="flink", run_for=0.2)
        execute(DliStartFlinkJobOperator, job_id=existing, wait_for="finished")
        execute(
            DliStartFlinkJobOperator,
            TaskInstance(try_number=2),
            job_id=existing,
            wait_for="finished",
            retries=2,
        )
        assert calls(dli_local, "flink_run") == ["flink_run"]

    def test_a_cleared_task_starts_it_again(self, dli_local, execute, existing):
        dli_local.will(kind="flink", run_for=0.2, times=2)
        _, first = execute(DliStartFlinkJobOperator, job_id=existing, wait_for="finished")
        ti = TaskInstance(first, try_number=2, max_tries=3)
        execute(DliStartFlinkJobOperator, ti, job_id=existing, wait_for="finished")
        assert calls(dli_local, "flink_run") == ["flink_run"] * 2

    @pytest.mark.parametrize("retries", [0, 2, 5])
    def test_a_retry_does_not_whatever_retries_says_today(self, dli_local, execute, existing, retries):
        dli_local.will(kind="flink", run_for=0.2, times=2)
        _, first = execute(DliStartFlinkJobOperator, job_id=existing, wait_for="finished")
        ti = TaskInstance(first, try_number=2)
        execute(DliStartFlinkJobOperator, ti, job_id=existing, wait_for="finished", retries=retries)
        assert calls(dli_local, "flink_run") == ["flink_run"]

    def test_without_a_savepoint_to_resume_from_dli_says_what_to_do(self, execute, existing):
        with pytest.raises(DliError, match="resume_savepoint=False"):
            execute(DliStartFlinkJobOperator, job_id=existing, resume_savepoint=True)

    def test_stopped_with_a_savepoint_it_resumes(self, dli_local, execute, existing):
        execute(DliStartFlinkJobOperator, job_id=existing)
        execute(DliStopFlinkJobOperator, job_id=existing, stop_with_savepoint=True)
        assert len(dli_local.job(existing).savepoints) == 1
        execute(DliStartFlinkJobOperator, job_id=existing, resume_savepoint=True)
        assert dli_local.job(existing).status == "job_running"


class TestLostAnswers:
    @pytest.mark.parametrize("kind", ["drop_before", "drop_after"])
    @pytest.mark.parametrize("call", ["flink_create_jar", "flink_run"])
    def test_nothing_is_created_or_started_twice(self, dli_local, execute, call, kind):
        dli_local.fault(call, kind)
        result, _ = execute(DliStartFlinkJobOperator, **JAR)
        assert [(job.job_id, job.status) for job in dli_local.jobs()] == [(result, "job_running")]

    def test_a_create_that_was_carried_out_is_found_though_the_list_lags(self, dli_local, execute):
        dli_local.settings(list_lag=2)
        dli_local.fault("flink_create_jar", "drop_after")
        execute(DliStartFlinkJobOperator, **JAR)
        assert len(dli_local.jobs()) == 1

    def test_and_if_it_is_never_listed_nothing_runs_twice(self, dli_local, execute, monkeypatch):
        monkeypatch.setattr(start, "LIST_LAG", 1.0)
        dli_local.settings(list_lag=60)
        dli_local.fault("flink_create_jar", "drop_after")
        with pytest.raises(DliError):
            execute(DliStartFlinkJobOperator, **JAR)
        assert [job.status for job in dli_local.jobs()] == ["job_init"]

    def test_a_draft_of_an_earlier_try_is_started_by_the_next_one(self, dli_local, execute):
        dli_local.fault("flink_run", "status", times=None, status=503)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(start, "_LAUNCH_WITHIN", 1.0)
            # A worker that is lost leaves the draft.
            patch.setattr("airflow_provider_dli.tasks.kill.KillSwitch.abandon", lambda self, why: None)
            with pytest.raises(DliError):
                execute(DliStartFlinkJobOperator, **JAR)
        assert [job.status for job in dli_local.jobs()] == ["job_init"]
        dli_local.clear_faults()
        execute(DliStartFlinkJobOperator, TaskInstance(try_number=2), **JAR)
        assert [job.status for job in dli_local.jobs()] == ["job_running"]

    def test_a_launch_that_is_refused_leaves_no_draft(self, dli_local, execute):
        dli_local.fault("flink_run", "status", times=None, status=400, error_code="DLI.0001")
        with pytest.raises(DliError):
            execute(DliStartFlinkJobOperator, **JAR)
        assert calls(dli_local, "flink_delete") == ["flink_delete"]


class TestEarlier:
    def test_a_retry_takes_up_what_still_runs(self, dli_local, execute):
        first, _ = execute(DliStartFlinkJobOperator, **JAR)
        second, _ = execute(DliStartFlinkJobOperator, TaskInstance(try_number=2), **JAR)
        assert first == second
        assert len(dli_local.jobs()) == 1

    def test_a_cleared_task_stops_it_and_starts_afresh(self, dli_local, execute):
        first, _ = execute(DliStartFlinkJobOperator, **JAR)
        second, _ = execute(DliStartFlinkJobOperator, TaskInstance(try_number=2, max_tries=3), **JAR)
        assert [(job.job_id, job.status) for job in dli_local.jobs()] == [
            (first, "job_cancel_success"),
            (second, "job_running"),
        ]

    def test_many_other_jobs_are_read_through(self, dli_local, hook, execute):
        first, _ = execute(DliStartFlinkJobOperator, **JAR)
        for number in range(130):
            hook.send(flink.create(FlinkDefinition(**JAR), name=f"other-{number}"))
        second, _ = execute(DliStartFlinkJobOperator, TaskInstance(try_number=2), **JAR)
        assert first == second


class TestStop:
    def test_it_waits_until_the_job_has_stopped(self, dli_local, execute):
        job_id, _ = execute(DliStartFlinkJobOperator, **JAR)
        dli_local.settings(flink_cancel_delay=0.5)
        result, _ = execute(DliStopFlinkJobOperator, job_id=int(job_id))
        assert result == {job_id: "CANCELLED"}
        assert dli_local.job(job_id).status == "job_cancel_success"

    def test_one_that_does_not_run_satisfies_it(self, execute, existing):
        result, _ = execute(DliStopFlinkJobOperator, job_id=[existing])
        assert result == {existing: "CREATED"}

    def test_a_draft_of_a_user_is_not_deleted(self, dli_local, execute, existing):
        execute(DliCancelJobOperator, job_id=existing, kind="flink")
        assert dli_local.job(existing).status == "job_init"

    def test_a_stop_that_fails_is_repeated_once_and_then_fails(self, dli_local, execute, existing):
        execute(DliStartFlinkJobOperator, job_id=existing)
        dli_local.settings(flink_stop="fails")
        with pytest.raises(DliJobError, match="could not be stopped and may still run"):
            execute(DliStopFlinkJobOperator, job_id=existing)
        assert calls(dli_local, "flink_stop") == ["flink_stop"] * 2

    def test_answered_by_one_object_or_by_a_soft_failure(self, dli_local, execute, existing):
        dli_local.settings(flink_run_answer="object", flink_errors="object", flink_soft_failure=True)
        execute(DliStartFlinkJobOperator, job_id=existing)
        execute(DliStopFlinkJobOperator, job_id=existing)
        assert dli_local.job(existing).status == "job_cancel_success"


class TestSensor:
    def test_it_waits_until_a_job_runs(self, dli_local, hook, execute, existing):
        dli_local.will(kind="flink", launching_for=0.5, run_for=60)
        hook.send(flink.run(existing))
        execute(DliJobSensor, job_id=existing, kind="flink", wait_for="running", poke_interval=0.1)
        assert dli_local.job(existing).status == "job_running"

    def test_or_fails_when_it_never_will(self, dli_local, hook, execute, existing):
        dli_local.will(kind="flink", run_for=0.1, then="FAILED", message="lost")
        hook.send(flink.run(existing))
        with pytest.raises(DliJobError, match="lost"):
            execute(DliJobSensor, job_id=existing, kind="flink", poke_interval=0.1)

    def test_what_is_waited_for_is_checked(self, execute):
        with pytest.raises(AirflowFailException, match='wait_for must be "finished" or "running"'):
            execute(DliJobSensor, job_id="1", kind="flink", wait_for="stopped")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"job_type": None}, "job_id or job_type"),
        ({"job_id": 131}, "names a job that exists: job_type, entrypoint, queue_name"),
        ({"job_type": "flink_sql_job"}, "job_type must be"),
        ({"job_type": "flink_opensource_sql_job", "entrypoint": None}, "sql_body is missing"),
        ({"sql_body": "select 1"}, "sql_body cannot go with job_type='flink_jar_job'"),
        ({"entrypoint": None}, "entrypoint is missing"),
        ({"entrypoint": "s3a://bucket/job.jar"}, "entrypoint 's3a://bucket/job.jar' is neither an OBS path"),
        ({"entrypoint": "group/job.jar", "flink_version": "1.15"}, "must be an OBS path with Flink 1.15"),
        ({"name": "a-name-that-is-much-too-long"}, "name 'a-name-that-is-much-too-long' is too long: 28 .* 23 fit"),
        ({"name": "no blanks"}, "name must be letters"),
        ({"queue_name": None}, "queue_name is missing"),
        ({"cu_number": 1}, "cu_number must be a whole number of at least 2"),
        ({"parallel_number": "many"}, "parallel_number must be"),
        ({"resume_max_num": 0}, "resume_max_num must be -1"),
        ({"checkpoint_mode": "exactly_once"}, "checkpoint_mode must be one of 1, 2"),
        ({"checkpoint_enabled": True, "checkpoint_path": "obs://bucket/path"}, "checkpoint_path cannot go with"),
        ({"resume_checkpoint": True}, "checkpoint_path is missing"),
        ({"log_enabled": True}, "obs_bucket is missing"),
        ({"resource_config": {"max_slot": 1}}, "resource_config is used with"),
        (
            {"resource_config_version": "v2", "resource_config": {"taskmanager_resource_spec": {"memory": "4"}}},
            "memory.* must be a whole number with a unit",
        ),
        ({"tags": {str(number): "x" for number in range(21)}}, "tags are 21"),
        ({"tags": {"airflow_ti": "x"}}, "tags: 'airflow_ti'"),
        ({"wait_for": "stopped"}, 'wait_for must be "finished" or "running"'),
        ({"delete_on_finish": True}, "delete_on_finish goes with"),
        ({"start_timeout": 900}, "start_timeout must be a timedelta"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(dli_local, execute, changes, problem):
    with pytest.raises(AirflowFailException, match=problem):
        execute(DliStartFlinkJobOperator, **{**JAR, **changes})
    assert calls(dli_local, "flink_create_jar", "flink_create_sql", "flink_run") == []


def test_sql_jobs_that_contradict_themselves(execute):
    with pytest.raises(AirflowFailException, match="run_mode must be 'exclusive_cluster'"):
        execute(DliStartFlinkJobOperator, **SQL, run_mode="shared_cluster")
    with pytest.raises(AirflowFailException, match="obs_bucket is missing"):
        execute(DliStartFlinkJobOperator, **SQL, checkpoint_enabled=True)


@pytest.mark.parametrize(("kind", "job_id"), [("sql", "131"), ("spark", "131"), ("flink", "8ecb0777-9c70")])
def test_a_job_id_of_another_kind_is_refused(execute, kind, job_id):
    for operator in (DliCancelJobOperator, DliJobSensor):
        with pytest.raises((AirflowFailException, DliValueError), match=r"kind"):
            execute(operator, job_id=job_id, kind=kind)


def test_a_refusal_without_an_agency_says_what_to_do(execute):
    with pytest.raises(DliError, match="execution_agency_urn"):
        execute(DliStartFlinkJobOperator, **JAR, flink_version="1.15")


def test_a_queue_of_another_type_says_what_to_do(dli_local, execute):
    dli_local.settings(queues={"default": 16, "sqlonly": 4})
    with pytest.raises(DliError, match="queue of type general"):
        execute(DliStartFlinkJobOperator, **{**JAR, "queue_name": "sqlonly"})


def test_an_unfinished_start_of_an_existing_job_is_waited_for(dli_local, hook, execute, existing):
    # Stopping: it can be started only after that.
    execute(DliStartFlinkJobOperator, job_id=existing)
    dli_local.settings(flink_cancel_delay=0.5)
    hook.cancel_job(existing, "flink")
    execute(DliStartFlinkJobOperator, job_id=existing)
    assert dli_local.job(existing).status == "job_running"


def test_the_hook_lists_and_waits(dli_local, hook, existing):
    assert [job.id for job in hook.list_jobs("flink")] == [existing]
    dli_local.will(kind="flink", run_for=0.2)
    hook.send(flink.run(existing))
    assert watcher.wait_until_over(DliHook().client, flink.KIND, existing, poll_interval=0.1).state.is_success
