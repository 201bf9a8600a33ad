"""Fixtures of the tests that talk to the local DLI over HTTP."""

from __future__ import annotations

import json
import threading

import pytest
import requests

from airflow_provider_dli import compat
from airflow_provider_dli.client import credentials
from airflow_provider_dli.hooks import dli as hooks
from airflow_provider_dli.tasks.deferral import Deferral
from airflow_provider_dli.triggers.dli import DliJobTrigger


@pytest.fixture(autouse=True)
def quick_deferrals(monkeypatch):
    """Defer at once, and end a deferral at once: the times that a scheduler needs are not those of a test."""
    monkeypatch.setattr(Deferral, "worker_waits", 0)
    monkeypatch.setattr(DliJobTrigger, "fires_after", 0)


@pytest.fixture
def connect(dli_local, monkeypatch):
    """Return a function that makes a hook, with changed fields of the connection where given."""
    # A process that starts has no token yet.
    credentials._known.clear()

    def make(auth_type="password", extra=None, **fields):
        connection = dli_local.connection(auth_type)
        connection.update(fields)
        connection["extra"] = {**connection["extra"], **(extra or {})}
        connection["extra"] = {name: value for name, value in connection["extra"].items() if value is not None}
        monkeypatch.setenv("AIRFLOW_CONN_DLI_DEFAULT", json.dumps(connection))
        return hooks.DliHook()

    return make


@pytest.fixture
def hook(connect):
    """A hook with the local DLI's own user."""
    return connect()


@pytest.fixture
def airflow_says(monkeypatch):
    """Return a function that sets the state of the task, and the id of the job that its current try has announced."""

    def say(state, job_id=None):
        def task_states(dag_id, run_ids, task_ids):
            if isinstance(state, Exception):
                raise state
            return {} if state == "gone" else {(run_ids[0], task_ids[0], -1): state}

        monkeypatch.setattr(compat, "task_states", task_states)
        monkeypatch.setattr(compat, "xcom", lambda key, name: job_id if name == "job_id" else None)

    return say


@pytest.fixture
def restart(dli_local):
    """Return a function that restarts DLI's API, and comes back as soon as it is away."""
    threads = []

    def begin(down_for):
        threads.append(threading.Thread(target=dli_local.restart, args=[down_for]))
        threads[-1].start()
        dli_local.wait_until(is_away)

    yield begin
    for thread in threads:
        thread.join()


def is_away(dli):
    try:
        requests.get(dli.url, timeout=5)
    except requests.ConnectionError as error:
        return "refused" in str(error)
