"""The page about moving from the Huawei provider: it names every class of it, and its examples work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_provider_dli.exceptions import DliNotFoundError

PAGE = (Path(__file__).parents[2] / "docs" / "moving-from-huawei.md").read_text()
# The DLI classes of apache-airflow-providers-huawei 1.7.0: hooks, operators, sensors, triggers.
CLASSES = [
    "DLIHook",
    "DLIAsyncHook",
    "DLICreateQueueOperator",
    "DLIUpdateQueueCidrOperator",
    "DLIDeleteQueueOperator",
    "DLIListQueuesOperator",
    "DLISparkCreateBatchJobOperator",
    "DLIUploadFilesOperator",
    "DLIRunSqlJobOperator",
    "DLIGetSqlJobResultOperator",
    "DLICreateElasticResourcePoolOperator",
    "DLIListElasticResourcePoolsOperator",
    "DLIListElasticResourcePoolQueuesOperator",
    "DLIDeleteElasticResourcePoolOperator",
    "DLIListEnhancedConnectionsOperator",
    "DLIAssociatePoolToEnhancedConnectionOperator",
    "DLIDisassociatePoolFromEnhancedConnectionOperator",
    "DLICreateEnhancedConnectionOperator",
    "DLIDeleteEnhancedConnectionOperator",
    "DLICreateRouteToEnhancedConnectionOperator",
    "DLIDeleteRouteFromEnhancedConnectionOperator",
    "DLIShowAddressConnectivityOfQueueOperator",
    "DLISparkShowBatchStateSensor",
    "DLISqlShowJobStatusSensor",
    "DLIShowElasticResourcePoolStatusSensor",
    "DLIShowEnhancedConnectionSensor",
    "DLIRunSqlJobTrigger",
    "DLISparkCreateBatchJobTrigger",
    "DLICreateElasticResourcePoolTrigger",
]


def rows_of(page):
    """The first cells of all rows of tables."""
    return [line.split("|")[1] for line in page.splitlines() if line.startswith("|")]


def test_each_class_has_a_row_and_no_other_class_is_named():
    named = {name for cell in rows_of(PAGE) for name in re.findall(r"`(DLI[A-Za-z]+)`", cell)}
    assert len(CLASSES) == 29
    assert named == set(CLASSES)


def example(number):
    names = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[number], names)
    return names


def test_a_pool_is_created_and_waited_for(dli_local, hook, monkeypatch):
    dli_local.settings(pool_available_after=1)
    names = example(1)
    monkeypatch.setattr(names["time"], "sleep", lambda seconds, sleep=names["time"].sleep: sleep(seconds / 40))
    assert names["create_pool"].function("Big") == "AVAILABLE"
    assert [request.status for request in dli_local.requests("pool_create")] == [200]


def test_a_call_of_another_chapter_is_sent(dli_local, hook):
    with pytest.raises(DliNotFoundError, match="list of databases failed"):
        example(0)["list_databases"].function()
    [request] = dli_local.requests("unknown")
    assert request.path == f"/v1.0/{dli_local.project_id}/databases"
    body = '{"is_success": true, "databases": []}'
    dli_local.fault("unknown", "status", status=200, body=body)
    assert example(0)["list_databases"].function()["databases"] == []
