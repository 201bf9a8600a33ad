"""What Spark SQL does here: databases, tables, files behind obs://, and what is not supported."""

import shutil

import pytest

from airflow_provider_dli.local.handle import LocalDli

from .conftest import Wire


@pytest.fixture(scope="module")
def obs_server(tmp_path_factory):
    """A server of its own, with a folder of its own behind obs://."""
    folder = tmp_path_factory.mktemp("obs")
    with LocalDli.start(obs=str(folder)) as dli:
        yield Wire(dli), folder


@pytest.fixture
def tables(obs_server):
    wire, folder = obs_server
    wire.dli.reset()
    wire.dli.settings(preview_on_default="works")
    for bucket in folder.iterdir():
        shutil.rmtree(bucket)
    return wire


@pytest.fixture
def obs(obs_server):
    """The folder behind obs:// of the server that `tables` uses."""
    return obs_server[1]


def finish(wire, *statements, **fields):
    for sql in statements:
        done = wire.run(sql, **fields)
        assert done["status"] == "FINISHED", f"{sql}: {done['message']}"
    return done


def test_databases_and_internal_tables(wire):
    finish(wire, "CREATE DATABASE db1", "CREATE TABLE db1.t (id INT, name STRING) USING parquet PARTITIONED BY (name)")
    assert finish(wire, "INSERT INTO db1.t VALUES (1, 'a'), (2, 'b')")["result_count"] == 2
    assert wire.rows("SELECT * FROM t ORDER BY id", currentdb="db1") == [[1, "a"], [2, "b"]]
    finish(wire, "INSERT OVERWRITE TABLE db1.t SELECT id + 10, name FROM db1.t WHERE id = 2")
    assert wire.rows("SELECT * FROM db1.t") == [[12, "b"]]
    finish(wire, "CREATE TABLE db1.copy AS SELECT id FROM db1.t", "CREATE TABLE db1.twin LIKE db1.t")
    assert wire.rows("SELECT count(*) FROM db1.twin") == [[0]]
    finish(wire, "ALTER TABLE db1.copy ADD COLUMNS (x INT, y STRING)", "UPDATE db1.copy SET x = 5")
    assert wire.rows("SELECT * FROM db1.copy") == [[12, 5, None]]
    finish(wire, "DELETE FROM db1.copy WHERE x = 5", "TRUNCATE TABLE db1.t", "DROP TABLE db1.copy")
    assert wire.rows("SELECT * FROM db1.t") == []
    finish(wire, "CREATE VIEW db1.v AS SELECT 1 AS one", "DROP DATABASE db1 CASCADE")
    assert wire.run("SELECT * FROM db1.v")["status"] == "FAILED"


def test_an_insert_into_a_partition(wire):
    finish(wire, "CREATE TABLE t (day DATE, a INT, b INT) PARTITIONED BY (day)")
    finish(wire, "INSERT INTO t VALUES (1, 1, DATE '2026-01-01'), (2, 2, DATE '2026-01-02')")
    finish(wire, "INSERT OVERWRITE TABLE t PARTITION (day = '2026-01-02') SELECT a + 10, b FROM t WHERE a = 2")
    finish(wire, "INSERT INTO t PARTITION (day = DATE '2026-01-03') (b, a) VALUES (4, 3)")
    finish(wire, "INSERT INTO t PARTITION (day = '2026-01-03') WITH x AS (SELECT 5 AS a) SELECT a, a FROM x")
    rows = [[1, 1, "2026-01-01"], [12, 2, "2026-01-02"], [3, 4, "2026-01-03"], [5, 5, "2026-01-03"]]
    assert wire.rows("SELECT * FROM t ORDER BY day, a") == rows
    # Nothing is written, nothing stays: as of a table, so of its partition.
    finish(wire, "INSERT OVERWRITE TABLE t PARTITION (day = '2026-01-03') SELECT a, b FROM t WHERE a = 0")
    assert wire.rows("SELECT * FROM t ORDER BY day, a") == rows[:2]
    for partition in ("day", "hour = 1", "day = (SELECT max(day) FROM t)"):
        assert wire.run(f"INSERT OVERWRITE TABLE t PARTITION ({partition}) SELECT 1, 1")["status"] == "FAILED"
    assert wire.rows("SELECT * FROM t ORDER BY day, a") == rows[:2]


def test_columns_of_partitions_come_last(wire):
    finish(wire, "CREATE TABLE t (a INT) PARTITIONED BY (day STRING, `Hour` INT)")
    finish(wire, "INSERT INTO t PARTITION (hour = 5, day = 'monday') VALUES (1)")
    assert wire.rows("SELECT * FROM t") == [[1, "monday", 5]]
    assert wire.run("CREATE TABLE u (a INT) PARTITIONED BY (day)")["status"] == "FAILED"
    finish(wire, "CREATE TABLE u (a INT, at TIMESTAMP) PARTITIONED BY (years(at))", "INSERT INTO u VALUES (1, NULL)")


def test_the_job_type_and_table_come_from_the_statement(wire):
    finish(wire, "CREATE TABLE t (a INT)")
    for sql, job_type in [
        ("INSERT INTO t VALUES (1)", "INSERT"),
        ("UPDATE t SET a = 2", "UPDATE"),
        ("DELETE FROM t", "DELETE"),
        ("DROP TABLE t", "DDL"),
    ]:
        done = finish(wire, sql)
        assert (done["job_type"], done["table_name"]) == (job_type, "t")


def test_a_failed_overwrite_changes_nothing(wire):
    finish(wire, "CREATE TABLE t (a INT)", "INSERT INTO t VALUES (1)")
    assert wire.run("INSERT OVERWRITE TABLE t SELECT 1 FROM nowhere")["status"] == "FAILED"
    assert wire.run("INSERT OVERWRITE TABLE t SELECT 'word'")["status"] == "FAILED"
    assert wire.rows("SELECT * FROM t") == [[1]]


def test_show_and_describe(wire):
    finish(wire, "CREATE DATABASE db1", "CREATE TABLE db1.t (a INT, b DECIMAL(10,2), c ARRAY<STRING>)")

    def rows(sql):
        conf = ["dli.sql.sqlasync.enabled = false"]
        return wire.submit(sql, currentdb="db1", conf=conf).json()["rows"]

    assert rows("SHOW DATABASES") == [["db1"], ["default"]]
    assert rows("SHOW DATABASES LIKE 'de*'") == [["default"]]
    assert rows("SHOW TABLES") == [["db1", "t", False]]
    assert rows("SHOW TABLES IN default") == []
    assert rows("SHOW COLUMNS IN db1.t") == [["a"], ["b"], ["c"]]
    assert rows("DESC t") == [["a", "int", None], ["b", "decimal(10,2)", None], ["c", "array<string>", None]]
    assert wire.rows("EXPLAIN SELECT 1")


def test_values_and_types(wire):
    job = wire.run(
        "SELECT 1.50 AS dec, cast(0.5 AS DOUBLE) AS dbl, date'2026-01-02' AS d, timestamp'2026-01-02 03:04:05' AS ts,"
        " array(1, 2) AS a, named_struct('x', 1) AS s, map('k', 1) AS m, cast(NULL AS STRING) AS n, true AS b,"
        " sum(id) AS total, count(*), cast('NaN' AS DOUBLE) AS nan, current_timestamp() IS NULL AS no FROM range(4)"
    )
    preview = wire.get(f"jobs/{job['job_id']}/preview").json()
    assert {name: kind for column in preview["schema"] for name, kind in column.items()} == {
        "dec": "decimal(3,2)",
        "dbl": "double",
        "d": "date",
        "ts": "timestamp",
        "a": "array<int>",
        "s": "struct<x:int>",
        "m": "map<string,int>",
        "n": "string",
        "b": "boolean",
        "total": "bigint",
        "count(1)": "bigint",
        "nan": "double",
        "no": "boolean",
    }
    when = "2026-01-02 03:04:05"
    expected = ["1.50", 0.5, "2026-01-02", when, [1, 2], {"x": 1}, {"k": 1}, None, True, 6, 4, "NaN", False]
    assert preview["rows"] == [expected]


def test_the_day_beside_a_column(wire):
    job = wire.run("SELECT id, current_date() FROM range(1)")
    assert wire.get(f"jobs/{job['job_id']}/preview").json()["schema"] == [{"id": "bigint"}, {"current_date()": "date"}]


def test_the_first_thousand_rows(wire):
    done = finish(wire, "SELECT id FROM range(2500)")
    assert done["result_count"] == 2500
    preview = wire.get(f"jobs/{done['job_id']}/preview").json()
    assert (preview["row_count"], len(preview["rows"])) == (2500, 1000)
    assert wire.get(f"jobs/{done['job_id']}/preview?page-size=2").json()["rows"] == [[0], [1]]


class TestModes:
    SYNC = ["dli.sql.sqlasync.enabled = false"]

    def test_ddl_is_asynchronous_by_default(self, wire):
        answer = wire.submit("CREATE TABLE t (a INT)").json()
        assert (answer["job_type"], answer["job_mode"], "rows" in answer) == ("DDL", "async", False)
        wire.until(answer["job_id"])

    def test_ddl_is_synchronous_on_request(self, wire):
        finish(wire, "CREATE TABLE t (a INT)")
        answer = wire.submit("DESC t", conf=self.SYNC).json()
        assert (answer["job_mode"], answer["rows"]) == ("sync", [["a", "int", None]])
        assert answer["schema"] == [{"col_name": "string"}, {"data_type": "string"}, {"comment": "string"}]
        assert wire.status(answer["job_id"])["status"] == "FINISHED"

    def test_a_query_is_never_synchronous(self, wire):
        assert wire.submit("SELECT 1", conf=self.SYNC).json()["job_mode"] == "async"

    def test_a_synchronous_failure_is_the_answer(self, wire):
        answer = wire.submit("DESC nowhere", conf=self.SYNC)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "DLI.0005")

    def test_a_synchronous_call_is_cut_off(self, wire, dli_local):
        dli_local.settings(sync_limit=0.2)
        dli_local.will(run_for=60)
        answer = wire.submit("CREATE TABLE t (a INT)", conf=self.SYNC)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "DLI.0019")

    @pytest.mark.parametrize(("mode", "expected"), [("sync", "sync"), ("flag", "async")])
    def test_dcl(self, wire, dli_local, mode, expected):
        dli_local.settings(dcl_mode=mode)
        answer = wire.submit("GRANT SELECT ON TABLE t TO USER x").json()
        assert (answer["job_type"], answer["job_mode"]) == ("DCL", expected)
        assert wire.until(answer["job_id"])["status"] == "FINISHED"


class TestCheckSql:
    def check(self, wire, sql, **fields):
        return wire.call("POST", "jobs/check-sql", json={"sql": sql, **fields})

    def test_a_good_statement(self, wire):
        expected = {"is_success": True, "message": "the sql is ok", "job_type": "QUERY"}
        assert self.check(wire, "SELECT 1").json() == expected

    @pytest.mark.parametrize(("sql", "code"), [("selec 1", "DLI.0004"), ("SELECT * FROM nowhere", "DLI.0005")])
    def test_a_bad_one(self, wire, dli_local, sql, code):
        answer = self.check(wire, sql)
        assert (answer.status_code, answer.json()["error_code"]) == (400, code)
        dli_local.settings(check_sql="soft")
        answer = self.check(wire, sql)
        assert (answer.status_code, answer.json()["is_success"]) == (200, False)
        assert code in answer.json()["message"]
        assert dli_local.jobs() == []

    def test_names_are_looked_up_in_the_database(self, wire):
        finish(wire, "CREATE DATABASE db1", "CREATE TABLE db1.t (a INT)")
        assert self.check(wire, "SELECT a FROM t", currentdb="db1").status_code == 200
        assert self.check(wire, "SELECT a FROM t", currentdb="nothing").status_code == 400


class TestTablesOnObs:
    def test_a_csv_table(self, tables, obs):
        (obs / "bucket").mkdir()
        (obs / "bucket" / "people.csv").write_text('id,name\n1,Zoë\n2,"O, X"\n')
        finish(
            tables,
            "CREATE TABLE people (id INT, name STRING) USING csv "
            "OPTIONS (path 'obs://bucket/people.csv', header 'true')",
        )
        assert tables.rows("SELECT p.name FROM people p WHERE p.id > 0 ORDER BY p.id") == [["Zoë"], ["O, X"]]
        assert tables.rows("SELECT people.id FROM people JOIN range(2) r ON r.id = people.id") == [[1]]
        assert tables.rows("WITH people AS (SELECT 9 AS id) SELECT id FROM people") == [[9]]

    def test_columns_from_the_files(self, tables, obs):
        (obs / "bucket").mkdir()
        (obs / "bucket" / "a.json").write_text('{"x": 1, "y": "a"}\n{"x": 2, "y": null}\n')
        finish(tables, "CREATE TABLE j USING json LOCATION 'obs://bucket/a.json'")
        assert tables.rows("SELECT * FROM j ORDER BY x") == [[1, "a"], [2, None]]

    @pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
    def test_written_and_read_again(self, tables, obs, kind):
        path = f"obs://bucket/tables/{kind}"
        finish(tables, f"CREATE TABLE t (a INT, b STRING) USING {kind} OPTIONS (path '{path}')")
        assert tables.rows("SELECT * FROM t") == []
        finish(tables, "INSERT INTO t VALUES (1, 'x'), (2, NULL)", "INSERT INTO t SELECT a + 2, 'y' FROM t")
        assert len(list((obs / "bucket" / "tables" / kind).iterdir())) == 2
        assert tables.rows("SELECT a FROM t ORDER BY a") == [[1], [2], [3], [4]]
        finish(tables, "INSERT OVERWRITE TABLE t SELECT a, b FROM t WHERE a = 3")
        assert tables.rows("SELECT * FROM t") == [[3, "y"]]
        finish(tables, "DROP TABLE t")
        assert list((obs / "bucket" / "tables" / kind).iterdir()), "the files stay"
        assert tables.run("SELECT * FROM t")["status"] == "FAILED"
        assert len(tables.rows(f"SELECT * FROM {kind}.`{path}`")) == 1

    def test_create_as_select(self, tables, obs):
        finish(tables, "CREATE TABLE t USING parquet OPTIONS (path 'obs://bucket/t') AS SELECT id FROM range(3)")
        assert tables.rows("SELECT sum(id) FROM t") == [[3]]
        again = tables.run("CREATE TABLE u USING parquet OPTIONS (path 'obs://bucket/t') AS SELECT 1")
        assert (again["status"], again["message"][:8]) == ("FAILED", "DLI.0006")

    def test_load_data(self, tables, obs):
        (obs / "bucket").mkdir()
        (obs / "bucket" / "in.csv").write_text("1,a\n2,b\n")
        finish(tables, "CREATE TABLE t (a INT, b STRING)")
        done = finish(tables, "LOAD DATA INPATH 'obs://bucket/in.csv' INTO TABLE t")
        assert (done["job_type"], done["result_count"]) == ("IMPORT", 2)
        assert tables.rows("SELECT * FROM t ORDER BY a") == [[1, "a"], [2, "b"]]

    @pytest.mark.parametrize(
        "path",
        [
            "obs://bucket/../../etc/passwd",
            "obs://../etc/passwd",
            "obs://bucket/link/passwd",
            "obs://bucket/a//b",
            "obs://bucket",
            "obs:///etc/passwd",
            "/etc/passwd",
            "file:///etc/passwd",
        ],
    )
    def test_names_cannot_leave_their_folder(self, tables, obs, path):
        (obs / "bucket").mkdir()
        (obs / "bucket" / "link").symlink_to("/etc")
        for sql in (
            f"CREATE TABLE t (line STRING) USING csv OPTIONS (path '{path}')",
            f"SELECT * FROM csv.`{path}`",
            f"CREATE TABLE t USING csv OPTIONS (path '{path}') AS SELECT 1",
        ):
            done = tables.run(sql)
            assert done["status"] == "FAILED", sql
            assert done["message"][:8] in ("DLI.0001", "DLI.0007"), done["message"]

    def test_a_link_inside_a_folder_is_not_followed_out(self, tables, obs):
        (obs / "bucket" / "t").mkdir(parents=True)
        (obs / "bucket" / "t" / "a.csv").symlink_to("/etc/hostname")
        finish(tables, "CREATE TABLE t (line STRING) USING csv OPTIONS (path 'obs://bucket/t')")
        assert tables.rows("SELECT * FROM t") == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('/etc/hostname')",
        "SELECT * FROM '/etc/hostname'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM csv.`http://127.0.0.1:1/x.csv`",
        "SELECT (SELECT count(*) FROM read_csv('/etc/hostname'))",
        "SELECT * FROM duckdb_settings()",
        "INSTALL httpfs",
        "LOAD httpfs",
        "ATTACH '/tmp/x.db' AS x",
        "COPY (SELECT 1) TO '/tmp/evil.csv'",
        "SET enable_external_access = true",
        "PRAGMA enable_profiling",
        "CREATE FUNCTION f AS 'com.example.F' USING JAR 'obs://b/x.jar'",
        "CREATE TABLE t (a INT) USING orc OPTIONS (path 'obs://bucket/x')",
        "INSERT INTO t PARTITION (a = 1) SELECT 2",
        "MSCK REPAIR TABLE t",
        "SHOW FUNCTIONS",
        "USE default",
        "CACHE TABLE t",
        "SELECT java_method('java.util.UUID', 'randomUUID')",
        "SELECT transform(a) USING 'cat' FROM t",
    ],
)
def test_what_is_not_supported_or_not_allowed_fails_and_says_so(wire, sql):
    answer = wire.submit(sql)
    if answer.status_code == 400:
        assert answer.json()["error_code"] == "DLI.0004"
        return
    done = wire.until(answer.json()["job_id"])
    assert done["status"] == "FAILED"
    assert done["message"].startswith("DLI.000")
    assert wire.rows("SELECT 1") == [[1]]


@pytest.mark.matrix
def test_a_query_that_needs_too_much_memory_fails_alone(wire):
    done = wire.until(wire.start("SELECT array_agg(id) FROM range(400000000)"), timeout=30)
    assert (done["status"], done["message"][:8]) == ("FAILED", "DLI.0009")
    assert wire.rows("SELECT 1") == [[1]]
