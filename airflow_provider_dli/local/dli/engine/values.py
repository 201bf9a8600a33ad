"""Types and values as DLI shows them: Spark's type names, and JSON values in rows."""

from __future__ import annotations

import base64
import math
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any

from sqlglot import exp

from airflow_provider_dli.local.dli.jobs.sql_job import Column, json_field

JSON_NAMES = {
    "tinyint": "byte",
    "smallint": "short",
    "int": "integer",
    "bigint": "long",
    "void": "null",
}
# Strings, so that what is inside them is skipped, and outside of them what is not JSON.
NOT_JSON = re.compile(rb'"(?:[^"\\]|\\.)*"|(NaN|-?Infinity)')
SPARK_NAMES = {"timestamp_ntz": "timestamp", "ubigint": "decimal(20,0)", "json": "string", '"null"': "void"}


@lru_cache(maxsize=1000)
def column_of(name: str, kind: str) -> Column:
    """
    A result column.

    :param kind: DuckDB's name of the type.
    """
    data_type = exp.DataType.build(kind, dialect="duckdb", udt=True)
    return Column(name, _spark_name(data_type), _json_name(data_type))


def plain(value: Any) -> Any:
    """A value of a row as JSON can carry it; exact numbers and moments become text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _spark_text(value)
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(sep=" ")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, Decimal | timedelta):
        return str(value)
    return str(value)


def valid_json(line: bytes) -> bytes:
    """A line as DuckDB writes it, with the numbers that JSON does not know as text."""
    if b"NaN" not in line and b"Infinity" not in line:
        return line
    return NOT_JSON.sub(lambda found: b'"%b"' % found[1] if found[1] else found[0], line)


def _spark_text(value: float) -> str:
    """Spark's text for a number that is not finite."""
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _spark_name(data_type: exp.DataType) -> str:
    if data_type.is_type(exp.DataType.Type.TIME, exp.DataType.Type.ENUM):
        return "string"
    name = data_type.sql("spark").lower().replace(", ", ",").replace(": ", ":")
    return SPARK_NAMES.get(name, name)


def _json_name(data_type: exp.DataType) -> Any:
    """The type as in the JSON of a StructType."""
    inner = data_type.expressions
    if data_type.is_type(exp.DataType.Type.ARRAY, exp.DataType.Type.LIST):
        return {"type": "array", "elementType": _json_name(inner[0]), "containsNull": True}
    if data_type.is_type(exp.DataType.Type.MAP):
        key, value = inner
        return {
            "type": "map",
            "keyType": _json_name(key),
            "valueType": _json_name(value),
            "valueContainsNull": True,
        }
    if data_type.is_type(exp.DataType.Type.STRUCT):
        return {"type": "struct", "fields": [json_field(part.name, _json_name(part.args["kind"])) for part in inner]}
    name = _spark_name(data_type)
    return JSON_NAMES.get(name, name)
