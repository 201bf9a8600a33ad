"""
A local DLI for tests of your own DAGs: the fixture ``dli_local``.

Installed as a pytest plugin with the package. It imports nothing until a test asks for the fixture, and does no
harm where the extra ``[local]`` is missing.

::

    def test_my_dag(dli_local):
        dli_local.will(matching="INSERT INTO orders", run_for=2, then="FAILED", message="DLI.0999: lost")
        dag.test()
        assert [job.status for job in dli_local.jobs()] == ["FAILED", "FINISHED"]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_provider_dli.local.handle import LocalDli


@pytest.fixture(scope="session")
def dli_server() -> Iterator[LocalDli]:
    """A local DLI in a process of its own, on a free port, for the whole run."""
    from airflow_provider_dli.local.handle import LocalDli

    with LocalDli.start() as dli:
        yield dli


@pytest.fixture
def dli_local(dli_server: LocalDli, monkeypatch: pytest.MonkeyPatch) -> LocalDli:
    """The local DLI after a reset, and the connection ``dli_default`` to it in the environment."""
    dli_server.reset()
    for name, value in dli_server.connection_env().items():
        monkeypatch.setenv(name, value)
    return dli_server
