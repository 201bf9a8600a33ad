"""
Rows of a result, as DLI writes them and as Python has them.

How DLI writes decimals, times and nested values is not documented: numbers and times may be text or numbers, nested
values JSON or its text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_dli.exceptions import DliError
from airflow_provider_dli.text import NAME_LIMIT, clean, parse_json

if TYPE_CHECKING:
    from sqlglot import exp

Reader = Callable[[Any], Any]

#: The most rows that DLI shows of a result.
MOST_ROWS = 1000


@dataclass(frozen=True)
class Rows:
    """
    First rows of a result.

    :param columns: Column names with DLI's type names, such as ``("id", "int")``.
    :param rows: Values in the order of the columns, as DLI writes them.
    """

    columns: list[tuple[str, str]]
    rows: list[list[Any]]

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [name for name, _ in self.columns]

    def typed(self) -> list[list[Any]]:
        """
        Return the values as Python has them, by the types of the columns.

        ``decimal`` becomes Decimal, ``date`` and ``timestamp`` become date and datetime (without a time zone, where DLI
        writes none), arrays, maps and structs become lists and dicts. ``binary`` stays the text that DLI writes.

        :raises DliError: A value does not fit the type of its column.
        """
        readers = [_reader(kind) for _, kind in self.columns]
        try:
            return [[read(value) for read, value in zip(readers, row, strict=True)] for row in self.rows]
        except _MISFITS:
            raise self._misfit(readers) from None

    def records(self) -> list[dict[str, Any]]:
        """
        Return each row as a dict, fit to be an XCom.

        Of columns of the same name, the later ones get a number: ``id``, ``id_2``. NaN and infinities are text, for
        JSON has no such numbers.
        """
        names: list[str] = []
        for name in self.names:
            number = 1
            while (shown := name if number == 1 else f"{name}_{number}") in names:
                number += 1
            names.append(shown)
        return [dict(zip(names, map(_fit_for_json, row), strict=True)) for row in self.typed()]

    def shown(self, most: int, *, secrets: Iterable[str] = ()) -> str:
        """
        Return the first rows as a table, for people.

        :param most: How many rows.
        :param secrets: What is masked; see :func:`.clean`.
        """
        from tabulate import tabulate

        cells = [
            ["NULL" if value is None else clean(str(value), 40, secrets=secrets) for value in row]
            for row in self.rows[:most]
        ]
        names = [clean(name, 40, secrets=secrets) for name in self.names]
        left_out = f"\n({len(self.rows)} rows, the first {most} are shown)" if len(self.rows) > most else ""
        return tabulate(cells, headers=names, tablefmt="presto", disable_numparse=True) + left_out

    def _misfit(self, readers: list[Reader]) -> DliError:
        for number, row in enumerate(self.rows, 1):
            for read, value, (name, kind) in zip(readers, row, self.columns, strict=True):
                try:
                    read(value)
                except _MISFITS:
                    # Not the value: whoever sent a wrong one may have sent anything.
                    return DliError(
                        f"Row {number} of the result holds something ({type(value).__name__}) in column "
                        f"{clean(name, NAME_LIMIT)}, which is no {clean(kind, NAME_LIMIT)}."
                    )
        raise AssertionError("all values can be read")


def column(shown: Mapping[str, Any]) -> tuple[str, str]:
    """
    Read name and type of a column: ``{"id": "int"}`` or ``{"name": "id", "type": "int"}``.

    :raises ValueError: It is neither.
    """
    name: object
    kind: object
    [(name, kind)] = shown.items() if len(shown) == 1 else [(shown.get("name"), shown.get("type"))]
    if not isinstance(name, str) or not isinstance(kind, str):
        raise ValueError("a column has no name or type")
    return name, kind


# What a reader raises; InvalidOperation of Decimal is an ArithmeticError.
_MISFITS = (ValueError, TypeError, KeyError, ArithmeticError)


def _reader(kind: str) -> Reader:
    """Return what reads the values of a type of DLI."""
    if "<" in kind:
        from sqlglot import exp
        from sqlglot.errors import SqlglotError

        try:
            return _reader_of(exp.DataType.build(kind, dialect="spark"))
        except SqlglotError:
            return _as_it_is
    name = kind.partition("(")[0].strip().lower()
    return partial(_unless_null, _SIMPLE.get(name, _as_it_is))


def _reader_of(kind: exp.Expression) -> Reader:
    """Return what reads the values of a type of the SQL parser."""
    from sqlglot import exp

    if not isinstance(kind, exp.DataType) or not kind.expressions or "<" not in (text := kind.sql("spark")):
        return _reader(kind.sql("spark"))
    inner = kind.expressions
    if text.startswith("ARRAY"):
        return partial(_unless_null, partial(_array, _reader_of(inner[0])))
    if text.startswith("MAP"):
        return partial(_unless_null, partial(_map, _reader_of(inner[1])))
    fields = {field.name: _reader_of(field.args["kind"]) for field in inner}
    return partial(_unless_null, partial(_struct, fields))


def _fit_for_json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, list):
        return [_fit_for_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _fit_for_json(item) for key, item in value.items()}
    return value


def _unless_null(read: Reader, value: Any) -> Any:
    return None if value is None else read(value)


def _as_it_is(value: Any) -> Any:
    return value


def _whole(value: Any) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("no whole number")
    return int(value)


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}[value.lower() if isinstance(value, str) else value]


def _date(value: Any) -> date:
    return date.fromisoformat(value)


def _moment(value: Any) -> datetime:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return datetime.fromtimestamp(value / 1000, UTC)
    return datetime.fromisoformat(value)


def _array(read: Reader, value: Any) -> list[Any]:
    return [read(item) for item in _nested(value, list)]


def _map(read: Reader, value: Any) -> dict[str, Any]:
    return {key: read(item) for key, item in _nested(value, dict).items()}


def _struct(fields: Mapping[str, Reader], value: Any) -> dict[str, Any]:
    found = parse_json(value) if isinstance(value, str) else value
    if isinstance(found, list):
        found = dict(zip(fields, found, strict=True))
    if not isinstance(found, dict):
        raise TypeError("no struct")
    return {name: fields.get(name, _as_it_is)(item) for name, item in found.items()}


def _nested(value: Any, kind: type) -> Any:
    found = parse_json(value) if isinstance(value, str) else value
    if not isinstance(found, kind):
        raise ValueError("no such nested value")
    return found


_SIMPLE: dict[str, Reader] = {
    **dict.fromkeys(("tinyint", "smallint", "int", "integer", "bigint", "byte", "short", "long"), _whole),
    **dict.fromkeys(("float", "real", "double"), float),
    **dict.fromkeys(("decimal", "dec", "numeric"), lambda value: Decimal(str(value))),
    **dict.fromkeys(("timestamp", "timestamp_ntz", "timestamp_ltz"), _moment),
    **dict.fromkeys(("string", "char", "varchar"), str),
    "boolean": _truth,
    "date": _date,
}
