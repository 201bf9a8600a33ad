"""The hook over HTTP, against the local DLI: what it sends, repeats, renews and reports."""

from __future__ import annotations

import pickle
import re
import time
from types import SimpleNamespace

import pace
import pytest

from airflow_provider_dli.api import sql
from airflow_provider_dli.client import client
from airflow_provider_dli.client.patience import Patience
from airflow_provider_dli.exceptions import (
    DliAuthenticationError,
    DliError,
    DliJobError,
    DliNotFoundError,
    DliPermissionError,
    DliTemporaryError,
    DliValueError,
)
from airflow_provider_dli.job import JobState
from airflow_provider_dli.waiting.watcher import JobWatcher, wait_until_over

UNKNOWN_JOB = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize("auth_type", ["password", "ak_sk"])
def test_a_statement_runs_and_its_rows_come_back(dli_local, connect, auth_type):
    dli_local.settings(queues={"default": 16, "sql": 4})
    hook = connect(auth_type)
    job = hook.submit_sql_job("select 40 + 2 as answer", queue_name="sql", tags={"team": "sales"})
    done = hook.wait_for_job(job.id, poll_interval=0.1).require()
    assert done.tags == {"team": "sales"}
    assert done.job_type == "QUERY"
    assert done.duration is not None
    assert hook.send(sql.preview(job.id, queue_name="sql")).rows == [[42]]


def test_the_other_calls_of_the_chapter(hook):
    job = hook.submit_sql_job("select 1")
    hook.wait_for_job(job.id, poll_interval=0.1)
    assert hook.send(sql.progress(job.id)) == 1
    assert [found.id for found in hook.send(sql.list_jobs(page_size=5)).jobs] == [job.id]


def test_one_token_for_all_hooks_of_a_process(dli_local, connect):
    for _ in range(3):
        connect().send(sql.list_jobs())
    assert len(dli_local.requests(call="token")) == 1


def test_a_hundred_status_calls_make_one_connection(dli_local, hook):
    job = hook.submit_sql_job("select 1")
    before = dli_local.requests()[-1].seq
    for _ in range(100):
        hook.get_job(job.id)
    calls = dli_local.requests(call="status", since=before)
    assert len(calls) == 100
    assert len({call.connection for call in calls}) == 1


def test_a_token_that_dies_early_is_renewed_once(dli_local, hook):
    hook.send(sql.list_jobs())
    dli_local.fault("list", "expired_token")
    hook.send(sql.list_jobs())
    assert len(dli_local.requests(call="token")) == 2


def test_a_token_near_its_end_is_renewed_ahead(dli_local, hook):
    dli_local.settings(token_lifetime=2)
    hook.send(sql.list_jobs())
    time.sleep(1.1)
    hook.send(sql.list_jobs())
    assert len(dli_local.requests(call="token")) == 2
    assert {call.status for call in dli_local.requests(call="list")} == {200}


def test_a_token_that_is_never_accepted_is_asked_for_once_more_only(dli_local, hook):
    hook.send(sql.list_jobs())
    dli_local.fault("list", "status", times=None, status=401, error_code="APIG.0307", error_msg="must be updated")
    with pytest.raises(DliAuthenticationError, match="Check login, password, domain_name and project"):
        hook.send(sql.list_jobs())
    assert len(dli_local.requests(call="token")) == 2


def test_a_project_name_is_enough(dli_local, connect):
    for auth_type in ("password", "ak_sk"):
        hook = connect(auth_type, extra={"project_id": None, "project_name": dli_local.project_name})
        assert hook.send(sql.list_jobs()).jobs == []


@pytest.mark.parametrize(
    ("auth_type", "changes", "sentence"),
    [
        (
            "password",
            {"password": "wrong-secret"},
            "Check login, password, domain_name and project of connection 'dli_default'",
        ),
        ("password", {"login": "nobody"}, "getting an IAM token for user 'nobody'"),
        ("password", {"extra": {"domain_name": "other"}}, "of account 'other'"),
        ("password", {"extra": {"project_id": "0" * 32}}, "getting an IAM token"),
        ("ak_sk", {"password": "wrong-secret"}, "Not tried again, because wrong signatures lock the key"),
        ("ak_sk", {"login": "nobody"}, "Check login (access key) and password (secret key)"),
    ],
)
def test_wrong_credentials_are_told_and_not_repeated(dli_local, connect, auth_type, changes, sentence):
    hook = connect(auth_type, **changes)
    before = len(dli_local.requests())
    with pytest.raises(DliError, match=re.escape(sentence)) as caught:
        hook.send(sql.list_jobs())
    assert "wrong-secret" not in str(caught.value)
    assert len(dli_local.requests()) - before == 1


def test_an_unknown_queue_is_named(hook):
    with pytest.raises(DliNotFoundError, match=r"There is no queue named nowhere \(DLI.0002, HTTP 400"):
        hook.submit_sql_job("select 1", queue_name="nowhere")


def test_an_unknown_project_names_project_and_connection(dli_local, connect):
    hook = connect("ak_sk", extra={"project_id": "0" * 32})
    with pytest.raises(DliError, match="connection 'dli_default'"):
        hook.send(sql.list_jobs())


def test_an_unknown_job_is_named(dli_local, hook):
    for answer in ("DLI.0002", "404"):
        dli_local.settings(unknown_job=answer)
        with pytest.raises(DliNotFoundError, match=f"status of SQL job {UNKNOWN_JOB} failed"):
            hook.get_job(UNKNOWN_JOB)
        with pytest.raises(DliNotFoundError, match=f"cancel of SQL job {UNKNOWN_JOB} failed"):
            hook.cancel_job(UNKNOWN_JOB)


@pytest.mark.parametrize(
    "job_id", ["", " ", "a/b", "../queues/default", "..", ".", "a?b", "a#b", "a%2Fb", "a b", "a\nb", "x" * 65, None, 7]
)
def test_a_job_id_never_reaches_another_path(dli_local, hook, job_id):
    for call in (hook.get_job, hook.cancel_job):
        with pytest.raises(DliValueError, match="is no DLI job id") as caught:
            call(job_id)
        assert caught.value.field == "job_id"
    assert dli_local.requests() == []


def test_the_word_none_as_a_job_id_points_to_the_template(hook):
    with pytest.raises(DliValueError, match="the task it is pulled from has pushed no job_id"):
        hook.cancel_job("None")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"statement": ""}, "sql"),
        ({"statement": "  \n"}, "sql"),
        ({"statement": "select 1", "queue_name": "my queue"}, "queue_name"),
        ({"statement": "select 1", "database": "12"}, "database"),
    ],
)
def test_what_dli_would_refuse_is_refused_here(dli_local, hook, arguments, field):
    with pytest.raises(DliValueError, match=field) as caught:
        hook.submit_sql_job(**arguments)
    assert caught.value.field == field
    assert dli_local.requests(call="submit") == []


def test_an_unknown_kind_lists_the_known_ones(hook):
    with pytest.raises(DliValueError, match="kind must be one of 'sql', 'spark', 'flink', not 'batch'"):
        hook.cancel_job(UNKNOWN_JOB, "batch")


class TestCancel:
    """The table "Cancel" of the DLI API."""

    def test_a_running_job(self, dli_local, hook):
        dli_local.will(run_for=60)
        job = hook.submit_sql_job("select 1")
        cancellation = hook.cancel_job(job.id)
        assert (cancellation.accepted, cancellation.state) == (True, None)
        assert hook.wait_for_job(job.id, poll_interval=0.1).state is JobState.CANCELLED

    @pytest.mark.parametrize("answer", ["error", "soft"])
    def test_a_job_that_is_over(self, dli_local, hook, answer):
        dli_local.settings(cancel_ended=answer)
        job = hook.submit_sql_job("select 1")
        hook.wait_for_job(job.id, poll_interval=0.1)
        cancellation = hook.cancel_job(job.id)
        assert (cancellation.accepted, cancellation.state) == (False, JobState.FINISHED)
        assert str(cancellation) == "it was over before (FINISHED)"

    def test_twice(self, dli_local, hook):
        dli_local.will(run_for=60)
        job = hook.submit_sql_job("select 1")
        hook.cancel_job(job.id)
        hook.cancel_job(job.id)
        assert hook.wait_for_job(job.id, poll_interval=0.1).state is JobState.CANCELLED

    @pytest.mark.parametrize(
        "fault",
        [{"kind": "status", "status": 400, "error_code": "DLI.0007", "error_msg": "not now"}, {"kind": "soft_failure"}],
        ids=lambda fault: fault["kind"],
    )
    def test_a_refusal_while_the_job_runs_is_repeated(self, dli_local, hook, fault):
        dli_local.will(run_for=60)
        job = hook.submit_sql_job("select 1")
        dli_local.fault("cancel", times=2, **fault)
        assert hook.cancel_job(job.id).accepted
        assert len(dli_local.requests("cancel")) == 3

    def test_a_refusal_that_lasts_is_an_error_when_the_time_is_over(self, dli_local, hook):
        dli_local.will(run_for=60)
        job = hook.submit_sql_job("select 1")
        dli_local.fault("cancel", "status", times=None, status=400, error_code="DLI.0007", error_msg="not now")
        with pytest.raises(DliError, match=r"not now \(DLI.0007"):
            hook.client.patient(Patience(give_up_after=1)).cancel(sql.KIND, job.id)
        assert len(dli_local.requests("cancel")) == 3

    def test_one_that_is_not_answered_is_followed_by_another(self, dli_local, hook):
        dli_local.will(run_for=60)
        job = hook.submit_sql_job("select 1")
        dli_local.fault("cancel", "hang")
        began = time.monotonic()
        assert hook.cancel_job(job.id).accepted
        assert 1 <= time.monotonic() - began < pace.seconds(2.5)
        connections = [request.connection for request in dli_local.requests("cancel")]
        assert len(connections) == len(set(connections)) == 2

    def test_a_job_that_only_a_proxy_does_not_know(self, dli_local, hook):
        dli_local.will(run_for=60)
        job = hook.submit_sql_job("select 1")
        dli_local.fault("cancel", "status", status=404, body="<html>no such page</html>")
        assert hook.cancel_job(job.id).accepted

    def test_without_the_right(self, dli_local, hook):
        job = hook.submit_sql_job("select 1")
        dli_local.fault("cancel", "status", times=2, status=403, error_code="APIG.0302", error_msg="not authorized")
        with pytest.raises(DliPermissionError, match="needs the IAM action dli:queue:cancelJob in project"):
            hook.cancel_job(job.id)

    @pytest.mark.parametrize(
        ("code", "advice"),
        [
            (
                "APIG.0310",
                "Check project_id of connection 'dli_default': project [0-9a-f]{32} cannot be used in this region",
            ),
            ("APIGW.0402", "does not let this machine's address in"),
            ("APIG.0802", "User 'dli' may not use this region: check region and host of connection 'dli_default'"),
        ],
    )
    def test_with_the_right_but_in_the_wrong_place(self, dli_local, hook, code, advice):
        job = hook.submit_sql_job("select 1")
        dli_local.fault("cancel", "status", times=2, status=403, error_code=code, error_msg="not allowed")
        with pytest.raises(DliPermissionError, match=advice):
            hook.cancel_job(job.id)

    @pytest.mark.parametrize("fault", [{"kind": "status", "status": 503}, {"kind": "drop_after"}, {"kind": "empty"}])
    def test_is_repeated_when_dli_stumbles(self, dli_local, hook, fault):
        dli_local.will(run_for=60)
        job = hook.submit_sql_job("select 1")
        dli_local.fault("cancel", **fault)
        hook.cancel_job(job.id)
        assert len(dli_local.requests(call="cancel")) == 2
        assert hook.wait_for_job(job.id, poll_interval=0.1).state is JobState.CANCELLED


class TestRepeats:
    @pytest.mark.parametrize("retry_after", ["0", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00"])
    def test_a_dli_that_asks_to_be_asked_at_once_is_not_asked_in_a_loop(self, dli_local, hook, retry_after):
        hook.connect()
        dli_local.fault("list", "status", times=3, status=429, retry_after=retry_after)
        began = time.monotonic()
        hook.send(sql.list_jobs())
        assert time.monotonic() - began >= 1.5

    def test_retry_after_is_kept(self, dli_local, hook):
        hook.connect()
        dli_local.fault("list", "status", status=429, error_code="APIG.0308", error_msg="slow down", retry_after="1")
        start = time.monotonic()
        hook.send(sql.list_jobs())
        assert 1 <= time.monotonic() - start < pace.seconds(5)
        assert [call.status for call in dli_local.requests(call="list")] == [429, 200]

    def test_the_last_try_is_at_the_end_of_the_time_whatever_pause_the_dice_say(self, dli_local, hook, monkeypatch):
        hook.connect()
        monkeypatch.setattr(client, "FIRST_PAUSE", 30)
        dli_local.fault("list", "status", status=503)
        start = time.monotonic()
        hook.send(sql.list_jobs(), give_up_after=1)
        assert 1 <= time.monotonic() - start < pace.seconds(3)

    def test_a_dli_that_asks_to_wait_longer_than_there_is_time_is_not_asked_again(self, dli_local, hook):
        hook.connect()
        dli_local.fault("list", "status", times=None, status=429, retry_after="3")
        start = time.monotonic()
        with pytest.raises(DliTemporaryError, match="HTTP 429"):
            hook.send(sql.list_jobs(), give_up_after=2)
        assert time.monotonic() - start < pace.seconds(2)
        assert len(dli_local.requests(call="list")) == 1

    def test_a_submit_is_repeated_when_it_was_refused_for_load(self, dli_local, hook):
        dli_local.fault("submit", "status", status=429, error_code="APIG.0308", error_msg="slow down", retry_after="0")
        hook.submit_sql_job("select 1")
        assert len(dli_local.jobs()) == 1

    @pytest.mark.parametrize("fault", ["drop_after", "drop_before", "empty", "truncate", "html"])
    def test_a_submit_without_an_answer_is_not_repeated(self, dli_local, hook, fault):
        dli_local.fault("submit", fault)
        with pytest.raises(DliTemporaryError) as caught:
            hook.submit_sql_job("select 1")
        assert not caught.value.nothing_started
        assert len(dli_local.requests(call="submit")) == 1

    def test_a_submit_that_failed_inside_dli_is_not_repeated(self, dli_local, hook):
        dli_local.fault("submit", "status", status=500, error_code="APIG.0601", error_msg="internal")
        with pytest.raises(DliTemporaryError, match=r"internal \(APIG.0601, HTTP 500"):
            hook.submit_sql_job("select 1")
        assert len(dli_local.requests(call="submit")) == 1

    def test_a_refused_connection_says_where(self, connect):
        hook = connect("ak_sk", host="http://127.0.0.1:9")
        with pytest.raises(DliTemporaryError, match=r"no answer from http://127.0.0.1:9 \(.*refused") as caught:
            hook.send(sql.submit("select 1"), give_up_after=0)
        assert caught.value.nothing_started

    def test_a_redirect_is_not_followed(self, dli_local, hook):
        hook.connect()
        dli_local.fault("list", "redirect", location=f"{dli_local.url}/elsewhere")
        with pytest.raises(DliError, match="redirects elsewhere"):
            hook.send(sql.list_jobs())
        assert [call.call for call in dli_local.requests()] == ["token", "list"]

    def test_a_dripping_answer_ends_at_the_timeout(self, dli_local, connect):
        hook = connect(extra={"timeout": 2})
        hook.connect()
        dli_local.fault("list", "drip")
        start = time.monotonic()
        with pytest.raises(DliTemporaryError, match="list of SQL jobs failed: no complete answer within"):
            hook.send(sql.list_jobs(), give_up_after=0)
        assert time.monotonic() - start < pace.seconds(5)


class TestWait:
    def test_a_one_second_job_is_noticed_within_about_a_second(self, dli_local, hook):
        dli_local.will(run_for=1)
        job = hook.submit_sql_job("select 1")
        start = time.monotonic()
        hook.wait_for_job(job.id)
        assert 1 <= time.monotonic() - start < pace.seconds(2.2)

    def test_a_failed_job_says_why_and_shows_the_statement(self, hook):
        job = hook.submit_sql_job("select no_such_column\nfrom no_such_table")
        with pytest.raises(
            DliJobError, match=r"(?s)ended FAILED: DLI\..*no_such_table.*    select no_such_column"
        ) as caught:
            hook.wait_for_job(job.id, poll_interval=0.1).require()
        assert caught.value.job.id == job.id

    def test_a_job_that_somebody_cancelled_is_no_success(self, dli_local, hook):
        dli_local.will(run_for=0.2, then="CANCELLED")
        job = hook.submit_sql_job("select 1")
        with pytest.raises(DliJobError, match="ended CANCELLED: .*\n    select 1"):
            hook.wait_for_job(job.id, poll_interval=0.1).require()

    def test_an_outage_is_waited_out(self, dli_local, hook, capfd):
        dli_local.will(run_for=0.5)
        job = hook.submit_sql_job("select 1")
        for kind in ("drop_before", "empty", "html", "truncate"):
            dli_local.fault("status", kind)
        dli_local.fault("status", "status", times=2, status=503, error_code="APIG.0602", error_msg="unavailable")
        assert hook.wait_for_job(job.id, poll_interval=0.2).state is JobState.FINISHED
        assert capfd.readouterr().out.count("No usable answer from DLI") == 1

    def test_an_unknown_state_is_active_and_warned_about_once(self, dli_local, hook, capfd):
        dli_local.will(run_for=1)
        job = hook.submit_sql_job("select 1")
        dli_local.fault("status", "unknown_state", times=3)
        assert hook.wait_for_job(job.id, poll_interval=0.1).state is JobState.FINISHED
        assert capfd.readouterr().out.count("does not know the state") == 1

    def test_what_watch_raises_ends_the_wait_soon(self, dli_local, hook):
        dli_local.will(run_for=60)
        job = hook.submit_sql_job("select 1")
        end = time.monotonic() + 1

        def watch():
            if time.monotonic() > end:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            wait_until_over(hook.client.watching(watch), sql.KIND, job.id, poll_interval=30)
        assert time.monotonic() < end + pace.seconds(0.5)

    @pytest.mark.parametrize("poll_interval", [0, -1, float("nan"), float("inf")])
    def test_a_senseless_interval_is_refused(self, hook, poll_interval):
        with pytest.raises(DliValueError, match="poll_interval must be a number of seconds above 0"):
            hook.wait_for_job(UNKNOWN_JOB, poll_interval=poll_interval)


def test_listing_pages_and_compares_tags_exactly(hook):
    for value in ("a", "a", "ab"):
        hook.submit_sql_job("select 1", tags={"team": value})
    assert len(list(hook.list_jobs())) == 3
    assert len(list(hook.list_jobs(tags={"team": "a"}))) == 2


@pytest.mark.parametrize(
    "error",
    [
        DliError("text", status=400, code="DLI.0001", request_id="r"),
        DliTemporaryError("text", status=429, retry_after=3, nothing_started=True),
        DliValueError("text", field="sql"),
    ],
)
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_hook_does_nothing_when_it_is_made(dli_local, monkeypatch):
    from airflow_provider_dli.hooks.dli import DliHook

    monkeypatch.delenv("AIRFLOW_CONN_DLI_DEFAULT", raising=False)
    DliHook("no_such_connection")
    assert dli_local.requests() == []


def test_a_log_that_is_gone_does_not_end_the_wait_for_a_job(dli_local, hook, monkeypatch):
    """A task whose supervisor was killed can log no more; its job is for the next try to take over."""
    dli_local.will(run_for=1)
    job_id = hook.submit_sql_job("select 1").id

    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr(hook, "_log", SimpleNamespace(info=gone, warning=gone), raising=False)
    dli_local.fault("status", "status", status=503)
    assert hook.log.info is gone
    assert hook.wait_for_job(job_id, poll_interval=0.2).status == "FINISHED"


def test_a_dli_that_asks_for_a_day_is_asked_again_after_a_minute(dli_local, hook):
    dli_local.will(run_for=60)
    watcher = JobWatcher(hook.client, sql.KIND, hook.submit_sql_job("select 1").id)
    dli_local.fault("status", "status", status=429, retry_after=86400)
    assert watcher.look() is None
    assert watcher.interval == 60
