"""The operators, by the names that DAGs import. Each is loaded when it is first named: a DAG file pays for its own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_dli.operators.cancel import DliCancelJobOperator
    from airflow_provider_dli.operators.export import DliExportResultOperator
    from airflow_provider_dli.operators.flink import DliStartFlinkJobOperator, DliStopFlinkJobOperator
    from airflow_provider_dli.operators.orphans import DliCancelOrphanJobsOperator
    from airflow_provider_dli.operators.queues import DliCreateQueueOperator, DliDeleteQueueOperator
    from airflow_provider_dli.operators.spark import DliSubmitSparkJobOperator
    from airflow_provider_dli.operators.sql import DliSubmitSqlJobOperator

__all__ = [
    "DliCancelJobOperator",
    "DliCancelOrphanJobsOperator",
    "DliCreateQueueOperator",
    "DliDeleteQueueOperator",
    "DliExportResultOperator",
    "DliStartFlinkJobOperator",
    "DliStopFlinkJobOperator",
    "DliSubmitSparkJobOperator",
    "DliSubmitSqlJobOperator",
]

_FILES = {
    "DliCancelJobOperator": "cancel",
    "DliCancelOrphanJobsOperator": "orphans",
    "DliCreateQueueOperator": "queues",
    "DliDeleteQueueOperator": "queues",
    "DliExportResultOperator": "export",
    "DliStartFlinkJobOperator": "flink",
    "DliStopFlinkJobOperator": "flink",
    "DliSubmitSparkJobOperator": "spark",
    "DliSubmitSqlJobOperator": "sql",
}


def __getattr__(name: str) -> object:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"airflow_provider_dli.operators.{_FILES[name]}"), name)
