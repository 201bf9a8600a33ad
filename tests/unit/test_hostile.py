"""
What comes from outside may be anything: answers, names in tags, and servers that repeat what they were sent.

Nothing of it forges a line of a log, makes a terminal obey, or shows a secret.
"""

from __future__ import annotations

import base64
import html
import io
import json
import pickle
import re
import threading
import unicodedata
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import quote, quote_plus

import pytest
import requests
from airflow.providers.common.compat.sdk import AirflowFailException
from fakes import TaskInstance, context_of, execute
from hypothesis import given, settings
from hypothesis import strategies as st
from test_odd_answers import CALLS as SQL_AND_IAM
from test_odd_answers import CONNECTION, JOB, JSON, ODD, changed, fields_of

from airflow_provider_dli import compat, identity
from airflow_provider_dli.api import flink, iam, metadata, queues, spark, sql
from airflow_provider_dli.api.flink_definition import FlinkDefinition
from airflow_provider_dli.api.iam import TemporaryKeys
from airflow_provider_dli.api.job_kind import JobPage
from airflow_provider_dli.api.queues import Queue
from airflow_provider_dli.api.rows import Rows
from airflow_provider_dli.api.spark import SparkWork
from airflow_provider_dli.client.exchange import exchange
from airflow_provider_dli.client.signing import AkSkAuth, TokenAuth
from airflow_provider_dli.exceptions import DliError, DliJobError, DliTemporaryError
from airflow_provider_dli.job import Goal, Job
from airflow_provider_dli.operators.dli import (
    DliCancelOrphanJobsOperator,
    DliStartFlinkJobOperator,
    DliSubmitSparkJobOperator,
    DliSubmitSqlJobOperator,
)
from airflow_provider_dli.sensors.dli import DliJobSensor
from airflow_provider_dli.sweep.report import Report
from airflow_provider_dli.sweep.verdict import Candidate, Judgement, Verdict
from airflow_provider_dli.text import clean

BATCH_WORK = SparkWork(file="group/job.jar", spark_version="2.4.5", queue_name="general")
MY_TAGS = {"airflow_ti": "21ad", "airflow_attempt": "1:1.2:1:-1:0:task:ab", "airflow_dag": "sales"}
A_BATCH = {
    "id": JOB,
    "name": "nightly",
    "state": "dead",
    "log": ["one", "two"],
    "queue": "general",
    "req_body": json.dumps({"file": "group/job.jar", "name": "nightly", "conf": identity.settings(MY_TAGS)}),
    "create_time": 1768466400000,
    "duration": 12000,
}
A_FLINK_JOB = {
    "job_id": 131,
    "name": "rates",
    "desc": json.dumps(MY_TAGS),
    "status": "job_running_exception",
    "status_desc": "no such connector",
    "job_type": "flink_jar_job",
    "queue_name": "general",
    "sql_body": "select 1",
    "create_time": 1768466400000,
    "start_time": 1768466400000,
    "duration": 12000,
    "job_config": {"restart_when_exception": True},
}
A_QUEUE = {
    "queueName": "loads",
    "queueType": "sql",
    "cuCount": 16,
    "elastic_resource_pool_name": "pool",
    "description": "",
    "create_time": 1768466400000,
}
KEYS = {"access": "a", "secret": "s", "securitytoken": "t", "expires_at": "2999-01-01T00:00:00.000000Z"}
DETAIL = json.dumps({"fields": [{"name": "id", "type": "int"}, {"name": "m", "type": {"type": "map"}}]})
JAR = FlinkDefinition(job_type="flink_jar_job", entrypoint="obs://b/job.jar", queue_name="general")

# Beside the calls of `test_odd_answers`: each with a good answer.
CALLS = {
    "finished": (sql.status(JOB), {**SQL_AND_IAM["status"][1], "status": "FINISHED", "detail": DETAIL}),
    "spark create": (spark.create(BATCH_WORK, name="nightly"), {"id": JOB, "state": "starting"}),
    "spark status": (spark.status(JOB), {"id": JOB, "state": "running"}),
    "spark detail": (spark.detail(JOB), A_BATCH),
    "spark log": (spark.log(JOB), {"id": JOB, "log": ["one", "two"]}),
    "spark list": (spark.list_batches(), {"total": 1, "sessions": [A_BATCH]}),
    "spark cancel": (spark.cancel(JOB), {"msg": "deleted"}),
    "flink create": (
        flink.create(JAR, name="rates", description=""),
        {"is_success": True, "job": {"job_id": 131, "status_name": "job_init"}},
    ),
    "flink run": (flink.run("131"), {"elements": [{"is_success": "true", "message": "started"}]}),
    "flink status": (flink.status("131"), {"is_success": True, "job_detail": A_FLINK_JOB}),
    "flink list": (flink.list_jobs(), {"job_list": {"total_count": 1, "jobs": [A_FLINK_JOB]}}),
    "flink stop": (flink.stop("131"), {"elements": [{"is_success": "true", "message": "stopped"}]}),
    "flink delete": (flink.delete("131"), {"is_success": True}),
    "queue": (queues.show("loads"), A_QUEUE),
    "queue list": (queues.list_queues(), {"queues": [A_QUEUE]}),
    "queue create": (queues.create("loads", 16), {"queue_name": "loads"}),
    "queue delete": (queues.delete("loads"), {"message": ""}),
    "agency": (iam.assume_agency("agency", "account"), {"credential": KEYS}),
    "metadata": (metadata.security_key(), {"credential": KEYS}),
}
ALL_CALLS = {**SQL_AND_IAM, **CALLS}
ERROR = {"error_code": "DLI.0001", "error_msg": "no", "request_id": "r"}

LINE_BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"]
HOSTILE = "".join(f"a{each}FORGED" for each in LINE_BREAKS) + "\x1b[2J\x00\u202e\ud800 end"


def answered(call, content, *, status=200, authenticate=None, connection=CONNECTION):
    """Send a call, signed as it would be, to a server that answers so."""

    def request(method, url, *, data, auth, **_):
        requests.Request(method, url, data=data, auth=auth).prepare()
        response = requests.Response()
        response.status_code, response.url = status, url
        response.headers["X-Subject-Token"] = "canary-token"
        response.raw = io.BytesIO(content(auth) if callable(content) else content)
        return response

    authenticate = authenticate or TokenAuth("canary-token")
    return exchange(SimpleNamespace(request=request), call, connection, authenticate, "p1", 1)


def outcome(call, content, **how):
    try:
        return answered(call, content, **how)
    except DliError as error:
        return error


def shown(value, secrets=()):
    """Yield all text of a value that the package shows in an error, a log or an XCom."""
    if isinstance(value, DliError):
        yield from (str(value), value.code or "", value.request_id or "")
    elif isinstance(value, Job):
        yield from (value.id, value.status, value.message, value.job_type, value.queue_name, value.figures, *value.log)
        try:
            value.require(Goal.FINISHED)
        except DliJobError as error:
            yield from str(error).split("\n")
    elif isinstance(value, Queue):
        yield from (value.name, value.type, value.pool, value.description)
    elif isinstance(value, JobPage):
        for job in value.jobs:
            yield from shown(job)
    elif isinstance(value, Rows):
        # Data; the log of an operator shows them without secrets.
        yield from value.shown(10, secrets=secrets).split("\n")
    elif isinstance(value, iam.Token):
        yield from (value.project_id or "", value.project_name or "")
    elif isinstance(value, list):
        for part in value:
            yield from shown(part)
    elif isinstance(value, str):
        yield value
    else:
        # The whole answer, for whoever asks for it, and keys.
        assert value is None or isinstance(value, (int, float, dict, TemporaryKeys))


def assert_tidy(text):
    assert len(text) < 10_000
    found = [each for each in text if unicodedata.category(each)[0] == "C" or each in "\u2028\u2029"]
    assert not found, text


class TestAnyAnswer:
    """Of each call of each kind comes a value or a DliError that can be kept and shown."""

    def tried(self, call, content, **how):
        found = outcome(call, content, **how)
        for text in shown(found):
            assert_tidy(text)
        # Both cross processes; of an error, Airflow keeps the text.
        again = pickle.loads(pickle.dumps(found))
        fields = [getattr(each, "__dict__", None) for each in (found, again)]
        assert repr(again) == repr(found)
        assert repr(fields[0]) == repr(fields[1])
        for job in [found] if isinstance(found, Job) else getattr(found, "jobs", []):
            json.dumps([job.tags, job.columns, job.name, job.statement], ensure_ascii=False).encode()
        return found

    @pytest.mark.parametrize("name", CALLS)
    def test_a_good_one_is_read(self, name):
        call, body = CALLS[name]
        assert not isinstance(self.tried(call, json.dumps(body).encode()), DliError)

    @pytest.mark.parametrize("name", CALLS)
    def test_any_field_may_be_odd(self, name):
        call, body = CALLS[name]
        for odd in [*ODD.values(), HOSTILE]:
            for path in fields_of(body):
                found = self.tried(call, json.dumps(changed(body, path, odd)).encode())
                # "It was not done" is never said by mistake, but where a field says so.
                if isinstance(found, DliTemporaryError):
                    assert not found.nothing_started

    @settings(max_examples=150, deadline=None)
    @given(data=st.data())
    def test_any_json(self, data):
        call, body = CALLS[data.draw(st.sampled_from(sorted(CALLS)))]
        path = data.draw(st.sampled_from(list(fields_of(body))))
        status = data.draw(st.sampled_from([200, 200, 400, 500]))
        self.tried(call, json.dumps(changed(body, path, data.draw(JSON))).encode(), status=status)

    @pytest.mark.matrix
    @settings(max_examples=2000, deadline=None)
    @given(data=st.data())
    def test_any_json_in_volume(self, data):
        call, body = ALL_CALLS[data.draw(st.sampled_from(sorted(ALL_CALLS)))]
        path = data.draw(st.sampled_from(list(fields_of(body))))
        status = data.draw(st.sampled_from([200, 200, 400, 403, 404, 500]))
        self.tried(call, json.dumps(changed(body, path, data.draw(JSON))).encode(), status=status)

    @settings(max_examples=100, deadline=None)
    @given(name=st.sampled_from(sorted(CALLS)), content=st.binary(max_size=50), status=st.sampled_from([200, 400]))
    def test_any_bytes(self, name, content, status):
        self.tried(CALLS[name][0], content, status=status)

    @pytest.mark.parametrize("job_id", ["٣", "131x", "-5", -5, 10**30, "1" * 30, True, 1.5, None, {}])
    def test_a_flink_job_with_an_id_that_no_call_takes_is_looked_up(self, job_id):
        call, body = CALLS["flink create"]
        with pytest.raises(DliTemporaryError, match="no usable id") as caught:
            answered(call, json.dumps(changed(body, ("job", "job_id"), job_id)).encode())
        assert not caught.value.nothing_started


class TestNestedJson:
    """JSON in a text within JSON can hide halves of characters, which no XCom and no log can hold."""

    HALF = '"\\ud800"'

    def test_in_a_result(self):
        rows = Rows([("a", "array<string>"), ("s", "struct<b:string>")], [[f"[{self.HALF}]", f'{{"b": {self.HALF}}}']])
        assert rows.records() == [{"a": ["?"], "s": {"b": "?"}}]

    def test_in_what_a_batch_was_created_with(self):
        body = {
            **A_BATCH,
            "name": None,
            "req_body": f'{{"name": {self.HALF}, "conf": {{"spark.airflow.dag": {self.HALF}}}}}',
        }
        job = answered(CALLS["spark detail"][0], json.dumps(body).encode())
        assert (job.name, job.tags) == ("?", {"airflow_dag": "?"})

    def test_in_the_description_of_a_flink_job(self):
        assert identity.from_description(f'{{"airflow_dag": {self.HALF}}}') == {"airflow_dag": "?"}

    def test_in_the_columns_of_a_result(self):
        body = {**SQL_AND_IAM["status"][1], "detail": f'{{"fields": [{{"name": {self.HALF}, "type": "int"}}]}}'}
        assert answered(sql.status(JOB), json.dumps(body).encode()).columns == (("?", "int"),)


# How a program may write down what it was sent.
ENCODINGS = {
    "as it is": lambda text: text,
    "JSON": json.dumps,
    "JSON in UTF-8": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON, capital digits": lambda text: re.sub(
        r"\\u([0-9a-f]{4})", lambda found: f"\\u{found[1].upper()}", json.dumps(text)
    ),
    "JSON, escaped slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "Python": repr,
    "path": quote,
    "path, small digits": lambda text: re.sub(r"%..", lambda found: found[0].lower(), quote(text)),
    "query": lambda text: quote(text, safe=""),
    "query, small digits": lambda text: re.sub(r"%..", lambda found: found[0].lower(), quote(text, safe="")),
    "form": quote_plus,
    "form, small digits": lambda text: re.sub(r"%..", lambda found: found[0].lower(), quote_plus(text)),
    "HTML": html.escape,
    "HTML, quotes left": lambda text: html.escape(text, quote=False),
    "Base64": lambda text: base64.b64encode(text.encode()).decode(),
    "Base64, a byte later": lambda text: base64.b64encode(b"u:" + text.encode() + b"\n").decode(),
    "Base64, two bytes later": lambda text: base64.b64encode(b"{" + text.encode() + b"}").decode(),
    "URL-safe Base64": lambda text: base64.urlsafe_b64encode(b"-" + text.encode()).decode(),
}
SECRETS = st.text("abcXYZ0189+/=_-.~!\"'&<>\\$%@ äß雪", min_size=12, max_size=60) | st.text(
    "abcdefABCDEF0123456789+/=-", min_size=40, max_size=400
)


def decoded(text):
    """Yield what can be read out of a text, by whatever decoding."""
    yield text
    for word in re.findall(r"[A-Za-z0-9+/_-]{8,}", text):
        for start in range(4):
            digits = word[start:].translate(str.maketrans("-_", "+/"))
            yield base64.b64decode(digits[: len(digits) // 4 * 4]).decode(errors="replace")


class TestSecrets:
    @settings(max_examples=150, deadline=None)
    @given(
        secret=SECRETS, how=st.sampled_from(sorted(ENCODINGS)), before=st.text(max_size=5), after=st.text(max_size=5)
    )
    def test_whatever_the_secret_and_however_it_is_written(self, secret, how, before, after):
        self.check(secret, how, before, after)

    @pytest.mark.matrix
    @settings(max_examples=2500, deadline=None)
    @given(
        secret=SECRETS, how=st.sampled_from(sorted(ENCODINGS)), before=st.text(max_size=5), after=st.text(max_size=5)
    )
    def test_whatever_the_secret_in_volume(self, secret, how, before, after):
        self.check(secret, how, before, after)

    def check(self, secret, how, before, after):
        written = ENCODINGS[how](secret)
        text = clean(f"{before}|{written}|{after}", secrets=[secret])
        assert "***" in text
        # Of Base64, a digit at either end may tell a few bits of the first and the last byte.
        for found in decoded(text):
            assert secret not in found
            assert secret[1:-1] not in found

    @settings(max_examples=150, deadline=None)
    @given(
        name=st.sampled_from(sorted(ALL_CALLS)),
        how=st.sampled_from(sorted(ENCODINGS)),
        ok=st.booleans(),
        data=st.data(),
    )
    def test_any_field_of_an_answer_may_repeat_one(self, name, how, ok, data):
        """The token, the password, the secret key, the security token and the signature of the request."""
        call, body = ALL_CALLS[name]
        body = body if ok else ERROR
        path = data.draw(st.sampled_from(list(fields_of(body))))
        self.repeat(call, ENCODINGS[how], 200 if ok else 400, lambda text: changed(body, path, text))

    @pytest.mark.matrix
    @pytest.mark.parametrize("name", ALL_CALLS)
    def test_each_field_may_repeat_one_in_each_way(self, name):
        call, body = ALL_CALLS[name]
        for encode in ENCODINGS.values():
            for path in fields_of(body):
                self.repeat(call, encode, 200, lambda text, path=path: changed(body, path, text))
            for path in fields_of(ERROR):
                self.repeat(call, encode, 400, lambda text, path=path: changed(ERROR, path, text))

    def repeat(self, call, encode, status, body):
        seen = []

        def content(auth):
            seen[:] = (*CONNECTION.secrets, *auth.secrets)
            return json.dumps(body(" ".join(f"[{encode(secret)}]" for secret in seen))).encode()

        auth = AkSkAuth("access", "canary+secret/key==", project_id="p1", security_token="canary&security<token>")
        found = outcome(call, content, status=status, authenticate=auth)
        assert re.fullmatch(r"[0-9a-f]{64}", seen[-1]), "the signature"
        for text in shown(found, seen):
            for each in decoded(text):
                assert not any(secret in each or secret[1:-1] in each for secret in seen), (each, seen)


class Echo(BaseHTTPRequestHandler):
    """Refuses every request, and repeats all of it."""

    def do_POST(self):
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        said = f"cannot {self.command} {self.path} {json.dumps(dict(self.headers))} {sent}"
        body = json.dumps({"error_code": "DLI.0001", "error_msg": said, "request_id": said[-600:]}).encode()
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_DELETE = do_POST  # noqa: N815 -- names of the standard library

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def echo():
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class TestEcho:
    @pytest.mark.parametrize(
        "auth_type", ["password", "token", "ak_sk", "temporary", "agency", "metadata", "environment"]
    )
    def test_a_server_that_repeats_the_request(self, echo, connect, dli_local, monkeypatch, capfd, auth_type):
        password, token = "canary pass/wörd&<1>", "canary+security/token=="
        monkeypatch.setenv("HUAWEICLOUD_SDK_AK", "access")
        monkeypatch.setenv("HUAWEICLOUD_SDK_SK", "canary-environment-key")
        monkeypatch.setenv("HUAWEICLOUD_SDK_SECURITY_TOKEN", token)
        hook = connect(
            {"token": "password", "temporary": "ak_sk"}.get(auth_type, auth_type),
            host=echo,
            **({"password": password, "extra": {"iam_endpoint": echo}} if auth_type == "password" else {}),
            **(
                {"password": "canary/secret+key", "extra": {"security_token": token}}
                if auth_type == "temporary"
                else {}
            ),
        )
        errors = []
        try:
            hook.submit_sql_job("select 1")
        except DliError as error:
            errors += [str(error), repr(error), str(vars(error)), str(pickle.dumps(error))]
        errors += [hook.test_connection()[1], capfd.readouterr().out]
        assert "cannot POST" in errors[0]
        assert "***" in errors[0]
        secrets = hook.client.secrets
        assert len(secrets) >= 1
        for text in errors:
            assert not re.search("canary|Signature=[0-9a-f]|MII[A-Za-z0-9]{8}", text), text
            for each in decoded(text):
                assert not any(secret in each for secret in secrets)


class TestNames:
    """Names of DAGs, runs, tasks and jobs, which stand in tags that anybody may write."""

    @settings(max_examples=100, deadline=None)
    @given(names=st.lists(st.text(st.characters(), max_size=40) | st.just(HOSTILE), min_size=6, max_size=6))
    def test_no_name_forges_a_line_of_the_report_or_of_its_xcom(self, names):
        report = Report(60, ("canary-secret",))
        names = [f"{name} canary-secret" for name in names]
        report.add(
            Candidate("j", "sql", *names[:3], -1, 0, names[3], 1, names[4], 0.0),
            Judgement(Verdict.NOT_CANCELLED, names[5]),
        )
        lines = str(report).split("\n")
        assert len(lines) == 3
        assert "\n" not in report.failures()
        texts = [*lines, report.failures(), *map(str, report.rows[0].values())]
        for text in texts:
            assert_tidy(text)
            assert "canary" not in text
        assert json.loads(json.dumps(report.rows, ensure_ascii=False).encode()) == report.rows

    @settings(max_examples=100, deadline=None)
    @given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=200))
    def test_any_name_goes_there_and_back(self, dag_id, run_id, task_id):
        mine = identity.Identity(dag_id, run_id, task_id, -1, 0, "1.2", 1, "task", "ab", deployment=dag_id or None)
        for ending in (identity.long_ending(mine), identity.short_ending(mine)):
            name = identity.name(identity.readable_name(mine), ending, 128)
            assert len(name) <= 128
            assert_tidy(name)
        for tags in (mine.tags(), identity.from_settings(identity.settings(mine.tags()))):
            assert tags == mine.tags()
            assert identity.merged_tags({}, tags) == tags
            assert identity.unescape(tags["airflow_run"]) in (run_id, None)
            for text in tags.values():
                assert_tidy(text)

    def test_the_sweep_of_a_job_with_forged_tags(self, connect, dli_local, monkeypatch, capfd):
        forged = HOSTILE.replace("\ud800", "")
        mine = identity.Identity(forged, forged, forged, -1, 0, "1.2", 1, "task", "ab", deployment="ours")
        monkeypatch.setenv("AIRFLOW__DLI__DEPLOYMENT", "ours")

        def task_states(*_):
            raise RuntimeError(f"no answer about {forged}")

        monkeypatch.setattr(compat, "task_states", task_states)
        dli_local.will(run_for=60)
        hook = connect()
        hook.submit_sql_job("select 1", tags=mine.tags())
        task = DliCancelOrphanJobsOperator(task_id="sweep", older_than=0)
        with pytest.raises(DliError, match="could not do all of its work") as caught:
            execute(task, context_of())
        assert len(str(caught.value).split("\n")) == 2
        for line in str(caught.value).split("\n"):
            assert_tidy(line)
        said = capfd.readouterr().out
        assert "Airflow does not tell the states of task" in said
        assert "Traceback" not in said
        assert not re.search(r"^ *FORGED", said, re.MULTILINE)
        assert "\x1b[2J" not in said


def without(body, field):
    return {name: value for name, value in body.items() if name != field}


class TestRealRuns:
    """Operators over HTTP, with jobs of which DLI says hostile things: what stands in the log, XComs and the error."""

    def run(self, task, capfd, match):
        ti = TaskInstance()
        with pytest.raises((DliError, AirflowFailException), match=match) as caught:
            execute(task, context_of(ti))
        said = str(caught.value).split("\n")
        for text in [*said, *map(str, ti.xcoms.values())]:
            assert_tidy(text)
        assert all(line.startswith("    ") for line in said[1:])
        log = capfd.readouterr().out
        assert not re.search(r"^FORGED", log, re.MULTILINE)
        assert not re.search("[\x00\x0b\x0c\x1c\x85\u2028\u2029\u202e]|\x1b\\[2J", log)
        return log

    def test_a_sql_job(self, connect, dli_local, capfd):
        connect()
        dli_local.will(run_for=0.3)
        body = {
            "status": "FAILED",
            "message": HOSTILE,
            "job_type": HOSTILE,
            "queue_name": HOSTILE,
            "statement": HOSTILE,
        }
        dli_local.fault("status", "status", status=200, body=json.dumps({**body, "status": HOSTILE}))
        dli_local.fault("status", "status", times=None, status=200, body=json.dumps(body))
        task = DliSubmitSqlJobOperator(task_id="load", sql="select 1", poll_interval=0.1)
        self.run(task, capfd, "ended FAILED: a FORGED")

    def test_a_batch_and_its_log(self, connect, dli_local, capfd):
        connect()
        dli_local.will(kind="spark", run_for=0.1, then="FAILED")
        dli_local.fault("spark_log", "status", times=None, status=200, body=json.dumps({"log": [HOSTILE, "two"]}))
        # (Without the id, which would be that of another job.)
        detail = {**without(A_BATCH, "id"), "log": [HOSTILE], "state": "dead", "queue": HOSTILE}
        dli_local.fault("spark_get", "status", times=None, status=200, body=json.dumps(detail))
        task = DliSubmitSparkJobOperator(
            task_id="load", file="group/job.jar", spark_version="2.4.5", queue_name="general", poll_interval=0.1
        )
        log = self.run(task, capfd, "ended dead: a FORGED")
        assert "    a FORGED" in log

    def test_a_flink_job(self, connect, dli_local, capfd):
        connect()
        dli_local.will(kind="flink", run_for=60)
        detail = {
            **without(A_FLINK_JOB, "job_id"),
            "status": "job_running_exception",
            "status_desc": HOSTILE,
            "job_config": None,
        }
        body = {
            "is_success": True,
            "job_detail": {**detail, "name": HOSTILE, "queue_name": HOSTILE, "sql_body": HOSTILE},
        }
        dli_local.fault("flink_get", "status", times=None, status=200, body=json.dumps(body))
        task = DliStartFlinkJobOperator(
            task_id="load",
            job_type="flink_jar_job",
            entrypoint="obs://bucket/job.jar",
            queue_name="general",
            wait_for="finished",
            poll_interval=0.1,
        )
        self.run(task, capfd, "job_running_exception: a FORGED")

    def test_a_sensor(self, connect, dli_local, capfd):
        dli_local.will(run_for=60)
        job = connect().submit_sql_job("select 1")
        body = {"status": HOSTILE, "message": HOSTILE}
        dli_local.fault("status", "status", status=200, body=json.dumps(body))
        dli_local.fault("status", "status", times=None, status=200, body=json.dumps({**body, "status": "FAILED"}))
        task = DliJobSensor(task_id="wait", job_id=job.id, poke_interval=0.1)
        self.run(task, capfd, "ended FAILED: a FORGED")

    def test_the_rows_of_a_result_are_data_but_the_log_shows_them_tidy_and_without_secrets(
        self, connect, dli_local, capfd
    ):
        hook = connect()
        secret = hook.connect().secret
        dli_local.settings(queues={"default": 16, "sql": 4})
        cell = f"{HOSTILE} {secret}".replace("\ud800", "")
        body = {"schema": [{HOSTILE: "string"}], "rows": [[cell]], "job_type": "QUERY"}
        dli_local.fault("preview", "status", times=None, status=200, body=json.dumps(body))
        task = DliSubmitSqlJobOperator(
            task_id="load", sql="select 1", fetch_result=1, queue_name="sql", poll_interval=0.1
        )
        ti = TaskInstance()
        execute(task, context_of(ti))
        [row] = ti.xcoms["result"]
        assert list(row.values()) == [cell]
        json.dumps(row, ensure_ascii=False).encode()
        log = capfd.readouterr().out
        assert "The first rows of the result" in log
        assert not re.search(r"^FORGED", log, re.MULTILINE)
        assert secret not in log
