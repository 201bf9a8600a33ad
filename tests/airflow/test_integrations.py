"""
What the SQL hook and the operators work with where it is installed: OpenLineage, pandas and polars, on a real Airflow.

``uv run --isolated --group test --group integrations pytest -n 0 -m matrix tests/airflow/test_integrations.py``, in an
environment of its own: with OpenLineage, each task does more than without.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sql_tools
from lab.airflow import QUICK, LocalAirflow

from airflow_provider_dli.local.handle import LocalDli

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(600)]
for module in ("airflow.providers.openlineage", "pandas", "polars"):
    pytest.importorskip(module, reason="the group `integrations` is not installed")


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that OpenLineage writes to."""
    return tmp_path_factory.mktemp("lineage") / "events.jsonl"


@pytest.fixture(scope="module")
def airflow(dli: LocalDli, events: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    """Airflow with OpenLineage's file transport."""
    dags = tmp_path_factory.mktemp("dags")
    for name in ("sql_tools.py", "lineage.py"):
        shutil.copy(Path(__file__).parent / "dags" / name, dags)
    settings = {
        **QUICK,
        "openlineage.transport": json.dumps({"type": "file", "log_file_path": str(events), "append": True}),
        "openlineage.namespace": "tests",
    }
    with LocalAirflow(dags, env=dli.connection_env(), settings=settings, task_api_apart=True) as airflow:
        yield airflow


def of_task(events: Path, task_id: str, kind: str) -> dict[str, object]:
    """Return the last event of this kind that was written for a task."""
    found = [json.loads(line) for line in events.read_text().splitlines()]
    return next(
        event
        for event in reversed(found)
        if event["eventType"] == kind and event["job"]["name"].endswith(f".{task_id}")
    )


def names(datasets: object) -> set[str]:
    assert isinstance(datasets, list)
    return {dataset["name"] for dataset in datasets}


def test_tables_and_jobs_of_stock_operators_and_of_ours(airflow: LocalAirflow, dli: LocalDli, events: Path) -> None:
    sql_tools.check(airflow, dli, "with_lineage")
    job_of = {job.tags["airflow_task"]: job for job in dli.jobs()}
    made = of_task(events, "make", "COMPLETE")
    assert names(made["outputs"]) == {"with_lineage.orders"}
    script = of_task(events, "script", "COMPLETE")  # deferred
    assert names(script["inputs"]) == names(script["outputs"]) == {"with_lineage.orders"}
    last = max((job for job in dli.jobs() if job.tags["airflow_task"] == "script"), key=lambda job: job.submitted_at)
    assert script["run"]["facets"]["externalQuery"]["externalQueryId"] == last.job_id  # type: ignore[index]
    value = of_task(events, "value", "COMPLETE")
    assert value["run"]["facets"]["externalQuery"]["externalQueryId"] == job_of["value"].job_id  # type: ignore[index]
    assert "information_schema" not in "".join(job.statement for job in dli.jobs())


def test_a_task_that_fails_tells_its_job(airflow: LocalAirflow, dli: LocalDli, events: Path) -> None:
    airflow.api.wait_for_dag("lineage")
    run_id = airflow.api.trigger("lineage")
    airflow.api.wait_for_state("lineage", run_id, timeout=120)
    for task_id in ("fails", "fails_deferred"):
        failed = of_task(events, task_id, "FAIL")
        [job] = [job for job in dli.jobs() if job.tags["airflow_task"] == task_id]
        assert names(failed["inputs"]) == {"sales.nowhere"}
        assert failed["run"]["facets"]["externalQuery"]["externalQueryId"] == job.job_id  # type: ignore[index]


def test_data_frames(airflow: LocalAirflow) -> None:
    airflow.api.wait_for_dag("lineage")
    run_id = airflow.api.trigger("lineage")
    airflow.api.wait_for_state("lineage", run_id, timeout=120)
    # Pandas makes floats of decimals.
    assert airflow.api.xcom("lineage", run_id, "frames") == [[3, "1.5"], [3, "1.50"]]
