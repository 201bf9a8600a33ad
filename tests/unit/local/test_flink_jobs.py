"""Flink jobs from their draft to their end: states, stop, savepoints, restarts, refusals, settings."""

import json
import time

import pace
import pytest
import requests
from contract import contract

from .flink import BOUNDED, STREAM, Flink, refusal

pytestmark = pytest.mark.matrix


@pytest.fixture
def flink(wire):
    return Flink(wire)


def test_a_draft_runs_until_it_is_stopped(flink, dli_local):
    answer = flink.create(name="my_Job-1", desc='{"a": "b"}', sql_body=STREAM).json()
    job_id = answer["job"]["job_id"]
    assert answer["is_success"] == "true"
    assert answer["job"] == {"job_id": job_id, "status_name": "job_init", "status_desc": ""}
    found = flink.get(job_id)
    assert (found["status"], found["start_time"], found["duration"]) == ("job_init", None, 0)
    job = dli_local.job(str(job_id))
    assert (job.kind, job.name, job.description, job.statement) == ("flink", "my_Job-1", '{"a": "b"}', STREAM)
    assert (job.is_active, job.started_at) == (False, None)
    assert flink.run(job_id).json() == [
        {"is_success": "true", "message": "The request for submitting DLI jobs is successfully delivered."}
    ]
    found = flink.until(job_id, "job_running")
    assert (found["name"], found["desc"], found["queue_name"]) == ("my_Job-1", '{"a": "b"}', "default")
    assert found["create_time"] <= found["start_time"] <= time.time() * 1000
    assert flink.stop(job_id).json() == [
        {"is_success": "true", "message": "The request for stopping DLI jobs is successfully delivered."}
    ]
    assert flink.until(job_id)["status"] == "job_cancel_success"
    assert len(dli_local.job(str(job_id)).cancel_requests) == 1
    flink.running(job_id)
    assert refusal(flink.run(job_id)) == "DLI.0007"


def test_every_state_is_shown_for_as_long_as_the_settings_say(flink, dli_local):
    dli_local.settings(flink_submit_delay=0.3, flink_savepoint_delay=0.3, flink_cancel_delay=0.3)
    job_id = flink.draft()
    flink.run(job_id)
    assert flink.status(job_id) == "job_submitting"
    flink.until(job_id, "job_running")
    flink.stop(job_id, trigger_savepoint=True)
    assert flink.status(job_id) == "job_savepointing"
    assert refusal(flink.stop(job_id)) == "DLI.0007"
    flink.until(job_id, "job_canceling")
    assert flink.until(job_id)["status"] == "job_cancel_success"


def test_a_job_that_is_being_submitted_can_be_stopped(flink, dli_local):
    dli_local.settings(flink_submit_delay=60)
    job_id = flink.draft()
    flink.run(job_id)
    flink.stop(job_id, trigger_savepoint=True)
    found = flink.until(job_id)
    assert (found["status"], found["start_time"], found["has_savepoint"]) == ("job_cancel_success", None, False)


def test_a_jar_is_not_executed_and_runs_until_it_is_stopped(flink):
    job_id = flink.jar(entrypoint_args="-a 1", main_class="x.Main", dependency_jars=["obs://b/c.jar"])
    flink.running(job_id)
    found = flink.get(job_id)
    assert (found["job_type"], found["main_class"], found["entrypoint_args"]) == ("flink_jar_job", "x.Main", "-a 1")
    assert found["job_config"]["entrypoint"] == "obs://bucket/a.jar"
    assert found["job_config"]["dependency_jars"] == ["obs://b/c.jar"]
    flink.stop(job_id)
    assert flink.until(job_id)["status"] == "job_cancel_success"


class TestStop:
    def test_a_job_that_does_not_run_cannot_be_stopped(self, flink):
        job_id = flink.draft(BOUNDED)
        assert refusal(flink.stop(job_id)) == "DLI.0007"
        flink.run(job_id)
        flink.until(job_id, "job_finish")
        assert refusal(flink.stop(job_id)) == "DLI.0007"

    def test_a_stop_that_fails_leaves_the_job_running(self, flink, dli_local):
        dli_local.settings(flink_stop="fails")
        job_id = flink.running(flink.draft())
        flink.stop(job_id)
        assert flink.until(job_id, "job_cancel_fail")["status_desc"]
        assert dli_local.job(str(job_id)).ended_at is None
        assert refusal(flink.run(job_id)) == "DLI.0007"
        dli_local.settings(flink_stop="works")
        flink.stop(job_id)
        assert flink.until(job_id)["status"] == "job_cancel_success"

    def test_a_job_may_finish_while_it_is_being_stopped(self, flink, dli_local):
        dli_local.settings(flink_cancel_delay=60)
        dli_local.will(run_for=0.5)
        job_id = flink.running(flink.draft())
        flink.stop(job_id)
        assert flink.status(job_id) == "job_canceling"
        assert flink.until(job_id)["status"] == "job_finish"

    def test_a_savepoint_lives_until_the_job_is_started_again(self, flink, dli_local):
        job_id = flink.running(flink.draft(obs_bucket="mine"))
        assert flink.get(job_id)["has_savepoint"] is False
        flink.stop(job_id)
        flink.until(job_id, "job_cancel_success")
        assert refusal(flink.run(job_id, resume_savepoint=True)) == "DLI.0007"
        flink.running(job_id)
        flink.stop(job_id, trigger_savepoint=True)
        found = flink.until(job_id, "job_cancel_success")
        assert found["has_savepoint"] is True
        assert found["savepoint_path"].startswith("obs://mine/")
        assert dli_local.job(str(job_id)).savepoints == (found["savepoint_path"],)
        flink.running(job_id, resume_savepoint=True)
        assert flink.get(job_id)["has_savepoint"] is False


class TestRestart:
    def test_a_job_restarts_after_an_error_until_it_may_no_longer(self, flink, dli_local):
        dli_local.settings(flink_restart_delay=0.2)
        sql = f"{BOUNDED}; SELECT nothing FROM numbers"
        job_id = flink.draft(sql, restart_when_exception=True, resume_max_num=2)
        flink.run(job_id)
        deadline = time.monotonic() + pace.seconds(5)
        while (found := flink.get(job_id))["restart_times"] < 2 or found["status"] != "job_running_exception":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert dli_local.wait_until(lambda dli: dli.job(str(job_id)).ended_at)
        assert flink.status(job_id) == "job_running_exception"

    def test_a_restarted_job_runs_on(self, flink, dli_local):
        dli_local.settings(flink_restart_delay=0.2)
        dli_local.will(run_for=0.1, then="FAILED", message="lost a task manager")
        job_id = flink.running(flink.draft(restart_when_exception=True))
        assert flink.until(job_id, "job_running_exception")["status_desc"] == "lost a task manager"
        assert flink.until(job_id, "job_running")["restart_times"] == 1
        flink.stop(job_id)
        assert flink.until(job_id)["status"] == "job_cancel_success"

    def test_a_job_that_waits_for_its_restart_can_be_stopped(self, flink, dli_local):
        dli_local.settings(flink_restart_delay=60)
        dli_local.will(then="FAILED")
        job_id = flink.draft(restart_when_exception=True)
        flink.run(job_id)
        flink.until(job_id, "job_running_exception")
        flink.stop(job_id)
        assert flink.until(job_id, "job_cancel_success")


class TestDelete:
    @pytest.mark.parametrize("run", [False, True])
    def test_a_deleted_job_is_gone(self, flink, dli_local, run):
        job_id = flink.draft(name="gone")
        if run:
            flink.running(job_id)
        assert flink.call("DELETE", job_id).json()["is_success"] == "true"
        for answer in (flink.call("GET", job_id), flink.call("DELETE", job_id), flink.run(job_id), flink.stop(job_id)):
            assert refusal(answer) == "DLI.16001"
        assert flink.list()["total_count"] == 0
        if run:
            dli_local.wait_until(lambda dli: dli.job(str(job_id)).status == "job_cancel_success")
        flink.draft(name="gone")

    def test_a_running_job_may_be_refused(self, flink, dli_local):
        dli_local.settings(flink_delete_running="refused")
        job_id = flink.running(flink.draft())
        assert refusal(flink.call("DELETE", job_id)) == "DLI.0007"
        assert flink.status(job_id) == "job_running"


class TestList:
    def test_filters(self, flink, wire, dli_local):
        flink.draft(name="one", tags=[{"key": "team", "value": "a"}, {"key": "x", "value": "y"}])
        two = flink.draft(name="two", tags=[{"key": "team", "value": "b"}])
        flink.jar(name="three")
        flink.draft(name="onemore", queue_name="DEFAULT")
        flink.running(two)
        assert flink.names() == ["onemore", "three", "two", "one"]
        assert flink.names(order="asc", limit=2, offset=1) == ["two", "three"]
        assert flink.names(limit=0) == []
        assert flink.list(limit=1)["total_count"] == 4
        assert flink.names(name="one") == ["one"]
        assert flink.names(job_type="flink_jar_job") == ["three"]
        assert flink.names(status="job_running") == ["two"]
        assert flink.names(queue_name="Default", user_name="dli", name="two") == ["two"]
        assert flink.names(queue_name="other") == flink.names(user_name="other") == []
        assert flink.names(tags="team=a") == flink.names(tags="team=a,x=y") == ["one"]
        assert flink.names(tags="team=a,x=z") == []
        dli_local.settings(flink_name_filter="fuzzy")
        assert flink.names(name="one") == ["onemore", "one"]
        assert wire.get("streaming/jobs", params={"status": "nonsense"}).json()[0]["error_code"] == "DLI.0001"
        assert wire.get("jobs").json()["job_count"] == 0

    def test_what_it_shows(self, flink):
        flink.draft(name="one", desc="two", tags=[{"key": "a", "value": "b"}])
        (short,) = flink.list()["jobs"]
        assert (short["name"], short["desc"], short["status"], short["user_name"]) == ("one", "two", "job_init", "dli")
        assert "queue_name" not in short
        (long,) = flink.list(show_detail=True)["jobs"]
        assert (long["queue_name"], long["sql_body"], long["job_config"]["cu_number"]) == ("default", STREAM, 2)
        assert '"a"' not in json.dumps([short, long, flink.get(short["job_id"])])

    def test_a_lag(self, flink, dli_local):
        dli_local.settings(list_lag=0.5)
        job_id = flink.draft()
        assert flink.names() == []
        assert flink.get(job_id)
        dli_local.wait_until(lambda dli: flink.names(), timeout=pace.seconds(3))


class TestScripts:
    def test_states_that_need_time_or_an_unpaid_bill(self, flink, dli_local):
        dli_local.will(stuck_in="job_arrearage_stopped")
        job_id = flink.draft()
        flink.run(job_id)
        flink.until(job_id, "job_arrearage_stopped")
        flink.stop(job_id)
        assert flink.until(job_id)["status"] == "job_cancel_success"

    def test_a_job_that_fails_after_a_while(self, flink, dli_local):
        dli_local.will(matching="a.jar", launching_for=0.2, run_for=0.2, then="FAILED", message="out of memory")
        other, job_id = flink.draft(), flink.jar()
        flink.run(other, job_id)
        assert flink.status(job_id) == "job_submitting"
        flink.until(job_id, "job_running")
        found = flink.until(job_id)
        assert (found["status"], found["status_desc"]) == ("job_running_exception", "out of memory")
        assert found["duration"] > 150
        assert flink.status(other) == "job_running"

    def test_a_script_for_a_name_and_its_end(self, flink, dli_local):
        dli_local.will(matching="bounded-jar", run_for=0.1)
        job_id = flink.jar(name="bounded-jar")
        flink.run(job_id)
        assert flink.until(job_id)["status"] == "job_finish"

    def test_a_script_for_one_kind(self, flink, wire, dli_local):
        dli_local.will(kind="flink", run_for=0.1, then="FAILED", message="scripted")
        assert wire.run("SELECT 1")["status"] == "FINISHED"
        job_id = flink.draft()
        flink.run(job_id)
        assert flink.until(job_id)["status_desc"] == "scripted"

    def test_a_cancel_that_takes_long(self, flink, dli_local):
        dli_local.will(run_for=60, cancel_takes=0.4)
        job_id = flink.running(flink.draft())
        flink.stop(job_id)
        assert flink.status(job_id) == "job_canceling"
        assert flink.until(job_id)["status"] == "job_cancel_success"


def test_jobs_wait_in_job_submitting_while_the_queue_is_full(flink, dli_local):
    dli_local.settings(queues={"default": 1})
    first, second = flink.draft(), flink.draft()
    flink.running(first)
    flink.run(second)
    time.sleep(0.1)
    assert flink.status(second) == "job_submitting"
    flink.stop(first)
    flink.until(second, "job_running")


class TestRefusals:
    @pytest.mark.parametrize(
        ("kind", "body", "reason"),
        [
            ("sql", {"name": "x" * 58}, "name"),
            ("sql", {"name": "with blank"}, "name"),
            ("sql", {"name": ""}, "name"),
            ("sql", {"name": None}, "name"),
            ("sql", {"desc": "x" * 513}, "desc"),
            ("sql", {"run_mode": "shared_cluster"}, "exclusive_cluster"),
            ("sql", {"flink_version": "1.15"}, "execution_agency_urn"),
            ("jar", {"flink_version": "1.17"}, "execution_agency_urn"),
            ("sql", {"runtime_config": "{"}, "runtime_config"),
            ("sql", {"resume_max_num": 0}, "resume_max_num"),
            ("sql", {"cu_number": 1}, "cu_number"),
            ("sql", {"cu_number": "2"}, "cu_number"),
            ("sql", {"checkpoint_mode": 3}, "checkpoint_mode"),
            ("sql", {"log_enabled": True}, "obs_bucket"),
            ("sql", {"obs_bucket": None}, "null"),
            ("sql", {"job_type": "flink_jar_job"}, "job_type"),
            ("sql", {"tags": [{"key": str(number), "value": ""} for number in range(21)]}, "tags"),
            ("jar", {"checkpoint_enabled": True, "obs_bucket": "b", "checkpoint_path": "obs://b/c"}, "checkpoint_path"),
            ("jar", {"resume_checkpoint": True}, "checkpoint_path"),
        ],
    )
    def test_a_draft_that_is_not_valid(self, flink, dli_local, kind, body, reason):
        answer = flink.create(kind, **body)
        assert refusal(answer) == "DLI.0001"
        assert reason in answer.json()[0]["error_msg"]
        assert dli_local.jobs() == []

    def test_an_agency_in_either_place(self, flink):
        entry = {"key": "flink.dli.job.agency.name", "value": "agency"}
        flink.draft(flink_version="1.15", runtime_config=json.dumps([entry]))
        flink.jar(flink_version="1.17", execution_agency_urn="agency")
        flink.draft(flink_version="1.12")

    def test_a_queue_that_is_not_known(self, flink):
        assert refusal(flink.create(queue_name="other")) == "DLI.0002"

    def test_a_start_without_a_queue(self, flink):
        answer = flink.wire.call("POST", "streaming/sql-jobs", json={"name": "draft", "sql_body": STREAM})
        answer = flink.run(answer.json()["job"]["job_id"])
        assert answer.json() == [
            {
                "error_code": "DLI.13024",
                "error_msg": "No job-running queue selected. Please select a queue for your job.",
            }
        ]

    def test_a_name_that_is_taken(self, flink, dli_local):
        flink.draft(name="mine")
        assert refusal(flink.create("jar", name="mine")) == "DLI.0006"
        dli_local.settings(flink_name_taken="DLI.0001")
        assert refusal(flink.create(name="mine")) == "DLI.0001"

    def test_one_refusal_stops_the_whole_call(self, flink):
        job_id = flink.draft()
        assert refusal(flink.run(job_id, 7)) == "DLI.16001"
        assert flink.status(job_id) == "job_init"

    @pytest.mark.parametrize("job_id", ["x", "-1", str(2**63)])
    def test_an_id_that_is_no_number(self, flink, job_id):
        assert refusal(flink.call("GET", job_id)) == "DLI.0001"


class TestSettings:
    def test_errors_as_objects(self, flink, dli_local):
        dli_local.settings(flink_errors="object")
        for answer in (flink.run(7), flink.create(name="")):
            assert answer.status_code == 400
            assert answer.json()["error_code"].startswith("DLI.")

    def test_flags(self, flink, dli_local):
        dli_local.settings(flink_flags="bool")
        job_id = flink.draft()
        assert flink.run(job_id).json()[0]["is_success"] is True
        assert flink.call("GET", job_id).json()["is_success"] is True

    def test_failures_that_are_soft(self, flink, dli_local):
        dli_local.settings(flink_soft_failure=True)
        job_id = flink.draft()
        answer = flink.run(7, job_id)
        assert answer.status_code == 200
        assert [element["is_success"] for element in answer.json()] == ["false", "true"]
        assert answer.json()[0]["message"].startswith("DLI.16001")
        flink.until(job_id, "job_running")
        assert flink.stop(7).json()[0]["is_success"] == "false"
        dli_local.settings(flink_run_answer="object")
        assert flink.stop(job_id, 7).json()["is_success"] == "false"
        flink.until(job_id, "job_cancel_success")

    def test_run_and_stop_may_answer_an_object(self, flink, dli_local):
        dli_local.settings(flink_run_answer="object")
        job_id = flink.draft()
        assert flink.run(job_id).json()["is_success"] == "true"
        flink.until(job_id, "job_running")
        assert flink.stop(job_id).json()["is_success"] == "true"


@pytest.mark.parametrize("path", ["sql-jobs", "flink-jobs"])
def test_the_examples_of_the_contract(wire, dli_local, path):
    told = contract()["paths"][f"/v1.0/{{project_id}}/streaming/{path}"]["post"]
    body = told["requestBody"]["content"]["application/json"]["examples"]["documented"]["value"]
    body["queue_name"] = "general"  # (that of the example is not there)
    answer = wire.call("POST", f"streaming/{path}", json=body)
    assert answer.status_code == 200, answer.text
    shown = wire.get(f"streaming/jobs/{answer.json()['job']['job_id']}").json()["job_detail"]
    everything = shown | shown["job_config"]
    renamed = {"checkpoint_mode": "exactly_once"}
    hidden = {"template_id", "checkpoint_mode"}
    assert {name: everything.get(name) for name in body.keys() - hidden} == {n: body[n] for n in body.keys() - hidden}
    assert everything | renamed == everything


def test_a_run_whose_answer_is_lost_has_started_the_job(flink, dli_local):
    dli_local.fault("flink_run", "drop_after")
    job_id = flink.draft()
    with pytest.raises(requests.ConnectionError):
        flink.run(job_id)
    flink.until(job_id, "job_running")


def test_a_state_that_nobody_knows(flink, dli_local):
    job_id = flink.draft()
    dli_local.fault("flink_get", "unknown_state", state="job_pondering")
    dli_local.fault("flink_list", "unknown_state", state="job_pondering")
    assert flink.status(job_id) == "job_pondering"
    assert flink.list()["jobs"][0]["status"] == "job_pondering"
    assert flink.status(job_id) == "job_init"


def test_requests_are_logged_with_the_job(flink, dli_local):
    job_id = flink.jar()
    flink.run(job_id)
    flink.stop(job_id)
    flink.call("GET", job_id)
    flink.list()
    flink.call("DELETE", job_id)
    seen = [(line.call, line.job_id) for line in dli_local.requests()]
    one = str(job_id)
    assert seen == [
        ("flink_create_jar", one),
        ("flink_run", one),
        ("flink_stop", one),
        ("flink_get", one),
        ("flink_list", None),
        ("flink_delete", one),
    ]


def test_a_reset_stops_and_forgets(flink, dli_local):
    flink.running(flink.draft(name="mine"))
    flink.draft(name="draft")
    dli_local.reset()
    assert flink.list()["total_count"] == 0
    flink.draft(name="mine")
