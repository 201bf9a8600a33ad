"""Statements that are legal but strange, long, deep or out to break something: DLI's own errors, never a breakdown."""

import json
import threading
import time

import pace
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_dli.local.dli.faults import KINDS

from .conftest import Wire

pytestmark = pytest.mark.matrix


@pytest.mark.parametrize("kind", ["DATABASE", "SCHEMA"])
@pytest.mark.parametrize("name", ["default", "`default`", "DEFAULT", "`Default`"])
def test_the_default_database_stays(wire, kind, name):
    wire.run("CREATE TABLE t (a INT)")
    for sql in (
        f"DROP {kind} {name}",
        f"DROP {kind} IF EXISTS {name}",
        f"DROP {kind} {name} CASCADE",
        f"DROP {kind} {name} RESTRICT",
    ):
        done = wire.run(sql)
        assert (done["status"], done["message"]) == (
            "FAILED",
            "DLI.0005: AnalysisException: Can not drop default database",
        )
    wire.run(f"CREATE OR REPLACE {kind} {name}")
    assert wire.rows("SHOW TABLES") == [["default", "t", False]]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP DATABASE main CASCADE",
        "DROP DATABASE `MAIN` CASCADE",
        "DROP DATABASE information_schema CASCADE",
        "DROP DATABASE pg_catalog CASCADE",
        "DROP DATABASE memory.default CASCADE",
        "DROP DATABASE memory CASCADE",
        "DROP DATABASE temp.main CASCADE",
        "DROP TABLE memory.default.t",
        "DROP VIEW memory.default.t",
        "DROP NAMESPACE default",
        "DROP CATALOG memory",
        "DETACH DATABASE memory",
        "ATTACH DATABASE ':memory:'",
        "ALTER DATABASE default RENAME TO other",
        "CREATE DATABASE main",
        "CREATE DATABASE memory",
        "CREATE DATABASE temp.other",
        "CREATE TABLE main.t2 (a INT)",
        "CREATE TABLE temp.t2 (a INT)",
        "CREATE TABLE system.main.t2 (a INT)",
        "CREATE VIEW information_schema.tables AS SELECT 1",
        "INSERT INTO main.t2 SELECT 1",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM duckdb_tables",
        "SELECT * FROM sqlite_master",
        "SELECT (SELECT count(*) FROM system.main.duckdb_settings)",
        "SHOW TABLES IN main",
        "DESCRIBE main.t",
        "TRUNCATE TABLE main.t",
        "DELETE FROM memory.default.t",
    ],
)
def test_what_belongs_to_the_engine_is_out_of_reach(wire, sql):
    wire.run("CREATE TABLE t (a INT)")
    wire.run("INSERT INTO t VALUES (1)")
    assert outcome(wire, sql)[:5] in ("DLI.0",)
    assert wire.rows("SELECT * FROM default.t") == [[1]]
    assert wire.rows("SHOW DATABASES") == [["default"]]


def test_a_database_of_the_engines_own_cannot_be_the_current_one(wire):
    assert wire.run("SELECT 1", currentdb="main")["message"].startswith("DLI.0007")


def test_names_that_the_engine_uses_elsewhere_are_free(wire):
    for database in ("system", "temp"):
        assert wire.run(f"CREATE DATABASE {database}")["status"] == "FINISHED"
        assert wire.run(f"CREATE TABLE {database}.t AS SELECT '{database}' AS a")["status"] == "FINISHED"
        assert wire.rows(f"SELECT t.a FROM {database}.t") == [[database]]
        assert wire.rows("SELECT a FROM t", currentdb=database) == [[database]]
        assert wire.run(f"DROP DATABASE {database} CASCADE")["status"] == "FINISHED"


def test_insert_of_a_table(wire):
    for sql in ("CREATE TABLE a (x INT)", "CREATE TABLE b (x INT)", "INSERT INTO b VALUES (1)"):
        wire.run(sql)
    assert wire.run("INSERT INTO a TABLE b")["result_count"] == 1
    assert wire.run("INSERT INTO a (x) TABLE default.b")["result_count"] == 1
    assert wire.run("INSERT OVERWRITE TABLE b TABLE a")["result_count"] == 2
    assert wire.run("WITH q AS (SELECT 7 AS x) INSERT INTO b WITH p AS (FROM q) SELECT * FROM p")["result_count"] == 1
    assert wire.rows("SELECT x FROM b ORDER BY x") == [[1], [1], [7]]


@pytest.mark.parametrize("sql", ["DROP TABLE a, b", "DROP TABLE IF EXISTS a, b", "DROP VIEW a, b"])
def test_drop_takes_one_name(wire, sql):
    wire.run("CREATE TABLE a (x INT)")
    assert outcome(wire, sql).startswith("DLI.0004")
    assert wire.rows("SELECT * FROM a") == []


class TestNumbersThatAreNotFinite:
    VALUES = "double('NaN') AS a, double('Infinity') AS b, float('-inf') AS c, array(double('NaN')) AS d"

    def test_in_a_preview(self, wire):
        job_id = wire.run(f"SELECT {self.VALUES}, named_struct('x', double('-inf')) AS e")["job_id"]
        text = wire.get(f"jobs/{job_id}/preview").text
        rows = json.loads(text, parse_constant=lambda word: pytest.fail(word))["rows"]
        assert rows == [["NaN", "Infinity", "-Infinity", ["NaN"], {"x": "-Infinity"}]]

    def test_in_a_table_of_json_files(self, wire):
        wire.run("CREATE TABLE t (a DOUBLE, b STRING) USING json OPTIONS (path 'obs://bucket/t')")
        assert wire.run("INSERT INTO t SELECT double('NaN'), 'NaN'")["status"] == "FINISHED"
        assert wire.rows("SELECT * FROM t") == [["NaN", "NaN"]]

    def test_in_scripted_rows(self, wire, dli_local):
        url = f"{dli_local.url}/_local/will"
        for value in ("NaN", "-Infinity", "1e999", "[" * 3000 + "]" * 3000):
            headers = {"Content-Type": "application/json"}
            answer = requests.post(url, data=f'{{"rows": [[{value}]]}}', headers=headers, timeout=10)
            assert answer.status_code == 400


NESTED = {
    "parentheses": lambda n: "SELECT " + "(" * n + "1" + ")" * n,
    "functions": lambda n: "SELECT " + "abs(" * n + "1" + ")" * n,
    "arrays": lambda n: "SELECT " + "array(" * n + "1" + ")" * n,
    "subqueries": lambda n: "SELECT * FROM (" * n + "SELECT 1 AS a" + ") t" * n,
    "CASE": lambda n: "SELECT " + "CASE WHEN true THEN " * n + "1" + " END" * n,
    "NOT": lambda n: "SELECT " + "NOT " * n + "true",
    "IN": lambda n: f"SELECT 1 IN ({', '.join(map(str, range(n)))})",
    "AND": lambda n: "SELECT 1 WHERE " + " AND ".join(["1 = 1"] * n),
    "plus": lambda n: "SELECT " + " + ".join(["1"] * n),
    "open": lambda n: "SELECT " + "(" * n,
    "explain": lambda n: "EXPLAIN SELECT " + "(" * n + "1" + ")" * n,
}
FLAT = ("IN", "AND")


@pytest.mark.parametrize("levels", [50, 500, 5000])
@pytest.mark.parametrize("kind", NESTED)
def test_deep_and_long_statements(wire, kind, levels):
    found = outcome(wire, NESTED[kind](levels))
    if kind in FLAT or (levels == 50 and kind != "open"):
        assert found == "FINISHED"
    elif kind == "plus" and levels == 500:
        assert found == "FINISHED", "DuckDB's limit is 1000"
    else:
        assert found[:8] in ("DLI.0004", "DLI.0005", "DLI.0009"), found
    assert wire.rows("SELECT 1") == [[1]]


def test_types_that_would_break_the_engine(wire):
    """Every level in a subquery of its own, which takes no deep recursion to read."""
    levels = ", ".join(f"c{n} AS (SELECT array(a) AS a FROM c{n - 1})" for n in range(1, 151))
    found = outcome(wire, f"WITH c0 AS (SELECT 1 AS a), {levels} SELECT * FROM c150")
    assert found.startswith("DLI.0009")
    assert wire.rows("SELECT 1") == [[1]]


@pytest.mark.parametrize(("text", "is_good"), [("x" * 499_900, True), ("x" * 500_000, False), ("€" * 350_000, False)])
def test_the_longest_statement(wire, text, is_good):
    answer = wire.submit(f"SELECT '{text}'")
    assert answer.status_code == (200 if is_good else 400)
    assert is_good or answer.json()["error_code"] == "DLI.0001"


def test_other_calls_are_answered_while_a_long_statement_is_read(wire, dli_local):
    long = f"SELECT 1 IN ({', '.join(map(str, range(40_000)))})"
    wire.rows("SELECT 1")
    other, waits = Wire(dli_local, wire.http.headers["X-Auth-Token"]), []
    reading = threading.Thread(target=wire.submit, args=(long,))
    reading.start()
    while reading.is_alive():
        began = time.monotonic()
        assert other.get("jobs", params={"page-size": 1, "sql_pattern": "nothing"}).status_code == 200
        waits.append(time.monotonic() - began)
    assert len(waits) > 5
    assert sorted(waits)[len(waits) // 2] < pace.seconds(0.15)
    assert max(waits) < pace.seconds(1.5)


# Pieces of Spark's grammar, put together with little respect for it.
NAMES = st.sampled_from(
    ["a", "b", "v", "x.a", "default.b", "`a b`", "main.a", "memory.default.a", "q", "csv.`obs://b/f`"]
)
VALUES = st.sampled_from(
    ["1", "NULL", "'x'", "double('NaN')", "array(1)", "map('k', 1)", "named_struct('f', 1)", "a", "*", "count(*)",
     "date '2026-01-01'", "interval 1 day", "x'ff'", "1/0", "cast('x' AS int)", "9e999", "explode(array(1, 2))", "?", "@v"]
)  # fmt: skip
QUERIES = st.recursive(
    st.builds("SELECT {}".format, st.lists(VALUES, min_size=1, max_size=3).map(", ".join))
    | st.builds("SELECT {} FROM {}".format, VALUES, NAMES)
    | st.builds("TABLE {}".format, NAMES)
    | st.builds("VALUES ({})".format, VALUES),
    lambda inner: (
        st.builds("SELECT * FROM ({}) q".format, inner)
        | st.builds("WITH q AS ({}) {}".format, inner, inner)
        | st.builds("{} UNION ALL {}".format, inner, inner)
        | st.builds("({}) INTERSECT {}".format, inner, inner)
        | st.builds("{} ORDER BY 1 LIMIT 1".format, inner)
    ),
    max_leaves=4,
)
KIND = st.sampled_from(["TABLE", "VIEW", "DATABASE", "SCHEMA", "FUNCTION", "TEMPORARY VIEW", "EXTERNAL TABLE"])
MAYBE = st.sampled_from(["", "IF EXISTS", "IF NOT EXISTS"])
LIST = st.lists(NAMES, min_size=1, max_size=2).map(", ".join)
TAIL = st.sampled_from(
    ["", "CASCADE", "PURGE", "RESTRICT", "(i INT)", "(i INT) USING json OPTIONS (path 'obs://b/t')", ";"]
)
STATEMENTS = (
    QUERIES
    | st.builds("INSERT INTO {} {}".format, LIST, QUERIES)
    | st.builds("INSERT OVERWRITE TABLE {} {}".format, NAMES, QUERIES)
    | st.builds("INSERT INTO {} PARTITION (i = 1) {}".format, NAMES, QUERIES)
    | st.builds("FROM {} INSERT INTO {} SELECT *".format, NAMES, NAMES)
    | st.builds("DROP {} {} {} {}".format, KIND, MAYBE, LIST, TAIL)
    | st.builds("CREATE {} {} {} {}".format, KIND, MAYBE, NAMES, TAIL)
    | st.builds("CREATE OR REPLACE {} {} AS {}".format, KIND, NAMES, QUERIES)
    | st.builds("CREATE TABLE {} LIKE {}".format, NAMES, NAMES)
    | st.builds("ALTER {} {} {}".format, KIND, NAMES,
                st.sampled_from(["RENAME TO c", "ADD COLUMNS (j INT)", "DROP COLUMN i", "SET TBLPROPERTIES ('a' = 'b')"]))
    | st.builds("TRUNCATE TABLE {}".format, LIST)
    | st.builds("DELETE FROM {} WHERE {}".format, NAMES, VALUES)
    | st.builds("UPDATE {} SET i = {}".format, NAMES, VALUES)
    | st.builds("MERGE INTO {} USING {} ON {} WHEN MATCHED THEN DELETE".format, NAMES, NAMES, VALUES)
    | st.builds("{} {}".format, st.sampled_from(["DESCRIBE", "DESC FORMATTED", "SHOW COLUMNS IN", "SHOW TABLES IN",
                                                 "REFRESH TABLE", "CACHE TABLE", "USE", "EXPLAIN", "SHOW CREATE TABLE"]),
                NAMES | QUERIES)
    | st.builds("LOAD DATA INPATH 'obs://b/{}' INTO TABLE {}".format, st.sampled_from(["f.csv", "..", ""]), LIST)
)  # fmt: skip
quick = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@settings(quick, max_examples=150)
@given(sql=STATEMENTS, sync=st.booleans())
def test_any_statement(wire, sql, sync):
    """No 500, and no job that ends because something here is wrong: that is what DLI.0999 would be."""
    found = outcome(wire, sql, conf=[f"dli.sql.sqlasync.enabled = {str(not sync).lower()}"])
    assert found == "FINISHED" or found.startswith("DLI.0"), found
    assert not found.startswith("DLI.0999"), found


WHATEVER = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.floats(), max_size=2),
    st.sampled_from([10**40, -1, 0, 599, 204, 100, 1e999, "\ud800", "a\nb", "é", "\u2603", "a" * 9000, {"a": [1]}, [[float("nan")]]]),
)  # fmt: skip
FIELDS = {
    "faults": ["call", "matching", "times", "skip", "work_done", "status", "error_code", "error_msg", "retry_after", "body",
               "size", "location", "state", "message", "other"],
    "will": ["matching", "times", "then", "message", "stuck_in", "cancel_takes", "rows", "other"],
    "settings": ["cancel_ended", "flags", "list_lag", "clock_skew", "lock_after", "queues", "self", "other"],
}  # fmt: skip
ADMIN = st.sampled_from(sorted(FIELDS)).flatmap(
    lambda path: st.tuples(st.just(path), st.dictionaries(st.sampled_from(FIELDS[path]), WHATEVER, max_size=3))
)
ANSWERED = sorted(
    set(KINDS) - {"hang", "hang_after", "drip", "latency", "drop_before", "drop_after", "truncate", "huge"}
)


@pytest.mark.matrix
@settings(quick, max_examples=60)
@given(what=ADMIN, kind=st.sampled_from(ANSWERED))
def test_any_admin_call(wire, dli_local, what, kind):
    """Either it is refused with a reason, or the next calls go as was asked: a 500 only if that was."""
    path, body = what
    dli_local.reset()
    if path == "faults":
        body = {"fault": kind, **body}
    answer = requests.post(
        f"{dli_local.url}/_local/{path}",
        data=json.dumps(body),
        headers={"Content-Type": "application/json"},
        timeout=10,
    )
    assert answer.status_code in (200, 400), answer.text
    strict(answer)
    for seen in (wire.get("jobs"), wire.submit("SELECT 1"), requests.get(f"{dli_local.url}/_local/{path}", timeout=10)):
        assert seen.status_code < 500 or (seen.status_code == (body.get("status") or 500) and path == "faults")
        if answer.status_code == 400 or path != "faults":
            strict(seen)


def strict(answer):
    """What JSON does not know is not sent as JSON."""
    json.loads(answer.text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def outcome(wire, sql, **fields):
    """FINISHED, or the DLI code and text of a refusal or a failed job."""
    answer = wire.submit(sql, **fields)
    if answer.status_code == 400:
        return "{error_code}: {error_msg}".format(**answer.json())
    assert answer.status_code == 200, answer.text
    done = wire.until(answer.json()["job_id"], timeout=30)
    return done["status"] if done["status"] == "FINISHED" else done["message"]
