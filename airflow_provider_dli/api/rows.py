"""
Rows of a result, as DLI writes them and as Python has them.

How DLI writes decimals, times and nested values is not documented: numbers and times may be text or numbers, nested
values JSON or its text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_dli.exceptions import DliError
from airflow_provider_dli.text import NAME_LIMIT, clean, exact_number, parse_json

if TYPE_CHECKING:
    from sqlglot import exp

Reader = Callable[[Any], Any]

#: The most rows that DLI shows of a result.
MOST_ROWS = 1000


@dataclass(frozen=True)
class Form:
    """
    What values are made for.

    :param most_digits: The most digits of a decimal type whose values are Decimals; beyond it, they are text.
    :param dicts: Maps with which keys are dicts: all, those with text, or none. The others are lists of entries.
    :param dates: What a column becomes of whose dates Python does not have all: ``mixed`` (dates and text), ``alike``
        (all text), or text in any case.
    """

    most_digits: float = math.inf
    dicts: Literal["all", "text", "none"] = "all"
    dates: Literal["mixed", "alike", "text"] = "mixed"

    def hides_type(self, kind: str, values: Iterable[Any]) -> bool:
        """Tell whether a reader would misunderstand the name of a type, and sees by itself what the values are."""
        if self is not FOR_POLARS:
            return False
        read = _simple(kind)
        return read is _as_it_is or (read in _DATES and any(isinstance(value, str) for value in values))


# Airflow makes a Decimal a float, which keeps 15 digits; and all keys text.
_FOR_XCOM = Form(most_digits=15, dicts="text")
#: A data frame has one type per column, and a map may have other keys in each row.
FOR_POLARS = Form(dicts="none", dates="alike")


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

    def typed(self, form: Form | None = None) -> list[list[Any]]:
        """
        Return the values as Python has them, by the types of the columns.

        ``decimal`` becomes Decimal, ``date`` and ``timestamp`` become date and datetime (without a time zone, where DLI
        writes none), arrays, maps and structs become lists and dicts. ``binary`` stays the text that DLI writes, and so
        do dates and times outside of the years 1 to 9999, which Python does not have.

        :param form: Whom the values are for. Default: Python code, which has all of these.
        :raises DliError: A value does not fit the type of its column.
        """
        readers = self._readers(form or Form())
        try:
            return [[read(value) for read, value in zip(readers, row, strict=True)] for row in self.rows]
        except _MISFITS:
            raise self._misfit(readers) from None

    def records(self) -> list[dict[str, Any]]:
        """
        Return each row as a dict, fit to be an XCom.

        Of columns of the same name, the later ones get a number: ``id``, ``id_2``. What Airflow would change on its way
        is text: decimals of a type with more than 15 digits, NaN and infinities, and datetimes at the very ends of the
        calendar. A map whose keys are no text is a list of ``{"key": ..., "value": ...}``.
        """
        names: list[str] = []
        for name in self.names:
            number = 1
            while (shown := name if number == 1 else f"{name}_{number}") in names:
                number += 1
            names.append(shown)
        return [dict(zip(names, map(_fit_for_xcom, row), strict=True)) for row in self.typed(_FOR_XCOM)]

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

    def _readers(self, form: Form) -> list[Reader]:
        """Return what reads the values of each column."""
        readers = [_reader(kind, form) for _, kind in self.columns]
        if form.dates == "alike":
            for position, (_, kind) in enumerate(self.columns):
                try:
                    for row in self.rows:
                        readers[position](row[position])
                except _FarAwayError:
                    readers[position] = _reader(kind, replace(form, dates="text"))
                except _MISFITS:
                    pass  # told when all are read
        return readers

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


class _FarAwayError(ValueError):
    """A date is in a year that Python does not have."""


def _reader(kind: str, form: Form) -> Reader:
    """Return what reads the values of a type of DLI."""
    if "<" in kind:
        from sqlglot import exp
        from sqlglot.errors import SqlglotError

        try:
            return _reader_of(exp.DataType.build(kind, dialect="spark"), form)
        except SqlglotError:
            return _as_it_is
    read = _simple(kind)
    if read is _decimal and not _digits(kind.partition("(")[2]) <= form.most_digits:
        read = _decimal_text
    elif read in _DATES and form.dates != "mixed":
        read = partial(_of_python if form.dates == "alike" else _as_text, read)
    return partial(_unless_null, read)


def _simple(kind: str) -> Reader:
    """Return what reads the values of a type that is not nested."""
    return _SIMPLE.get(kind.partition("(")[0].strip().lower(), _as_it_is)


def _digits(size: str) -> float:
    """Return how many digits a decimal type has, of what stands in its parentheses."""
    found = re.match(r"\s*(\d+)", size)
    return int(found[1]) if found else math.inf


def _reader_of(kind: exp.Expression, form: Form) -> Reader:
    """Return what reads the values of a type of the SQL parser."""
    from sqlglot import exp

    if not isinstance(kind, exp.DataType) or not kind.expressions or "<" not in (text := kind.sql("spark")):
        return _reader(kind.sql("spark"), form)
    inner = kind.expressions
    if text.startswith("ARRAY"):
        return partial(_unless_null, partial(_array, _reader_of(inner[0], form)))
    if text.startswith("MAP"):
        read_key, read = _reader_of(inner[0], form), _reader_of(inner[1], form)
        is_dict = form.dicts == "all" or (form.dicts == "text" and inner[0].sql("spark") in ("STRING", "TEXT"))
        return partial(_unless_null, partial(_map if is_dict else _entries, read_key, read))
    fields = {field.name: _reader_of(field.args["kind"], form) for field in inner}
    return partial(_unless_null, partial(_struct, fields))


def _fit_for_xcom(value: Any) -> Any:
    """Return a value that is the same once Airflow has written and read it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, datetime):
        return _fit_moment(value)
    # Of a column whose type is not known.
    if isinstance(value, Decimal) and len(value.as_tuple().digits) > _FOR_XCOM.most_digits:
        return f"{value:f}"
    if isinstance(value, list):
        return [_fit_for_xcom(item) for item in value]
    if isinstance(value, dict):
        return {key: _fit_for_xcom(item) for key, item in value.items()}
    return value


def _fit_moment(value: datetime) -> datetime | str:
    # Airflow writes seconds since the epoch, and has no zones that are only an offset.
    try:
        found = value if value.tzinfo is None else value.astimezone(UTC)
        if datetime.fromtimestamp(found.timestamp(), found.tzinfo) == found:
            return found
    except (ValueError, ArithmeticError, OSError):
        pass
    return value.isoformat(sep=" ")


def _unless_null(read: Reader, value: Any) -> Any:
    return None if value is None else read(value)


def _as_it_is(value: Any) -> Any:
    return value


def _whole(value: Any) -> int:
    found = int(value)
    if isinstance(value, (float, Decimal)) and found != value:
        raise ValueError("no whole number")
    return found


def _decimal(value: Any) -> Decimal:
    found = Decimal(exact_number(str(value)))
    if not found.is_finite():
        raise ValueError("no decimal")
    return found


def _decimal_text(value: Any) -> str:
    return f"{_decimal(value):f}"


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}[value.lower() if isinstance(value, str) else value]


def _date(value: Any) -> date | str:
    return value if _is_far_away(value) else date.fromisoformat(value)


def _moment(value: Any) -> datetime | str:
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        try:
            return _EPOCH + timedelta(milliseconds=float(value))
        except OverflowError:
            if math.isinf(value):
                raise
            return str(value)
    return value if _is_far_away(value) else datetime.fromisoformat(value)


def _of_python(read: Reader, value: Any) -> Any:
    found = read(value)
    if isinstance(found, str):
        raise _FarAwayError("a date that Python does not have")
    return found


def _as_text(read: Reader, value: Any) -> str:
    read(value)
    return str(value)


def _is_far_away(value: Any) -> bool:
    """Tell whether text is a date in a year that Python does not have."""
    found = _YEAR.match(value) if isinstance(value, str) else None
    return found is not None and not 1 <= int(found[1]) <= 9999


def _array(read: Reader, value: Any) -> list[Any]:
    return [read(item) for item in _nested(value, list)]


def _map(read_key: Reader, read: Reader, value: Any) -> dict[Any, Any]:
    return {_key(read_key, key): read(item) for key, item in _nested(value, dict).items()}


def _entries(read_key: Reader, read: Reader, value: Any) -> list[dict[str, Any]]:
    return [{"key": _key(read_key, key), "value": read(item)} for key, item in _nested(value, dict).items()]


def _key(read: Reader, key: Any) -> Any:
    """Read a key, which JSON has as text; a nested one stays as it is."""
    found = read(key) if isinstance(key, str) and not key.startswith(("[", "{")) else key
    return key if isinstance(found, (list, dict)) else found


def _struct(fields: Mapping[str, Reader], value: Any) -> dict[str, Any]:
    found = _parsed(value)
    if isinstance(found, list):
        found = dict(zip(fields, found, strict=True))
    if not isinstance(found, dict):
        raise TypeError("no struct")
    # Spark leaves out a field that is NULL.
    return {name: fields.get(name, _as_it_is)(item) for name, item in {**dict.fromkeys(fields), **found}.items()}


def _nested(value: Any, kind: type) -> Any:
    found = _parsed(value)
    if not isinstance(found, kind):
        raise ValueError("no such nested value")
    return found


def _parsed(value: Any) -> Any:
    """Return a nested value that may be written as JSON text, with all digits of its numbers."""
    return parse_json(value, parse_float=exact_number) if isinstance(value, str) else value


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR = re.compile(r"([+-]?\d{4,9})-\d{2}-\d{2}(?!\d)")
_SIMPLE: dict[str, Reader] = {
    **dict.fromkeys(("tinyint", "smallint", "int", "integer", "bigint", "byte", "short", "long"), _whole),
    **dict.fromkeys(("float", "real", "double"), float),
    **dict.fromkeys(("decimal", "dec", "numeric"), _decimal),
    **dict.fromkeys(("timestamp", "timestamp_ntz", "timestamp_ltz"), _moment),
    **dict.fromkeys(("string", "char", "varchar"), str),
    "boolean": _truth,
    "date": _date,
}
_DATES = (_date, _moment)
