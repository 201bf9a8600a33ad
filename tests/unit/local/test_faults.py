"""Every fault, seen from the client's end of the wire."""

import socket
import threading
import time

import pace
import pytest
import requests

from airflow_provider_dli.local.dli.faults import KINDS


@pytest.fixture
def job_id(wire):
    return wire.start("select 1")


def raw_get(wire, path, seconds):
    """What comes over a bare socket within so many seconds."""
    host, port = wire.dli.url.partition("://")[2].split(":")
    token = wire.http.headers["X-Auth-Token"]
    head = f"GET /v1.0/{wire.dli.project_id}/{path} HTTP/1.1\r\nHost: {host}\r\nX-Auth-Token: {token}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(head.encode())
        connection.settimeout(0.05)
        received, deadline = b"", time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                part = connection.recv(4096)
            except TimeoutError:
                continue
            if not part:
                return received, True
            received += part
        return received, False


def test_latency(wire, dli_local, job_id):
    dli_local.fault("status", "latency", seconds=0.3)
    began = time.monotonic()
    assert wire.status(job_id)["is_success"] is True
    assert time.monotonic() - began >= 0.3


def test_a_status_with_code_and_retry_after(wire, dli_local, job_id):
    dli_local.fault("status", "status", status=429, error_msg="slow down", retry_after=7)
    answer = wire.get(f"jobs/{job_id}/status")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert answer.json() == {"error_code": "APIG.0308", "error_msg": "slow down"}
    dli_local.fault("status", "status", status=502, body="<html>bad gateway</html>")
    answer = wire.get(f"jobs/{job_id}/status")
    assert (answer.status_code, answer.headers["Content-Type"]) == (502, "text/html")


@pytest.mark.parametrize("status", [204, 299, 304, 418, 494, 520, 599])
def test_any_status(wire, dli_local, status):
    dli_local.fault("list", "status", status=status)
    dli_local.fault("list", "drip", seconds=0)
    assert wire.get("jobs").status_code == status
    assert wire.get("jobs").status_code == 200
    dli_local.fault("token", "status", status=status, work_done=True)
    assert requests.post(f"{dli_local.url}/v3/auth/tokens", json={}, timeout=10).status_code == status


@pytest.mark.parametrize(
    "details", [{"status": 100}, {"status": 600}, {"retry_after": "1\r\nX: y"}, {"location": "ü\n"}, {"seconds": -1}]
)
def test_what_http_cannot_say(dli_local, details):
    with pytest.raises(ValueError, match=next(iter(details))):
        dli_local.fault("list", "redirect", **details)


class TestFaultsOfACancel:
    """Each for one job, and others are cancelled as ever."""

    @pytest.fixture
    def jobs(self, wire, dli_local):
        dli_local.will(run_for=60, times=2)
        jobs = [wire.start("select 1") for _ in range(2)]
        for job_id in jobs:
            wire.until(job_id, "RUNNING")
        yield jobs
        assert wire.cancel(jobs[1]).json()["is_success"] is True
        assert wire.until(jobs[1])["status"] == "CANCELLED"

    def test_a_hang_on_one_connection(self, wire, dli_local, jobs):
        dli_local.fault("cancel", "hang", matching=jobs[0])
        with pytest.raises(requests.ReadTimeout):
            wire.call("DELETE", f"jobs/{jobs[0]}", timeout=0.3)
        assert wire.status(jobs[0])["status"] == "RUNNING"
        assert wire.cancel(jobs[0]).json()["is_success"] is True
        assert wire.until(jobs[0])["status"] == "CANCELLED"
        assert [request.status for request in dli_local.requests("cancel")] == [None, 200]

    def test_a_hang_does_not_block_another_connection(self, wire, dli_local, jobs):
        from .conftest import Wire

        dli_local.fault("cancel", "hang", matching=jobs[0], seconds=1.5)
        ended = []

        def hang():
            with pytest.raises(requests.ConnectionError):
                Wire(dli_local, wire.http.headers["X-Auth-Token"]).cancel(jobs[0])
            ended.append(time.monotonic())

        hanging = threading.Thread(target=hang)
        hanging.start()
        dli_local.wait_until(lambda dli: dli.requests("cancel"))
        assert wire.cancel(jobs[0]).json()["is_success"] is True
        answered = time.monotonic()
        hanging.join()
        assert answered < ended[0]

    def test_a_drip(self, wire, dli_local, jobs):
        dli_local.fault("cancel", "drip", matching=jobs[0], seconds=0.2)
        with pytest.raises(requests.ReadTimeout):
            wire.call("DELETE", f"jobs/{jobs[0]}", timeout=0.1)
        assert wire.until(jobs[0])["status"] == "CANCELLED"

    def test_503_six_times(self, wire, dli_local, jobs):
        dli_local.fault("cancel", "status", matching=jobs[0], status=503, times=6)
        assert [wire.cancel(jobs[0]).status_code for _ in range(7)] == [503] * 6 + [200]

    def test_a_soft_failure(self, wire, dli_local, jobs):
        dli_local.fault("cancel", "soft_failure", matching=jobs[0])
        assert wire.cancel(jobs[0]).json()["is_success"] is False
        assert wire.status(jobs[0])["status"] == "RUNNING"

    def test_a_bad_parameter(self, wire, dli_local, jobs):
        dli_local.fault("cancel", "status", matching=jobs[0], status=400, error_code="DLI.0001")
        answer = wire.cancel(jobs[0])
        assert (answer.status_code, answer.json()["error_code"]) == (400, "DLI.0001")


def test_the_answer_lost_after_the_work_was_done(wire, dli_local):
    dli_local.fault("submit", "status", status=504, work_done=True)
    assert wire.submit("select 1").status_code == 504
    assert len(dli_local.jobs()) == 1
    assert dli_local.requests("submit")[0].job_id == dli_local.jobs()[0].job_id


@pytest.mark.parametrize(("kind", "jobs"), [("drop_before", 0), ("drop_after", 1)])
def test_a_dropped_connection(wire, dli_local, kind, jobs):
    dli_local.fault("submit", kind)
    with pytest.raises(requests.ConnectionError):
        wire.submit("select 1")
    assert len(dli_local.jobs()) == jobs
    assert dli_local.requests("submit")[0].status is None
    assert wire.submit("select 1").status_code == 200


@pytest.mark.parametrize(("kind", "jobs"), [("hang", 0), ("hang_after", 1)])
def test_a_call_that_is_never_answered(wire, dli_local, kind, jobs):
    dli_local.fault("submit", kind)
    with pytest.raises(requests.ReadTimeout):
        wire.call("POST", "jobs/submit-job", json={"sql": "select 1"}, timeout=0.4)
    assert len(dli_local.jobs()) == jobs


def test_a_hang_ends_with_a_closed_connection(wire, dli_local):
    dli_local.fault("list", "hang", seconds=0.2)
    assert raw_get(wire, "jobs", 3) == (b"", True)


def test_a_drip(wire, dli_local):
    dli_local.fault("list", "drip", seconds=0.1)
    received, closed = raw_get(wire, "jobs", 1)
    assert not closed
    assert b"HTTP/1.1 200".startswith(received)
    assert 5 <= len(received) <= 12
    dli_local.fault("list", "drip", seconds=0.0001)
    assert wire.get("jobs").json()["jobs"] == [], "whole in the end"


def test_a_truncated_body(wire, dli_local):
    dli_local.fault("list", "truncate")
    received, closed = raw_get(wire, "jobs", 3)
    head, _, body = received.partition(b"\r\n\r\n")
    assert closed
    assert b"200 OK" in head
    assert 0 < len(body) < int(head.lower().partition(b"content-length: ")[2].split()[0])


def test_an_empty_body(wire, dli_local):
    dli_local.fault("list", "empty")
    answer = wire.get("jobs")
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_page_instead_of_json(wire, dli_local):
    dli_local.fault("list", "html")
    assert wire.get("jobs").text.startswith("<html>")


def test_a_huge_body(wire, dli_local):
    dli_local.fault("list", "huge", size=3_000_000)
    answer = wire.get("jobs")
    assert len(answer.content) == 3_000_000
    assert answer.json()["is_success"] is True


def test_a_bomb(wire, dli_local):
    dli_local.fault("list", "bomb", size=50_000_000)
    answer = requests.get(f"{dli_local.url}/v1.0/{dli_local.project_id}/jobs", headers=wire.http.headers, stream=True)
    assert int(answer.headers["Content-Length"]) < 100_000
    assert len(answer.content) > 50_000_000
    assert answer.json() == {}


@pytest.mark.parametrize("value", [7, "text", [], {}, None])
def test_a_field_of_another_type(wire, dli_local, job_id, value):
    dli_local.fault("list", "field", field="job_id", value=value)
    dli_local.fault("status", "field", value=value)
    answer = wire.get("jobs").json()
    assert [job["job_id"] for job in answer["jobs"]] == [value]
    assert answer["jobs"][0]["queue_name"] == "default"
    assert all(found == value for found in wire.status(job_id).values())


def test_a_redirect(wire, dli_local):
    dli_local.fault("list", "redirect", location="http://127.0.0.1:9/trap")
    answer = wire.get("jobs")
    assert (answer.status_code, answer.headers["Location"]) == (302, "http://127.0.0.1:9/trap")


def test_a_token_that_dies_early(dli_local):
    from .conftest import Wire

    own = Wire(dli_local)
    dli_local.fault("list", "expired_token")
    assert [own.get("jobs").status_code for _ in range(2)] == [401, 401]
    assert Wire(dli_local).get("jobs").status_code == 200


def test_an_unknown_state(wire, dli_local, job_id):
    dli_local.fault("*", "unknown_state", times=2, state="HIBERNATING")
    assert wire.status(job_id)["status"] == "HIBERNATING"
    assert wire.get("jobs").json()["jobs"][0]["status"] == "HIBERNATING"
    assert wire.status(job_id)["status"] != "HIBERNATING"


def test_a_soft_failure(wire, dli_local):
    dli_local.fault("submit", "soft_failure")
    assert wire.submit("select 1").json() == {"is_success": False, "message": "The queue is not available."}
    assert dli_local.jobs() == []


def test_times_skip_and_clear(wire, dli_local):
    dli_local.fault("list", "status", times=2, skip=1, status=500)
    assert [wire.get("jobs").status_code for _ in range(5)] == [200, 500, 500, 200, 200]
    dli_local.fault("list", "status", times=None, status=500)
    assert [wire.get("jobs").status_code for _ in range(3)] == [500] * 3
    assert dli_local.requests("list")[-1].fault == "status"
    dli_local.clear_faults()
    assert wire.get("jobs").status_code == 200


def test_a_rule_for_certain_requests_only(wire, dli_local, job_id):
    dli_local.fault("submit", "drop_before", matching="'the one'", times=None)
    dli_local.fault("status", "status", matching=job_id, status=503)
    other = wire.submit("select 'other'").json()["job_id"]
    with pytest.raises(requests.ConnectionError):
        wire.submit("select 'the one'")
    assert wire.get(f"jobs/{other}/status").status_code == 200
    assert wire.get(f"jobs/{job_id}/status").status_code == 503


def test_a_fault_for_iam(dli_local):
    from .conftest import get_token

    dli_local.fault("token", "status", status=503)
    assert get_token(dli_local).status_code == 503


def test_a_list_that_lags(wire, dli_local):
    dli_local.settings(list_lag=0.5)
    job_id = wire.start("select 1", tags=[{"key": "run", "value": "x"}])
    assert wire.status(job_id)["is_success"] is True
    assert wire.get("jobs").json()["jobs"] == []
    time.sleep(0.6)
    assert [job["job_id"] for job in wire.get("jobs").json()["jobs"]] == [job_id]


def test_other_calls_go_on_while_one_hangs(wire, dli_local):
    dli_local.fault("list", "hang", seconds=3)
    hanging = threading.Thread(target=raw_get, args=(wire, "jobs", 5))
    hanging.start()
    began = time.monotonic()
    assert wire.rows("select 1") == [[1]]
    assert time.monotonic() - began < pace.seconds(2.5)
    hanging.join()


@pytest.mark.parametrize(
    ("rule", "reason"),
    [({"fault": "earthquake"}, "must be one of"), ({"fault": "drip", "speed": 1}, "speed"), ({}, "fault")],
)
def test_a_rule_that_makes_no_sense(dli_local, rule, reason):
    answer = requests.post(f"{dli_local.url}/_local/faults", json=rule, timeout=10)
    assert answer.status_code == 400
    assert reason in answer.json()["error_msg"]


def test_every_kind_is_tested_here():
    with open(__file__) as here:
        text = here.read()
    assert [kind for kind in KINDS if f'"{kind}"' not in text] == []
