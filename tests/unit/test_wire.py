"""What a server may do on the wire: interim answers, endless ones and huge ones. Each over a raw socket."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from tls import close, read_message

from airflow_provider_dli.api import sql
from airflow_provider_dli.client import client
from airflow_provider_dli.client.patience import BOUNDED
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
        with suppress(OSError), connection:
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

    def test_text_may_hold_as_many_commas_as_it_likes(self, server, hook):
        rows = [["[{,}]," * 500_000, 'a "quote", a \\ and a ,'] for _ in range(2)]
        server.answer = [whole({"is_success": True, "schema": [{"a": "string"}, {"b": "string"}], "rows": rows})]
        assert [list(row) for row in hook.send(sql.preview(JOB)).rows] == rows


class TestGivenUp:
    @pytest.mark.parametrize("where", ["head", "body"])
    def test_a_call_that_was_given_up_leaves_no_thread_and_no_socket(self, server, hook, where):
        server.answer = [HEAD, *[b"X-A: b\r\n"] * 500] if where == "head" else [HEAD + b"\r\n", *[b" "] * 500]
        server.pause = 0.1
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
