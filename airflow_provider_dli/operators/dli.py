"""The operators, by the names that DAGs import."""

from airflow_provider_dli.operators.cancel import DliCancelJobOperator
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
    "DliStartFlinkJobOperator",
    "DliStopFlinkJobOperator",
    "DliSubmitSparkJobOperator",
    "DliSubmitSqlJobOperator",
]
