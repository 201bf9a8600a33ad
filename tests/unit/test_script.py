"""Scripts and parameters: what becomes of an author's SQL text before anything is sent."""

from __future__ import annotations

import math
import subprocess
import sys
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal

import duckdb
import pytest
import sqlglot
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from airflow_provider_dli.api.script import _bound, _places, _tokens, literal, statements, without_effect
from airflow_provider_dli.exceptions import DliValueError

# What must not end a statement.
PIECES = st.sampled_from(
    ["SELECT", "1", "'a;b'", '"c;d"', "`e;f`", "'it\\'s;'", "'x''y;'", "/* g; 'h */", "/* i /* ; */ j */", "-- k; 'l\n"]
)
STATEMENTS = st.lists(PIECES, max_size=5).map(lambda pieces: " ".join(["SELECT", *pieces, "2"]))


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**12), max_value=10**12)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    | st.text("'\\;:?\"`-/*\n\r\tnu0%_${}")
    | st.dates()
    | st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30))
)
# What may stand beside a parameter, and where there is none.
PLACE = object()
BESIDE = [
    "5-",
    "-",
    "--\n",
    "a",
    "1",
    "1e",
    "1e-",
    "5.",
    "t.",
    ".5",
    "::",
    "int",
    "AND",
    "IN",
    "'a'",
    "x",
    "'",
    "/",
    "*",
]
GLUED = st.lists(
    st.just(PLACE)
    | st.sampled_from([*BESIDE, "(", ")", ",", "[", "]", " ", "|", "{", "$", "=", "<", "/*:p0?*/", "`:p0?`"]),
    min_size=1,
    max_size=8,
)


class TestSplit:
    @pytest.mark.parametrize(
        ("sql", "expected"),
        [
            ("SELECT 1", ["SELECT 1"]),
            ("  SELECT 'a'\n", ["  SELECT 'a'\n"]),
            ("SELECT 1;", ["SELECT 1"]),
            ("SELECT 1;;\n ; SELECT 2 ; -- the end;", ["SELECT 1", "SELECT 2"]),
            ("SELECT ';'; -- one;\nSELECT \"it's;\"", ["SELECT ';'", '-- one;\nSELECT "it\'s;"']),
            ("SELECT '\\\\'; SELECT '\\';'", ["SELECT '\\\\'", "SELECT '\\';'"]),
            ("SHOW TABLES LIKE 'a;b'; DESCRIBE t; CALL f(1)", ["SHOW TABLES LIKE 'a;b'", "DESCRIBE t", "CALL f(1)"]),
            (["SELECT 1; SELECT 2", "SELECT 3"], ["SELECT 1", "SELECT 2", "SELECT 3"]),
            (("SELECT 1", " -- nothing"), ["SELECT 1"]),
        ],
    )
    def test_at_semicolons_that_end_a_statement(self, sql, expected):
        assert statements(sql) == expected

    @settings(deadline=None)
    @given(st.lists(STATEMENTS, min_size=1, max_size=6))
    def test_what_is_joined_is_split_again(self, several):
        assert statements(" ;\n".join(several) + ";") == several

    @pytest.mark.parametrize(
        ("sql", "message"),
        [
            ("", "sql is empty"),
            (" ;\n; ", "sql is empty"),
            ("-- nothing\n/* here */", "sql is empty: .*Comments alone are none"),
            ([], "sql is empty"),
            (["", "-- nothing"], "sql is empty"),
            (None, "sql must be SQL text, or a list of such texts, not a NoneType"),
            (["SELECT 1", 2], "sql must be SQL text, or a list of such texts, not a int"),
            ({"sql": "SELECT 1"}, "not a dict"),
            ("SELECT 1;\nSELECT 'a; b", "statement 2 has a quote that is not closed, in line 2: 'a; b"),
            ("SELECT 1; SELECT `a", "statement 2 has a quote that is not closed, in line 1: `a"),
            (["SELECT 1; SELECT 2", 'SELECT "a'], 'statement 3 has a quote that is not closed, in line 1: "a'),
            ("SELECT 1;\n\n/* a; /* b */", "statement 2 has a comment that is not closed, in line 3: /. a"),
            ("SELECT 1; SELECT x'GG'", "statement 2 has a literal that cannot be read, in line 1: x'GG'"),
            ("/* a " * 20_000, "statement 1 has a comment that is not closed, in line 1"),
            (["SELECT 1", f"SELECT {'1' * 500_000}"], "statement 2 has 500,007 characters; DLI takes at most 500,000"),
            (f"SELECT '{'€' * 400_000}'", "statement 1 has 400,009 characters; .* less than 1 MB"),
        ],
    )
    def test_a_script_that_cannot_be_used_is_refused(self, sql, message):
        with pytest.raises(DliValueError, match=message) as raised:
            statements(sql)
        assert raised.value.field == "sql"

    def test_a_plain_statement_needs_no_parser(self):
        code = (
            "import sys; from airflow_provider_dli.api.script import statements; statements('SELECT 1');"
            "assert 'sqlglot' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    @pytest.mark.parametrize(
        ("statement", "instead"),
        [
            ("SET spark.sql.shuffle.partitions = 2", "put the setting into conf"),
            ("-- a\n/* b */ use sales", "give the database as `database`"),
            ("create  or replace\ntemporary view v AS SELECT 1", "WITH"),
            ("CREATE TEMP VIEW v AS SELECT 1", "WITH"),
            ("CACHE TABLE t", "into a table"),
            ("SETTLE", None),
            ("CREATE TABLE temporary (a INT)", None),
            ("SELECT 1 -- USE x", None),
        ],
    )
    def test_what_only_changes_a_session_is_told_apart(self, statement, instead):
        found = without_effect(statement)
        assert found is None if instead is None else instead in found


class TestParameters:
    @pytest.mark.parametrize(
        ("sql", "parameters", "expected"),
        [
            ("SELECT :a", {"a": 1}, ["SELECT 1"]),
            ("SELECT :a, ':a', \":a\", `:a` -- :a\n", {"a": 1}, ["SELECT 1, ':a', \":a\", `:a` -- :a\n"]),
            ("SELECT :a; SELECT :b, :a", {"a": 1, "b": "x;:a"}, ["SELECT 1", "SELECT 'x;:a', 1"]),
            ("SHOW TABLES LIKE :table", {"table": "a*"}, ["SHOW TABLES LIKE 'a*'"]),
            ("SELECT x::int, y:z, CAST(s AS STRUCT<a:INT>), :z", {"z": 1}, None),
            ("SELECT ? + ?; SELECT '?', ?", [1, 2, "?"], ["SELECT 1 + 2", "SELECT '?', '?'"]),
            ("SELECT 1", {}, ["SELECT 1"]),
            ("SELECT :a", None, ["SELECT :a"]),
        ],
    )
    def test_stand_where_their_names_are(self, sql, parameters, expected):
        if expected is None:
            expected = [sql.replace(", :z", ", 1")]
        assert statements(sql, parameters) == expected

    @pytest.mark.parametrize(
        ("sql", "parameters", "message"),
        [
            ("SELECT :day, :dya", {"day": 1}, "parameters has no value for :dya of statement 1"),
            ("SELECT 1; SELECT :a", {}, "parameters has no value for :a of statement 2"),
            ("SELECT :a", {"a": 1, "b": 2}, "parameters has b, and no statement has :b"),
            ("SELECT ?", [1, 2], "parameters has 2 values, and there are only 1 [?]"),
            ("SELECT ?; SELECT ?", [1], "parameters has 1 values, and there are more [?] of statement 2"),
            ("SELECT :a", {"a": []}, "parameters: the value of a is an empty list"),
            ("SELECT :a", {"a": {}}, "parameters: the value of a has the type dict"),
            ("SELECT :a", {"a": Decimal("NaN")}, "parameters: the value of a is NaN, which no DECIMAL is"),
            ("SELECT :a", "abc", "parameters must be a dict or a list, not a str"),
            ("SELECT :a", {1}, "parameters must be a dict or a list, not a set"),
        ],
    )
    def test_those_that_do_not_match_are_refused(self, sql, parameters, message):
        with pytest.raises(DliValueError, match=message) as raised:
            statements(sql, parameters)
        assert raised.value.field == "parameters"

    @settings(deadline=None)
    @given(VALUES)
    def test_a_literal_is_the_value(self, value):
        assert same(value, evaluate(literal(value)))

    @settings(deadline=None)
    @given(GLUED, st.lists(VALUES, min_size=8, max_size=8), st.booleans())
    @example(["5-", PLACE, " AND x"], [-5] * 8, True)
    @example(["5-", PLACE, "AND x"], [Decimal("-0.5")] * 8, False)
    @example(["SELECT a", PLACE, PLACE, "::int"], [1] * 8, False)
    @example(["x", PLACE, "d"], ["61"] * 8, False)
    def test_a_literal_is_not_glued_to_its_neighbours(self, pieces, values, named):
        """A literal stands in place of its parameter, as one token or several, and no other token changes."""
        marks = (f":p{number}" if named else "?" for number in range(8))
        text = "".join(next(marks) if piece is PLACE else piece for piece in pieces)
        try:
            places = list(_places(text, named))
        except DliValueError:  # a quote or a comment that is not closed
            reject()
        names = [name for *_, name in places] if named else list(range(len(places)))
        given_values = dict(zip(names, values, strict=False))
        [bound] = _bound([text], given_values if named else list(given_values.values()), may_be_unused=False)
        expected, end = [], 0
        for name, (start, stop, _) in zip(names, places, strict=True):
            expected += [*tokens_of(text, end, start), *tokens_of(literal(given_values[name]))]
            end = stop
        assert tokens_of(bound) == [*expected, *tokens_of(text, end)]

    @pytest.mark.parametrize("sql", ["SELECT ?::int", "SELECT ??", "SELECT f(?)"])
    def test_each_question_mark_is_a_parameter(self, sql):
        assert "?" not in statements(sql, [1] * sql.count("?"))[0]

    def test_more_types(self):
        assert evaluate(literal(b"\x00\xffa")) == b"\x00\xffa"
        assert evaluate(f"2 IN {literal([1, 2])}") is True
        assert evaluate(f"'x' IN {literal(('a', 'b'))}") is False
        number = uuid.uuid4()
        assert evaluate(literal(number)) == str(number)
        at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert "'2026-01-02 03:04:05+00:00'" in literal(at)


def tokens_of(text, start=0, stop=math.inf):
    """Return type and text of the tokens of a part of a statement."""
    return [(token.token_type, token.text) for token in _tokens(text) if start <= token.start < stop]


def evaluate(expression):
    """Run an expression of DLI's dialect."""
    [query] = sqlglot.transpile(f"SELECT {expression}", read="spark", write="duckdb")
    [value] = duckdb.connect().execute(query).fetchone()
    return value


def same(value, other):
    if isinstance(value, float) and math.isnan(value):
        return math.isnan(other)
    if type(value) is date and isinstance(other, datetime):
        return datetime(value.year, value.month, value.day) == other
    if isinstance(value, datetime):
        # Spark's TIMESTAMP is in the zone of the session.
        other = other.replace(tzinfo=None)
    return value == other
