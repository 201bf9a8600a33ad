"""``dli-local probe`` over HTTP against the local DLI: what it learns, that it leaves nothing, and what it says."""

from __future__ import annotations

import ast
import io
import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

import airflow_provider_dli.probe
from airflow_provider_dli.client import exchange
from airflow_provider_dli.local import cli
from airflow_provider_dli.probe import command, flink, jobs, killed_task, spark, sql
from airflow_provider_dli.probe import probe as probes
from airflow_provider_dli.probe.probe import Check, Options, Probe
from airflow_provider_dli.probe.stop import Stop

ACTIVE = ("LAUNCHING", "RUNNING", "starting", "running", "job_submitting", "job_running", "job_canceling")
# Without the kill, whose task imports Airflow for seconds.
QUICK = [*sql.BEFORE_THE_KILL, *spark.CHECKS_WITH_A_BATCH, *flink.CHECKS]
EVERYTHING = {"kinds": ("sql", "spark", "flink"), "general_queue": "general", "spark_file": "obs://bucket/job.py"}

# Settings of the local DLI, and what is learned then.
SOFT = "HTTP 200, is_success false (boolean)"
OTHERWISE = [
    (
        {
            "cancel_ended": "soft",
            "unknown_job": "404",
            "check_sql": "soft",
            "preview_on_default": "works",
            "columns": "fields",
            "flink_errors": "object",
            "flink_flags": "bool",
            "flink_run_answer": "object",
            "flink_name_filter": "fuzzy",
            "flink_name_taken": "DLI.0999",
            "spark_is_success": "false",
            "spark_cancel_answer": "empty",
            "req_body": "absent",
            "batch_name_filter": "fuzzy",
            "batch_log_call": "gone",
        },
        {
            "cancel_ended": SOFT,
            "cancel_again": f"{SOFT}; CANCELLED then",
            "soft_failures": "cancel of a finished job, syntax check, second cancel, "
            "stop of a Flink job that does not run",
            "unknown_job": "status: HTTP 404 DLI.0023; cancel: HTTP 404 DLI.0023",
            "unknown_batch": "status: HTTP 404 DLI.0023; cancel: HTTP 404 DLI.0023",
            "check_sql": "HTTP 200 DLI.0004, is_success false (boolean)",
            "preview_on_default": "works",
            "values": "'1.10', '2026-01-15 08:30:00', [1, 2]",
            "columns": "an object with the fields name and type",
            "flink_errors": "an object",
            "flink_flags": "true (boolean)",
            "flink_run_answer": "run: an object; stop: an object",
            "flink_name_filter": "a piece of the name is enough",
            "flink_name_taken": "HTTP 400 DLI.0999",
            "spark_is_success": "false (boolean)",
            "spark_cancel": "an empty body",
            "spark_cancel_ended": "accepted, is_success false (boolean)",
            "req_body": "not shown",
            "retry_fields": "not shown",
            "batch_name_filter": "a piece of the name is enough",
            "batch_log": "HTTP 404 APIG.0101",
        },
    ),
    (
        {"cancel_ended": "soft", "flags": "text", "req_body": "unreadable", "flink_soft_failure": True},
        {
            "flags": '"true" (text)',
            "cancel_ended": 'HTTP 200, is_success "false" (text)',
            "req_body": "shown, but not readable",
            "flink_stop_draft": 'HTTP 200, is_success "false" (text)',
        },
    ),
    (
        {"flink_soft_failure": True, "flink_flags": "bool", "flink_run_answer": "object"},
        {
            "flink_stop_draft": "HTTP 200 DLI.0007, is_success false (boolean)",
            "flink_run_answer": "run: an object; stop: an object",
        },
    ),
]


@pytest.fixture
def probe(dli_local, connect, monkeypatch):
    """Return a function that carries out checks, and returns the exit code and the report for programs."""
    monkeypatch.setattr(jobs, "_SETTLED_WITHIN", 0.5)

    def carry_out(checks=QUICK, *, timeout=60.0, auth_type="password", queue=None, **options):
        options = {**EVERYTHING, **options}
        # So that nothing burns the CPU.
        for matching in ("CROSS JOIN", "job.py"):
            dli_local.will(matching=matching, run_for=60, times=9)
        found = Probe(
            Options("dli_default", queue, timeout, spark_version="3.1.1", **options),
            Stop(timeout),
            connect(auth_type).client,
        )
        out = io.StringIO()
        for check in sql.FIRST_OF_ALL:
            assert found.check(check, lambda row: None)
        code = command._carry_out(found, checks, out, as_json=True)
        return code, json.loads(out.getvalue())

    return carry_out


def seen(report, name):
    return next(check for check in report["checks"] if check["name"] == name)


def failed(report):
    return [check["name"] for check in report["checks"] if check["held"] is False]


def answers(report):
    return {point["key"]: point["answer"] for point in report["open_points"]}


def active(dli_local):
    return [job.job_id for job in dli_local.jobs() if job.status in ACTIVE]


def assert_nothing_is_left(dli_local, report):
    assert active(dli_local) == []
    assert report["may_be_left_running"] == []


class TestWhatItLearns:
    def test_the_answers_of_a_local_dli(self, dli_local, probe):
        code, report = probe()
        assert (code, failed(report), report["holds"], report["ended_by"]) == (0, [], True, None)
        assert_nothing_is_left(dli_local, report)
        found = {key: answer for key, answer in answers(report).items() if answer}
        assert found.pop("region").startswith("eu-de: DLI at http")
        assert found.pop("list_lag").startswith(("at once", "after"))
        assert found.pop("time_limit").startswith("seconds: a job with the limit 3 was CANCELLED after 3")
        # On a busy machine, the job has not stopped yet when it is cancelled again: then that is not refused.
        late = found.pop("cancel_again")
        assert late in ("HTTP 400 DLI.0007; CANCELLED then", "accepted, is_success true (boolean); RUNNING then")
        refused = 14 if late.startswith("HTTP 400") else 13
        assert found == {
            "signature": "not asked: this connection uses a token",
            "cancel_ended": "HTTP 400 DLI.0007",
            "spark_cancel_ended": "HTTP 400 DLI.0007",
            "flink_stop_draft": "HTTP 400 DLI.0007",
            "req_body": "shown",
            "batch_name_filter": "the whole name is needed",
            "flink_name_filter": "the whole name is needed",
            "flink_name_taken": "HTTP 400 DLI.0006",
            "soft_failures": f"none of {refused} calls that were refused",
            "flags": "true (boolean)",
            "check_sql": "HTTP 400 DLI.0004",
            "spark_is_success": "absent",
            "ddl_mode": "without: async; with false: sync",
            "sync_status": "works: FINISHED",
            "unknown_job": "status: HTTP 400 DLI.0002; cancel: HTTP 400 DLI.0002",
            "unknown_batch": "status: HTTP 400 DLI.0002; cancel: HTTP 400 DLI.0002",
            "failure_reason": "message of status and list",
            "tag_filter": "a piece of the value is enough",
            "retry_fields": "autoRecovery",
            "flink_flags": '"true" (text)',
            "flink_run_answer": "run: an array of 1; stop: an array of 1",
            "flink_errors": "an array of 1",
            "unknown_flink_job": "HTTP 400 DLI.16001",
            "columns": "{name: type}",
            "preview_on_default": "HTTP 400 DLI.0007",
            "preview_running": "HTTP 400 DLI.0007",
            "job_id": "a UUID with hyphens",
            "list_window": "start includes it, end includes it",
            "spark_cancel": '{"msg": "deleted"}',
            "batch_log": "accepted, is_success absent",
        }
        # Each of the others says why it has none.
        assert all(bool(point["answer"]) != bool(point["no_answer_because"]) for point in report["open_points"])

    @pytest.mark.parametrize(("settings", "expected"), OTHERWISE, ids=["all", "what contradicts those", "the rest"])
    @pytest.mark.matrix
    def test_every_answer_that_can_be_another_is_recognized(self, dli_local, probe, settings, expected):
        dli_local.settings(**settings)
        code, report = probe()
        found = answers(report)
        assert {key: found[key] for key in expected} == expected
        assert (code, failed(report)) == (0, [])
        assert_nothing_is_left(dli_local, report)

    @pytest.mark.matrix
    def test_a_list_that_lags(self, dli_local, probe):
        dli_local.settings(list_lag=2)
        code, report = probe()
        assert answers(report)["list_lag"].startswith("after 2.")
        assert (code, failed(report)) == (0, [])

    @pytest.mark.parametrize("spelled", ["success", "Success"])
    def test_what_batches_of_others_tell(self, dli_local, probe, hook, spelled):
        dli_local.settings(spark_success=spelled)
        dli_local.will(kind="spark")
        work = spark.spark.SparkWork(file="obs://bucket/a.jar", spark_version="3.1.1", queue_name="general")
        batch = hook.send(spark.spark.create(work, name="nightly"))
        dli_local.wait_until(lambda dli: dli.job(batch.id).status == "success")
        code, report = probe(spark.CHECKS, kinds=("sql", "spark"), spark_file=None)
        assert code == 0
        found = answers(report)
        assert found["spark_success"] == spelled
        assert (found["req_body"], found["batch_name_filter"]) == ("shown", "the whole name is needed")

    def test_a_cancel_that_takes_a_while(self, dli_local, probe):
        dli_local.will(matching="CROSS JOIN", run_for=60, cancel_takes=1, times=2)
        code, report = probe(sql.BEFORE_THE_KILL)
        assert code == 0
        assert answers(report)["cancel_again"] == "accepted, is_success true (boolean); RUNNING then"

    def test_a_job_that_finishes_while_it_is_cancelled(self, dli_local, probe):
        dli_local.will(matching="CROSS JOIN", run_for=1)
        dli_local.fault("cancel", "status", times=2, status=200, body='{"is_success": true}')
        code, report = probe([sql.BEFORE_THE_KILL[-1]])
        assert code == 1
        assert seen(report, "cancel of a running job")["seen"].startswith("FINISHED")
        assert answers(report)["finished_while_cancelled"] == "FINISHED"

    def test_rows_by_another_queue(self, dli_local, probe):
        dli_local.settings(queues={"default": 16, "sql": 16})
        code, report = probe(sql.BEFORE_THE_KILL, queue="sql")
        assert code == 0
        assert answers(report)["preview_on_default"] == "HTTP 400 DLI.0007"
        assert answers(report)["values"] == "'1.10', '2026-01-15 08:30:00', [1, 2]"
        assert {job.queue_name for job in dli_local.jobs()} == {"sql"}

    def test_a_signature(self, probe):
        code, report = probe([], auth_type="ak_sk")
        assert code == 0
        assert answers(report)["signature"].startswith("SDK-HMAC-SHA256 Access=")

    def test_kinds_that_were_not_asked_for_say_so(self, probe):
        _, report = probe([], kinds=("sql",))
        reasons = {point["no_answer_because"] for point in report["open_points"] if point["kind"] == "flink"}
        assert reasons == {"not tried: see --kinds flink"}


@pytest.mark.matrix
class TestAContractThatIsBroken:
    """Each is named, and the exit code is 1."""

    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch):
        monkeypatch.setattr(probes, "_GIVE_UP_AFTER", 1.0)

    def test_a_cancel_that_does_nothing(self, dli_local, probe):
        dli_local.fault("cancel", "soft_failure", times=None)
        code, report = probe([sql.BEFORE_THE_KILL[-1]])
        assert (code, failed(report)) == (1, ["cancel of a running job"])
        assert "the cancel is refused" in seen(report, "cancel of a running job")["seen"]
        # And what that means is said loudly.
        [job_id] = active(dli_local)
        [left] = report["may_be_left_running"]
        assert left["job_id"] == job_id
        assert "The queue is not available" in left["problem"]

    def test_a_cancel_that_is_accepted_and_does_nothing(self, dli_local, probe, monkeypatch):
        monkeypatch.setattr(probes, "OVER_WITHIN", 1.0)
        monkeypatch.setattr(jobs, "_ENDED_WITHIN", 2.0)
        monkeypatch.setattr(Probe.over, "__defaults__", (1.0,))
        dli_local.will(matching="CROSS JOIN", run_for=60, cancel_takes=5)
        code, report = probe([sql.BEFORE_THE_KILL[-1]])
        assert code == 1
        assert seen(report, "cancel of a running job")["seen"] == "RUNNING, still, after 1 s"
        [left] = report["may_be_left_running"]
        assert left["problem"] == "it was not seen to be over within 2 s"

    def test_tags_that_are_not_shown(self, dli_local, probe):
        body = {"is_success": True, "job_count": 1, "jobs": [{"job_id": "x", "status": "FINISHED"}]}
        dli_local.fault("list", "status", times=None, skip=2, status=200, body=json.dumps(body))
        code, report = probe(sql.BEFORE_THE_KILL[1:3])
        assert code == 1
        assert seen(report, "list lag")["held"] is None  # it needs a job

    def test_a_job_that_fails(self, dli_local, probe):
        dli_local.will(matching="DECIMAL", then="FAILED", message="DLI.0999: no disk left")
        code, report = probe(sql.BEFORE_THE_KILL)
        assert (code, failed(report)) == (1, ["end of the first job"])
        assert seen(report, "end of the first job")["seen"] == "FAILED: DLI.0999: no disk left"
        assert seen(report, "cancel of a finished job")["held"] is None
        assert answers(report)["cancel_ended"] is None
        assert_nothing_is_left(dli_local, report)

    def test_an_unknown_job_that_is_not_called_so(self, dli_local, probe):
        dli_local.fault("status", "status", times=None, status=400, error_code="DLI.0001")
        code, report = probe([sql.BEFORE_THE_KILL[7]])
        assert (code, failed(report)) == (1, ["unknown job"])

    def test_a_list_that_lags_too_long(self, dli_local, probe, monkeypatch):
        monkeypatch.setattr(sql, "LISTED_WITHIN", 0.5)
        dli_local.settings(list_lag=0.7)
        code, report = probe(sql.BEFORE_THE_KILL[:2])
        assert (code, failed(report)) == (1, ["list lag"])

    def test_a_flink_job_that_cannot_be_stopped(self, dli_local, probe):
        dli_local.settings(flink_stop="fails")
        code, report = probe(flink.CHECKS)
        assert code == 1
        assert failed(report) == ["Flink: run and stop", "Flink: delete"]
        assert answers(report)["flink_stop_failed"].startswith("job_cancel_fail")
        [left] = report["may_be_left_running"]
        assert left["kind"] == "flink"
        assert left["job_id"] in [job.job_id for job in dli_local.jobs()]

    def test_names_that_are_not_unique(self, dli_local, probe):
        body = {"is_success": "true", "job": {"job_id": 4711, "status_name": "job_init"}}
        dli_local.fault("flink_create_sql", "status", skip=1, status=200, body=json.dumps(body))
        code, report = probe(flink.CHECKS[:2])
        assert (code, failed(report)) == (1, ["Flink: a name that is taken"])
        assert answers(report)["flink_name_taken"].startswith("accepted")


@pytest.mark.matrix
class TestNothingIsLeft:
    def test_after_a_mistake_of_the_probe_itself(self, dli_local, probe):
        def run(found):
            sql._submit(found, sql.LONG, "left alone", {})
            raise ZeroDivisionError("oops")

        code, report = probe([Check("mistake", "none", run), Check("next", "done", lambda found: "done")])
        assert code == 1
        assert seen(report, "mistake")["seen"] == "the probe itself failed: ZeroDivisionError: oops"
        assert seen(report, "next")["held"]
        assert_nothing_is_left(dli_local, report)
        assert [job.status for job in dli_local.jobs()] == ["CANCELLED"]

    @pytest.mark.matrix
    @pytest.mark.parametrize("is_sent", [True, False], ids=["after", "before"])
    @pytest.mark.parametrize("number", range(2, 62, 5))
    def test_after_a_mistake_at_any_request(self, dli_local, probe, monkeypatch, number, is_sent):
        real, count = exchange.exchange, iter(range(10_000))

        def exchanged(*args):
            is_it = next(count) == number
            if is_it and not is_sent:
                raise ZeroDivisionError
            answer = real(*args)
            if is_it:
                raise ZeroDivisionError
            return answer

        monkeypatch.setattr(exchange, "exchange", exchanged)
        monkeypatch.setattr(jobs, "LISTED_WITHIN", 1.0)
        code, report = probe()
        assert next(count) > number, "there is no such request: lower the range"
        assert code in (0, 1)
        left = [each["job_id"] for each in report["may_be_left_running"]]
        assert set(active(dli_local)) <= set(left)
        # Nobody has an answer about a submit that was not even sent.
        assert left in ([], [None])

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_after_a_signal(self, dli_local, probe, number):
        def kill():
            dli_local.wait_until(lambda dli: any("CROSS JOIN" in job.statement for job in dli.jobs()))
            os.kill(os.getpid(), number)

        wait = Check(
            "wait", "nothing", lambda found: sql._submit(found, sql.LONG, "long", {}) and found.client.pause(30)
        )
        thread = threading.Thread(target=kill)
        thread.start()
        code, report = probe([wait, Check("next", "nothing", lambda found: "nothing")])
        thread.join()
        assert (code, report["ended_by"]) == (128 + number, number.name)
        assert seen(report, "wait")["seen"] == f"ended: {number.name}"
        assert seen(report, "next")["held"] is None
        assert_nothing_is_left(dli_local, report)
        assert [job.status for job in dli_local.jobs()] == ["CANCELLED"]

    def test_after_a_signal_while_a_submit_is_on_its_way(self, dli_local, probe):
        """It is waited for: what is known has not to be looked for."""
        dli_local.fault("submit", "latency", seconds=2)

        def run(found):
            threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
            return sql.cancel_of_a_running_job(found)

        code, report = probe([Check("cancel", "done", run)])
        assert code == 128 + signal.SIGTERM
        assert dli_local.requests(call="list")[1:] == []
        assert_nothing_is_left(dli_local, report)
        assert [job.status for job in dli_local.jobs()] == ["CANCELLED"]

    @pytest.mark.parametrize("fault", ["drop_after", "empty", "truncate"])
    def test_after_a_lost_answer(self, dli_local, probe, fault):
        """The job is found by its tags, and the check goes on with it."""
        details = {} if fault == "drop_after" else {"work_done": True}
        dli_local.fault("submit", fault, **details)
        dli_local.settings(list_lag=1)
        code, report = probe([sql.BEFORE_THE_KILL[-1]])
        assert (code, failed(report)) == (0, [])
        assert_nothing_is_left(dli_local, report)
        assert len(dli_local.jobs()) == 1

    @pytest.mark.matrix
    def test_after_an_outage(self, dli_local, probe):
        for call in ("status", "list", "cancel"):
            dli_local.fault(call, "status", times=2, skip=2, status=503)
        code, report = probe(sql.BEFORE_THE_KILL)
        assert (code, failed(report)) == (0, [])
        assert_nothing_is_left(dli_local, report)

    @pytest.mark.parametrize("fault", ["hang", "hang_after"])
    def test_when_its_time_is_over_while_dli_hangs(self, dli_local, probe, monkeypatch, fault):
        monkeypatch.setattr(jobs, "LISTED_WITHIN", 1.0)
        dli_local.fault("submit", fault)
        code, report = probe([sql.BEFORE_THE_KILL[-1]], timeout=1.5)
        assert code == 1
        assert report["ended_by"].startswith("its time is over (2 s, see --timeout)")
        assert active(dli_local) == []
        if fault == "hang":
            [left] = report["may_be_left_running"]
            assert left["job_id"] is None
            assert "was not answered, and DLI does not list it" in left["problem"]
        else:
            assert [job.status for job in dli_local.jobs()] == ["CANCELLED"]

    def test_dli_itself_would_end_a_job_that_nobody_cancels(self, dli_local, probe):
        probe(sql.BEFORE_THE_KILL[:1], timeout=60)
        [job] = dli_local.jobs()
        assert "dli.sql.job.timeout = 180" in job.conf


class TestTheTimeLimit:
    LIMIT = next(check for check in sql.BEFORE_THE_KILL if check.name == "time limit")

    def test_in_seconds(self, dli_local, probe):
        code, report = probe([self.LIMIT])
        assert (code, failed(report)) == (0, [])
        assert seen(report, "time limit")["seen"].startswith("seconds: ")
        assert_nothing_is_left(dli_local, report)

    def test_in_milliseconds(self, dli_local, probe, monkeypatch):
        dli_local.settings(timeout_unit="milliseconds")
        code, report = probe([self.LIMIT])
        assert code == 1
        assert "set server_bound = milliseconds" in seen(report, "time limit")["seen"]
        monkeypatch.setenv("AIRFLOW__DLI__SERVER_BOUND", "milliseconds")
        # What comes after has its own jobs limited in the same unit.
        code, report = probe([self.LIMIT, sql.BEFORE_THE_KILL[-1]], timeout=60)
        assert (code, failed(report)) == (0, [])
        assert "dli.sql.job.timeout = 180000" in dli_local.jobs()[-1].conf


class TestTheKill:
    def test_is_none_of_a_job_that_dli_ends_by_itself(self, dli_local, probe):
        dli_local.settings(timeout_unit="milliseconds")
        code, report = probe([killed_task.CHECK], timeout=60)
        assert (code, failed(report)) == (1, ["kill of a real task"])

    def test_of_a_real_task(self, dli_local, probe):
        code, report = probe([killed_task.CHECK])
        assert (code, failed(report)) == (0, [])
        assert seen(report, "kill of a real task")["seen"].startswith("CANCELLED; the task was gone")
        [job] = dli_local.jobs()
        assert job.status == "CANCELLED"
        assert job.cancel_requests
        assert {"airflow_probe", "airflow_probe_job", "airflow_ti", "airflow_attempt"} <= job.tags.keys()

    @pytest.mark.matrix
    def test_that_does_not_end_the_job(self, dli_local, probe, monkeypatch):
        monkeypatch.setattr(Probe.over, "__defaults__", (1.0,))
        dli_local.will(matching="CROSS JOIN", run_for=60, cancel_takes=5)
        code, report = probe([killed_task.CHECK])
        assert (code, failed(report)) == (1, ["kill of a real task"])
        assert seen(report, "kill of a real task")["seen"] == "RUNNING, still, after 1 s"
        assert_nothing_is_left(dli_local, report)

    @pytest.mark.matrix
    def test_that_comes_to_nothing(self, dli_local, probe):
        """DLI accepts the cancel, and lets the job finish."""
        dli_local.will(matching="CROSS JOIN", run_for=3)
        dli_local.fault("cancel", "status", times=None, status=200, body='{"is_success": true}')
        code, report = probe([killed_task.CHECK])
        assert (code, failed(report)) == (1, ["kill of a real task"])
        said = seen(report, "kill of a real task")["seen"]
        assert said.startswith("the job is FINISHED; the task ended DliTaskKilledError")

    @pytest.mark.matrix
    def test_of_a_task_that_fails_before(self, dli_local, probe):
        dli_local.fault("submit", "status", times=None, status=400, error_code="DLI.0002")
        code, report = probe([killed_task.CHECK])
        assert (code, failed(report)) == (1, ["kill of a real task"])
        assert "the task ended before it was killed, DliNotFoundError" in seen(report, "kill of a real task")["seen"]
        assert_nothing_is_left(dli_local, report)


class TestTheCommand:
    @pytest.fixture(autouse=True)
    def without_the_kill(self, monkeypatch):
        # In its place, something that writes where Airflow's log may be written.
        noise = Check("last", "", lambda probe: f"{os.write(1, b'some noise')} bytes")
        monkeypatch.setattr(killed_task, "CHECK", noise)

    def main(self, *arguments, typed=""):
        stdin, sys.stdin = sys.stdin, io.StringIO(typed)
        try:
            return cli.main(["probe", *arguments])
        finally:
            sys.stdin = stdin

    def test_json_is_all_that_is_printed(self, dli_local, connect, capfd):
        connect()
        dli_local.will(matching="CROSS JOIN", run_for=60)
        assert self.main("--yes", "--json") == 0
        out, err = capfd.readouterr()
        assert json.loads(out)["holds"] is True
        assert "ok  cancel of a running job" in err
        assert "some noise" in err

    def test_the_tables(self, dli_local, connect, capfd):
        connect()
        dli_local.will(matching="CROSS JOIN", run_for=60)
        assert self.main("--yes") == 0
        out, _ = capfd.readouterr()
        assert "ok  cancel of a running job" in out
        assert out.rstrip().endswith("This DLI keeps what the provider relies on.")
        assert "More points are about spark and flink jobs: see --kinds." in out

    def test_what_may_be_left_is_named_in_the_tables(self, dli_local, connect, capfd, monkeypatch):
        monkeypatch.setattr(probes, "_GIVE_UP_AFTER", 1.0)
        connect()
        dli_local.will(matching="CROSS JOIN", run_for=60)
        dli_local.fault("cancel", "soft_failure", times=None)
        assert self.main("--yes") == 1
        out, _ = capfd.readouterr()
        [job_id] = active(dli_local)
        assert "MAY STILL RUN, AND COST" in out
        assert f"the sql job {job_id}" in out
        assert "NOT every check has held." in out

    @pytest.mark.parametrize("typed", ["n\n", "\n", "", "maybe\n"])
    def test_nothing_is_done_unless_the_user_agrees(self, dli_local, connect, capfd, typed):
        connect(extra={"default_queue": "sales"})
        assert self.main(typed=typed) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert "seven SQL jobs on the queue 'sales'" in err
        assert "not agreed; nothing was started." in err
        assert {request.call for request in dli_local.requests()} == {"token", "list"}

    def test_the_number_of_jobs_that_it_asks_about_is_right(self, dli_local, connect):
        connect()
        dli_local.will(matching="CROSS JOIN", run_for=60)
        assert self.main(typed="y\n") == 0
        assert len(dli_local.jobs()) == 7 - 1  # and that of the killed task

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"extra": {"region": None, "iam_endpoint": None}}, "region"),
            ({"password": "canary-wrong"}, "Check login, password, domain_name and project"),
            ({"auth_type": "ak_sk", "password": "canary-wrong"}, "Check login (access key) and password (secret key)"),
            ({"host": "http://127.0.0.1:9"}, "no answer from http://127.0.0.1:9"),
        ],
    )
    def test_a_bad_connection(self, dli_local, connect, capfd, monkeypatch, fields, says):
        monkeypatch.setattr(probes, "_GIVE_UP_AFTER", 0.0)
        connect(**fields)
        assert self.main("--yes", "--json") == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert says in err
        assert "canary" not in err
        assert dli_local.jobs() == []

    def test_a_connection_that_does_not_exist(self, capfd):
        assert self.main("--conn-id", "nobody", "--yes") == 2
        assert "nobody" in capfd.readouterr().err

    def test_a_user_who_may_not_list_jobs(self, dli_local, connect, capfd):
        """Then a submit whose answer is lost could not be looked up."""
        connect()
        dli_local.fault("list", "status", times=None, status=403, error_code="APIG.0302")
        assert self.main("--yes") == 2
        assert "dli:jobs:listAll" in capfd.readouterr().err
        assert dli_local.jobs() == []

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--kinds", "flink"], "needs --general-queue"),
            (["--spark-file", "obs://a/b.jar", "--general-queue", "general"], "needs --kinds spark"),
        ],
    )
    def test_options_that_need_another(self, capfd, arguments, says):
        assert self.main(*arguments) == 2
        assert says in capfd.readouterr().err

    @pytest.mark.parametrize("arguments", [["--kinds", "hive"], ["--timeout", "0"], ["--timeout", "soon"]])
    def test_options_that_cannot_be(self, arguments):
        with pytest.raises(SystemExit) as exit_:
            self.main(*arguments)
        assert exit_.value.code == 2

    def test_no_secret_is_shown(self, dli_local, connect, capfd):
        connect(password=dli_local.password)
        dli_local.will(matching="CROSS JOIN", run_for=60)
        dli_local.fault(
            "submit", "status", times=1, status=400, error_code="DLI.0001", error_msg=f"{dli_local.password} is no good"
        )
        self.main("--yes", "--json")
        out, err = capfd.readouterr()
        assert "*** is no good" in out
        assert dli_local.password not in out + err


def test_it_needs_nothing_but_the_base_dependencies():
    allowed = {"airflow_provider_dli", "airflow", "pendulum", "tabulate", *sys.stdlib_module_names}
    for path in Path(airflow_provider_dli.probe.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert {name.partition(".")[0] for name in names} <= allowed, path
            assert not any(name.startswith("airflow_provider_dli.local") for name in names), path
