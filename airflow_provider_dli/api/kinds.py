"""The kinds of job that this package knows: each chapter of the API ends in one."""

from __future__ import annotations

from typing import Any

from airflow_provider_dli.api import flink, spark, sql
from airflow_provider_dli.api.job_kind import JobKind
from airflow_provider_dli.exceptions import DliValueError

KINDS: dict[str, JobKind[Any]] = {kind.name: kind for kind in (sql.KIND, spark.KIND, flink.KIND)}


def kind_of(name: str) -> JobKind[Any]:
    """
    Return the kind of this name.

    :raises DliValueError: There is none; lists those that there are.
    """
    if name not in KINDS:
        known = ", ".join(map(repr, KINDS))
        raise DliValueError(f"kind must be one of {known}, not {name!r}.", field="kind")
    return KINDS[name]
