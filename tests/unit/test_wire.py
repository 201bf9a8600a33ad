"""What a server may do on the wire: interim answers, endless ones, and secrets of before. Each over a raw socket."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from tls import Authority, close, read_message

from airflow_provider_dli import text
from airflow_provider_dli.api import shown, sql
from airflow_provider_dli.client import client, connection, exchange
from airflow_provider_dli.client.patience import BOUNDED, Patience
from airflow_provider_dli.exceptions import DliError, DliTemporaryError
from airflow_provider_dli.hooks.dli import DliHook

JOB = "8ecb0777-9c70-4529-9935-29ea0946039c"
SECRET = "canary-secret-key-of-40-characters-or-so"
RUNNING = {"is_success": True, "job_id": JOB, "status": "RUNNING", "message": ""}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"


def whole(body, head=HEAD):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head + b"Content-Length: %d\r\n\r\n%s" % (len(content), content)


class Server:
    """Sends the given pieces of an answer to each request, with a pause after each; counts its connections."""

    def __init__(self):
        self.answer, self.pause = [whole(RUNNING)], 0.0
        self.requests = []
        self.open = 0
        self.tls = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._converse, args=[connection], daemon=True).start()

    def _converse(self, connection):
        self.open += 1
        with (
            suppress(OSError),
            self.tls.wrap_socket(connection, server_side=True) if self.tls else connection as connection,
        ):
            while request := read_message(connection):
                self.requests.append(request)
                for piece in self.answer:
                    connection.sendall(piece)
                    time.sleep(self.pause)
        self.open -= 1

    def close(self):
        close(self._listener)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def hook(server, monkeypatch):
    """A hook that calls the server."""
    connect(monkeypatch, host=server.url)
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.05)
    return DliHook()


def connect(monkeypatch, host, password=SECRET, **extra):
    extra = {"auth_type": "ak_sk", "region": "eu-de", "project_id": "p", "timeout": 1, **extra}
    fields = {"conn_type": "dli", "login": "key", "password": password, "host": host, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_DLI_DEFAULT", json.dumps(fields))


def in_time(holds, seconds=5.0):
    end = time.monotonic() + seconds
    while not (done := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    return done


def threads():
    # Also those that were started without the `threading` module.
    import sys

    return len(sys._current_frames())


class TestInterimAnswers:
    @pytest.mark.parametrize(
        "interim", [EARLY, EARLY * 3, b"HTTP/1.1 102 Processing\r\n\r\n", EARLY.replace(b"103", b"199")]
    )
    def test_the_final_answer_counts(self, server, hook, interim):
        server.answer = [interim + whole(RUNNING)]
        assert [hook.get_job(JOB).status for _ in range(2)] == ["RUNNING"] * 2
        assert hook.submit_sql_job("select 1").id == JOB
        assert len(server.requests) == 3

    def test_without_end_they_are_no_answer(self, server, hook):
        server.answer = [EARLY * 1000]
        with pytest.raises(DliTemporaryError, match="interim answers"):
            hook.send(sql.status(JOB), give_up_after=0)


class TestHugeAnswers:
    @pytest.mark.parametrize(
        ("call", "body", "match"),
        [
            (
                sql.status(JOB),
                b"[" + b"[]," * 2_000_000 + b"[]]",
                "status of SQL job .* too large: it has more than 4 MiB",
            ),
            (sql.list_jobs(), b"[" + b"[]," * 600_000 + b"[]]", "too large: it holds more than 1,100,000 values"),
            (sql.list_jobs(), b"[" + b'"",' * 1_200_000 + b"0]", "too large: it holds more than"),
            (sql.preview(JOB), b'{"rows": [' + b'{"a,[": 1},' * 600_000 + b"0]}", "too large: it holds more than"),
        ],
        ids=["status", "lists", "texts", "rows"],
    )
    def test_they_are_refused_soon(self, server, hook, monkeypatch, call, body, match):
        connect(monkeypatch, host=server.url, timeout=30)
        server.answer = [whole(body)]
        begin = time.monotonic()
        with pytest.raises(DliError, match=match) as caught:
            hook.send(call, give_up_after=0)
        assert time.monotonic() - begin < 10
        # A result is as large the next time; anything else may be an outage.
        assert isinstance(caught.value, DliTemporaryError) is not call.reads_rows

    def test_an_error_is_no_longer_than_other_answers(self, server, hook):
        server.answer = [whole(b"x" * (5 * 2**20), HEAD.replace(b"200 OK", b"502 Bad Gateway"))]
        with pytest.raises(DliTemporaryError, match="more than 4 MiB"):
            hook.send(replace(sql.list_jobs(), repeatable=False))

    def test_text_may_hold_as_many_commas_as_it_likes(self, server, hook):
        rows = [["[{,}]," * 500_000, 'a "quote", a \\ and a ,'] for _ in range(2)]
        server.answer = [whole({"is_success": True, "schema": [{"a": "string"}, {"b": "string"}], "rows": rows})]
        assert [list(row) for row in hook.send(sql.preview(JOB)).rows] == rows


class TestGivenUp:
    @pytest.mark.parametrize("where", ["head", "body"])
    def test_a_call_that_was_given_up_leaves_no_thread_and_no_socket(self, server, hook, where):
        server.answer = [HEAD, *[b"X-A: b\r\n"] * 500] if where == "head" else [HEAD + b"\r\n", *[b" "] * 500]
        server.pause = 0.1
        self.give_up(server, hook)

    def test_nor_does_one_over_tls(self, server, hook, monkeypatch, tmp_path):
        authority = Authority(tmp_path)
        server.tls = authority.server_context("localhost")
        connect(monkeypatch, server.url.replace("http://127.0.0.1", "https://localhost"), verify=str(authority.path))
        server.answer, server.pause = [HEAD + b"\r\n", *[b" "] * 500], 0.1
        self.give_up(server, hook)

    def give_up(self, server, hook):
        before = threads()

        class Killed(BaseException):
            pass

        def watch():
            if server.requests:
                raise Killed

        with pytest.raises(Killed):
            hook.client.watching(watch).send(sql.status(JOB))
        assert in_time(lambda: server.open == 0 and threads() <= before)

    @pytest.mark.parametrize("where", ["head", "body"])
    def test_a_call_in_the_thread_of_its_caller_ends_in_time_whatever_arrives(self, server, hook, monkeypatch, where):
        connect(monkeypatch, host=server.url, timeout=0.3)
        server.answer = [HEAD, *[b"X-A: b\r\n"] * 500] if where == "head" else [HEAD + b"\r\n", *[b" "] * 500]
        server.pause = 0.1
        with pytest.raises(DliTemporaryError, match="the answer did not come in time"):
            hook.client.patient(replace(BOUNDED, give_up_after=0)).send(sql.status(JOB))
        assert in_time(lambda: server.open == 0)


class Machine(Server):
    """A metadata service, or a proxy before it."""

    KEYS = {"access": "AK", "secret": SECRET, "securitytoken": SECRET * 3, "expires_at": "2999-01-01T00:00:00.000000Z"}

    def __init__(self):
        super().__init__()
        self.answer = [whole({"credential": self.KEYS})]


@pytest.fixture
def machine_service():
    service = Machine()
    yield service
    service.close()


class TestProxies:
    @pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
    @pytest.mark.parametrize("auth_type", ["metadata", "agency"])
    def test_the_machines_keys_are_asked_for_without_one(
        self, server, machine_service, monkeypatch, variable, auth_type
    ):
        proxy = Machine()
        monkeypatch.setenv(variable, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "")
        connect(
            monkeypatch,
            host=server.url,
            password="",
            auth_type=auth_type,
            metadata_endpoint=machine_service.url,
            agency_name="a",
            agency_domain_name="d",
            agency_source="metadata",
            iam_endpoint=server.url,
        )
        with suppress(DliError):
            DliHook().client.patient(Patience(give_up_after=0)).connect()
        proxy.close()
        assert any(b"securitykey" in each for each in machine_service.requests)
        assert not any(b"securitykey" in each for each in proxy.requests)

    @pytest.mark.parametrize(
        ("url", "is_local"),
        [
            ("http://169.254.169.254", True),
            ("http://169.254.1.2:8080", True),
            ("http://[fe80::1]", True),
            ("http://[fe80::1%25eth0]:80", True),
            ("http://[::ffff:169.254.169.254]", True),
            ("https://169.253.0.1", False),
            ("https://dli.eu-de.otc.t-systems.com", False),
        ],
    )
    def test_link_local_addresses(self, url, is_local):
        assert exchange._is_link_local(url) is is_local


class TestSecretsOfBefore:
    @pytest.fixture(autouse=True)
    def _nothing_is_known(self, monkeypatch):
        monkeypatch.setattr(text, "_remembered", {})
        monkeypatch.setattr(text, "_remembered_forms", [])

    def test_an_old_secret_is_masked_in_all_that_is_read(self, server, hook, monkeypatch):
        hook.get_job(JOB)
        connect(monkeypatch, host=server.url, password="another-secret-key-of-40-characters-or-so")
        hook = DliHook()
        job = {
            **dict.fromkeys(("status", "message", "job_type", "queue_name", "statement", "owner"), SECRET),
            "detail": json.dumps({"fields": [{"name": SECRET, "type": "string"}]}),
            "tags": [{"key": f"k{SECRET}", "value": f"v {base64.b64encode(SECRET.encode()).decode()}"}],
        }
        server.answer = [whole({"jobs": [{"job_id": JOB, **job}], "job_count": 1})]
        [found] = hook.send(sql.list_jobs()).jobs
        assert (found.status, found.tags.keys(), found.columns) == ("***", {"k***"}, (("***", "string"),))
        assert "canary" not in repr(found) + str(found.tags)
        assert base64.b64encode(SECRET[:30].encode()).decode() not in str(found.tags)
        server.answer = [whole({"job_id": SECRET})]
        with pytest.raises(DliError) as caught:
            hook.submit_sql_job("select 1")
        assert "canary" not in str(caught.value)
        server.answer = [whole({"error_code": SECRET, "error_msg": SECRET}, HEAD.replace(b"200 OK", b"400 Bad"))]
        with pytest.raises(DliError, match=r"\*\*\*") as caught:
            hook.get_job(JOB)
        assert "canary" not in str(caught.value)

    def test_the_rows_of_a_result_are_data(self, server, hook):
        server.answer = [whole({"schema": [{SECRET: "string"}], "rows": [[SECRET]]})]
        found = hook.send(sql.preview(JOB))
        assert (found.columns, found.rows) == ([("***", "string")], [[SECRET]])

    def test_a_password_that_may_be_a_word_stays_in_names(self, server, monkeypatch):
        connect(monkeypatch, host=server.url, password="airflow-prod")
        tags = {"airflow_dag": "airflow-prod-load"}
        job = {"job_id": JOB, "message": "airflow-prod", "tags": [{"key": k, "value": v} for k, v in tags.items()]}
        server.answer = [whole({"jobs": [job], "job_count": 1})]
        [found] = DliHook().send(sql.list_jobs()).jobs
        assert (found.tags, found.message) == (tags, "***")

    def test_a_job_that_was_sent_with_a_secret_is_known_by_what_is_shown_of_it(self, server, hook):
        sent = f"CREATE TABLE t OPTIONS (key '{SECRET}')"
        server.answer = [whole({**RUNNING, "statement": sent, "conf": {"key": SECRET}})]
        found = hook.get_job(JOB).statement
        assert "***" in found
        assert shown.same_text(found, sent)
        assert not shown.same_text(found, sent.replace(SECRET, "another"))
        assert shown.same_fields(
            {"conf": {"key": "***"}, "args": ["***"]}, {"conf": {"key": SECRET}, "args": [SECRET]}, ["conf", "args"]
        )

    def test_the_last_200_are_kept(self):
        for number in range(300):
            text.remember_secrets([f"secret number {number} of many"])
        assert len(text._remembered) == 200
        assert text.clean("of secret number 299 of many") == "of ***"
        assert text.clean("of secret number 99 of many") == "of secret number 99 of many"


class TestWarnings:
    def warned(self, caplog, monkeypatch, times=2, **fields):
        connect(monkeypatch, **fields)
        monkeypatch.setattr(connection, "_warned", set())
        for _ in range(times):
            DliHook().client.access.connection()
        return [each.getMessage() for each in caplog.records if each.name == connection.__name__]

    @pytest.mark.parametrize(
        ("fields", "names"),
        [
            ({"host": "http://dli.example.com"}, ["`host`"]),
            ({"host": "https://dli.example.com", "iam_endpoint": "http://10.0.0.1"}, ["`iam_endpoint`"]),
            ({"host": "https://dli.example.com", "verify": False}, ["`verify`"]),
            (
                {"host": "http://dli.example.com", "iam_endpoint": "http://iam.example.com", "verify": "false"},
                ["`host`", "`iam_endpoint`", "`verify`"],
            ),
        ],
    )
    def test_one_for_all_that_lets_others_read(self, caplog, monkeypatch, fields, names):
        [said] = self.warned(caplog, monkeypatch, **fields)
        assert "Connection 'dli_default'" in said
        assert all(name in said for name in names)

    @pytest.mark.parametrize("host", ["http://127.0.0.1:80", "http://localhost", "http://[::1]:80", "https://a.b"])
    def test_none_where_nobody_else_can(self, caplog, monkeypatch, host):
        assert self.warned(caplog, monkeypatch, host=host) == []
