"""
Values from and for data frames: scalars of numpy and pandas as parameters, and results in polars.

``uv run --isolated --group test --group integrations pytest -n 0 tests/unit/test_frames.py``
"""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal

import pytest

from airflow_provider_dli.api.rows import FOR_POLARS, Rows
from airflow_provider_dli.api.script import literal, statements
from airflow_provider_dli.exceptions import DliError, DliValueError
from airflow_provider_dli.hooks.dli_sql import DliSqlHook

NOT_INSTALLED = "the group `integrations` is not installed"
numpy = pytest.importorskip("numpy", reason=NOT_INSTALLED)
pytest.importorskip("polars", reason=NOT_INSTALLED)
pandas = pytest.importorskip("pandas", reason=NOT_INSTALLED)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (numpy.float64(1.5), "CAST('1.5' AS DOUBLE)"),
        (numpy.float32(0.5), "CAST('0.5' AS DOUBLE)"),
        (numpy.int64(-5), "-5"),
        (numpy.bool_(True), "TRUE"),
        (numpy.str_("a"), "'a'"),
        (numpy.bytes_(b"a"), "X'61'"),
        (numpy.datetime64("0026-01-02"), "CAST('0026-01-02' AS DATE)"),
        (numpy.datetime64("2026-01-02T03:04:05"), "CAST('2026-01-02 03:04:05' AS TIMESTAMP)"),
        (pandas.Timestamp("2026-01-02 03:04:05.000006"), "CAST('2026-01-02 03:04:05.000006' AS TIMESTAMP)"),
        ([numpy.int32(1), numpy.float64("nan")], "(1, CAST('NaN' AS DOUBLE))"),
    ],
)
def test_a_scalar_is_written_by_what_it_is(value, expected):
    assert literal(value) == expected


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (pandas.NaT, "NaTType"),
        (pandas.NA, "NAType"),
        (pandas.Timestamp("2026-01-02 03:04:05.000000001"), "Timestamp"),
        (pandas.Timedelta(1), "Timedelta"),
        (pandas.Series([1]), "Series"),
        (numpy.datetime64("2026-01-02T03:04:05.000000001"), "datetime64"),
        (numpy.datetime64("NaT"), "datetime64"),
        (numpy.timedelta64(1, "ns"), "timedelta64"),
        (numpy.longdouble(1), "longdouble"),
        (numpy.array([1]), "ndarray"),
        (numpy.zeros(1, "i4, i4")[0], "void"),
    ],
)
def test_what_sql_does_not_have_is_refused_by_name(value, name):
    with pytest.raises(DliValueError, match=f"the value of day has the type {name}"):
        statements("SELECT :day", {"day": value})


def test_maps_with_different_keys_in_polars(dli_local, connect):
    dli_local.settings(queues={"default": 16, "sql": 4})
    connect(extra={"default_queue": "sql"})
    sql = """
        SELECT map('a', 1) AS m, named_struct('x', 1) AS s, 1 AS id
        UNION ALL SELECT map('b', 2, 'c', 3), named_struct('x', 2), 2 ORDER BY id
    """
    frame = DliSqlHook(poll_interval=0.1).get_df(sql, df_type="polars")
    assert frame["m"].to_list() == [
        [{"key": "a", "value": 1}],
        [{"key": "b", "value": 2}, {"key": "c", "value": 3}],
    ]
    assert frame["s"].to_list() == [{"x": 1}, {"x": 2}]


@pytest.mark.parametrize(
    ("kind", "shown", "values"),
    [
        ("date", ["2026-01-02", "+10000-01-01", None], ["2026-01-02", "+10000-01-01", None]),
        ("date", ["-0044-03-15", "2026-01-02"], ["-0044-03-15", "2026-01-02"]),
        ("date", ["2026-01-02", None], [date(2026, 1, 2), None]),
        (
            "timestamp",
            ["2026-01-02 03:04:05", "+10000-01-01 00:00:00"],
            ["2026-01-02 03:04:05", "+10000-01-01 00:00:00"],
        ),
        ("timestamp", [0, 9223372036854775], ["0", "9223372036854775"]),
        ("array<date>", [["2026-01-02", "+10000-01-01"], None], [["2026-01-02", "+10000-01-01"], None]),
        ("array<date>", [["2026-01-02"]], [[date(2026, 1, 2)]]),
        ("struct<a:date>", ['{"a": "2026-01-02"}', '{"a": "0000-01-01"}'], [{"a": "2026-01-02"}, {"a": "0000-01-01"}]),
        (
            "map<date,int>",
            [{"2026-01-02": 1, "+10000-01-01": 2}],
            [[{"key": "2026-01-02", "value": 1}, {"key": "+10000-01-01", "value": 2}]],
        ),
        ("interval", ["1 day", None], ["1 day", None]),
        (
            "decimal(38,2)",
            [None, "123456789012345678901234567890.12"],
            [None, Decimal("123456789012345678901234567890.12")],
        ),
    ],
)
def test_a_column_has_one_type_in_polars(dli_local, connect, kind, shown, values):
    dli_local.settings(queues={"default": 16, "sql": 4})
    connect(extra={"default_queue": "sql"})
    body = {"is_success": True, "schema": [{"a": kind}, {"id": "int"}], "rows": [[each, 1] for each in shown]}
    dli_local.fault("preview", "status", times=None, status=200, body=json.dumps(body))
    frame = DliSqlHook(poll_interval=0.1).get_df("SELECT 1", df_type="polars")
    assert frame["a"].to_list() == values


def test_what_is_no_date_is_named_in_polars_too():
    with pytest.raises(DliError, match="Row 2 of the result holds .* in column a, which is no date"):
        Rows([("a", "date")], [["+10000-01-01"], ["yesterday"]]).typed(FOR_POLARS)
