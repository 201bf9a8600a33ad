"""Tasks with several statements, over HTTP against the local DLI: order, failures, kills, and what a later try does."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from itertools import pairwise

import pace
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowTaskTimeout, TaskDeferred
from fakes import OVER, TaskInstance, context_of, deferral_of, execute, resume

from airflow_provider_dli import identity
from airflow_provider_dli.exceptions import DliError, DliJobError, DliTaskKilledError
from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator
from airflow_provider_dli.tasks import start

SCRIPT = "SELECT 'one;'; -- the second\nSELECT 2;\nSELECT 3;"


@pytest.fixture(autouse=True)
def connected(connect, airflow_says):
    connect()
    airflow_says("running")


@pytest.fixture
def lag(monkeypatch):
    monkeypatch.setattr(start, "LIST_LAG", 1.0)


def task_of(sql=SCRIPT, **arguments):
    return DliSubmitSqlJobOperator(task_id="load", sql=sql, **{"poll_interval": 0.1, **arguments})


def run(sql=SCRIPT, *, ti=None, **arguments):
    return execute(task_of(sql, **arguments), context_of(ti))


def ran(dli_local):
    """Return the last word of each statement and how its job ended, in the order in which they were submitted."""
    return [(job.statement.split()[-1], job.status) for job in in_order(dli_local)]


def in_order(dli_local):
    return sorted(dli_local.jobs(), key=lambda job: job.submitted_at)


def kill_when(dli_local, task, condition):
    def wait_and_kill():
        dli_local.wait_until(condition, timeout=pace.seconds(20))
        task.on_kill()

    killer = threading.Thread(target=wait_and_kill)
    killer.start()
    return killer


def is_running(word):
    return lambda dli: any(job.statement.endswith(word) and job.status == "RUNNING" for job in dli.jobs())


class TestOrder:
    def test_each_statement_is_a_job_and_begins_when_the_one_before_is_done(self, dli_local):
        dli_local.will(matching="one", run_for=1)
        ti = TaskInstance()
        job_id = run(ti=ti)
        assert ran(dli_local) == [("'one;'", "FINISHED"), ("2", "FINISHED"), ("3", "FINISHED")]
        jobs = in_order(dli_local)
        assert all(later.submitted_at >= earlier.ended_at for earlier, later in pairwise(jobs))
        assert job_id == ti.xcoms["job_id"] == jobs[-1].job_id
        indexes = [identity.read_attempt(job.tags).statement_index for job in jobs]
        assert indexes == [0, 1, 2]

    def test_parameters_are_put_into_all_of_them(self, dli_local):
        run(["SELECT :a", "SELECT :b, :a"], parameters={"a": "it's; :b", "b": None})
        assert [job.statement for job in in_order(dli_local)] == ["SELECT 'it\\'s; :b'", "SELECT NULL, 'it\\'s; :b'"]

    def test_the_first_failure_ends_the_task_and_is_named(self, dli_local):
        dli_local.will(matching="SELECT 2", then="FAILED", message="DLI.0999: no such thing")
        with pytest.raises(DliJobError, match=r"(?s)Statement 2 of 3: SQL job .* no such thing.*SELECT 2"):
            run()
        assert ran(dli_local) == [("'one;'", "FINISHED"), ("2", "FAILED")]

    def test_without_waiting_it_is_refused(self, dli_local):
        with pytest.raises(AirflowFailException, match="wait_for_completion cannot be False, for sql has 3 statements"):
            run(wait_for_completion=False)
        assert dli_local.jobs() == []

    @pytest.mark.parametrize(
        ("sql", "message"), [("SELECT 1; SELECT 'a", "statement 2 has a quote"), ([], "empty"), ("-- no", "empty")]
    )
    def test_a_script_that_cannot_be_used_sends_nothing(self, dli_local, sql, message):
        with pytest.raises(AirflowFailException, match=f"sql.* {message}"):
            run(sql)
        assert dli_local.jobs() == []

    def test_what_has_no_effect_is_told_once(self, dli_local, capsys):
        dli_local.will(times=3)
        run("USE sales; SET a.b = c; SELECT 1")
        log = capsys.readouterr().out
        assert "Statement 1 changes a session, and DLI keeps none between jobs: give the database" in log
        assert log.count("Statement 2 changes a session") == 1


class TestKill:
    def test_cancels_the_statement_that_runs_and_starts_no_other(self, dli_local):
        dli_local.will(matching="SELECT 2", run_for=60)
        task = task_of()
        killer = kill_when(dli_local, task, is_running("SELECT 2"))
        with pytest.raises(DliTaskKilledError):
            execute(task, context_of())
        killer.join()
        assert ran(dli_local) == [("'one;'", "FINISHED"), ("2", "CANCELLED")]

    def test_between_two_statements_starts_no_other(self, dli_local, monkeypatch):
        task = task_of()
        submitted = []

        def start_one(this):
            if submitted:
                task.on_kill()
            submitted.append(this)
            return start.start(this)

        monkeypatch.setattr("airflow_provider_dli.tasks.run.start", start_one)
        with pytest.raises(DliTaskKilledError):
            execute(task, context_of())
        assert ran(dli_local) == [("'one;'", "FINISHED")]

    def test_a_lost_answer_is_looked_up(self, dli_local):
        dli_local.fault("submit", "drop_after", matching="SELECT 2")
        run()
        assert [word for word, _ in ran(dli_local)] == ["'one;'", "2", "3"]


class TestNextTry:
    def test_goes_on_with_the_statement_that_failed(self, dli_local):
        dli_local.will(matching="SELECT 2", then="FAILED")
        with pytest.raises(DliJobError):
            run()
        run(ti=TaskInstance(try_number=2))
        assert ran(dli_local) == [("'one;'", "FINISHED"), ("2", "FAILED"), ("2", "FINISHED"), ("3", "FINISHED")]

    def test_waits_for_the_statement_that_a_lost_worker_left(self, dli_local):
        dli_local.will(matching="SELECT 2", run_for=3)
        lost_at(dli_local, is_running("SELECT 2"))
        run(ti=TaskInstance(try_number=2))
        assert ran(dli_local) == [("'one;'", "FINISHED"), ("2", "FINISHED"), ("3", "FINISHED")]

    def test_goes_on_after_a_statement_that_is_done(self, dli_local, lag):
        lost_before(dli_local, 1)
        run(ti=TaskInstance(try_number=2))
        assert ran(dli_local) == [("'one;'", "FINISHED"), ("2", "FINISHED"), ("3", "FINISHED")]

    @pytest.mark.matrix
    def test_looks_for_a_statement_that_the_list_does_not_show_yet(self, dli_local):
        dli_local.will(matching="one", run_for=3.5)
        dli_local.will(matching="SELECT 2", run_for=8)
        lost_at(dli_local, is_running("SELECT 2"))
        dli_local.settings(list_lag=3)
        run(ti=TaskInstance(try_number=2))
        assert ran(dli_local) == [("'one;'", "FINISHED"), ("2", "FINISHED"), ("3", "FINISHED")]

    def test_of_a_task_that_was_done_runs_nothing(self, dli_local):
        job_id = run()
        assert run(ti=TaskInstance(try_number=2)) == job_id
        assert len(dli_local.jobs()) == 3

    def test_after_a_clear_runs_all_and_cancels_what_still_runs(self, dli_local):
        dli_local.will(matching="SELECT 2", run_for=60)
        lost_at(dli_local, is_running("SELECT 2"))
        run(ti=TaskInstance(try_number=2, max_tries=3))
        assert ran(dli_local) == [
            ("'one;'", "FINISHED"),
            ("2", "CANCELLED"),
            ("'one;'", "FINISHED"),
            ("2", "FINISHED"),
            ("3", "FINISHED"),
        ]

    def test_runs_a_statement_afresh_that_differs(self, dli_local):
        dli_local.will(matching="SELECT 2", run_for=60)
        lost_at(dli_local, is_running("SELECT 2"))
        run(SCRIPT.replace("SELECT 2", "SELECT 22"), ti=TaskInstance(try_number=2))
        assert [word for word, _ in ran(dli_local)] == ["'one;'", "2", "22", "3"]
        assert dict(ran(dli_local))["2"] == "CANCELLED"

    @pytest.mark.matrix
    def test_of_another_task_instance_is_left_alone(self, dli_local, lag):
        dli_local.will(matching="SELECT 2", run_for=3)
        lost_at(dli_local, is_running("SELECT 2"), ti=TaskInstance(map_index=1))
        run(ti=TaskInstance(try_number=2, map_index=2), on_earlier_job="reattach")
        assert [word for word, _ in ran(dli_local)] == ["'one;'", "2", "'one;'", "2", "3"]


class TestDeferred:
    @pytest.mark.matrix
    def test_a_statement_that_is_soon_over_is_waited_for_in_the_worker(self, dli_local, monkeypatch):
        monkeypatch.setattr("airflow_provider_dli.tasks.deferral.Deferral.worker_waits", 2)
        dli_local.will(matching="SELECT 2", run_for=4)
        dli_local.will(run_for=1, times=2)
        # The second one, which takes long.
        assert through(dli_local) == 1

    def test_each_statement_is_waited_for_in_the_triggerer(self, dli_local):
        dli_local.will(run_for=2, times=3)
        assert through(dli_local) == 3
        assert [word for word, _ in ran(dli_local)] == ["'one;'", "2", "3"]

    @pytest.mark.matrix
    def test_dag_test_passes_on_nothing_but_the_event(self, dli_local, monkeypatch):
        dli_local.will(run_for=2, times=3)
        assert through(dli_local, crossed=False, monkeypatch=monkeypatch) == 3
        assert [word for word, _ in ran(dli_local)] == ["'one;'", "2", "3"]

    def test_a_failure_is_named(self, dli_local):
        dli_local.will(matching="SELECT 2", run_for=2, then="FAILED")
        dli_local.will(run_for=2, times=2)
        with pytest.raises(DliJobError, match="Statement 2 of 3: "):
            through(dli_local)
        assert [word for word, _ in ran(dli_local)] == ["'one;'", "2"]

    def test_a_trigger_that_crashed_leaves_no_task_green_that_is_not_done(self, dli_local, monkeypatch):
        dli_local.will(run_for=2)
        context = context_of()
        deferral_of(task_of(deferrable=True), context)
        xcoms = context["ti"].xcoms
        monkeypatch.setattr("airflow_provider_dli.compat.xcom", lambda key, name: xcoms.get(name))
        dli_local.wait_until(lambda dli: not dli.jobs()[0].is_active)
        with pytest.raises(Exception, match="crashed"):
            task_of().resume_execution("__fail__", {"error": "the trigger crashed", "traceback": []}, context)

    def test_a_script_that_has_changed_meanwhile_is_an_error(self, dli_local):
        dli_local.will(run_for=2)
        context = context_of()
        deferral = deferral_of(task_of(deferrable=True), context)
        dli_local.wait_until(lambda dli: not dli.jobs()[0].is_active)
        with pytest.raises(DliError, match="The task has 1 statements now, and had 3"):
            resume(task_of("SELECT 1"), deferral, context)

    def test_a_kill_between_two_statements_starts_no_other(self, dli_local):
        dli_local.will(run_for=2)
        context = context_of()
        deferral = deferral_of(task_of(deferrable=True), context)
        dli_local.wait_until(lambda dli: not dli.jobs()[0].is_active)
        task = task_of(deferrable=True)
        task.on_kill()
        with pytest.raises(DliTaskKilledError):
            resume(task, deferral, context)
        assert len(dli_local.jobs()) == 1


def test_no_statement_begins_once_the_time_is_over(dli_local):
    """Airflow itself would give a resumed task the whole `execution_timeout` again."""
    dli_local.will(matching="one", run_for=3)
    context = context_of()
    deferral = deferral_of(task_of(deferrable=True, execution_timeout=timedelta(minutes=5)), context)
    [job] = dli_local.jobs()
    dli_local.wait_until(lambda dli: dli.job(job.job_id).status == "FINISHED", timeout=pace.seconds(10))
    deferral.kwargs["deadline"] = time.time() - 1
    with pytest.raises(AirflowTaskTimeout):
        resume(task_of(deferrable=True, execution_timeout=timedelta(minutes=5)), deferral, context)
    assert ran(dli_local) == [("'one;'", "FINISHED")]


@pytest.mark.parametrize("fault", [{"status": 404, "error_code": "DLI.0002"}, {"status": 503}])
def test_one_look_that_fails_cancels_no_job_of_an_earlier_try(dli_local, lag, fault):
    dli_local.will(matching="SELECT 2", run_for=4)
    lost_at(dli_local, is_running("SELECT 2"))
    dli_local.fault("status", "status", **fault)
    run(ti=TaskInstance(try_number=2))
    assert ran(dli_local) == [("'one;'", "FINISHED"), ("2", "FINISHED"), ("3", "FINISHED")]
    assert_nothing_cancelled(dli_local)


def through(dli_local, *, crossed=True, monkeypatch=None):
    """Run a deferred script to its end; return how often it was deferred."""
    context, number = context_of(), 1
    if monkeypatch:
        monkeypatch.setattr("airflow_provider_dli.compat.xcom", lambda key, name: context["ti"].xcoms.get(name))
    deferral = deferral_of(task_of(deferrable=True), context)
    while True:
        job_ids = deferral.trigger.serialize()[1]["job_ids"]
        dli_local.wait_until(lambda dli, job_ids=job_ids: not dli.job(job_ids[0]).is_active, timeout=pace.seconds(10))
        task = task_of(deferrable=True)
        try:
            if crossed:
                resume(task, deferral, context)
            else:
                task.execute_complete(context, {**OVER, "job_ids": job_ids})
        except TaskDeferred as next_one:
            deferral, number = next_one, number + 1
        else:
            return number


def lost_at(dli_local, condition, ti=None):
    """Run a task until a condition holds, and lose its worker then: no kill reaches it, and it does nothing more."""
    task = task_of(cancel_on_kill=True)
    task.switch.armed = lambda cancel, *others: type(task.switch).armed(task.switch, None, *others)
    killer = kill_when(dli_local, task, condition)
    with pytest.raises(DliTaskKilledError):
        execute(task, context_of(ti))
    killer.join()


def lost_before(dli_local, index):
    """Run a task until it comes to this statement, and lose its worker then."""

    class LostError(BaseException):
        pass

    def start_one(this):
        if this.mine.statement_index == index:
            raise LostError
        return start.start(this)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airflow_provider_dli.tasks.run.start", start_one)
        with pytest.raises(LostError):
            execute(task_of(), context_of())
    assert_nothing_cancelled(dli_local)


def assert_nothing_cancelled(dli_local):
    assert [job for job in dli_local.jobs() if job.cancel_requests] == []
