"""The list with its filters, export of results, detail, queues."""

import bz2
import csv
import gzip
import json
import zlib

import pytest

from airflow_provider_dli.local.handle import LocalDli

from .conftest import Wire

pytestmark = pytest.mark.matrix

LONG = "SELECT count(*) FROM range(1000000000000)"


def tag(**tags):
    return [{"key": key, "value": value} for key, value in tags.items()]


class TestList:
    @pytest.fixture
    def jobs(self, wire, dli_local):
        """Five ended jobs and a running one, by a short name."""
        dli_local.settings(queues={"default": 16, "other": 1})
        submitted = {
            "query": wire.start("SELECT 1 AS Needle", tags=tag(team="data eng", run="a-17")),
            "other": wire.start("SELECT 2", queue_name="other", tags=tag(team="ops", run="a-18")),
            "ddl": wire.start("CREATE TABLE t (a INT)"),
            "insert": wire.start("INSERT INTO nowhere VALUES (1)"),
            "running": wire.start(LONG),
        }
        for name, job_id in submitted.items():
            wire.until(job_id, *(["RUNNING"] if name == "running" else []))
        return submitted

    def found(self, wire, jobs, **query):
        answer = wire.get("jobs", params={name.replace("__", "-"): value for name, value in query.items()})
        assert answer.status_code == 200, answer.text
        content = answer.json()
        assert content["job_count"] == len(content["jobs"])
        names = {job_id: name for name, job_id in jobs.items()}
        return [names[job["job_id"]] for job in content["jobs"]]

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({}, ["running", "insert", "ddl", "other", "query"]),
            ({"order": "start_time_asc"}, ["query", "other", "ddl", "insert", "running"]),
            ({"job__type": "QUERY"}, ["running", "other", "query"]),
            ({"job__type": "ALL"}, ["running", "insert", "ddl", "other", "query"]),
            ({"job_types": "DDL,INSERT"}, ["insert", "ddl"]),
            ({"job_types": "DDL,INSERT", "job__type": "INSERT"}, ["insert"]),
            ({"job_types": "DDL", "job__type": "QUERY"}, []),
            ({"job__status": "RUNNING"}, ["running"]),
            ({"job__status": "FAILED"}, ["insert"]),
            ({"queue_name": "OTHER"}, ["other"]),
            ({"sql_pattern": "needle"}, ["query"]),
            ({"owner": "dli"}, ["running", "insert", "ddl", "other", "query"]),
            ({"owner": "nobody"}, []),
            ({"db_name": "default", "table_name": "t"}, ["ddl"]),
            ({"db_name": "db1"}, []),
            ({"engine_type": "spark", "engine-type": "spark", "job__status": "RUNNING"}, ["running"]),
            ({"engine-type": "hetuEngine"}, []),
            ({"tags": "run=a-17"}, ["query"]),
            ({"tags": "run=a-1"}, ["other", "query"]),
            ({"tags": "run=a-1,team=eng"}, ["query"]),
            ({"tags": "ops"}, ["other"]),
            ({"tags": "run=b"}, []),
        ],
    )
    def test_filters(self, wire, jobs, query, expected):
        assert self.found(wire, jobs, **query) == expected

    def test_one_job(self, wire, jobs):
        assert self.found(wire, jobs, **{"job-id": jobs["ddl"]}) == ["ddl"]

    def test_by_start_time(self, wire, jobs):
        times = {name: wire.status(job_id)["start_time"] for name, job_id in jobs.items()}
        assert "ddl" in self.found(wire, jobs, start=times["ddl"], end=times["ddl"])
        assert self.found(wire, jobs, start=times["running"] + 1) == []
        assert self.found(wire, jobs, end=times["query"] - 1) == []

    def test_by_duration(self, wire, jobs, dli_local):
        # The first query of a server may take a while, and the one that runs has to outlast it.
        dli_local.wait_until(lambda _: self.found(wire, jobs, order="duration_desc")[0] == "running")
        assert self.found(wire, jobs, order="duration_asc")[-1] == "running"

    def test_a_line_of_the_list(self, wire, jobs):
        (line,) = wire.get("jobs", params={"job-id": jobs["query"]}).json()["jobs"]
        assert (line["status"], line["statement"], line["result_count"]) == ("FINISHED", "SELECT 1 AS Needle", 1)
        assert line["tags"] == tag(team="data eng", run="a-17")
        assert line["start_time"] + line["duration"] == line["end_time"]
        assert json.loads(line["detail"])["fields"][0] == {
            "name": "Needle",
            "type": "integer",
            "nullable": True,
            "metadata": {},
        }

    def test_pages(self, wire, dli_local):
        dli_local.will(times=250)
        sent = [wire.start("select 1") for _ in range(7)]
        pages = [wire.get("jobs", params={"page-size": 3, "current-page": page}).json() for page in (1, 2, 3, 4)]
        assert [page["job_count"] for page in pages] == [7] * 4
        assert [job["job_id"] for page in pages for job in page["jobs"]] == sent[::-1]
        assert [len(page["jobs"]) for page in pages] == [3, 3, 1, 0]

    @pytest.mark.parametrize(
        "query",
        [
            {"page-size": 0},
            {"page-size": 101},
            {"current-page": 101},
            {"current-page": "x"},
            {"order": "random"},
            {"job-status": "DONE"},
            {"job-type": "EVERY"},
            {"job_types": "QUERY,EVERY"},
            {"engine_type": "hetuEngine"},
            {"start": -1},
        ],
    )
    def test_what_is_refused(self, wire, query):
        answer = wire.get("jobs", params=query)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "DLI.0001")
        assert next(iter(query)) in answer.json()["error_msg"]


@pytest.fixture(scope="module")
def exporter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("obs")
    with LocalDli.start(obs=str(folder)) as dli:
        wire = Wire(dli)
        source = wire.run("SELECT id, concat('Zoë \"', id, '\"') AS name FROM range(3) ORDER BY id")["job_id"]
        yield wire, folder, source


class TestExport:
    def export(self, exporter, path, **body):
        wire, folder, source = exporter
        body = {"data_path": f"obs://bucket/{path}", "data_type": "csv", **body}
        answer = wire.call("POST", f"jobs/{source}/export-result", json=body)
        assert answer.status_code == 200, answer.text
        done = wire.until(answer.json()["job_id"])
        (file,) = (folder / "bucket" / path).glob("part-*") if done["status"] == "FINISHED" else [None]
        return done, file

    def test_csv(self, exporter):
        done, file = self.export(exporter, "csv", with_column_header="true")
        assert (done["job_type"], done["result_count"]) == ("EXPORT", 3)
        assert file.name == "part-00000.csv"
        rows = list(csv.reader(file.open(), escapechar="\\", doublequote=False))
        assert rows == [["id", "name"], ["0", 'Zoë "0"'], ["1", 'Zoë "1"'], ["2", 'Zoë "2"']]
        assert (file.parent / "_SUCCESS").exists()

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("csv", 'NaN,Infinity,-Infinity,1.5,"say ""NaN"""\n'),
            (
                "json",
                '{"a":"NaN","b":"Infinity","c":"-Infinity","n":1.5,"t":"say \\"NaN\\""}\n',
            ),
        ],
    )
    def test_numbers_that_are_not_finite(self, exporter, kind, expected):
        wire, folder, _ = exporter
        source = wire.run(
            "SELECT double('NaN') AS a, double('inf') AS b, float('-inf') AS c, double(1.5) AS n, 'say \"NaN\"' AS t"
        )["job_id"]
        _, file = self.export((wire, folder, source), f"not-finite-{kind}", data_type=kind, escape_char='"')
        assert file.read_text() == expected

    def test_json_with_a_limit(self, exporter):
        _, file = self.export(exporter, "json", data_type="JSON", limit_num=2)
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert lines == [{"id": 0, "name": 'Zoë "0"'}, {"id": 1, "name": 'Zoë "1"'}]

    @pytest.mark.parametrize(
        ("compress", "ending", "open_it"),
        [
            ("gzip", ".gz", gzip.decompress),
            ("bzip2", ".bz2", bz2.decompress),
            ("deflate", ".deflate", zlib.decompress),
        ],
    )
    def test_compressed(self, exporter, compress, ending, open_it):
        _, file = self.export(exporter, compress, data_type="json", compress=compress)
        assert file.name == f"part-00000.json{ending}"
        assert len(open_it(file.read_bytes()).splitlines()) == 3

    def test_another_encoding(self, exporter):
        _, file = self.export(exporter, "gbk", encoding_type="gbk")
        assert "Zo" in file.read_bytes().decode("gbk")

    def test_a_folder_that_exists(self, exporter):
        _, file = self.export(exporter, "twice")
        (file.parent / "other.csv").touch()
        again, _ = self.export(exporter, "twice")
        assert (again["status"], again["message"][:8]) == ("FAILED", "DLI.0006")
        over, file = self.export(exporter, "twice", export_mode="Overwrite")
        assert over["status"] == "FINISHED"
        assert not (file.parent / "other.csv").exists()

    def test_the_detail_tells_the_settings(self, exporter):
        done, _ = self.export(exporter, "detail", compress="gzip")
        detail = exporter[0].get(f"jobs/{done['job_id']}/detail").json()
        assert (detail["data_path"], detail["data_type"], detail["compress"], detail["export_mode"]) == (
            "obs://bucket/detail",
            "csv",
            "gzip",
            "ErrorIfExists",
        )
        assert "data_path" not in exporter[0].get(f"jobs/{exporter[2]}/detail").json()

    def test_an_empty_result(self, exporter):
        wire, folder, _ = exporter
        source = wire.run("SELECT id FROM range(0)")["job_id"]
        done, file = self.export((wire, folder, source), "empty")
        assert (done["status"], file.read_bytes()) == ("FINISHED", b"")

    @pytest.mark.parametrize(
        "path", ["obs://bucket/../x", "obs://bucket", "obs://bucket/a,b", "s3://bucket/a", "obs://b/a:b", "obs://b/.x"]
    )
    def test_paths_that_are_refused(self, exporter, path):
        wire, _, source = exporter
        answer = wire.call("POST", f"jobs/{source}/export-result", json={"data_path": path, "data_type": "csv"})
        assert (answer.status_code, answer.json()["error_code"]) == (400, "DLI.0001")

    def test_only_finished_queries(self, exporter):
        wire, _, _ = exporter
        body = {"data_path": "obs://bucket/never", "data_type": "csv"}
        for source, code in [
            (wire.start(LONG), "DLI.0007"),
            (wire.run("CREATE TABLE t (a INT)")["job_id"], "DLI.0007"),
            ("unknown", "DLI.0002"),
        ]:
            answer = wire.call("POST", f"jobs/{source}/export-result", json=body)
            assert (answer.status_code, answer.json()["error_code"]) == (400, code)
            wire.cancel(source)

    def test_a_cancel_leaves_no_files(self, exporter):
        wire, folder, _ = exporter
        source = wire.run("SELECT id, md5(cast(id AS STRING)) AS a FROM range(1500000)")["job_id"]
        body = {"data_path": "obs://bucket/cancelled", "data_type": "json", "compress": "bzip2"}
        job_id = wire.call("POST", f"jobs/{source}/export-result", json=body).json()["job_id"]
        wire.until(job_id, "RUNNING")
        wire.cancel(job_id)
        assert wire.until(job_id)["status"] == "CANCELLED"
        assert not (folder / "bucket" / "cancelled").exists()


class TestPreview:
    @pytest.mark.parametrize("query", [{}, {"queue-name": "default"}])
    def test_the_queue_default_shows_no_rows(self, dli_local, token, query):
        wire = Wire(dli_local, token)
        dli_local.settings(preview_on_default="refused")
        job_id = wire.run("SELECT 1")["job_id"]
        answer = wire.get(f"jobs/{job_id}/preview", params=query)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "DLI.0007")
        assert answer.json()["error_msg"] == "Do not support use default queue to getJobResult"

    def test_a_column_as_fields(self, dli_local, wire):
        dli_local.settings(columns="fields")
        job_id = wire.run("SELECT 1 AS one")["job_id"]
        assert wire.get(f"jobs/{job_id}/preview").json()["schema"] == [{"name": "one", "type": "int"}]

    @pytest.mark.parametrize("sql", [LONG, "SELECT * FROM nowhere", "INSERT INTO nowhere SELECT 1"])
    def test_a_job_without_a_result(self, wire, sql):
        job_id = wire.start(sql)
        wire.until(job_id, "RUNNING", "FAILED")
        answer = wire.get(f"jobs/{job_id}/preview")
        assert (answer.status_code, answer.json()["error_code"]) == (400, "DLI.0007")

    @pytest.mark.parametrize("query", [{"page-size": 0}, {"page-size": 1001}, {"queue-name": "unknown"}])
    def test_what_is_refused(self, wire, query):
        job_id = wire.run("SELECT 1")["job_id"]
        assert wire.get(f"jobs/{job_id}/preview", params=query).status_code == 400


class TestQueues:
    def test_list_and_detail(self, wire, dli_local):
        dli_local.settings(queues={"default": 1, "etl": 2})
        queues = wire.get("queues").json()["queues"]
        assert [queue["queue_name"] for queue in queues] == ["default", "etl"]
        page = wire.get("queues", params={"page-size": 1, "current-page": 2}).json()["queues"]
        assert [queue["queue_name"] for queue in page] == ["etl"]
        general = wire.get("queues", params={"queue_type": "general"}).json()["queues"]
        assert [queue["queue_name"] for queue in general] == ["general"]
        detail = wire.get("queues/ETL").json()
        assert (detail["queueName"], detail["queueType"], "queue_name" in detail) == ("etl", "sql", False)

    def test_an_unknown_one(self, wire):
        answer = wire.get("queues/testqueue")
        expected = {"error_code": "DLI.0002", "error_msg": "There is no queue named testqueue"}
        assert (answer.status_code, answer.json()) == (400, expected)
