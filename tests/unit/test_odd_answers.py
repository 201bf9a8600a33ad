"""Answers of another shape than the API Reference shows: a value or a DliError comes of each, nothing else."""

from __future__ import annotations

import copy
import io
import json
from types import SimpleNamespace

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_dli.api import iam, sql
from airflow_provider_dli.client import client
from airflow_provider_dli.client.connection import DliConnection
from airflow_provider_dli.client.exchange import exchange
from airflow_provider_dli.exceptions import DliError, DliTemporaryError, DliValueError
from airflow_provider_dli.job import Job, JobState

JOB = "8ecb0777-9c70-4529-9935-29ea0946039c"
A_JOB = {
    "job_id": JOB,
    "status": "RUNNING",
    "message": "",
    "job_type": "QUERY",
    "queue_name": "default",
    "statement": "select 1",
    "start_time": 1768466400000,
    "duration": 12000,
    "result_count": 3,
    "tags": [{"key": "team", "value": "sales"}],
}
TOKEN = {"token": {"expires_at": "2999-01-01T00:00:00.000000Z", "project": {"id": "p1", "name": "eu-de"}}}

# Each call with a good answer.
CALLS = {
    "submit": (sql.submit("select 1"), {"job_id": JOB, "job_type": "QUERY", "job_mode": "async", "message": ""}),
    "status": (sql.status(JOB), A_JOB),
    "detail": (sql.detail(JOB), {"job_id": JOB, "data_type": "csv"}),
    "progress": (sql.progress(JOB), {"progress": 0.5}),
    "preview": (sql.preview(JOB), {"schema": [{"id": "int"}], "rows": [[1], [2]]}),
    "export": (sql.export_result(JOB, "obs://b/f"), {"job_id": JOB, "message": ""}),
    "check": (sql.check_sql("select 1"), {"job_type": "QUERY"}),
    "list": (sql.list_jobs(), {"job_count": 1, "jobs": [A_JOB]}),
    "cancel": (sql.cancel(JOB), {"message": ""}),
    "token": (
        iam.create_token(user="u", password="canary-secret", domain_name="d", project_id="p1", project_name=None),
        TOKEN,
    ),
    "project": (iam.find_project("eu-de"), {"projects": [{"id": "p1", "name": "eu-de"}]}),
}

ODD = {
    "null": None,
    "flag": True,
    "zero": 0,
    "number": 5,
    "negative": -1,
    "huge number": 10**30,
    "huger number": 10**400,
    "1e20": 1e20,
    "1e308": 1e308,
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
    "empty text": "",
    "text": "odd",
    "blank text": " ",
    "line break": "a\nb",
    "lone surrogate": "\ud800",
    "long text": "x" * 5000,
    "list": [],
    "list of numbers": [5],
    "list of lists": [[[]]],
    "list of null": [None],
    "list of odd objects": [{"key": 5, "value": [], "id": 5, "name": {}, "job_id": {}}],
    "object": {},
    "object in object": {"a": {"b": []}},
    "deep": json.loads("[" * 200 + "]" * 200),
}

CONNECTION = DliConnection(
    conn_id="dli_default",
    auth_type="password",
    user="user",
    secret="canary-secret",
    endpoint="https://dli.example.com",
    iam_endpoint="https://iam.example.com",
    project_id="p1",
    project_name=None,
    domain_name="d",
    security_token=None,
    region="eu-de",
    default_queue=None,
    default_database=None,
    verify=True,
    timeout=1,
)


def answered(call, content, status=200, headers=None):
    """Send a call to a server that answers so."""

    def request(*_, **__):
        response = requests.Response()
        response.status_code = status
        response.url = "https://dli.example.com/"
        response.headers.update({"X-Subject-Token": "canary-token", **(headers or {})})
        response.raw = io.BytesIO(content)
        return response

    authenticate = SimpleNamespace(secrets=("canary-token",))
    return exchange(SimpleNamespace(request=request), call, CONNECTION, authenticate, "p1", 1)


def fields_of(value, path=()):
    """Yield the way to every part of a value, the whole included."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    for key, part in pairs:
        yield from fields_of(part, (*path, key))


def changed(body, path, value):
    if not path:
        return value
    body = copy.deepcopy(body)
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return body


def check(value):
    """What came of an answer can be kept as an XCom and be shown."""
    parts = value if isinstance(value, list) else value.jobs if isinstance(value, sql.JobPage) else [value]
    for part in parts:
        if isinstance(part, Job):
            json.dumps([part.id, part.status, part.message, part.statement, part.tags]).encode()
            for text in (part.id, part.status, part.message, part.job_type, part.queue_name, part.statement):
                assert isinstance(text, str)
                text.encode()
            assert all(isinstance(text, str) for pair in part.tags.items() for text in pair)
            assert isinstance(part.state, JobState)
            assert part.result_count is None or 0 <= part.result_count < 2**63


def tried(call, content, **keys):
    try:
        value = answered(call, content, **keys)
    except DliError as caught:
        error = caught
    else:
        error = None
    if error is not None:
        str(error).encode()
        assert "canary" not in str(error)
        return error
    check(value)
    return value


@pytest.mark.parametrize("name", CALLS)
def test_the_good_answer_of_each_call_is_read(name):
    call, body = CALLS[name]
    assert not isinstance(tried(call, json.dumps(body).encode()), DliError)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", CALLS)
def test_any_field_may_be_odd(name, odd):
    call, body = CALLS[name]
    for path in fields_of(body):
        found = tried(call, json.dumps(changed(body, path, ODD[odd])).encode())
        if isinstance(found, DliError) and name != "project":
            assert type(found) is DliTemporaryError, path
            assert not found.nothing_started


@pytest.mark.parametrize("status", [200, 400, 408, 500])
@pytest.mark.parametrize("odd", ODD)
def test_any_field_of_an_error_may_be_odd(odd, status):
    bodies = [
        {"error_code": "DLI.0001", "error_msg": "no", "request_id": "r", "is_success": False},
        {"error": {"code": "IAM.0001", "message": "no", "title": "t"}, "is_success": False},
        [{"error_code": "DLI.13024", "error_msg": "no"}],
    ]
    for body in bodies:
        for path in fields_of(body):
            tried(CALLS["submit"][0], json.dumps(changed(body, path, ODD[odd])).encode(), status=status)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_a_server_answers(data):
    call, body = CALLS[data.draw(st.sampled_from(sorted(CALLS)))]
    path = data.draw(st.sampled_from(list(fields_of(body))))
    status = data.draw(st.sampled_from([200, 201, 400, 500]))
    tried(call, json.dumps(changed(body, path, data.draw(JSON))).encode(), status=status)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=50), status=st.sampled_from([200, 400, 500]))
def test_whatever_bytes_a_server_answers(content, status):
    tried(CALLS["submit"][0], content, status=status)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe\x00",
        b"",
        b"null",
        b'"text"',
        b"5",
    ],
    ids=["deep list", "deep object", "no text", "empty", "null", "text", "number"],
)
@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_json_object_is_temporary(name, content):
    for status in (200, 500):
        assert type(tried(CALLS[name][0], content, status=status)) is DliTemporaryError


def test_a_byte_that_is_no_utf8_does_not_lose_a_job():
    call, body = CALLS["submit"]
    content = json.dumps({**body, "message": "ORT"}).encode().replace(b"ORT", b"K\xf6ln")
    assert answered(call, content).id == JOB


@pytest.mark.parametrize("job_id", [None, 5, "", " ", "a/b", "None", "x" * 65, "a\u202eb", ["x"]])
@pytest.mark.parametrize("name", ["submit", "export"])
def test_a_submit_without_a_usable_job_id_is_looked_up(name, job_id):
    call, body = CALLS[name]
    with pytest.raises(DliTemporaryError, match="gave no usable job id") as caught:
        answered(call, json.dumps({**body, "job_id": job_id}).encode())
    assert not caught.value.nothing_started


def test_optional_fields_are_left_out_when_they_cannot_be_read():
    optional = {"tags": 5, "duration": 1e20, "start_time": "soon", "result_count": "3", "message": [], "job_type": {}}
    job = answered(CALLS["status"][0], json.dumps({**A_JOB, **optional}).encode())
    assert (job.tags, job.duration, job.start_time, job.result_count, job.message, job.job_type) == (
        {},
        None,
        None,
        None,
        "",
        "",
    )
    assert job.state is JobState.RUNNING


@pytest.mark.parametrize("body", [{}, {"jobs": None}, {"job_count": 5}, {"jobs": {}, "job_count": 0}])
def test_an_answer_without_a_list_is_not_taken_for_an_empty_one(body):
    with pytest.raises(DliTemporaryError, match="holds no list of jobs"):
        answered(CALLS["list"][0], json.dumps(body).encode())


def test_an_empty_list_may_be_left_out():
    assert answered(CALLS["list"][0], b'{"job_count": 0}').jobs == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (408, {}),
        (400, {"error_code": "DLI.10001", "error_msg": "internal"}),
        (400, {"error_code": "DLI.0019", "error_msg": "timed out"}),
        (200, {"is_success": False, "error_code": "DLI.10001"}),
        (400, [5, None, {"error_code": "DLI.0999", "error_msg": "later"}]),
    ],
)
def test_what_may_have_been_done_is_temporary(status, body):
    with pytest.raises(DliTemporaryError) as caught:
        answered(CALLS["submit"][0], json.dumps(body).encode(), status=status)
    assert not caught.value.nothing_started


def test_an_error_in_an_array_is_read():
    body = [{"error_code": "DLI.13024", "error_msg": "queue is required"}]
    with pytest.raises(DliError, match=r"queue is required \(DLI.13024, HTTP 400\)") as caught:
        answered(CALLS["cancel"][0], json.dumps(body).encode(), status=400)
    assert caught.value.code == "DLI.13024"


@pytest.mark.parametrize("expires_at", ["soon", "2026-13-45", 5, "10:00", "P1D", "2026-01-01/2026-02-01", [], {"a": 1}])
def test_an_unreadable_end_of_a_token_is_temporary(expires_at):
    body = changed(TOKEN, ("token", "expires_at"), expires_at)
    if expires_at != "10:00":  # which is read as a time of today
        with pytest.raises(DliTemporaryError):
            answered(CALLS["token"][0], json.dumps(body).encode(), status=201)


@pytest.mark.parametrize("token", ["", "a\r\n b", "tökén", "a\x00b"])
def test_a_token_that_no_header_can_carry_is_temporary(token):
    with pytest.raises(DliTemporaryError):
        answered(CALLS["token"][0], json.dumps(TOKEN).encode(), headers={"X-Subject-Token": token})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5),
        (" 5 ", 5),
        ("0", 0),
        ("86400", 60),
        ("9" * 5000, None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00", 0),
        ("Wed, 21 Oct 2999 07:28:00", 60),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
        ("Wed, 99 Oct 2015 99:99:99 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00 +999999999999999999", 0),
    ],
)
def test_retry_after_is_read_or_left_out_but_never_raises(value, seconds):
    with pytest.raises(DliTemporaryError) as caught:
        answered(CALLS["status"][0], b"", status=503, headers={"Retry-After": value})
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("value", ["\ud800", "select '\udfff'"])
def test_a_statement_that_is_no_text_is_not_sent(value):
    with pytest.raises(DliValueError, match="Nothing was sent"):
        answered(sql.submit(value), b"{}")


class TestOnTheWire:
    """The same, from an operator's side."""

    @pytest.fixture
    def tired_hook(self, connect, monkeypatch):
        monkeypatch.setattr(client, "FIRST_PAUSE", 0.05)
        hook = connect()
        hook.connect()
        return hook

    @pytest.mark.parametrize(
        "body",
        [
            "[" * 5000,
            '{"status": 5}',
            '{"status": "RUNNING", "tags": 5, "duration": NaN',
            "\ufeff{",
            '{"is_success": true}',
        ],
    )
    def test_a_status_is_asked_for_again(self, dli_local, tired_hook, body):
        job = tired_hook.submit_sql_job("select 1")
        dli_local.fault("status", "status", status=200, body=body)
        assert tired_hook.get_job(job.id).id == job.id
        assert len(dli_local.requests(call="status")) == 2

    @pytest.mark.parametrize("body", ['{"is_success": true}', '{"job_id": 5}', '{"job_id": "../x"}', "[1]"])
    def test_a_submit_is_not_sent_again(self, dli_local, tired_hook, body):
        dli_local.fault("submit", "status", status=200, body=body, work_done=True)
        with pytest.raises(DliTemporaryError) as caught:
            tired_hook.submit_sql_job("select 1")
        assert not caught.value.nothing_started
        assert len(dli_local.jobs()) == 1

    def test_a_list_is_asked_for_again(self, dli_local, tired_hook):
        job = tired_hook.submit_sql_job("select 1")
        for body in ('{"is_success": true}', '{"job_count": 1, "jobs": [5]}', '{"job_count": 1, "jobs": [{}]}'):
            dli_local.fault("list", "status", status=200, body=body)
        assert [found.id for found in tired_hook.list_jobs()] == [job.id]

    @pytest.mark.parametrize("body", ['{"token": 5}', '{"token": {"expires_at": "soon"}}', '{"token": {}}'])
    def test_a_token_is_asked_for_again(self, dli_local, connect, monkeypatch, body):
        monkeypatch.setattr(client, "FIRST_PAUSE", 0.05)
        dli_local.fault("token", "status", status=201, body=body)
        connect().connect()
        assert len(dli_local.requests(call="token")) == 2
