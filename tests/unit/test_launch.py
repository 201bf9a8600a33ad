"""A kind of job that is created first and launched afterwards: see ``tests/echo``."""

from __future__ import annotations

import json
import threading
import time

import pace
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from echo.kind import KIND, EchoWork, create
from echo.server import EchoServer
from fakes import START, TaskInstance, context_of, execute

from airflow_provider_dli import compat, identity
from airflow_provider_dli.exceptions import DliError, DliTaskKilledError
from airflow_provider_dli.hooks.dli import DliHook
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


def run(task=None, **ti):
    return execute(task or new_task(), context_of(TaskInstance(**ti)))


def new_task(**arguments):
    return EchoOperator(task_id="load", dli_conn_id="echo", poll_interval=0.1, **arguments)


def story(server):
    """Return the state of each echo, and how often it was told to go."""
    return [(echo.state, echo.told["go"]) for echo in server.of("hello")]


def until(found, seconds=10):
    end = time.monotonic() + pace.seconds(seconds)
    while not found():
        assert time.monotonic() < end, "it did not come to this"
        time.sleep(0.01)


class Running:
    """A task that runs in a thread."""

    def __init__(self, **arguments):
        self._task = new_task(**arguments)
        self._error = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            run(self._task)
        except Exception as error:
            self._error = error

    def kill(self):
        self._task.on_kill()
        self._thread.join(20)
        assert isinstance(self._error, DliTaskKilledError), self._error


def test_it_is_created_and_launched_once(server, connect):
    run()
    [echo] = server.of("hello")
    assert (echo.state, echo.told["create"], echo.told["go"]) == ("done", 1, 1)


@pytest.mark.parametrize("call", ["create", "go"])
def test_a_lost_answer(server, connect, call):
    server.lose(call, "hello")
    run()
    assert story(server) == [("done", 1)]


@pytest.mark.parametrize("call", ["create", "go", "look"])
def test_a_key_that_is_rotated_meanwhile(server, connect, call):
    """Nothing is created twice, and nothing launched twice."""
    server.refuse(call, "hello", lambda: connect("two"))
    run()
    assert story(server) == [("done", 1)]


def test_a_key_that_is_rotated_after_a_lost_answer(server, connect):
    server.lose("create", "hello")
    server.refuse("go", "hello", lambda: connect("two"))
    run()
    assert story(server) == [("done", 1)]


def test_what_an_earlier_try_has_only_created_is_launched(server, connect):
    work, generation = EchoWork("hello"), identity.generation(START, 2)
    DliHook("echo").send(
        create(work, identity.Identity("sales", "run 1", "load", -1, 0, generation, 1, "task", work.digest))
    )
    assert story(server) == [("new", 0)]
    run(try_number=2)
    assert story(server) == [("done", 1)]


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


class TestKill:
    def test_while_it_is_created(self, server, connect):
        """It is not launched any more."""
        server.plan("hello", 60)
        server.slow("create", "hello", 1)
        running = Running()
        until(lambda: server.calls["create", "hello"])
        running.kill()
        assert story(server) == [("broken", 0)]

    def test_while_it_is_looked_for(self, server, connect):
        """Nor is one whose answer got lost."""
        server.plan("hello", 60)
        server.lose("create", "hello")
        server.slow("page", "", 1)
        running = Running()
        until(lambda: server.calls["page", ""])
        running.kill()
        assert story(server) == [("broken", 0)]

    def test_while_it_is_launched(self, server, connect):
        """The halt may come before the launch: it is repeated."""
        server.plan("hello", 60)
        server.slow("go", "hello", 1)
        running = Running()
        until(lambda: server.calls["go", "hello"])
        running.kill()
        until(lambda: story(server) == [("broken", 1)])
        [echo] = server.of("hello")
        assert echo.told["halt"] >= 2

    def test_when_the_answer_to_its_launch_got_lost(self, server, connect):
        server.plan("hello", 60)
        server.lose("go", "hello")
        server.slow("look", "hello", 1)
        running = Running()
        until(lambda: server.calls["look", "hello"])
        running.kill()
        assert story(server) == [("broken", 1)]

    def test_that_leaves_the_job_alone_lets_it_be_launched(self, server, connect):
        server.slow("create", "hello", 1)
        task = Running(cancel_on_kill=False)
        until(lambda: server.calls["create", "hello"])
        task.kill()
        until(lambda: story(server) == [("done", 1)])
