"""The Spark operator over HTTP, against the local DLI, in this process. Kills are in test_kinds.py and in histories."""

from __future__ import annotations

import fakes
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from fakes import TaskInstance

from airflow_provider_dli import identity
from airflow_provider_dli.exceptions import DliError, DliJobError
from airflow_provider_dli.operators.dli import DliCancelJobOperator, DliSubmitSparkJobOperator
from airflow_provider_dli.sensors.dli import DliJobSensor
from airflow_provider_dli.tasks import start

BATCH = {"file": "group/job.jar", "class_name": "Main", "spark_version": "2.4.5", "queue_name": "general"}


@pytest.fixture
def run(connect):
    """Return a function that executes an operator, and gives its result and its task instance."""
    connect()

    def execute(operator_class=DliSubmitSparkJobOperator, ti=None, **arguments):
        if operator_class is not DliJobSensor:
            arguments.setdefault("poll_interval", 0.1)
        if operator_class is DliSubmitSparkJobOperator:
            arguments = {**BATCH, **arguments}
        task = operator_class(task_id="load", **arguments)
        ti = ti or TaskInstance()
        return fakes.execute(task, fakes.context_of(ti)), ti

    return execute


def calls(dli_local, *names):
    return [request.call for request in dli_local.requests() if request.call in names]


class TestSubmit:
    def test_a_batch_runs_to_its_end(self, dli_local, run):
        dli_local.will(kind="spark", run_for=0.3)
        result, ti = run()
        [job] = dli_local.jobs()
        assert (job.kind, job.status) == ("spark", "success")
        assert result == ti.xcoms["job_id"] == job.job_id

    def test_name_and_settings_carry_its_identity(self, dli_local, hook, run, monkeypatch):
        monkeypatch.setenv("AIRFLOW__DLI__DEPLOYMENT", "prod 1")
        dli_local.will(kind="spark", run_for=0)
        result, _ = run(conf={"spark.sql.shuffle.partitions": 200, "spark.speculation": True})
        [job] = hook.list_jobs("spark")
        assert job.id == result
        assert job.is_proved
        assert (job.tags["airflow_dag"], job.tags["airflow_run"], job.tags["airflow_deployment"]) == (
            "sales",
            "run 1",
            "prod 1",
        )
        assert identity.from_name(job.name)["airflow_attempt"] == job.tags["airflow_attempt"]
        assert job.name.startswith("sales-load-")
        assert {"spark.sql.shuffle.partitions=200", "spark.speculation=true"} <= set(dli_local.job(result).conf)

    def test_every_parameter_gets_there(self, dli_local, run):
        dli_local.will(kind="spark", run_for=0)
        run(
            args=["--day", "2026-01-15"],
            jars=["obs://bucket/a.jar"],
            py_files=["group/a.py"],
            files=["a.txt"],
            modules=["sys.datasource.rds"],
            resources=[{"name": "group/a.jar", "type": "jar"}],
            groups=[{"name": "group", "resources": [{"name": "a.jar", "type": "jar"}]}],
            sc_type="B",
            driver_memory="4G",
            driver_cores=1,
            executor_memory="2048M",
            executor_cores="2",
            num_executors=3,
            feature="basic",
            catalog_name="dli",
            execution_agency_urn="agency",
            obs_bucket="bucket",
            auto_recovery=True,
            max_retry_times=3,
            name="nightly",
        )
        [job] = dli_local.jobs()
        assert job.name.startswith("nightly-")

    def test_a_failure_shows_the_end_of_the_driver_log(self, dli_local, run, capfd):
        dli_local.will(kind="spark", run_for=0.1, then="FAILED", log=["one", "two", "Exception: no such table"])
        with pytest.raises(DliJobError, match=r"Spark batch .* ended dead: Exception: no such table"):
            run(log_tail_lines=2)
        shown = capfd.readouterr().out
        assert "The last lines of the log of Spark batch" in shown
        assert "two" in shown

    def test_also_where_the_log_call_is_gone(self, dli_local, run, capfd):
        dli_local.settings(batch_log_call="gone")
        dli_local.will(kind="spark", run_for=0.1, then="FAILED", log=["one", "two", "three"])
        with pytest.raises(DliJobError):
            run()
        assert "    three" in capfd.readouterr().out

    def test_what_the_sources_tell_in_two_ways(self, dli_local, run):
        dli_local.settings(spark_is_success="false", spark_success="Success", spark_cancel_answer="empty")
        dli_local.will(kind="spark", run_for=0.1)
        result, _ = run()
        assert dli_local.job(result).state == "FINISHED"

    def test_dead_counts_only_if_dli_does_not_start_it_again(self, dli_local, run):
        dli_local.settings(dead_before_recovering=0.5)
        dli_local.will(kind="spark", run_for=0.1, then="FAILED")
        dli_local.will(kind="spark", run_for=0.1)
        result, _ = run(auto_recovery=True)
        assert dli_local.job(result).state == "FINISHED"

    def test_a_missing_agency_says_what_to_do(self, run):
        with pytest.raises(DliError, match="Name an agency that may read the files as execution_agency_urn"):
            run(file="obs://bucket/job.jar", spark_version="3.3.1")


class TestLostAnswers:
    @pytest.mark.parametrize("filter_", ["equal", "fuzzy"])
    def test_the_batch_is_found_by_its_name(self, dli_local, run, filter_):
        dli_local.settings(batch_name_filter=filter_, list_lag=1)
        dli_local.will(kind="spark", run_for=0.5)
        dli_local.fault("spark_create", "drop_after")
        run()
        assert len(dli_local.jobs()) == 1

    @pytest.mark.parametrize("shown", ["absent", "unreadable"])
    def test_one_that_only_its_name_tells_of_is_adopted_and_never_cancelled(self, dli_local, run, shown, monkeypatch):
        dli_local.settings(req_body=shown)
        dli_local.will(kind="spark", run_for=60)
        dli_local.fault("spark_create", "drop_after")
        # Something else goes wrong afterwards.
        monkeypatch.setattr("airflow_provider_dli.tasks.run.wait_until_over", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run()
        [job] = dli_local.jobs()
        assert job.is_active
        assert not job.cancel_requests

    def test_and_a_retry_waits_for_it(self, dli_local, run):
        dli_local.settings(req_body="absent")
        dli_local.will(kind="spark", run_for=1)
        first, _ = run(wait_for_completion=False)
        second, _ = run(ti=TaskInstance(try_number=2))
        assert first == second
        assert len(dli_local.jobs()) == 1

    def test_but_a_cleared_task_leaves_it_alone(self, dli_local, run):
        dli_local.settings(req_body="absent")
        dli_local.will(kind="spark", run_for=60)
        dli_local.will(kind="spark", run_for=0)
        first, _ = run(wait_for_completion=False)
        second, _ = run(ti=TaskInstance(try_number=2, max_tries=3))
        assert first != second
        assert not dli_local.job(first).cancel_requests

    def test_one_that_is_never_listed_is_not_submitted_again(self, dli_local, run, monkeypatch):
        monkeypatch.setattr(start, "LIST_LAG", 1.0)
        dli_local.settings(list_lag=60)
        dli_local.fault("spark_create", "drop_after")
        with pytest.raises(DliError, match="look in the DLI console for a job with the name sales-load-"):
            run()
        assert len(dli_local.jobs()) == 1


class TestEarlier:
    def test_a_retry_waits_for_what_still_runs(self, dli_local, run):
        dli_local.will(kind="spark", run_for=1)
        first, _ = run(wait_for_completion=False)
        second, _ = run(ti=TaskInstance(try_number=2))
        assert first == second

    def test_one_that_dies_by_itself_after_it_was_taken_over_has_failed(self, dli_local, run):
        dli_local.will(kind="spark", run_for=1, then="FAILED")
        first, _ = run(wait_for_completion=False)
        with pytest.raises(DliJobError, match=f"{first} ended dead"):
            run(ti=TaskInstance(try_number=2))
        assert len(dli_local.jobs()) == 1

    def test_one_whose_late_cancel_its_log_tells_of_is_submitted_again_once(self, dli_local, run, hook):
        dli_local.will(kind="spark", run_for=60, cancel_takes=1)
        dli_local.will(kind="spark", run_for=0)
        first, _ = run(wait_for_completion=False)
        dli_local.wait_until(lambda dli: dli.job(first).status == "running")
        hook.cancel_job(first, kind="spark")
        second, _ = run(ti=TaskInstance(try_number=2))
        assert [(job.job_id, job.state) for job in dli_local.jobs()] == [(first, "CANCELLED"), (second, "FINISHED")]

    def test_a_cleared_task_cancels_it_and_runs_again(self, dli_local, run):
        dli_local.will(kind="spark", run_for=60)
        dli_local.will(kind="spark", run_for=0)
        first, _ = run(wait_for_completion=False)
        second, _ = run(ti=TaskInstance(try_number=2, max_tries=3))
        assert [(job.job_id, job.state) for job in dli_local.jobs()] == [(first, "CANCELLED"), (second, "FINISHED")]


def test_the_cancel_operator_tells_a_cancelled_batch_from_a_failed_one(dli_local, run):
    dli_local.will(kind="spark", run_for=60)
    dli_local.will(kind="spark", run_for=0, then="FAILED")
    running, _ = run(wait_for_completion=False)
    failed, _ = run(wait_for_completion=False)
    dli_local.wait_until(lambda dli: not dli.job(failed).is_active)
    result, _ = run(DliCancelJobOperator, job_id=[running, failed], kind="spark")
    assert result == {running: "CANCELLED", failed: "FAILED"}


def test_a_cancel_that_is_refused_softly_is_repeated(dli_local, run, hook):
    # Elsewhere, `is_success` of a batch means nothing.
    dli_local.will(kind="spark", run_for=60)
    job_id, _ = run(wait_for_completion=False)
    dli_local.fault("spark_cancel", "soft_failure")
    assert hook.cancel_job(job_id, "spark").accepted
    assert dli_local.job(job_id).cancel_requests


def test_the_sensor_waits_for_a_batch(dli_local, run):
    dli_local.will(kind="spark", run_for=0.5)
    job_id, _ = run(wait_for_completion=False)
    run(DliJobSensor, job_id=job_id, kind="spark", poke_interval=0.1)
    assert dli_local.job(job_id).status == "success"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"spark_version": None}, "spark_version is missing"),
        ({"feature": "custom", "spark_version": None}, "image is missing"),
        ({"feature": "custom", "image": "a/b:1"}, "spark_version cannot go with feature='custom'"),
        ({"image": "a/b:1"}, "image is used with feature='custom' only"),
        ({"feature": "fast"}, "feature must be one of"),
        ({"file": ""}, "file '' is neither an OBS path"),
        ({"file": "s3a://bucket/job.jar"}, "file 's3a://bucket/job.jar' is neither"),
        ({"file": "/opt/job.jar"}, "file '/opt/job.jar' is neither"),
        ({"spark_version": "3.3.1"}, "file must be an OBS path with Spark 3.3.1"),
        ({"spark_version": "3.1.1", "modules": ["sys.datasource.rds"]}, "modules cannot go with Spark 3.1.1"),
        (
            {"spark_version": "3.3.1", "file": "obs://b/a.py", "resources": [{"name": "a"}]},
            "resources cannot go with Spark 3.3.1",
        ),
        ({"driver_memory": "4"}, "driver_memory must be a whole number with a unit, such as '4G'"),
        ({"executor_memory": 4}, "executor_memory must be"),
        ({"executor_cores": -1}, "executor_cores must be"),
        ({"num_executors": "some"}, "num_executors must be"),
        ({"sc_type": "D"}, "sc_type must be one of 'A', 'B', 'C'"),
        ({"max_retry_times": 3}, "max_retry_times is used with auto_recovery=True only"),
        ({"max_retry_times": 101, "auto_recovery": True}, "max_retry_times must be a whole number from 0 to 100"),
        ({"args": "--day 1"}, "args must be a list of text"),
        ({"jars": "a.jar"}, "jars must be a list of text"),
        ({"jars": ["http://host/a.jar"]}, "jars 'http://host/a.jar' is neither"),
        ({"conf": ["a=1"]}, "conf must be a mapping"),
        ({"conf": {"spark.airflow.ti": "x"}}, "conf 'spark.airflow.ti' is a setting by which"),
        ({"queue_name": "no-such-name"}, "queue_name: DLI does not take the name"),
        ({"log_tail_lines": -1}, "log_tail_lines must be"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(dli_local, run, changes, problem):
    with pytest.raises(AirflowFailException, match=problem):
        run(**changes)
    assert calls(dli_local, "spark_create") == []
