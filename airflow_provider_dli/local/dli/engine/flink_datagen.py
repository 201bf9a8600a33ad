# ruff: noqa: S608 - names and texts in the SQL are quoted by name() and text()
"""Flink's connector ``datagen``: rows made up by a query."""

from __future__ import annotations

import re

import sqlglot
from sqlglot import exp

from airflow_provider_dli.local.dli.engine.flink_sql import FlinkTable
from airflow_provider_dli.local.dli.engine.quoting import name
from airflow_provider_dli.local.dli.jobs.job import JobFailedError

# Limits of random numbers that have none of their own.
LIMITS = {"TINYINT": 127, "SMALLINT": 32_767, "INT": 2**31 - 1, "BIGINT": 2**53}


def generator(table: FlinkTable) -> exp.Expr:
    """
    The query that makes the rows of a bounded source.

    :raises JobFailedError: for options that are not numbers.
    """
    try:
        columns = [f"{_value(table, label, kind)} AS {name(label)}" for label, kind in table.columns]
    except (KeyError, ValueError) as error:
        raise JobFailedError(f"DLI.0005: ValidationException: the options of table {table.name}: {error}") from None
    sql = f"SELECT {', '.join(columns)} FROM range({table.generated_rows}) AS counter(number)"
    return sqlglot.parse_one(sql, read="duckdb")


def _value(table: FlinkTable, label: str, kind: str) -> str:
    """The expression for a column: counted up, or random."""
    field = f"fields.{label}."
    if table.options.get(field + "kind") == "sequence":
        return f"CAST({int(table.options[field + 'start'])} + number AS {kind})"
    if kind in ("TEXT", "VARCHAR"):
        length = int(table.options.get(field + "length", "100"))
        # Hexadecimal digits, as Flink makes them.
        return f"left(repeat(md5(CAST(random() AS VARCHAR)), {length // 32 + 1}), {length})"
    if kind == "BOOLEAN":
        return "random() < 0.5"
    if kind in ("TIMESTAMP", "DATE", "TIME"):
        return f"CAST(CAST(now() AS TIMESTAMP) AS {kind})"
    limits = zip(("min", "max"), _limits(kind), strict=True)
    least, most = (float(table.options.get(field + end, limit)) for end, limit in limits)
    if kind in LIMITS:
        return f"CAST(floor({least} + random() * ({most} - {least} + 1)) AS {kind})"
    if kind in ("FLOAT", "REAL", "DOUBLE") or kind.startswith("DECIMAL"):
        return f"CAST({least} + random() * ({most} - {least}) AS {kind})"
    return f"CAST(NULL AS {kind})"


def _limits(kind: str) -> tuple[float, float]:
    if found := re.match(r"DECIMAL\((\d+), ?(\d+)\)", kind):
        return 0, 10 ** min(15, int(found[1]) - int(found[2])) - 1
    most = LIMITS.get(kind, 10**6)
    return (-most if kind in LIMITS else 0), most
