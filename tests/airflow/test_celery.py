"""
Kills of workers of CeleryExecutor, with Redis and PostgreSQL: no job is left, and nothing runs twice.

``uv run --group test --group celery pytest -m matrix -n 0 tests/airflow/test_celery.py``, with Redis and PostgreSQL on
the machine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pace
import pytest
from conftest import canaries
from kill_matrix import celery, verdict
from kill_matrix.cases import Case
from kill_matrix.report import summary
from kill_matrix.stage import Outcome
from lab.airflow import QUICK, LocalAirflow
from lab.postgres import Postgres, path
from lab.redis_server import Redis

from airflow_provider_dli.local.handle import LocalDli

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(pace.seconds(900))]


@pytest.fixture(scope="module", autouse=True)
def everything_is_there() -> None:
    missing = [
        *(["Celery (uv run --group celery)"] if find_spec("airflow.providers.celery") is None else []),
        *([] if shutil.which("redis-server") else ["Redis (apt-get install redis-server)"]),
        *([] if path("postgres") else ["PostgreSQL (apt-get install postgresql)"]),
    ]
    if missing:
        reason = f"not installed: {', '.join(missing)}"
        # Where it has to be played, a skip would look like a success.
        (pytest.fail if os.environ.get("DLI_TEST_NO_SKIP") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def broker() -> Iterator[Redis]:
    with Redis() as broker:
        yield broker


@pytest.fixture(scope="module")
def airflow(dli: LocalDli, broker: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    """Airflow with the DAGs of the kill matrix and the workers of Celery that play it."""
    dags = tmp_path_factory.mktemp("dags")
    shutil.copy(Path(__file__).parent / "dags" / "kill_matrix.py", dags)
    env = {**dli.connection_env(), **canaries(dli)}
    settings = {
        **QUICK,
        "core.executor": "CeleryExecutor",
        "celery.broker_url": broker.url,
        "celery.worker_concurrency": 1,
        "celery_broker_transport_options.visibility_timeout": celery.VISIBILITY_TIMEOUT,
    }
    with (
        Postgres() as database,
        LocalAirflow(dags, sql_alchemy_conn=database.url, env=env, settings=settings) as airflow,
    ):
        for name in celery.WORKERS:
            airflow.component(name).start()
        airflow.wait_until_healthy(*celery.WORKERS)
        yield airflow


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, airflow: LocalAirflow, dli: LocalDli, broker: Redis) -> dict[str, Outcome]:
    """What came of all cases that were asked for, played side by side."""
    cases = [item.callspec.params["case"] for item in request.session.items if item.function is test_a_kill]
    with celery.CeleryStage(airflow, dli, broker=broker, report=lambda outcome: print(summary(outcome))) as stage:
        return stage.play(cases)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in celery.ALL])
def test_a_kill(case: Case, outcomes: dict[str, Outcome]) -> None:
    verdict.check(outcomes[case.name])
