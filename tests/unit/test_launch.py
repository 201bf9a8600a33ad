"""A kind of job that is created first and launched afterwards: see ``tests/echo``."""

from __future__ import annotations

import json

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from echo.kind import KIND, EchoWork
from echo.server import EchoServer
from fakes import context_of, execute

from airflow_provider_dli import compat
from airflow_provider_dli.exceptions import DliError
from airflow_provider_dli.operators.base import DliJobOperator


class EchoOperator(DliJobOperator):
    job_kind = KIND

    def work(self, connection):
        return EchoWork("hello")


@pytest.fixture
def server():
    with EchoServer() as server:
        yield server


@pytest.fixture
def connect(server, monkeypatch):
    """Return a function that sets the secret key of the connection."""

    def run(secret):
        extra = {"auth_type": "ak_sk", "project_id": "p", "region": "eu-de"}
        connection = {"conn_type": "dli", "host": server.url, "login": "ak", "password": secret, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_ECHO", json.dumps(connection))

    run("one")
    return run


def run():
    return execute(EchoOperator(task_id="load", dli_conn_id="echo", poll_interval=0.1), context_of())


def test_it_is_created_and_launched_once(server, connect):
    run()
    [echo] = server.of("hello")
    assert (echo.state, echo.told["create"], echo.told["go"]) == ("done", 1, 1)


def test_a_launch_with_a_key_that_was_rotated_is_repeated_and_nothing_is_created_twice(server, connect):
    server.refuse("go", "hello", lambda: connect("two"))
    run()
    assert [echo.state for echo in server.of("hello")] == ["done"]


def test_a_launch_that_is_refused_for_good_leaves_nothing_behind(server, connect):
    server.plan("hello", 60)
    server.refuse("go", "hello", lambda: None)
    with pytest.raises(AirflowFailException, match="who are you"):
        run()
    assert [echo.state for echo in server.of("hello")] == ["broken"]


def test_a_launch_that_fails_again_and_again_ends(server, connect, monkeypatch):
    from airflow_provider_dli.tasks import start

    monkeypatch.setattr(start, "_LAUNCH_WITHIN", 1)
    monkeypatch.setattr(compat, "task_states", lambda *_: {})
    server.fail("go", "hello")
    with pytest.raises(DliError, match="go of echo"):
        run()
    assert [echo.state for echo in server.of("hello")] == ["broken"]
