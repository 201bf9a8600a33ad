"""The operators over HTTP, against the local DLI, in this process. Kills are in test_kill.py."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace

import fakes
import pace
import pendulum
import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException
from fakes import TaskInstance

from airflow_provider_dli import compat, identity
from airflow_provider_dli.api.sql import SqlWork
from airflow_provider_dli.exceptions import (
    DliError,
    DliJobError,
    DliNotFoundError,
    DliTemporaryError,
    DliValueError,
)
from airflow_provider_dli.operators.dli import DliCancelJobOperator, DliSubmitSqlJobOperator
from airflow_provider_dli.tasks import cleared, start
from airflow_provider_dli.waiting import watcher

UNKNOWN_JOB = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def execute(connect):
    """Return a function that executes an operator, and gives its result and its task instance."""
    connect()

    def run(operator_class, ti=None, **arguments):
        arguments.setdefault("poll_interval", 0.1)
        task = operator_class(task_id="load", **arguments)
        ti = ti or TaskInstance()
        return fakes.execute(task, fakes.context_of(ti)), ti

    return run


class TestSubmit:
    def test_a_statement_is_run_and_the_job_id_returned_and_pushed(self, dli_local, execute):
        result, ti = execute(DliSubmitSqlJobOperator, sql="select 1", do_xcom_push=False)
        [job] = dli_local.jobs()
        assert job.status == "FINISHED"
        assert result == ti.xcoms["job_id"] == job.job_id

    def test_the_job_carries_its_identity(self, dli_local, execute, monkeypatch):
        monkeypatch.setenv("AIRFLOW__DLI__DEPLOYMENT", "prod 1")
        execute(DliSubmitSqlJobOperator, sql="select 1", conf={"a": 1}, tags={"team": "sales"})
        [job] = dli_local.jobs()
        work = SqlWork("select 1", conf={"a": 1}).digest
        assert (
            job.tags["airflow_attempt"]
            == f"1:{identity.generation(pendulum.datetime(2026, 11, 22), 2)}:1:-1:0:task:{work}"
        )
        assert {name: job.tags[name] for name in ("team", "airflow_dag", "airflow_run", "airflow_task")} == {
            "team": "sales",
            "airflow_dag": "sales",
            "airflow_run": "run 1",
            "airflow_task": "load",
        }
        assert job.tags["airflow_deployment"] == "prod 1"
        assert job.conf == ("a = 1",)

    def test_without_waiting_the_job_goes_on_and_says_that_nobody_waits(self, dli_local, execute):
        dli_local.will(run_for=60)
        result, _ = execute(DliSubmitSqlJobOperator, sql="select 1", wait_for_completion=False)
        job = dli_local.job(result)
        assert job.is_active
        assert ":detached:" in job.tags["airflow_attempt"]

    def test_the_connections_queue_and_database_are_the_defaults(self, dli_local, connect, execute):
        hook = connect(extra={"default_queue": "default", "default_database": "db1"})
        hook.wait_for_job(hook.submit_sql_job("create database db1", database="default").id, poll_interval=0.1)
        result, _ = execute(DliSubmitSqlJobOperator, sql="select 1")
        assert (dli_local.job(result).queue_name, dli_local.job(result).database) == ("default", "db1")

    def test_a_failed_job_fails_the_task(self, execute):
        with pytest.raises(DliJobError, match="no_such_table"):
            execute(DliSubmitSqlJobOperator, sql="select * from no_such_table")

    def test_a_job_cancelled_by_somebody_else_fails_the_task(self, dli_local, execute):
        dli_local.will(run_for=0.2, then="CANCELLED")
        with pytest.raises(DliJobError, match="ended CANCELLED"):
            execute(DliSubmitSqlJobOperator, sql="select 1")

    @pytest.mark.parametrize("fault", ["drop_after", "empty", "html", "truncate"])
    def test_a_lost_answer_is_looked_up_and_the_job_adopted(self, dli_local, execute, fault):
        dli_local.fault("submit", fault, work_done=True)
        result, ti = execute(DliSubmitSqlJobOperator, sql="select 1")
        [job] = dli_local.jobs()
        assert result == ti.xcoms["job_id"] == job.job_id

    def test_a_lost_answer_is_looked_up_for_as_long_as_the_list_may_lag(self, dli_local, execute):
        dli_local.settings(list_lag=3)
        dli_local.fault("submit", "drop_after")
        result, _ = execute(DliSubmitSqlJobOperator, sql="select 1")
        assert [job.job_id for job in dli_local.jobs()] == [result]

    @pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])
    def test_an_answer_with_an_id_that_dli_does_not_know_counts_as_lost(self, dli_local, execute, deferrable):
        dli_local.fault("submit", "field", field="job_id", value=UNKNOWN_JOB)
        result, ti = execute(DliSubmitSqlJobOperator, sql="select 1", deferrable=deferrable)
        [job] = dli_local.jobs()
        assert result == ti.xcoms["job_id"] == job.job_id

    def test_a_job_that_dli_forgets_is_not_looked_for_in_vain(self, dli_local, execute):
        """The list still shows it: its id is right, and only its status is not to be had."""
        dli_local.will(run_for=60)
        dli_local.fault("status", "status", times=None, status=400, error_code="DLI.0002", error_msg="no such job")
        begun = time.monotonic()
        with pytest.raises(DliNotFoundError, match="no such job"):
            execute(DliSubmitSqlJobOperator, sql="select 1")
        assert time.monotonic() - begun < pace.seconds(20)

    def test_a_submit_that_got_lost_on_its_way_is_reported_and_not_repeated(self, dli_local, execute, monkeypatch):
        monkeypatch.setattr(start, "LIST_LAG", 3)
        dli_local.fault("submit", "drop_before")
        with pytest.raises(DliError, match="DLI lists no job of this try within 3 s. The job may still run"):
            execute(DliSubmitSqlJobOperator, sql="select 1")
        assert dli_local.jobs() == []
        assert len(dli_local.requests(call="submit")) == 1

    def test_a_failure_after_the_submit_cancels_the_job(self, dli_local, execute):
        class Unreachable(TaskInstance):
            def xcom_push(self, key, value):
                raise RuntimeError("the supervisor is gone")

        dli_local.will(run_for=60)
        with pytest.raises(RuntimeError, match="the supervisor is gone"):
            execute(DliSubmitSqlJobOperator, ti=Unreachable(), sql="select 1")
        dli_local.wait_until(lambda dli: [job.status for job in dli.jobs()] == ["CANCELLED"], timeout=pace.seconds(5))

    def test_an_outage_beyond_the_budget_cancels_the_job(self, dli_local, execute, monkeypatch):

        monkeypatch.setattr(watcher, "OUTAGE_BUDGET", 1)
        dli_local.will(run_for=60)
        dli_local.fault("status", "status", times=None, status=503, error_code="APIG.0602", error_msg="unavailable")
        with pytest.raises(DliTemporaryError, match="unavailable"):
            execute(DliSubmitSqlJobOperator, sql="select 1")
        dli_local.wait_until(lambda dli: [job.status for job in dli.jobs()] == ["CANCELLED"], timeout=pace.seconds(5))

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"sql": " "}, "sql"),
            ({"sql": ["select 1", 2]}, "sql"),
            ({"sql": "select :a", "parameters": {}}, "parameters"),
            ({"sql": "select 1", "conf": "a=1"}, "conf"),
            ({"sql": "select 1", "tags": {"a/b": "c"}}, "tags"),
            ({"sql": "select 1", "tags": ["a"]}, "tags"),
            ({"sql": "select 1", "queue_name": "a b"}, "queue_name"),
            ({"sql": "select 1", "poll_interval": 0}, "poll_interval"),
        ],
    )
    def test_bad_input_is_named_and_nothing_submitted(self, dli_local, execute, arguments, field):
        with pytest.raises(AirflowFailException, match=field) as caught:
            execute(DliSubmitSqlJobOperator, **arguments)
        assert caught.value.__context__.field == field
        assert dli_local.jobs() == []


class TestJobOfAnEarlierTry:
    @pytest.fixture
    def left_running(self, dli_local, connect):
        """Return a function that submits what a try would, and leaves it running; returns the job id."""

        def submit(ti, day=22, run_for=3.0):
            mine = identity.Identity(
                dag_id=ti.dag_id,
                run_id=ti.run_id,
                task_id=ti.task_id,
                map_index=-1,
                statement_index=0,
                generation=identity.generation(pendulum.datetime(2026, 11, day), ti.max_tries),
                try_number=ti.try_number,
                owner="task",
                work=SqlWork("select 1").digest,
            )
            dli_local.will(run_for=run_for)
            return connect().submit_sql_job("select 1", tags=mine.tags()).id

        return submit

    @pytest.mark.matrix
    def test_one_of_another_airflow_does_not_end_the_look_for_ours(self, dli_local, execute, left_running):
        ti = TaskInstance()
        left_running(ti, day=21)
        time.sleep(3)
        dli_local.settings(list_lag=3)
        ours = left_running(ti, run_for=6)
        ti.try_number = 2
        result, _ = execute(DliSubmitSqlJobOperator, ti, sql="select 1")
        assert result == ours
        assert len(dli_local.jobs()) == 2

    def test_where_airflow_may_lose_count_it_is_looked_for_on_try_1_too(
        self, dli_local, execute, left_running, monkeypatch
    ):
        monkeypatch.setattr(compat, "TRY_1_IS_THE_FIRST", False)
        ti = TaskInstance()
        first = left_running(ti)
        result, _ = execute(DliSubmitSqlJobOperator, ti, sql="select 1")
        assert result == first
        assert len(dli_local.jobs()) == 1

    def test_on_try_1_the_look_takes_no_time_and_needs_no_right(self, dli_local, execute, monkeypatch):
        monkeypatch.setattr(compat, "TRY_1_IS_THE_FIRST", False)
        began = time.monotonic()
        execute(DliSubmitSqlJobOperator, sql="select 1")
        dli_local.fault("list", "status", status=403, error_code="DLI.0003", error_msg="not allowed")
        execute(DliSubmitSqlJobOperator, sql="select 1")
        assert time.monotonic() - began < pace.seconds(5)
        assert len(dli_local.requests("list")) == 2

    def test_elsewhere_a_first_try_does_not_look(self, dli_local, execute):
        execute(DliSubmitSqlJobOperator, sql="select 1")
        assert dli_local.requests("list") == []


class TestCancel:
    def submit(self, connect, count=1):
        hook = connect()
        return [hook.submit_sql_job("select 1").id for _ in range(count)]

    def test_a_running_job_is_cancelled_and_waited_for(self, dli_local, connect, execute):
        dli_local.will(run_for=60, cancel_takes=1)
        [job_id] = self.submit(connect)
        result, _ = execute(DliCancelJobOperator, job_id=job_id)
        assert result == {job_id: "CANCELLED"}
        assert dli_local.job(job_id).status == "CANCELLED"

    def test_its_own_retry_does_no_harm(self, dli_local, connect, execute):
        dli_local.will(run_for=60)
        [job_id] = self.submit(connect)
        for _ in range(2):
            assert execute(DliCancelJobOperator, job_id=job_id, fail_if_finished=True)[0] == {job_id: "CANCELLED"}

    def test_a_list_and_a_job_that_finished_before(self, dli_local, connect, execute):
        [finished] = self.submit(connect)
        connect().wait_for_job(finished, poll_interval=0.1)
        dli_local.will(run_for=60)
        [running] = self.submit(connect)
        result, _ = execute(DliCancelJobOperator, job_id=[finished, running, running])
        assert result == {finished: "FINISHED", running: "CANCELLED"}
        with pytest.raises(DliJobError, match=re.escape(f"over before: {finished} (FINISHED)")):
            execute(DliCancelJobOperator, job_id=[finished, running], fail_if_finished=True)

    def test_a_job_that_finishes_in_spite_of_the_cancel_is_reported_as_finished(self, dli_local, connect, execute):
        dli_local.will(run_for=1)
        [job_id] = self.submit(connect)
        dli_local.fault("cancel", "status", status=200, body='{"is_success": true, "message": ""}')
        assert execute(DliCancelJobOperator, job_id=job_id)[0] == {job_id: "FINISHED"}

    def test_an_unknown_job_is_an_error_but_the_others_are_cancelled(self, dli_local, connect, execute):
        dli_local.will(run_for=60)
        [job_id] = self.submit(connect)
        with pytest.raises(DliNotFoundError, match=UNKNOWN_JOB):
            execute(DliCancelJobOperator, job_id=[UNKNOWN_JOB, job_id])
        assert dli_local.job(job_id).status == "CANCELLED"

    def test_without_waiting(self, dli_local, connect, execute):
        dli_local.will(run_for=60, cancel_takes=5)
        [job_id] = self.submit(connect)
        assert execute(DliCancelJobOperator, job_id=job_id, wait_for_completion=False)[0] == {job_id: "accepted"}

    @pytest.mark.parametrize("job_id", [[], None, 7, "a/b", ["8ecb0777", "a b"], "None"])
    def test_bad_input_is_named_and_nothing_sent(self, dli_local, execute, job_id):
        with pytest.raises(AirflowFailException, match="job_id"):
            execute(DliCancelJobOperator, job_id=job_id)
        assert dli_local.requests(call="cancel") == []


class TestAirflowsOwnQueue:
    def test_is_not_taken_for_that_of_dli(self):
        with pytest.raises(DliValueError, match=r"queue='etl' is Airflow's own .*The queue of DLI is queue_name"):
            DliSubmitSqlJobOperator(task_id="load", sql="select 1", queue="etl")

    def test_can_be_set_through_default_args(self):
        task = DliSubmitSqlJobOperator(task_id="load", sql="select 1", default_args={"queue": "celery-2"})
        assert (task.queue, task.queue_name) == ("celery-2", None)

    def test_of_a_mapped_task(self):
        mapped = DliSubmitSqlJobOperator.partial(task_id="load", dag=DAG("sales", schedule=None)).expand(
            sql=["select 1"]
        )
        assert mapped.unmap({"sql": "select 1"}).queue_name is None


def test_operators_have_room_for_templates():
    assert {"sql", "database", "queue_name", "conf", "tags", "dli_conn_id"} <= set(
        DliSubmitSqlJobOperator.template_fields
    )
    assert DliSubmitSqlJobOperator.template_ext == (".sql",)
    assert {"job_id", "kind", "dli_conn_id"} <= set(DliCancelJobOperator.template_fields)


@pytest.mark.parametrize("given", [None, print, [print], (print,)], ids=["none", "one", "list", "tuple"])
@pytest.mark.parametrize("has_history", [False, True])
def test_success_callbacks_of_the_author_stay(monkeypatch, given, has_history):
    """Airflow 2 leaves a single one as it is."""
    monkeypatch.setattr(compat, "HAS_TRY_HISTORY", has_history)
    task = SimpleNamespace(on_success_callback=given, on_earlier_job="reattach")
    for _ in range(2):
        cleared.note_success_of(task)
    if has_history:
        assert task.on_success_callback is given
    else:
        assert [each for each in task.on_success_callback if each is print] == [print] * bool(given)
        assert len(task.on_success_callback) == 1 + bool(given)
