"""The SQL of Flink jobs: it runs for real where its sources have an end."""

import time

import pace
import pytest

from .flink import BOUNDED, SINK, SOURCE, STREAM, Flink

pytestmark = pytest.mark.matrix


@pytest.fixture
def flink(wire):
    return Flink(wire)


def test_a_bounded_job_finishes(flink):
    found = flink.finished(BOUNDED)
    assert (found["status"], found["status_desc"]) == ("job_finish", "")
    assert found["sql_body"] == BOUNDED


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_rows_arrive_in_their_sink_and_can_be_read_again(flink, wire, kind):
    sink = SINK.format(connector="filesystem", format=kind)
    query = "INSERT INTO sink SELECT id, twice FROM numbers WHERE id > 1"
    assert flink.finished(SOURCE.format(rows=3, rate=1000) + sink + query)["status"] == "job_finish"
    copy = sink.replace("sink", "copy").replace("/out", "/copy")
    found = flink.finished(f"{sink}{copy}; INSERT INTO copy SELECT id, twice + 1 FROM sink")
    assert found["status"] == "job_finish", found
    columns = "(id INT, twice BIGINT)"
    wire.run(f"CREATE TABLE copied_{kind} {columns} USING {kind} OPTIONS (path 'obs://bucket/copy')")
    assert sorted(wire.rows(f"SELECT id, twice FROM copied_{kind}")) == [[2, 5], [3, 7]]


def test_an_overwrite_replaces_what_is_there(flink, dli_local, wire):
    sink = SINK.format(connector="filesystem", format="csv")
    for number in (1, 2):
        found = flink.finished(f"{sink} INSERT OVERWRITE sink SELECT {number}, 0")
        assert found["status"] == "job_finish", found
    wire.run("CREATE TABLE overwritten (id INT, twice BIGINT) USING csv OPTIONS (path 'obs://bucket/out')")
    assert wire.rows("SELECT * FROM overwritten") == [[2, 0]]


def test_views_and_statement_sets(flink):
    sinks = BOUNDED.rpartition("INSERT")[0]
    sql = f"{sinks} CREATE VIEW some AS SELECT id FROM numbers WHERE id < 3; BEGIN STATEMENT SET; "
    sql += "INSERT INTO sink (id) SELECT id FROM some; INSERT INTO sink SELECT 1, 2; END;"
    assert flink.finished(sql)["status"] == "job_finish"


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("", "no INSERT"),
        ("selec 1", "ParseException"),
        ("CREATE TABLE x (a INT)", "WITH"),
        ("CREATE TABLE x (a NONSENSE b) WITH ('connector' = 'print'); SELECT 1", "NONSENSE"),
        ("SELECT * FROM nowhere", "Object 'nowhere' not found"),
        ("INSERT INTO nowhere SELECT 1", "Object 'nowhere' not found"),
        ("DROP TABLE x", "mismatched input 'DROP'"),
    ],
)
def test_sql_that_does_not_parse_fails_when_it_is_submitted(flink, sql, reason):
    found = flink.finished(sql)
    assert (found["status"], found["start_time"]) == ("job_submit_fail", None)
    assert found["status_desc"].startswith("DLI.0004: ParseException: ")
    assert reason in found["status_desc"]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("SELECT nothing FROM numbers", "DLI.0005: AnalysisException"),
        ("SELECT CAST('x' AS INT) FROM numbers", "DLI.0018: NumberFormatException"),
        ("INSERT INTO sink SELECT 1", "takes 2 columns"),
        ("CREATE TABLE k (a INT) WITH ('connector' = 'kafka'); INSERT INTO k SELECT id FROM numbers", "kafka"),
    ],
)
def test_an_error_of_a_query_ends_the_job(flink, query, reason):
    found = flink.finished(BOUNDED.rpartition("INSERT")[0] + query)
    assert found["status"] == "job_running_exception"
    assert reason in found["status_desc"]


def test_a_source_without_an_end_runs_until_it_is_stopped(flink):
    kafka = "CREATE TABLE k (a INT) WITH ('connector' = 'kafka'); SELECT * FROM k"
    jobs = [flink.running(flink.draft(sql)) for sql in (STREAM, kafka)]
    time.sleep(0.2)
    assert [flink.status(job_id) for job_id in jobs] == ["job_running", "job_running"]


def test_a_source_takes_the_time_of_its_rate(flink):
    began = time.monotonic()
    assert flink.finished(BOUNDED.replace("'1000'", "'3'"))["status"] == "job_finish"
    assert time.monotonic() - began > 1


def test_a_stop_interrupts_the_query(flink, dli_local):
    sql = "SELECT count(*) FROM range(1000000000000)"
    job_id = flink.running(flink.draft(sql))
    time.sleep(0.2)
    flink.stop(job_id)
    assert flink.until(job_id, timeout=3)["status"] == "job_cancel_success"
    job = dli_local.job(str(job_id))
    assert job.ended_at < job.cancel_requests[0] + pace.seconds(1)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM '{file}'",
        "CREATE TABLE f (a STRING) WITH ('connector' = 'filesystem', 'path' = '{file}'); SELECT * FROM f",
        "CREATE TABLE f (a STRING) WITH ('connector' = 'filesystem', 'path' = 'obs://b/../{file}'); SELECT * FROM f",
        "CREATE TABLE f (a STRING, b AS (SELECT content FROM read_text('{file}'))) WITH ('connector' = 'datagen', "
        "'number-of-rows' = '1'); SELECT * FROM f",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM information_schema.tables",
    ],
)
def test_it_reaches_nothing_outside(flink, tmp_path, sql):
    file = tmp_path / "outside.txt"
    file.write_text("secret")
    assert flink.finished(sql.format(file=file))["status"] in ("job_submit_fail", "job_running_exception")
