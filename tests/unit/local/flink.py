"""A bare client of the Flink calls of the local DLI."""

import time

import pace

ENDS = ("job_finish", "job_cancel_success", "job_running_exception", "job_submit_fail")
SOURCE = """
CREATE TABLE numbers (id INT, twice AS id * 2, word STRING, WATERMARK FOR ts AS ts - INTERVAL '5' SECOND, ts TIMESTAMP(3))
WITH ('connector' = 'datagen', 'number-of-rows' = '{rows}', 'rows-per-second' = '{rate}',
      'fields.id.kind' = 'sequence', 'fields.id.start' = '1', 'fields.id.end' = '{rows}', 'fields.word.length' = '4');
"""
SINK = """
CREATE TABLE sink (id INT, twice BIGINT) WITH ('connector' = '{connector}', 'path' = 'obs://bucket/out', 'format' = '{format}');
"""
BOUNDED = SOURCE.format(rows=3, rate=1000) + SINK.format(connector="print", format="csv")
BOUNDED += "INSERT INTO sink SELECT id, twice FROM numbers"
STREAM = "CREATE TABLE numbers (id INT) WITH ('connector' = 'datagen'); SELECT count(*) FROM numbers"


class Flink:
    """Calls about Flink jobs."""

    def __init__(self, wire):
        self.wire = wire

    def create(self, kind="sql", **body):
        body = {"name": f"job{time.monotonic_ns()}", "queue_name": "default"} | body
        if kind == "sql":
            body = {"run_mode": "exclusive_cluster", "job_type": "flink_opensource_sql_job"} | body
        return self.wire.call("POST", f"streaming/{'sql' if kind == 'sql' else 'flink'}-jobs", json=body)

    def draft(self, sql=STREAM, **body):
        """Create a SQL job and return its id."""
        answer = self.create(sql_body=sql, **body)
        assert answer.status_code == 200, answer.text
        return answer.json()["job"]["job_id"]

    def jar(self, **body):
        answer = self.create("jar", **{"entrypoint": "obs://bucket/a.jar"} | body)
        assert answer.status_code == 200, answer.text
        return answer.json()["job"]["job_id"]

    def run(self, *job_ids, **body):
        return self.wire.call("POST", "streaming/jobs/run", json={"job_ids": job_ids, **body})

    def stop(self, *job_ids, **body):
        return self.wire.call("POST", "streaming/jobs/stop", json={"job_ids": job_ids, **body})

    def call(self, method, job_id):
        return self.wire.call(method, f"streaming/jobs/{job_id}")

    def get(self, job_id):
        answer = self.call("GET", job_id)
        assert answer.status_code == 200, answer.text
        return answer.json()["job_detail"]

    def status(self, job_id):
        return self.get(job_id)["status"]

    def list(self, **query):
        answer = self.wire.get("streaming/jobs", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["job_list"]

    def names(self, **query):
        return [job["name"] for job in self.list(**query)["jobs"]]

    def until(self, job_id, *states, timeout=10):
        deadline = time.monotonic() + pace.seconds(timeout)
        while True:
            found = self.get(job_id)
            if found["status"] in (states or ENDS):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.01)

    def running(self, job_id, **body):
        """Run a job and wait until it is running."""
        assert self.run(job_id, **body).status_code == 200
        self.until(job_id, "job_running")
        return job_id

    def finished(self, sql, **body):
        """Run SQL and return the job at its end."""
        job_id = self.draft(sql, **body)
        assert self.run(job_id).status_code == 200
        return self.until(job_id)


def refusal(answer):
    """Code of a call that was refused in the default form, an array."""
    assert answer.status_code == 400, answer.text
    (error,) = answer.json()
    return error["error_code"]
