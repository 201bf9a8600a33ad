"""Fixtures of the tests that talk to the local DLI over HTTP."""

from __future__ import annotations

import json

import pytest

from airflow_provider_dli.hooks import dli as hooks


@pytest.fixture
def connect(dli_local, monkeypatch):
    """Return a function that makes a hook, with changed fields of the connection where given."""
    # A process that starts has no token yet.
    hooks._credentials.clear()

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
