"""Fixtures for all tests."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports Airflow, which would take the home of whoever runs the tests.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-home-")
sys.path.insert(0, str(Path(__file__).parent))

from airflow_provider_dli.local.handle import LocalDli


@pytest.fixture(scope="session")
def dli_server() -> Iterator[LocalDli]:
    """A local DLI in a process of its own, for the whole run."""
    with LocalDli.start() as dli:
        yield dli


@pytest.fixture
def dli_local(dli_server: LocalDli) -> LocalDli:
    """The local DLI, as fresh as on its first day."""
    dli_server.reset()
    return dli_server
