"""Text of a server: one line, of bounded length, with nothing that a terminal obeys and no secret."""

from __future__ import annotations

import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dli.api import sql
from airflow_provider_dli.client.credentials import credentials_of
from airflow_provider_dli.exceptions import DliError, DliJobError
from airflow_provider_dli.job import Job, JobState
from airflow_provider_dli.sweep.report import Report
from airflow_provider_dli.sweep.verdict import Candidate, Judgement, Verdict
from airflow_provider_dli.text import clean

UGLY = "one\r\n\ttwo\x1b[31m red\x00\u202eleft\ud800"
TIDY = r"one two\x1b[31m red\x00\u202eleft\ud800"
SECRET = 'p"ä/ss&wört'


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("", ""),
        ("plain text, Köln 雪 😀", "plain text, Köln 雪 😀"),
        ("  two\n\n lines\t", "two lines"),
        (UGLY, TIDY),
        ("\u2028\u2029\x85\xad\ufeff\U000e0001", r"\u2028\u2029\x85\xad\ufeff\U000e0001"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text, cleaned):
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("x" * 10, "x" * 10),
        ("x" * 11, "x" * 10 + "… (1 more characters)"),
        ("x" * 1_000_000, "x" * 10 + "… (999990 more characters)"),
        ("\x1b" * 3, r"\x1b\x1b… (1 more characters)"),
        (" " * 1000 + "x", "… (841 more characters)"),
    ],
)
def test_a_cut_says_how_much_is_left_out(text, cleaned):
    assert clean(text, 10) == cleaned


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        json.dumps(SECRET).replace("/", "\\/"),
        "p%22%C3%A4%2Fss%26w%C3%B6rt",
    ],
)
def test_a_secret_is_masked_in_every_spelling(form):
    assert re.fullmatch(r'"?\*\*\*"? and "?\*\*\*"?', clean(f"{form} and {form}", secrets=[SECRET]))


def test_a_secret_is_masked_before_the_text_is_cut():
    for before in range(20):
        assert "canary" not in clean("x" * before + "canary-secret", 15, secrets=["canary-secret"])


def test_a_secret_that_contains_another_is_masked_whole():
    assert clean("token-long token", secrets=["token", "token-long", ""]) == "*** ***"


@given(text=st.text(st.characters()), limit=st.integers(1, 50))
def test_whatever_the_text(text, limit):
    cleaned = clean(text, limit)
    cleaned.encode()
    assert not any(unicodedata.category(each)[0] == "C" or each in "\u2028\u2029" for each in cleaned)
    assert len(cleaned) <= limit + len(f"… ({len(text)} more characters)")


def test_a_failed_job_shows_three_lines_of_its_statement():
    job = Job("j", "sql", "SQL job", JobState.FAILED, "FAILED", statement="select\x1b[2J 1\n  from t\n-- three\nfour")
    with pytest.raises(DliJobError) as caught:
        job.require()
    assert str(caught.value).splitlines()[1:] == [r"    select\x1b[2J 1", "    from t", "    -- three"]


class TestReport:
    CANDIDATE = Candidate("j", "sql", "dag\nforged line", "run\x1b[2J", "task\u202e", -1, 0, "1.0", 1, "task", 0.0)

    def report(self):
        report = Report(60)
        report.add(self.CANDIDATE, Judgement(Verdict.NOT_CANCELLED, "first\nsecond"))
        return report

    def test_the_table_has_a_line_for_each_job(self):
        lines = str(self.report()).splitlines()
        assert len(lines) == 3
        assert "dag forged line" in lines[2]
        assert r"run\x1b[2J  task\u202e" in lines[2]

    def test_a_failure_is_one_line(self):
        assert self.report().failures() == (
            r"job j of dag forged line.task\u202e, run run\x1b[2J: not cancelled: first second"
        )


class TestOnTheWire:
    """What people see of an answer."""

    def test_of_an_error(self, dli_local, hook):
        body = {"error_code": UGLY, "error_msg": UGLY + "x" * 5000, "request_id": UGLY}
        dli_local.fault("list", "status", status=400, body=json.dumps(body))
        with pytest.raises(DliError) as caught:
            hook.send(sql.list_jobs())
        tidy = TIDY.replace(r"\ud800", "?")
        assert str(caught.value).startswith(f"list of SQL jobs failed: {tidy}xxx")
        assert f"more characters) ({tidy}, HTTP 400, request {tidy})" in str(caught.value)
        assert (caught.value.code, caught.value.request_id) == (tidy, tidy)
        assert len(str(caught.value)) < 2500

    def test_of_a_page_of_a_proxy(self, dli_local, hook):
        dli_local.fault("list", "status", status=400, body="<html>\n<b>no\x1b[31m</b>\n" + "x" * 5000)
        with pytest.raises(DliError, match=re.escape(r"failed: <html> <b>no\x1b[31m</b> xxx")) as caught:
            hook.send(sql.list_jobs())
        assert len(str(caught.value)) < 2500

    def test_of_a_job(self, dli_local, hook):
        body = {"status": UGLY, "message": UGLY * 500, "job_type": UGLY, "queue_name": UGLY, "statement": "\ud800"}
        job = hook.submit_sql_job("select 1")
        dli_local.fault("status", "status", status=200, body=json.dumps(body))
        found = hook.get_job(job.id)
        tidy = TIDY.replace(r"\ud800", "?")
        assert (found.id, found.status, found.job_type, found.queue_name) == (job.id, tidy, tidy, tidy)
        assert found.message.startswith(tidy)
        assert len(found.message) < 2100
        assert found.statement == "?"
        assert found.state is JobState.UNKNOWN

    @pytest.mark.parametrize("auth_type", ["password", "ak_sk"])
    def test_a_secret_that_an_error_repeats_is_masked(self, dli_local, connect, auth_type):
        hook = connect(auth_type)
        connection = hook.connect()
        token = credentials_of(connection).issued
        secrets = [connection.secret, *([token.value] if token else [])]
        for body in (
            {"error_code": f"c {secrets[0]}", "error_msg": f"said {json.dumps(secrets)}", "request_id": secrets[-1]},
            " ".join(secrets),
        ):
            text = body if isinstance(body, str) else json.dumps(body)
            dli_local.fault("list", "status", status=400, body=text)
            with pytest.raises(DliError) as caught:
                hook.send(sql.list_jobs())
            shown = f"{caught.value} {caught.value.code} {caught.value.request_id}"
            assert "***" in shown
            assert not any(each in shown for each in secrets)

    def test_a_secret_that_a_job_repeats_is_masked(self, dli_local, hook):
        job = hook.submit_sql_job("select 1")
        token = credentials_of(hook.connect()).issued.value
        body = {"status": "FAILED", "message": f"bad {token} of {dli_local.password}"}
        dli_local.fault("status", "status", status=200, body=json.dumps(body))
        with pytest.raises(DliJobError, match=re.escape("ended FAILED: bad *** of ***")):
            hook.get_job(job.id).require()

    def test_the_button_does_not_show_a_password_that_iam_repeats(self, dli_local, connect):
        hook = connect(password="canary-secret")
        body = {"error": {"code": "IAM.1", "message": "wrong password canary-secret"}}
        dli_local.fault("token", "status", status=401, body=json.dumps(body))
        ok, said = hook.test_connection()
        assert not ok
        assert "wrong password *** (IAM.1, HTTP 401)" in said
        assert "canary" not in said
