"""SQL jobs from submit to their end: states, cancel, timeout, queues, scripts."""

import time

import pace
import pytest
import requests

LONG = "SELECT count(*) FROM range(1000000000000)"


def test_a_query_runs_for_real(wire):
    job_id = wire.start("SELECT id, id * 2 AS twice FROM range(3) ORDER BY id DESC")
    done = wire.until(job_id)
    assert (done["status"], done["message"], done["result_count"]) == ("FINISHED", "", 3)
    assert (done["job_type"], done["job_mode"], done["queue_name"], done["owner"]) == (
        "QUERY",
        "async",
        "default",
        "dli",
    )
    preview = wire.get(f"jobs/{job_id}/preview").json()
    assert preview["schema"] == [{"id": "bigint"}, {"twice": "bigint"}]
    assert preview["rows"] == [[2, 4], [1, 2], [0, 0]]
    assert wire.get(f"jobs/{job_id}/progress", version="v1").json()["progress"] == 1


def test_what_was_submitted_is_shown_again(wire, dli_local):
    tags = [{"key": "team", "value": "a b"}]
    before = time.time()
    job_id = wire.start("select 1", tags=tags, conf=["spark.sql.shuffle.partitions = 20", "a=b=c"])
    found = wire.until(job_id)
    assert (found["statement"], found["tags"]) == ("select 1", tags)
    assert before - 1 < found["start_time"] / 1000 < time.time() + 1
    assert 0 <= found["duration"] < 5000
    job = dli_local.job(job_id)
    assert job.tags == {"team": "a b"}
    assert job.conf == ("spark.sql.shuffle.partitions = 20", "a=b=c")
    assert job.submitted_at <= job.started_at <= job.ended_at
    assert not job.is_active


def test_a_failure_carries_a_code_and_a_reason(wire):
    done = wire.run("SELECT nothing FROM nowhere")
    assert done["status"] == "FAILED"
    assert done["message"].startswith("DLI.0005: AnalysisException:")
    assert "nowhere" in done["message"]


def test_a_cancel_interrupts_the_query(wire, dli_local):
    job_id = wire.start(LONG)
    wire.until(job_id, "RUNNING")
    time.sleep(0.1)
    assert wire.cancel(job_id).json() == {"is_success": True, "message": ""}
    done = wire.until(job_id, timeout=3)
    assert done["status"] == "CANCELLED"
    job = dli_local.job(job_id)
    assert job.cancel_requests[0] <= job.ended_at < job.cancel_requests[0] + pace.seconds(1)


def test_a_cancelled_query_no_longer_burns_the_processor(wire, dli_local):
    job_id = wire.start(LONG)
    time.sleep(0.3)
    wire.cancel(job_id)
    wire.until(job_id)
    before = cpu_seconds(dli_local.pid)
    time.sleep(0.5)
    assert cpu_seconds(dli_local.pid) - before < pace.seconds(0.2)


def test_queries_run_side_by_side(wire):
    slow = wire.start(LONG)
    wire.until(slow, "RUNNING")
    assert wire.rows("SELECT 1") == [[1]]
    assert wire.status(slow)["status"] == "RUNNING"


def test_two_cancels_do_no_harm(wire, dli_local):
    dli_local.will(run_for=60, cancel_takes=0.5)
    job_id = wire.start("select 1")
    wire.until(job_id, "RUNNING")  # one that is not running yet has nothing to stop
    assert [wire.cancel(job_id).status_code for _ in range(2)] == [200, 200]
    assert wire.status(job_id)["status"] == "RUNNING", "cancelled only once it has really stopped"
    assert wire.until(job_id)["status"] == "CANCELLED"
    assert len(dli_local.job(job_id).cancel_requests) == 2


def test_a_job_that_has_ended_cannot_be_cancelled(wire, dli_local):
    job_id = wire.run("select 1")["job_id"]
    answer = wire.cancel(job_id)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "DLI.0007")
    dli_local.settings(cancel_ended="soft")
    answer = wire.cancel(job_id)
    assert (answer.status_code, answer.json()["is_success"]) == (200, False)
    dli_local.settings(flags="text")
    assert wire.cancel(job_id).json()["is_success"] == "false"
    assert wire.status(job_id)["is_success"] == "true"


def test_an_unknown_job(wire, dli_local):
    for call in (wire.cancel, lambda job_id: wire.get(f"jobs/{job_id}/status")):
        dli_local.settings(unknown_job="DLI.0002")
        answer = call("nothing-like-it")
        assert (answer.status_code, answer.json()["error_code"]) == (400, "DLI.0002")
        dli_local.settings(unknown_job="404")
        answer = call("nothing-like-it")
        assert (answer.status_code, answer.json()["error_code"]) == (404, "DLI.0023")


def test_dlis_own_timeout(wire):
    began = time.monotonic()
    done = wire.run(LONG, conf=["dli.sql.job.timeout = 1"])
    assert done["status"] == "CANCELLED"
    assert "dli.sql.job.timeout" in done["message"]
    assert 0.9 < time.monotonic() - began < pace.seconds(4)


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        ({"sql": " \n"}, "DLI.0001", "empty"),
        ({}, "DLI.0001", "sql"),
        ({"sql": 7}, "DLI.0001", "sql"),
        ({"sql": "selec 1"}, "DLI.0004", "ParseException"),
        ({"sql": "nonsense here"}, "DLI.0004", "mismatched input"),
        ({"sql": "select 1; select 2"}, "DLI.0004", "one statement"),
        ({"sql": "select " + "(" * 5000}, "DLI.0004", "ParseException"),
        ({"sql": "select '\ud800'"}, "DLI.0001", "sql"),
        ({"sql": "select 1", "queue_name": "Testqueue"}, "DLI.0002", "There is no queue named Testqueue"),
        ({"sql": "select 1", "currentdb": "_db"}, "DLI.0001", "currentdb"),
        ({"sql": "select 1", "currentdb": "123"}, "DLI.0001", "currentdb"),
        ({"sql": "select 1", "conf": ["novalue"]}, "DLI.0001", "conf"),
        ({"sql": "select 1", "conf": ["dli.sql.job.timeout=soon"]}, "DLI.0001", "dli.sql.job.timeout"),
        ({"sql": "select 1", "tags": [{"key": "_sys_a", "value": "b"}]}, "DLI.0001", "tags.0.key"),
        ({"sql": "select 1", "tags": [{"key": "a ", "value": "b"}]}, "DLI.0001", "tags.0.key"),
        ({"sql": "select 1", "tags": [{"key": "a", "value": "b=c"}]}, "DLI.0001", "tags.0.value"),
        ({"sql": "select 1", "tags": [{"key": "a", "value": "x" * 256}]}, "DLI.0001", "tags.0.value"),
        ({"sql": "select 1", "engine_type": "hetuEngine"}, "DLI.0001", "engine_type"),
    ],
)
def test_what_dli_refuses(wire, dli_local, body, code, reason):
    answer = wire.call("POST", "jobs/submit-job", json=body)
    assert (answer.status_code, answer.json()["error_code"]) == (400, code)
    assert reason in answer.json()["error_msg"]
    assert dli_local.jobs() == []


def test_a_trailing_semicolon_is_no_second_statement(wire):
    assert wire.rows("select 1;") == [[1]]


def test_other_content_types(wire):
    answer = wire.call("POST", "jobs/submit-job", data="sql=select 1")
    assert (answer.status_code, answer.json()["error_code"]) == (415, "DLI.0001")


def test_a_body_that_is_no_json(wire):
    answer = wire.call("POST", "jobs/submit-job", data=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error_code"]) == (400, "DLI.0001")


def test_a_body_over_the_limit(wire):
    try:
        answer = wire.submit("select '" + "x" * (12 * 1024 * 1024) + "'")
    except requests.ConnectionError:
        return  # refused before the client had sent everything
    assert (answer.status_code, answer.json()["error_code"]) == (413, "APIG.0201")


class TestScripts:
    def test_a_job_that_fails_after_a_while(self, wire, dli_local):
        dli_local.will(run_for=0.3, then="FAILED", message="DLI.0999: lost its executor", launching_for=0.2)
        began = time.monotonic()
        job_id = wire.start("this is not even SQL")
        assert wire.status(job_id)["status"] == "LAUNCHING"
        wire.until(job_id, "RUNNING")
        done = wire.until(job_id)
        assert (done["status"], done["message"]) == ("FAILED", "DLI.0999: lost its executor")
        assert time.monotonic() - began > 0.45

    def test_matching_and_times(self, wire, dli_local):
        dli_local.will(matching="orders", then="FAILED", message="DLI.0005: scripted", times=2)
        ends = [wire.run(f"select '{word}'")["status"] for word in ("orders", "other", "orders", "orders")]
        assert ends == ["FAILED", "FINISHED", "FAILED", "FINISHED"]

    def test_rows(self, wire, dli_local):
        dli_local.will(rows=[[1, "x"], [2, None]])
        assert wire.rows("select a, b from somewhere") == [[1, "x"], [2, None]]

    @pytest.mark.parametrize("state", ["RUNNING", "LAUNCHING", "PONDERING"])
    def test_a_job_that_is_stuck_can_still_be_cancelled(self, wire, dli_local, state):
        dli_local.will(stuck_in=state)
        job_id = wire.start("select 1")
        wire.until(job_id, state)
        time.sleep(0.1)
        assert wire.status(job_id)["status"] == state
        wire.cancel(job_id)
        assert wire.until(job_id)["status"] == "CANCELLED"

    def test_a_job_cancelled_by_somebody_else(self, wire, dli_local):
        dli_local.will(then="CANCELLED", message="an administrator did it")
        done = wire.run("select 1")
        assert (done["status"], done["message"]) == ("CANCELLED", "an administrator did it")


class TestQueues:
    def test_jobs_wait_in_launching_while_the_queue_is_full(self, wire, dli_local):
        dli_local.settings(queues={"default": 1, "other": 1})
        dli_local.will(run_for=60, times=3)
        first, second, third = (wire.start("select 1") for _ in range(3))
        wire.until(first, "RUNNING")
        time.sleep(0.1)
        assert wire.status(second)["status"] == "LAUNCHING"
        assert wire.run("select 2", queue_name="OTHER")["queue_name"] == "other"
        wire.cancel(second)
        assert wire.until(second)["status"] == "CANCELLED", "without ever having run"
        assert dli_local.job(second).started_at is None
        wire.cancel(first)
        wire.until(third, "RUNNING")

    def test_more_capacity_lets_waiting_jobs_in(self, wire, dli_local):
        dli_local.settings(queues={"default": 0})
        job_id = wire.start("select 1")
        assert wire.status(job_id)["status"] == "LAUNCHING"
        dli_local.settings(queues={"default": 1})
        assert wire.until(job_id)["status"] == "FINISHED"


def test_a_reset_interrupts_and_forgets(wire, dli_local):
    job_id = wire.start(LONG)
    wire.until(job_id, "RUNNING")
    dli_local.will(times=5, then="FAILED")
    dli_local.settings(flags="text")
    wire.run("select 1")
    dli_local.reset()
    assert wire.get("jobs").json() == {"is_success": True, "message": "", "job_count": 0, "jobs": []}
    assert wire.run("select 1")["status"] == "FINISHED"
    before = cpu_seconds(dli_local.pid)
    time.sleep(0.3)
    assert cpu_seconds(dli_local.pid) - before < pace.seconds(0.15)


def test_requests_are_logged_with_their_connection(wire, dli_local):
    job_id = wire.start("select 1")
    wire.until(job_id)
    requests.get(f"{dli_local.url}/v1.0/nowhere", timeout=10)
    log = dli_local.requests()
    assert [line.call for line in log if line.call != "status"] == ["submit", "unknown"]
    assert {line.connection for line in log[:-1]} == {log[0].connection}
    assert log[-1].connection != log[0].connection
    assert (log[0].job_id, log[0].status) == (job_id, 200)
    assert {line.job_id for line in dli_local.requests("status")} == {job_id}
    assert dli_local.requests(since=log[-2].seq) == log[-1:]


def cpu_seconds(pid):
    import psutil

    times = psutil.Process(pid).cpu_times()
    return times.user + times.system
