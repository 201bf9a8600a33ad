"""Scripts and parameters: what becomes of an author's SQL text before anything is sent."""

from __future__ import annotations

import enum
import itertools
import math
import subprocess
import sys
import uuid
from collections import UserString
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cache
from zoneinfo import ZoneInfo

import duckdb
import pendulum
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
    r"5-",
    r"-",
    r"a",
    r"1",
    r"1e",
    r"1e-",
    r"5.",
    r"t.",
    r".5",
    r"::",
    r"int",
    r"AND",
    r"IN",
    r"LIMIT",
    r"struct<",
    r"'a'",
    r"x",
    r"'",
    r"/",
    r"*",
    r"(",
    r")",
    r",",
    r"[",
    r"]",
    r"|",
    r"{",
    r"=",
    r"<",
    r"/*:p0?*/",
    r"`:p0?`",
]
GLUED = st.lists(st.just(PLACE) | st.sampled_from([*BESIDE, "--\n", " "]), min_size=1, max_size=8)


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
            ("SELECT 1; SELECT '", "statement 2 has a quote that is not closed, in line 1: '"),
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
            ("SELECT x::int, y:w, CAST(s AS STRUCT<a:INT>), :z", {"z": 1}, None),
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

    @settings(deadline=None, max_examples=50)
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
            places = list(_places(text, frozenset() if named else None))
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

    @given(st.text("$${{}}:ax\\'") | st.sampled_from(["${env:HOME}", "$${x}", "a$${${y}}"]))
    @settings(deadline=None, max_examples=20)
    def test_spark_finds_no_variable_in_text(self, value):
        [bound] = statements("SELECT $?{?}", [value, value])
        assert "${" not in bound
        assert evaluate(literal(value)) == value

    def test_more_types(self):
        assert evaluate(literal(b"\x00\xffa")) == b"\x00\xffa"
        assert evaluate(f"2 IN {literal([1, 2])}") is True
        assert evaluate(f"'x' IN {literal(('a', 'b'))}") is False
        number = uuid.uuid4()
        assert evaluate(literal(number)) == str(number)
        at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert "'2026-01-02 03:04:05+00:00'" in literal(at)


class Letter(str, enum.Enum):  # noqa: UP042 - str() of it is its name
    A = "a"


class Number(enum.IntEnum):
    ONE = 1


class Price(Decimal):
    pass


class NotATime(datetime):
    """Like NaT of pandas: a datetime that is none."""

    year = math.nan


class Nanoseconds(datetime):
    """Like a Timestamp of pandas, which may have nanoseconds."""

    def __eq__(self, other):
        return False

    __hash__ = datetime.__hash__


class TestTypes:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (date(26, 1, 2), "CAST('0026-01-02' AS DATE)"),
            (datetime(999, 1, 2, 3, 4, 5), "CAST('0999-01-02 03:04:05' AS TIMESTAMP)"),
            (pendulum.datetime(2026, 1, 2, 3, 4, 5, 6), "CAST('2026-01-02 03:04:05.000006+00:00' AS TIMESTAMP)"),
            (
                datetime(1800, 1, 2, tzinfo=timezone(timedelta(seconds=1172))),
                "CAST('1800-01-01 23:40:28+00:00' AS TIMESTAMP)",
            ),
            (pendulum.date(26, 1, 2), "CAST('0026-01-02' AS DATE)"),
            (time(3, 4, 5), "'03:04:05'"),
            (time(3, 4, 5, 6, tzinfo=UTC), "'03:04:05.000006+00:00'"),
            (pendulum.time(3, 4), "'03:04:00'"),
            ({"b", "a"}, "('a', 'b')"),
            (range(2), "(0, 1)"),
            (Decimal("1E+2"), "100"),
        ],
    )
    def test_a_value_is_written_by_what_it_is(self, value, expected):
        assert literal(value) == expected

    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            (Letter.A, "has the type Letter, which cannot be written as SQL: give a plain str, or None"),
            (Number.ONE, "has the type Number, .* give a plain int"),
            (Price(1), "has the type Price, .* give a plain Decimal"),
            (NotATime(2026, 1, 1), "has the type NotATime, .* give a plain datetime, or None"),
            (Nanoseconds(2026, 1, 1), "has the type Nanoseconds"),
            (UserString("a"), "has the type UserString"),
            (bytearray(b"a"), "has the type bytearray"),
            (timedelta(1), "has the type timedelta"),
            ([1, Letter.A], "has the type Letter"),
            (time(3, tzinfo=ZoneInfo("Europe/Berlin")), "is a time whose offset from UTC depends on the day"),
            (10**38, "has more than 38 digits"),
            (Decimal("1E+999999"), "has more than 38 digits"),
            ("\ud800", "has half of a character"),
        ],
    )
    def test_what_is_something_else_is_refused_by_name(self, value, problem):
        with pytest.raises(DliValueError, match=f"parameters: the value of day {problem}") as raised:
            statements("SELECT :day", {"day": value})
        assert raised.value.field == "parameters"


def tokens_of(text, start=0, stop=math.inf):
    """Return the tokens of a part of a statement, as they are written."""
    return [text[token.start : token.end + 1] for token in _tokens(text) if start <= token.start < stop]


@cache
def database():
    return duckdb.connect()


def evaluate(expression):
    """Run an expression of DLI's dialect."""
    [query] = sqlglot.transpile(f"SELECT {expression}", read="spark", write="duckdb")
    [value] = database().execute(query).fetchone()
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


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT a FROM t LIMIT:n",
        "SELECT a FROM t WHERE b = 1 AND:n",
        "SELECT a FROM t WHERE b IN:n or b between:n AND:n",
        "SELECT CASE WHEN:n THEN:n ELSE:n END",
        "SELECT:n, a FROM t WHERE b=:n AND c<:n AND d>:n",
        "INSERT INTO t VALUES(:n,:n)",
        "SELECT -:n, :n::int, (:n), x -> x+:n",
    ],
)
def test_a_parameter_right_behind_a_keyword_or_an_operator(statement):
    [bound] = statements(statement, {"n": 7})
    assert ":n" not in bound
    assert tokens_of(bound) == tokens_of(statement.replace(":n", " 7 "))


@pytest.mark.parametrize("words", ["a:n", "t.a:n", "'a':n", "`limit`:n", "f(1):n", "1:n", "struct<a:n>", ":n:n"])
def test_a_parameter_right_behind_a_name_or_a_literal_is_never_left_in(words):
    with pytest.raises(DliValueError, match=r":n stands right behind a word, in .*Write a blank before the colon"):
        statements(f"SELECT :n, {words}", {"n": 1})


@pytest.mark.parametrize(
    "kind", ["struct<n:date>", "STRUCT<`n`:date,in:date>", "map<int,struct<a:array<date>,limit:date>>"]
)
def test_the_type_of_a_field_is_no_parameter(kind):
    [bound] = statements(f"SELECT CAST(x AS {kind}), 1 < 2 AND:date", {"date": 1})
    assert bound == f"SELECT CAST(x AS {kind}), 1 < 2 AND 1"


@settings(deadline=None, max_examples=50)
@given(GLUED, st.booleans())
def test_a_parameter_is_bound_or_refused(pieces, spaced):
    """None that has a value is left in, whatever stands around it."""
    text = (" " if spaced else "").join(":p" if piece is PLACE else piece for piece in pieces)
    try:
        [bound] = _bound([text], {"p": 1}, may_be_unused=True)
    except DliValueError:
        reject()
    left = tokens_of(bound)
    assert (":", "p") not in list(itertools.pairwise(left))
