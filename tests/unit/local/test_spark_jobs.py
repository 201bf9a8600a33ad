"""Spark batches from their creation to their end: states, logs, retries, refusals, settings."""

import json
import time

import pace
import pytest
import requests
from contract import contract

from .spark import JAR, Spark

pytestmark = pytest.mark.matrix

UNKNOWN = "0a324461-d9d9-45da-a52a-3b3c7a3d809e"


@pytest.fixture
def spark(wire):
    return Spark(wire)


def refusal(answer, status=400):
    assert answer.status_code == status, answer.text
    return answer.json()["error_code"]


def test_a_batch_from_its_creation_to_its_end(spark, dli_local):
    dli_local.will(kind="spark", launching_for=0.2, run_for=0.2, log=["one", "two"])
    answer = spark.post(name="nightly", queue="General", conf={"a": "b", "c": 2, "d": True}, driverMemory="2G").json()
    batch_id = answer["id"]
    assert (answer["state"], answer["log"], answer["appId"], answer["name"]) == ("starting", [], "", "nightly")
    assert (answer["queue"], answer["cluster_name"], answer["sc_type"]) == ("general", "general", "CUSTOMIZED")
    assert "is_success" not in answer
    job = dli_local.job(batch_id)
    assert (job.kind, job.name, job.statement, job.status, job.state) == (
        "spark",
        "nightly",
        JAR,
        "starting",
        "LAUNCHING",
    )
    assert job.conf == ("a=b", "c=2", "d=true")
    spark.until(batch_id, "running")
    assert dli_local.job(batch_id).state == "RUNNING"
    found = spark.until(batch_id)
    assert (found["state"], found["log"]) == ("success", ["one", "two"])
    assert found["create_time"] <= found["update_time"] <= time.time() * 1000
    assert found["duration"] >= 390
    assert spark.call("GET", batch_id, "/state").json() == {"id": batch_id, "state": "success"}
    assert dli_local.job(batch_id).state == "FINISHED"


def test_one_that_fails_is_dead(spark, dli_local):
    dli_local.will(matching="job.jar", then="FAILED", message="Exception: x\n  at y", log=["one"])
    batch_id = spark.create()
    found = spark.until(batch_id)
    assert (found["state"], found["log"]) == ("dead", ["one", "Exception: x", "  at y"])
    assert (dli_local.job(batch_id).state, dli_local.job(batch_id).status) == ("FAILED", "dead")


def test_a_script_may_cancel_it(spark, dli_local):
    dli_local.will(matching="nightly", then="CANCELLED")
    batch_id = spark.create(name="nightly")
    assert spark.until(batch_id)["state"] == "dead"
    assert dli_local.job(batch_id).state == "CANCELLED"


def test_a_jar_runs_until_it_is_cancelled_and_says_so(spark, dli_local):
    batch_id = spark.create()
    dli_local.wait_until(lambda dli: spark.get(batch_id)["log"])
    assert spark.get(batch_id)["log"][0].startswith("group/job.jar is not run")
    assert spark.state(batch_id) == "running"
    answer = spark.cancel(batch_id)
    assert answer.json() == {"msg": "deleted"}
    assert spark.until(batch_id)["state"] == "dead"
    job = dli_local.job(batch_id)
    assert (job.state, job.status, len(job.cancel_requests)) == ("CANCELLED", "dead", 1)


class TestCancel:
    def test_it_may_take_a_while(self, spark, dli_local):
        dli_local.will(run_for=60, cancel_takes=0.4)
        batch_id = spark.create()
        spark.until(batch_id, "running")
        spark.cancel(batch_id)
        assert spark.state(batch_id) == "running"
        assert spark.until(batch_id)["state"] == "dead"

    def test_one_that_starts(self, spark, dli_local):
        dli_local.settings(launch_delay=60)
        batch_id = spark.create()
        spark.cancel(batch_id)
        assert spark.until(batch_id)["state"] == "dead"
        assert dli_local.job(batch_id).started_at is None

    def test_one_that_is_stuck(self, spark, dli_local):
        dli_local.will(stuck_in="pondering")
        batch_id = spark.create()
        spark.until(batch_id, "pondering")
        spark.cancel(batch_id)
        assert spark.until(batch_id)["state"] == "dead"

    def test_the_answer_may_be_empty(self, spark, dli_local):
        dli_local.settings(spark_cancel_answer="empty")
        answer = spark.cancel(spark.create())
        assert (answer.status_code, answer.content) == (200, b"")

    def test_one_that_has_ended(self, spark, dli_local):
        dli_local.will()
        batch_id = spark.create()
        spark.until(batch_id)
        assert refusal(spark.cancel(batch_id)) == "DLI.0007"
        dli_local.settings(cancel_ended="soft")
        assert spark.cancel(batch_id).json()["is_success"] is False

    def test_one_that_is_unknown(self, spark, dli_local):
        for call in (spark.cancel, lambda batch_id: spark.call("GET", batch_id, "/state")):
            dli_local.settings(unknown_job="DLI.0002")
            assert refusal(call(UNKNOWN)) == "DLI.0002"
            dli_local.settings(unknown_job="404")
            assert refusal(call(UNKNOWN), 404) == "DLI.0023"


class TestRecovery:
    def test_a_failed_batch_is_started_again(self, spark, dli_local):
        dli_local.settings(dead_before_recovering=0.3, spark_recovery_delay=0.3)
        dli_local.will(then="FAILED", log=["first"], run_for=0.1)
        dli_local.will(log=["second"], run_for=0.2)
        batch_id = spark.create(auto_recovery=True)
        seen = []
        while seen[-1:] != ["success"]:
            state = spark.state(batch_id)
            seen += [state] if state not in seen[-1:] else []
            if state == "dead":
                assert dli_local.job(batch_id).state == "LAUNCHING"
        assert seen[-5:] == ["running", "dead", "recovering", "running", "success"]
        assert spark.log(batch_id)["log"] == ["second"]
        logs = [spark.log(batch_id, type="driver", index=index)["log"] for index in range(3)]
        assert logs == [["first"], ["second"], []]

    def test_until_it_may_no_longer(self, spark, dli_local):
        dli_local.settings(spark_recovery_delay=0)
        dli_local.will(then="FAILED", times=9)
        batch_id = spark.create(auto_recovery=True, max_retry_times=2)
        assert spark.until(batch_id)["state"] == "dead"
        assert spark.get(batch_id)["appId"].endswith("_0003")

    def test_one_that_waits_for_it_can_be_cancelled(self, spark, dli_local):
        dli_local.settings(spark_recovery_delay=60)
        dli_local.will(then="FAILED")
        batch_id = spark.create(auto_recovery=True)
        spark.until(batch_id, "recovering")
        spark.cancel(batch_id)
        assert spark.until(batch_id)["state"] == "dead"
        assert dli_local.job(batch_id).state == "CANCELLED"


class TestList:
    def test_filters(self, spark, dli_local):
        dli_local.settings(queues={"default": 16, "other": 2})
        dli_local.will(matching="one", run_for=60)
        dli_local.will(matching="two", run_for=0.1)
        one, two = spark.create(name="one"), spark.create(name="two", queue="general")
        spark.create(name="onemore", queue="GENERAL")
        spark.until(two, "success")
        assert spark.names() == ["onemore", "two", "one"]
        assert spark.names(order="CREATE_TIME_ASC", size=2, **{"from": 1}) == ["two", "onemore"]
        assert spark.list(size=1)["total"] == 3
        assert spark.names(job_name="one") == ["one"]
        assert spark.names(**{"job-id": two}) == ["two"]
        assert spark.names(state="success") == ["two"]
        assert spark.names(queue_name="General") == spark.names(cluster_name="general") == ["onemore", "two"]
        assert spark.names(owner="dli", state="success") == ["two"]
        assert spark.names(owner="other") == []
        assert spark.names(order="DURATION_ASC")[0] == "two"
        created = spark.get(one)["create_time"]
        assert spark.names(end=created)[-1] == "one"
        assert spark.names(end=created - 1) == spark.names(start=created + 60_000) == []
        dli_local.settings(batch_name_filter="fuzzy")
        assert spark.names(job_name="one") == ["onemore", "one"]
        assert refusal(spark.call("GET", params={"state": "nonsense"})) == "DLI.0001"
        assert spark.wire.get("jobs").json()["job_count"] == 0

    def test_at_most_a_hundred(self, spark, dli_local):
        for number in range(102):
            spark.create(name=str(number))
        assert len(spark.list(size=500)["sessions"]) == 100
        assert spark.names(**{"from": 100}) == ["1", "0"]

    def test_a_lag(self, spark, dli_local):
        dli_local.settings(list_lag=0.5)
        batch_id = spark.create(name="one")
        assert spark.names() == []
        assert spark.get(batch_id)
        dli_local.wait_until(lambda dli: spark.names(), timeout=pace.seconds(3))

    def test_the_request_is_shown(self, spark, dli_local):
        body = {"name": "one", "conf": {"a": "b"}, "args": ["x"], "auto_recovery": True, "max_retry_times": 3}
        batch_id = spark.create(**body)
        (listed,) = spark.list()["sessions"]
        assert listed["req_body"] == spark.get(batch_id)["req_body"]
        assert json.loads(listed["req_body"]) == {
            "queue": "default",
            "name": "one",
            "conf": {"a": "b"},
            "file": JAR,
            "args": ["x"],
            "autoRecovery": True,
            "minRecoveryDelayTime": 10000,
            "maxRetryTimes": 3,
            "feature": "basic",
        }
        dli_local.settings(req_body="absent")
        assert "req_body" not in spark.get(batch_id)
        dli_local.settings(req_body="unreadable")
        with pytest.raises(ValueError, match="JSON|Expecting|Unterminated|delimiter"):
            json.loads(spark.get(batch_id)["req_body"])


class TestLog:
    @pytest.fixture
    def batch_id(self, spark, dli_local):
        dli_local.will(log=[str(number) for number in range(150)])
        batch_id = spark.create()
        spark.until(batch_id)
        return batch_id

    def test_pages(self, spark, batch_id):
        assert spark.get(batch_id)["log"] == [str(number) for number in range(140, 150)]
        answer = spark.log(batch_id)
        assert (answer["id"], answer["from"], answer["total"], len(answer["log"])) == (batch_id, 50, 150, 100)
        assert spark.log(batch_id, size=2)["log"] == ["148", "149"]
        assert spark.log(batch_id, size=0)["log"] == []
        assert spark.log(batch_id, size=2, **{"from": 3})["log"] == ["3", "4"]
        assert len(spark.log(batch_id, **{"from": 10})["log"]) == 100
        assert spark.log(batch_id, **{"from": 999})["log"] == []
        assert spark.log(batch_id, type="driver")["total"] == 150
        assert spark.log(batch_id, index=1)["log"] == spark.log(batch_id, index=10**30)["log"] == []
        assert refusal(spark.call("GET", batch_id, "/log", params={"type": "executor"})) == "DLI.0001"

    def test_a_region_without_the_call(self, spark, dli_local, batch_id):
        dli_local.settings(batch_log_call="gone")
        assert refusal(spark.call("GET", batch_id, "/log"), 404) == "APIG.0101"


class TestRefusals:
    OBS = {"file": "obs://bucket/a.py", "execution_agency_urn": "agency"}

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ({"file": ""}, "file"),
            ({"file": None}, "file"),
            ({"spark_version": "3.3.1", "execution_agency_urn": "agency"}, "obs://"),
            ({**OBS, "spark_version": "3.3.1", "resources": [{"name": "a"}]}, "resources"),
            ({**OBS, "spark_version": "3.10.0", "groups": [{"name": "a"}]}, "groups"),
            ({"spark_version": "3.1.1", "modules": ["sys.datasource.rds"]}, "modules"),
            ({"feature": "custom"}, "image"),
            ({"feature": "fast"}, "feature"),
            ({"driverMemory": "4"}, "driverMemory"),
            ({"executorMemory": "2 parsecs"}, "executorMemory"),
            ({"executorCores": "2"}, "executorCores"),
            ({"numExecutors": -1}, "numExecutors"),
            ({"max_retry_times": 101}, "max_retry_times"),
            ({"sc_type": "D"}, "sc_type"),
            ({"name": "x" * 129}, "name"),
            ({"args": "--day"}, "args"),
            ({"conf": ["a=b"]}, "conf"),
            ({"resources": [{"name": 1}]}, "resources"),
            ({"spark_version": "3.3.1", "file": "obs://bucket/a.py"}, "Cannot download obs object obs://bucket/a.py"),
        ],
    )
    def test_a_batch_that_is_not_valid(self, spark, dli_local, body, reason):
        answer = spark.post(**body)
        assert refusal(answer) == "DLI.0001"
        assert reason in answer.json()["error_msg"]
        assert dli_local.jobs() == []

    def test_an_agency_in_either_place(self, spark):
        spark.create(file="obs://bucket/a.py", spark_version="3.3.1", conf={"spark.dli.job.agency.name": "agency"})
        spark.create(**self.OBS, spark_version="3.3.1")

    def test_a_queue_of_another_type(self, spark, dli_local):
        dli_local.settings(queues={"default": 1, "sql": 1})
        assert refusal(spark.post(queue="sql"))
        assert refusal(spark.post(queue="nowhere")) == "DLI.0002"


def test_what_the_sources_tell_in_two_ways(spark, dli_local):
    dli_local.settings(spark_is_success="false", spark_success="Success")
    dli_local.will()
    answer = spark.post().json()
    assert answer["is_success"] is False
    spark.until(answer["id"], "Success")
    assert spark.call("GET", answer["id"], "/state").json() == {
        "is_success": False,
        "id": answer["id"],
        "state": "Success",
    }
    assert dli_local.job(answer["id"]).status == "success"


@pytest.mark.parametrize("example", ["documented", "pythonFile"])
def test_the_examples_of_the_contract(spark, dli_local, example):
    told = contract()["paths"]["/v2.0/{project_id}/batches"]["post"]
    body = told["requestBody"]["content"]["application/json"]["examples"][example]["value"]
    batch_id = spark.create(**body | {"queue": "general"})
    shown = json.loads(spark.get(batch_id)["req_body"])
    assert shown | body | {"queue": "general"} == shown


def test_requests_are_logged_with_the_batch(spark, dli_local):
    batch_id = spark.create()
    spark.get(batch_id), spark.state(batch_id), spark.log(batch_id), spark.cancel(batch_id), spark.list()
    seen = [(line.call, line.job_id) for line in dli_local.requests()]
    calls = ["spark_create", "spark_get", "spark_state", "spark_log", "spark_cancel"]
    assert seen == [*((call, batch_id) for call in calls), ("spark_list", None)]


def test_a_creation_whose_answer_is_lost(spark, dli_local):
    dli_local.fault("spark_create", "drop_after")
    with pytest.raises(requests.ConnectionError):
        spark.create(name="lost")
    assert spark.names(job_name="lost") == ["lost"]
