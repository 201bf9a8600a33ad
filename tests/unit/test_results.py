"""Rows of a result: what the operator makes of them, over HTTP against the local DLI, and of odd values."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence
from airflow.sdk.serde import deserialize, serialize
from fakes import TaskInstance, context_of, deferral_of, execute, resume
from test_odd_answers import JOB, answered

from airflow_provider_dli.api.rows import Rows, column
from airflow_provider_dli.api.sql import preview, submit
from airflow_provider_dli.exceptions import DliError
from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

TYPES = """
    SELECT 1 AS whole, 1.50 AS dec, cast(0.5 AS DOUBLE) AS dbl, date'2026-01-02' AS d, 'it\\'s' AS s, true AS b,
    timestamp'2026-01-02 03:04:05.123' AS ts, cast(NULL AS DECIMAL(10, 2)) AS nothing, array(1.5, NULL) AS a,
    named_struct('x', date'2026-01-02', 'y', array(named_struct('z', 0.10))) AS st, map('k', 1.5) AS m
"""
VALUES = {
    "whole": 1,
    "dec": Decimal("1.50"),
    "dbl": 0.5,
    "d": date(2026, 1, 2),
    "s": "it's",
    "b": True,
    "ts": datetime(2026, 1, 2, 3, 4, 5, 123000),
    "nothing": None,
    "a": [Decimal("1.5"), None],
    "st": {"x": date(2026, 1, 2), "y": [{"z": Decimal("0.10")}]},
    "m": {"k": Decimal("1.5")},
}
# Each has a fraction or an exponent, or more digits than any number.
NUMBERS = ["1e999999999", "-1e999999999", "1e-999999999", "0e-999999999", "1E9999999999999999999", "0.0", "1e400"]
NUMBERS += ["9" * 4000, "9" * 40_000, f"{'9' * 40_000}.5", f"0.{'9' * 40_000}", "NaN", "-Infinity"]

NO_ESCAPES = "conf cannot have spark.sql.parser.escapedStringLiterals together with parameters"


@pytest.fixture(autouse=True)
def connected(dli_local, connect, airflow_says):
    dli_local.settings(queues={"default": 16, "sql": 4})
    connect()
    airflow_says("running")


def task_of(sql="SELECT 1", **arguments):
    arguments = {"poll_interval": 0.1, "queue_name": "sql", "fetch_result": 10, **arguments}
    return DliSubmitSqlJobOperator(task_id="load", sql=sql, **arguments)


def result_of(sql, **arguments):
    ti = TaskInstance()
    execute(task_of(sql, **arguments), context_of(ti))
    return ti.xcoms["result"]


class Lazy(Sequence):
    """As what a mapped task returns: a sequence that is no list."""

    def __init__(self, items):
        self._items = items

    def __len__(self):
        return len(self._items)

    def __getitem__(self, index):
        return self._items[index]


class TestOperator:
    @pytest.mark.parametrize("columns", ["map", "fields"])
    def test_rows_have_names_and_types(self, dli_local, columns):
        dli_local.settings(columns=columns)
        [row] = result_of(TYPES)
        assert row == VALUES
        assert {name: type(value) for name, value in row.items()} == {n: type(v) for n, v in VALUES.items()}

    @pytest.mark.parametrize(("mark", "given"), [(":n", {"n": -5}), ("?", [Decimal("-5.0")])])
    def test_a_negative_parameter_comments_nothing_out(self, mark, given):
        sql = f"SELECT id FROM range(20) WHERE id >= 5-{mark} AND id = 11"
        assert result_of(sql, parameters=given) == [{"id": 11}]

    @pytest.mark.parametrize("value", ["${env:HOME}", "a ${x} b", "$${hiveconf:y}}", "\\${z}"])
    def test_spark_replaces_nothing_in_a_value(self, value):
        sql = "SELECT :value AS given, '${env:HOME}' AS replaced, '${x}' AS nothing"
        assert result_of(sql, parameters={"value": value}) == [
            {"given": value, "replaced": "/opt/driver", "nothing": ""}
        ]

    @pytest.mark.parametrize("setting", [True, "true", " TRUE "])
    @pytest.mark.parametrize("given", [{"a": "it's"}, ["it's"]])
    def test_parameters_where_spark_reads_no_escapes_are_refused(self, dli_local, setting, given):
        sql = f"SELECT {'?' if isinstance(given, list) else ':a'} AS a"
        with pytest.raises(AirflowFailException, match=NO_ESCAPES):
            result_of(sql, parameters=given, conf={"spark.sql.parser.escapedStringLiterals": setting})
        assert dli_local.requests(call="submit") == []

    @pytest.mark.parametrize("arguments", [{"conf": {"spark.sql.parser.escapedStringLiterals": "true"}}, {}])
    def test_without_parameters_or_the_setting_they_are_not(self, arguments):
        given = {"parameters": {"a": 1}, "conf": {"spark.sql.parser.escapedStringLiterals": False}}
        assert result_of("SELECT 1 AS a" if arguments else "SELECT :a AS a", **(arguments or given)) == [{"a": 1}]

    def test_the_output_of_a_mapped_task_is_a_list(self):
        assert issubclass(LazyXComSequence, Sequence)
        sql = Lazy(["SELECT 0", "SELECT id FROM range(9) WHERE id IN :ids ORDER BY id"])
        assert result_of(sql, parameters={"ids": Lazy([1, 3])}) == [{"id": 1}, {"id": 3}]

    def test_airflow_can_keep_them(self, dli_local):
        result = result_of(TYPES)
        assert deserialize(serialize(result)) == result

    def test_a_number_that_json_does_not_have_is_text(self):
        assert result_of("SELECT cast('NaN' AS DOUBLE) AS a, array(cast('-Infinity' AS DOUBLE)) AS b") == [
            {"a": "NaN", "b": ["-Infinity"]}
        ]

    def test_what_an_xcom_would_change_is_text(self):
        """Airflow makes a Decimal a float, all keys text, and a datetime seconds since the epoch."""
        result = result_of("""
            SELECT cast('12345678901234567890.12' AS DECIMAL(22, 2)) AS dec, array(cast(1.5 AS DECIMAL(16, 1))) AS a,
            cast('1234567890123.45' AS DECIMAL(15, 2)) AS short, map(1, date'2026-01-02') AS m,
            timestamp'0001-01-01 00:00:00' AS first, timestamp'9999-12-31 23:59:59.999999' AS last,
            date'0001-01-01' AS d
        """)
        assert result == [
            {
                "dec": "12345678901234567890.12",
                "a": ["1.5"],
                "short": Decimal("1234567890123.45"),
                "m": [{"key": 1, "value": date(2026, 1, 2)}],
                "first": "0001-01-01 00:00:00",
                "last": "9999-12-31 23:59:59.999999",
                "d": date(1, 1, 1),
            }
        ]
        assert deserialize(serialize(result)) == result

    def test_a_bare_number_keeps_its_digits(self, dli_local):
        columns = [{"dec": "decimal(38,2)"}, {"short": "decimal(10,2)"}, {"dbl": "double"}, {"s": "string"}]
        more = [{"a": "array<decimal(22,2)>"}, {"ts": "timestamp"}, {"odd": "something"}, {"half": "string"}]
        numbers = "12345678901234567890.12, 1.50, 0.1, 0.10"
        rows = f'[[{numbers}, [12345678901234567890.12], 1500.0, 12345678901234567890.12, "\\ud800"]]'
        body = json.dumps({"is_success": True, "schema": columns + more, "rows": "ROWS"}).replace('"ROWS"', rows)
        dli_local.fault("preview", "status", times=None, status=200, body=body)
        [row] = result_of("SELECT 1")
        assert row == {
            "dec": "12345678901234567890.12",
            "short": Decimal("1.50"),
            "dbl": 0.1,
            "s": "0.10",
            "a": ["12345678901234567890.12"],
            "ts": datetime(1970, 1, 1, 0, 0, 1, 500000, UTC),
            "odd": "12345678901234567890.12",
            "half": "?",
        }
        assert deserialize(serialize(row)) == row

    def test_no_more_than_were_asked_for(self, dli_local, capsys):
        assert result_of("SELECT id FROM range(20)", fetch_result=2) == [{"id": 0}, {"id": 1}]
        [request] = dli_local.requests(call="preview")
        assert {"page-size=2", "queue-name=sql"} <= set(request.query.split("&"))

    def test_the_log_shows_a_few(self, capsys):
        result_of("SELECT id, NULL AS nothing FROM range(200)", fetch_result=50)
        log = capsys.readouterr().out
        assert "200 rows" in log
        assert "| NULL" in log
        assert "(50 rows, the first 10 are shown)" in log

    def test_of_a_script_it_is_that_of_the_last_statement(self):
        assert result_of("SELECT 1 AS a; SELECT 2 AS b") == [{"b": 2}]

    def test_after_a_deferral(self, dli_local):
        dli_local.will(run_for=2, rows=[[1]])
        context = context_of()
        deferral = deferral_of(task_of(deferrable=True), context)
        [job] = dli_local.jobs()
        dli_local.wait_until(lambda dli: not dli.job(job.job_id).is_active)
        resume(task_of(deferrable=True), deferral, context)
        assert "result" in context["ti"].xcoms

    @pytest.mark.parametrize("number", [0, -1, 1001, 1.5, "many", True])
    def test_a_number_that_dli_does_not_show_is_refused(self, dli_local, number):
        with pytest.raises(AirflowFailException, match="fetch_result must be a whole number from 1 to 1000"):
            execute(task_of(fetch_result=number), context_of())
        assert dli_local.requests(call="submit") == []

    @pytest.mark.parametrize("queue_name", ["default", "Default", None])
    def test_a_queue_that_shows_no_rows_is_refused(self, dli_local, queue_name):
        with pytest.raises(
            AirflowFailException, match="queue_name must be given with fetch_result, and not be 'default'"
        ):
            execute(task_of(queue_name=queue_name), context_of())
        assert dli_local.requests(call="submit") == []

    def test_what_dli_refuses_afterwards_is_passed_on(self):
        with pytest.raises(DliError, match="DLI.0007"):
            execute(task_of("CREATE TABLE made (a INT); INSERT INTO made VALUES (1)"), context_of())


class TestValues:
    @pytest.mark.parametrize(
        ("kind", "shown", "value"),
        [
            ("INT", "7", 7),
            ("bigint", 7.0, 7),
            ("decimal(10,2)", 1.5, Decimal("1.5")),
            ("decimal(10,2)", "1.5E+1", Decimal(15)),
            ("decimal", 10**20, Decimal(10**20)),
            ("double", "NaN", pytest.approx(float("nan"), nan_ok=True)),
            ("boolean", "TRUE", True),
            ("timestamp", "2026-01-02T03:04:05+02:00", datetime.fromisoformat("2026-01-02T03:04:05+02:00")),
            ("timestamp", 0, datetime(1970, 1, 1, tzinfo=UTC)),
            ("varchar(10)", 7, "7"),
            ("date", "+10000-01-01", "+10000-01-01"),
            ("date", "0000-01-01", "0000-01-01"),
            ("date", "-0044-03-15", "-0044-03-15"),
            ("timestamp", "294247-01-10 04:00:54.775807", "294247-01-10 04:00:54.775807"),
            ("timestamp", 9223372036854775, "9223372036854775"),
            ("map<int,decimal(30,2)>", {"1": "0.50"}, {1: Decimal("0.50")}),
            ("map<date,boolean>", '{"2026-01-02": true}', {date(2026, 1, 2): True}),
            ("map<struct<a:int>,int>", {'{"a": 1}': 1}, {'{"a": 1}': 1}),
            ("array<decimal(22,2)>", "[12345678901234567890.12]", [Decimal("12345678901234567890.12")]),
            ("struct<a:int,b:int>", '{"b": 1}', {"a": None, "b": 1}),
            ("binary", "AAE=", "AAE="),
            ("interval", "1 day", "1 day"),
            ("array<int>", "[1, 2]", [1, 2]),
            ("struct<a:int,b:string>", [1, "x"], {"a": 1, "b": "x"}),
            ("STRUCT<Total:DECIMAL(3,2)>", {"Total": "1.5", "more": 1}, {"Total": Decimal("1.5"), "more": 1}),
            ("map<string,array<decimal(3,2)>>", '{"k": ["1.50"]}', {"k": [Decimal("1.50")]}),
            ("nonsense<", "x", "x"),
            ("", "x", "x"),
        ],
    )
    def test_they_are_read_however_dli_writes_them(self, kind, shown, value):
        assert Rows([("a", kind)], [[shown], [None]]).typed() == [[value], [None]]

    @pytest.mark.parametrize(
        ("kind", "shown"),
        [
            ("int", "x"),
            ("int", 1.5),
            ("int", []),
            ("decimal(3,2)", "x"),
            ("decimal(3,2)", "1e999999999"),
            ("decimal(30,2)", math.inf),
            ("bigint", "9" * 5000),
            ("date", "yesterday"),
            ("date", "0000-01-1"),
            ("map<int,int>", {"x": 1}),
            ("array<int>", "[1.5]"),
            ("timestamp", float("inf")),
            ("date", 7),
            ("timestamp", "x"),
            ("boolean", "maybe"),
            ("boolean", 2),
            ("array<int>", "{}"),
            ("array<int>", "[1, x"),
            ("map<string,int>", []),
            ("struct<a:int>", [1, 2]),
            ("struct<a:int>", 7),
        ],
    )
    def test_one_that_does_not_fit_is_named(self, kind, shown):
        with pytest.raises(DliError, match="Row 2 of the result holds .* in column b, which is no "):
            Rows([("a", "int"), ("b", kind)], [[1, None], [2, shown]]).typed()

    def test_a_moment_with_an_offset_is_one_that_airflow_can_keep(self):
        [row] = Rows([("at", "timestamp")], [["2026-01-02T03:04:05+02:00"]]).records()
        assert deserialize(serialize(row)) == {"at": datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)}

    @pytest.mark.parametrize(
        "kind", ["decimal(38,2)", "bigint", "double", "timestamp", "string", "array<decimal(38,2)>"]
    )
    @pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number[:9])
    def test_a_number_of_any_size_is_read_or_named(self, kind, number):
        value = f'["[{number}]"]' if "<" in kind else f"[{number}]"
        found = answered(preview(JOB), f'{{"schema": [{{"a": "{kind}"}}], "rows": [{value}]}}'.encode())
        try:
            [row] = found.records()
        except DliError as error:
            assert "in column a, which is no" in str(error)  # noqa: PT017 - either will do
        else:
            assert len(str(row["a"])) < 5000

    def test_the_rows_of_a_submit_keep_their_digits(self):
        body = b'{"job_id": "8ecb0777", "schema": [{"a": "decimal(22,2)"}], "rows": [[12345678901234567890.10]]}'
        assert answered(submit("SHOW t"), body).rows.typed() == [[Decimal("12345678901234567890.10")]]

    def test_columns_of_the_same_name(self):
        assert Rows([("a", "int"), ("a", "int"), ("a_2", "int")], [[1, 2, 3]]).records() == [
            {"a": 1, "a_2": 2, "a_2_2": 3}
        ]

    def test_a_column_is_read_in_both_spellings(self):
        assert column({"id": "int"}) == column({"name": "id", "type": "int"}) == ("id", "int")
        assert column({"name": "string"}) == ("name", "string")

    @pytest.mark.parametrize("shown", [{}, {"a": "int", "b": "int"}, {"name": "id"} | {"type": 7}, {"id": None}])
    def test_what_is_no_column(self, shown):
        with pytest.raises(ValueError, match="no name or type"):
            column(shown)
