"""What a later try does with the jobs of earlier ones: the table "re-attach, adopt, run again"."""

from __future__ import annotations

import dataclasses
import time
from datetime import timedelta

import pace
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from fakes import START, TaskInstance, context_of, execute, identity_of

from airflow_provider_dli import identity
from airflow_provider_dli.core.decide import Decision, earlier_jobs
from airflow_provider_dli.exceptions import DliError, DliPermissionError
from airflow_provider_dli.job import Job, JobState
from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator
from airflow_provider_dli.tasks import start

OTHER_START = START.add(days=1)
FIRST = identity_of()


def a_job(state, job_id="job", **changes):
    attempt = dataclasses.replace(FIRST, **changes)
    return Job(job_id, "sql", "SQL job", JobState[state], state, tags=attempt.tags())


CLEARED = {"generation": identity.generation(START, 5)}
CLEARED_RUN = {"generation": identity.generation(OTHER_START, 2)}
OTHER_WORK = {"work": "0" * 16}


@pytest.mark.parametrize(
    ("state", "changes", "decision"),
    [
        ("RUNNING", {}, Decision.REATTACH),
        ("LAUNCHING", {}, Decision.REATTACH),
        ("UNKNOWN", {}, Decision.REATTACH),
        ("RUNNING", OTHER_WORK, Decision.CANCEL),
        ("FINISHED", {}, Decision.RESULT),
        ("FINISHED", OTHER_WORK, Decision.RESULT),
        ("FAILED", {}, Decision.OVER),
        ("CANCELLED", {}, Decision.OVER),
        ("RUNNING", CLEARED, Decision.CANCEL),
        ("RUNNING", {**CLEARED, **OTHER_WORK}, Decision.CANCEL),
        ("FINISHED", CLEARED, Decision.OVER),
        ("FAILED", CLEARED, Decision.OVER),
        ("RUNNING", CLEARED_RUN, Decision.LEAVE),
        ("RUNNING", {**CLEARED_RUN, "deployment": "theirs"}, Decision.LEAVE),
        ("RUNNING", {**CLEARED_RUN, "deployment": "ours"}, Decision.CANCEL),
        ("FINISHED", CLEARED_RUN, Decision.OVER),
    ],
)
def test_the_table(state, changes, decision):
    mine = dataclasses.replace(FIRST, try_number=2, deployment="ours")
    [earlier] = earlier_jobs([a_job(state, **changes)], [mine], reuse=True)
    assert earlier.decision is decision


@pytest.mark.parametrize("state", ["RUNNING", "UNKNOWN", "STOPPING", "STOP_FAILED"])
def test_a_job_that_only_its_name_tells_of_is_never_cancelled(state):
    job = dataclasses.replace(a_job(state, **CLEARED), is_proved=False)
    [earlier] = earlier_jobs([job], [dataclasses.replace(FIRST, try_number=2)], reuse=True)
    assert earlier.decision is Decision.UNPROVED


@pytest.mark.parametrize("state", ["LAUNCHING", "RUNNING", "SCALING", "STOPPING", "STOP_FAILED", "UNKNOWN"])
def test_what_may_still_run_is_cancelled_where_it_does_not_serve(state):
    for changes, reuse in ((CLEARED, True), (OTHER_WORK, True), ({}, False)):
        [earlier] = earlier_jobs([a_job(state, **changes)], [dataclasses.replace(FIRST, try_number=2)], reuse=reuse)
        assert earlier.decision is Decision.CANCEL


@pytest.mark.parametrize("theirs", ["theirs", "our", "ours2", "OURS", None])
@pytest.mark.parametrize("mine", ["ours", None])
def test_of_another_run_only_a_job_of_this_very_deployment_is_cancelled(theirs, mine):
    job = a_job("RUNNING", deployment=theirs, **CLEARED_RUN)
    [earlier] = earlier_jobs([job], [dataclasses.replace(FIRST, try_number=2, deployment=mine)], reuse=True)
    assert earlier.decision is Decision.LEAVE


def test_the_highest_try_counts_and_other_active_ones_are_cancelled():
    jobs = [a_job("RUNNING", "one"), a_job("RUNNING", "three", try_number=3), a_job("FINISHED", "two", try_number=2)]
    found = earlier_jobs(jobs, [dataclasses.replace(FIRST, try_number=4)], reuse=True)
    assert [(earlier.job.id, earlier.decision) for earlier in found] == [
        ("three", Decision.REATTACH),
        ("two", Decision.OVER),
        ("one", Decision.CANCEL),
    ]


def test_a_later_job_of_another_airflow_does_not_take_the_place_of_ours():
    jobs = [a_job("RUNNING", "ours"), a_job("RUNNING", "theirs", try_number=2, **CLEARED_RUN)]
    found = earlier_jobs(jobs, [dataclasses.replace(FIRST, try_number=2)], reuse=True)
    assert [(earlier.job.id, earlier.decision) for earlier in found] == [
        ("theirs", Decision.LEAVE),
        ("ours", Decision.REATTACH),
    ]


def test_a_job_whose_attempt_cannot_be_read_is_not_judged():
    for value in ("", "nonsense", "0:1.2:1:-1:0:task:abc", "1:1.2:x:-1:0:task:abc"):
        job = dataclasses.replace(a_job("RUNNING"), tags={identity.ATTEMPT: value})
        assert earlier_jobs([job], [FIRST], reuse=True) == []


def test_beside_a_job_of_a_newer_release_nothing_is_decided_while_it_runs():
    newer = {identity.ATTEMPT: "2:1.2:1:-1:0:task:abc"}
    with pytest.raises(DliError, match="was submitted by a newer release"):
        earlier_jobs([dataclasses.replace(a_job("RUNNING"), tags=newer)], [FIRST], reuse=True)
    assert earlier_jobs([dataclasses.replace(a_job("FINISHED"), tags=newer)], [FIRST], reuse=True) == []


class TestOverTheWire:
    @pytest.fixture
    def run(self, connect):
        connect()

        def run(try_number, *, start=START, max_tries=2, retry_delay=timedelta(seconds=30), **arguments):
            arguments = {"sql": "select 1", "poll_interval": 0.1, "retry_delay": retry_delay, **arguments}
            task = DliSubmitSqlJobOperator(task_id="load", **arguments)
            ti = TaskInstance(try_number=try_number, max_tries=max_tries)
            result = execute(task, context_of(ti, start))
            assert ti.xcoms["job_id"] == result
            return result

        return run

    @pytest.fixture
    def lost(self, connect, dli_local):
        """Leave a job behind, as a try whose worker was lost does."""

        def lost(run_for=2, sql="select 1", **changes):
            attempt = dataclasses.replace(FIRST, **changes)
            dli_local.will(run_for=run_for)
            return connect().submit_sql_job(sql, tags=attempt.tags()).id

        return lost

    def test_a_retry_waits_for_the_job_that_still_runs(self, dli_local, run, lost, capfd):
        job_id = lost()
        assert run(2) == job_id
        assert [job.status for job in dli_local.jobs()] == ["FINISHED"]
        assert f"SQL job {job_id} of try 1 is RUNNING: this try waits for it" in capfd.readouterr().out

    def test_a_retry_takes_the_result_of_a_job_that_finished(self, dli_local, run, lost):
        job_id = lost(run_for=0)
        dli_local.wait_until(lambda dli: not dli.job(job_id).is_active, timeout=pace.seconds(5))
        assert run(2) == job_id
        assert len(dli_local.jobs()) == 1

    def test_a_cleared_task_cancels_what_runs_and_runs_again(self, dli_local, run, lost):
        job_id = lost(run_for=60)
        assert run(2, max_tries=5) != job_id
        assert [job.status for job in dli_local.jobs()] == ["CANCELLED", "FINISHED"]
        first, second = dli_local.jobs()
        assert first.ended_at <= second.submitted_at

    def test_a_cleared_task_runs_again_what_had_finished(self, dli_local, run, lost):
        job_id = lost(run_for=0)
        dli_local.wait_until(lambda dli: not dli.job(job_id).is_active, timeout=pace.seconds(5))
        run(2, max_tries=5)
        assert [job.status for job in dli_local.jobs()] == ["FINISHED", "FINISHED"]

    def test_a_changed_statement_is_run_instead(self, dli_local, run, lost):
        lost(run_for=60)
        run(2, sql="select 2")
        assert [(job.statement, job.status) for job in dli_local.jobs()] == [
            ("select 1", "CANCELLED"),
            ("select 2", "FINISHED"),
        ]

    def test_a_changed_statement_is_not_run_when_the_first_one_has_finished(self, dli_local, run, lost, capfd):
        """As of a template with now(): a second insert would double the data."""
        job_id = lost(run_for=0, sql="insert into t select 1 -- 10:00")
        dli_local.wait_until(lambda dli: not dli.job(job_id).is_active, timeout=pace.seconds(5))
        assert run(2, sql="insert into t select 1 -- 10:05") == job_id
        assert len(dli_local.jobs()) == 1
        assert "ran something else than this try would: the statement." in capfd.readouterr().out

    def test_nor_when_the_first_one_finishes_before_its_cancel_comes(self, dli_local, run, lost):
        job_id = lost(run_for=1, sql="insert into t select 1 -- 10:00")
        dli_local.fault("cancel", "latency", seconds=2)
        assert run(2, sql="insert into t select 1 -- 10:05") == job_id
        assert [job.status for job in dli_local.jobs()] == ["FINISHED"]

    def test_but_it_is_with_cancel_or_after_a_clear(self, dli_local, run, lost):
        job_id = lost(run_for=0)
        dli_local.wait_until(lambda dli: not dli.job(job_id).is_active, timeout=pace.seconds(5))
        run(2, sql="select 2", on_earlier_job="cancel")
        run(3, sql="select 3", max_tries=5)
        assert [job.statement for job in dli_local.jobs()] == ["select 1", "select 2", "select 3"]

    def test_a_job_of_another_airflow_is_left_alone(self, dli_local, run, lost, monkeypatch):
        monkeypatch.setattr(start, "LIST_LAG", 3)  # for which it looks for a job of its own
        job_id = lost(run_for=60, generation=identity.generation(OTHER_START, 2))
        run(2)
        assert dli_local.job(job_id).is_active
        assert dli_local.job(job_id).cancel_requests == ()

    def test_cancel_does_not_wait_for_it(self, dli_local, run, lost):
        lost(run_for=60)
        run(2, on_earlier_job="cancel")
        assert [job.status for job in dli_local.jobs()] == ["CANCELLED", "FINISHED"]

    def test_ignore_does_not_look(self, dli_local, run, lost):
        job_id = lost(run_for=60)
        run(2, on_earlier_job="ignore")
        assert dli_local.job(job_id).is_active
        assert dli_local.requests(call="list") == []

    def test_the_first_try_does_not_look(self, dli_local, run):
        run(1)
        assert dli_local.requests(call="list") == []

    def test_a_list_that_lags_is_looked_at_again_when_the_worker_was_lost_just_now(self, dli_local, run, lost):
        dli_local.settings(list_lag=3)
        job_id = lost(run_for=6)
        assert run(2, retry_delay=timedelta(seconds=0)) == job_id
        assert len(dli_local.jobs()) == 1

    def test_a_late_kill_of_the_earlier_try_makes_this_one_submit_afresh_once(self, dli_local, connect, run, lost):
        job_id = lost(run_for=60)

        def cancel_soon():
            time.sleep(1)
            connect().cancel_job(job_id)

        import threading

        threading.Thread(target=cancel_soon).start()
        assert run(2) != job_id
        assert [job.status for job in dli_local.jobs()] == ["CANCELLED", "FINISHED"]

    def test_without_the_right_to_list_nothing_is_submitted(self, dli_local, run):
        dli_local.fault("list", "status", times=None, status=403, error_code="APIG.0302", error_msg="not authorized")
        with pytest.raises(DliPermissionError, match=r'dli:jobs:listAll .*on_earlier_job="ignore" goes without'):
            run(2)
        assert dli_local.jobs() == []

    def test_an_unknown_choice_lists_the_known_ones(self, run):
        with pytest.raises(
            AirflowFailException, match="on_earlier_job must be one of reattach, cancel, ignore, not 'adopt'"
        ):
            run(1, on_earlier_job="adopt")


class TestBound:
    def bound(self, dli_local, connect, **arguments):
        connect()
        task = DliSubmitSqlJobOperator(task_id="load", sql="select 1", poll_interval=0.1, **arguments)
        execute(task, context_of())
        return dli_local.jobs()[-1].conf

    def test_dli_gets_the_execution_timeout_and_a_minute(self, dli_local, connect):
        assert self.bound(dli_local, connect, execution_timeout=timedelta(hours=1)) == ("dli.sql.job.timeout = 3660",)

    @pytest.mark.parametrize(
        ("unit", "conf"),
        [
            ("seconds", ("dli.sql.job.timeout = 3660",)),
            ("milliseconds", ("dli.sql.job.timeout = 3660000",)),
            ("off", ()),
        ],
    )
    def test_in_the_unit_that_this_dli_counts_in(self, dli_local, connect, monkeypatch, unit, conf):
        monkeypatch.setenv("AIRFLOW__DLI__SERVER_BOUND", unit)
        assert self.bound(dli_local, connect, execution_timeout=timedelta(hours=1)) == conf

    def test_an_unknown_unit_is_named(self, dli_local, connect, monkeypatch):
        monkeypatch.setenv("AIRFLOW__DLI__SERVER_BOUND", "minutes")
        with pytest.raises(AirflowFailException, match="server_bound .* seconds, milliseconds, off, not 'minutes'"):
            self.bound(dli_local, connect, execution_timeout=timedelta(hours=1))
        assert dli_local.jobs() == []

    def test_a_job_that_dli_ends_long_before_names_the_switch(self, dli_local, connect):
        dli_local.settings(timeout_unit="milliseconds")
        dli_local.will(run_for=60)
        with pytest.raises(DliError, match=r"(?s)ended it after [\d.]+ s, .*10 min.* set server_bound = milliseconds"):
            self.bound(dli_local, connect, execution_timeout=timedelta(minutes=9))

    def test_with_the_switch_it_is_not_ended(self, dli_local, connect, monkeypatch):
        monkeypatch.setenv("AIRFLOW__DLI__SERVER_BOUND", "milliseconds")
        dli_local.settings(timeout_unit="milliseconds")
        dli_local.will(run_for=1)
        self.bound(dli_local, connect, execution_timeout=timedelta(minutes=9))
        assert dli_local.jobs()[-1].status == "FINISHED"

    @pytest.mark.parametrize(
        ("script", "arguments"),
        [
            ({"then": "FAILED", "message": "DLI.0005: AnalysisException"}, {"execution_timeout": timedelta(hours=1)}),
            ({"then": "CANCELLED"}, {}),
            ({"then": "CANCELLED"}, {"execution_timeout": timedelta(hours=1), "conf": {"dli.sql.job.timeout": 9}}),
        ],
        ids=str,
    )
    def test_other_ends_are_not_explained_by_it(self, dli_local, connect, script, arguments):
        dli_local.will(**script)
        with pytest.raises(DliError) as caught:
            self.bound(dli_local, connect, **arguments)
        assert "server_bound" not in str(caught.value)

    def test_a_job_that_ran_too_long_for_it_was_ended_by_somebody_else(self, dli_local, connect):
        dli_local.will(then="CANCELLED")
        dli_local.fault("status", "field", times=None, field="duration", value=1_200_000)
        with pytest.raises(DliError) as caught:
            self.bound(dli_local, connect, execution_timeout=timedelta(hours=1))
        assert "server_bound" not in str(caught.value)

    @pytest.mark.parametrize(
        ("arguments", "conf"),
        [
            ({}, ()),
            ({"conf": {"dli.sql.job.timeout": 10}}, ("dli.sql.job.timeout = 10",)),
            ({"conf": {"dli.sql.job.timeout": None}}, ()),
            ({"wait_for_completion": False}, ()),
            ({"cancel_on_kill": False}, ()),
        ],
    )
    def test_unless_the_author_says_otherwise_or_nobody_waits(self, dli_local, connect, arguments, conf):
        if arguments:
            arguments = {"execution_timeout": timedelta(hours=1), **arguments}
        assert self.bound(dli_local, connect, **arguments) == conf
