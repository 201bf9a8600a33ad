"""The machine carries a kind of job that it does not know, on a real Airflow: see ``tests/echo``."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path

import pytest
from echo.server import EchoServer
from lab.airflow import QUICK, LocalAirflow

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(300)]
TESTS = Path(__file__).parents[1]
LONG = 120


@pytest.fixture(scope="module")
def server():
    with EchoServer() as server:
        yield server


@pytest.fixture(scope="module")
def echo_airflow(server, bytecode, tmp_path_factory):
    """An Airflow whose processes know echoes; another one's sweep would ask the local DLI for them."""
    dags = tmp_path_factory.mktemp("echo") / "dags"
    shutil.copytree(TESTS / "echo" / "dag_files", dags)
    extra = {"auth_type": "ak_sk", "project_id": "p", "region": "eu-de"}
    connection = {"conn_type": "dli", "host": server.url, "login": "ak", "password": "sk", "extra": extra}
    env = {
        "AIRFLOW_CONN_ECHO": json.dumps(connection),
        "PYTHONPATH": f"{TESTS}:{TESTS / 'echo' / 'startup'}",
    }
    settings = {**QUICK, "dli.deployment": "echoes"}
    with LocalAirflow(dags, env=env, settings=settings, task_api_apart=True) as airflow:
        airflow.api.wait_for_dag("echo_sweep")
        yield airflow


@pytest.fixture
def play(echo_airflow, server, request):
    """Return a function that starts a run; what its echoes say is the id of the run."""

    def start(dag_id, *lasts, lose=None, slow=None):
        run_id = f"{dag_id}~{re.sub('[^a-z_]+', '.', request.node.name)}"
        server.plan(run_id, *lasts)
        if lose:
            server.lose(lose, run_id)
        if slow:
            server.slow(slow[0], run_id, slow[1])
        echo_airflow.api.trigger(dag_id, run_id=run_id)
        return run_id

    return start


def until(found, seconds=90):
    end = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < end, "it did not come to this"
        time.sleep(0.1)
    return answer


def moods(server, say):
    return [echo.state for echo in server.of(say)]


@pytest.mark.parametrize("dag_id", ["echo_once", "echo_deferred"])
def test_submit(echo_airflow, server, play, dag_id):
    say = play(dag_id, 4)
    echo_airflow.api.wait_for_state(dag_id, say, state="success")
    [echo] = server.of(say)
    assert (echo.state, echo.told["go"], echo.told["halt"]) == ("done", 1, 0)


@pytest.mark.parametrize(("dag_id", "state"), [("echo_once", "running"), ("echo_deferred", "deferred")])
def test_kill(echo_airflow, server, play, dag_id, state):
    say = play(dag_id, LONG)
    until(lambda: moods(server, say) == ["humming"])
    echo_airflow.api.wait_for_state(dag_id, say, "job", state)
    time.sleep(2)  # until the trigger runs
    echo_airflow.api.mark_dag_run(dag_id, say, "failed")
    until(lambda: moods(server, say) == ["broken"], 20)
    assert server.of(say)[0].told["go"] == 1


def test_kill_while_it_is_told_to_go(echo_airflow, server, play):
    """The halt comes first, and the echo hums all the same: it has to be halted once more."""
    say = play("echo_once", LONG, slow=("go", 3.5))
    until(lambda: moods(server, say) == ["new"])
    echo_airflow.api.mark_dag_run("echo_once", say, "failed")
    until(lambda: server.of(say)[0].told["go"], 20)
    until(lambda: moods(server, say) == ["broken"], 20)
    time.sleep(4)
    assert moods(server, say) == ["broken"]


@pytest.mark.parametrize("call", ["create", "go"])
def test_a_lost_answer(echo_airflow, server, play, call):
    say = play("echo_once", 2, lose=call)
    echo_airflow.api.wait_for_state("echo_once", say, state="success")
    [echo] = server.of(say)
    assert (echo.state, echo.told["create"], echo.told["go"]) == ("done", 1, 1)


def test_reattach(echo_airflow, server, play):
    say = play("echo_retried", 20)
    until(lambda: moods(server, say) == ["humming"])
    echo_airflow.task_processes("echo_retried", say, "job").task.kill()
    echo_airflow.api.wait_for_state("echo_retried", say, state="success", timeout=90)
    assert echo_airflow.api.task_instance("echo_retried", say, "job")["try_number"] == 2
    [echo] = server.of(say)
    assert (echo.state, echo.told["go"], echo.told["halt"]) == ("done", 1, 0)


def test_clear(echo_airflow, server, play):
    say = play("echo_once", LONG, 1)
    until(lambda: moods(server, say) == ["humming"])
    echo_airflow.api.clear("echo_once", say, ["job"])
    until(lambda: moods(server, say) == ["broken", "done"])
    echo_airflow.api.wait_for_state("echo_once", say, state="success")


def test_cancel(echo_airflow, server, play):
    say = play("echo_cancel", LONG)
    echo_airflow.api.wait_for_state("echo_cancel", say, state="success")
    [echo] = server.of(say)
    assert echo_airflow.api.xcom("echo_cancel", say, "cancel") == {echo.key: "CANCELLED"}


def test_sweep(echo_airflow, server, play):
    say = play("echo_once", LONG)
    until(lambda: moods(server, say) == ["humming"])
    echo_airflow.task_processes("echo_once", say, "job").task.kill()
    echo_airflow.api.wait_for_state("echo_once", say, state="failed", timeout=60)
    assert moods(server, say) == ["humming"]
    sweep = echo_airflow.api.trigger("echo_sweep")
    echo_airflow.api.wait_for_state("echo_sweep", sweep, state="success", timeout=60)
    [row] = [row for row in echo_airflow.api.xcom("echo_sweep", sweep, "sweep") if row["run"] == say]
    assert row["verdict"] == "cancelled"
    assert moods(server, say) == ["broken"]
