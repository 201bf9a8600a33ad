"""A cancel that DLI refuses is looked into: the state of the job decides, whatever the refusal says."""

from __future__ import annotations

import time

import pytest

from airflow_provider_dli.api import flink, spark, sql
from airflow_provider_dli.api.flink_definition import FlinkDefinition
from airflow_provider_dli.client.patience import Patience
from airflow_provider_dli.exceptions import DliError, DliNotFoundError, DliPermissionError

UNKNOWN = {
    "sql": "8ecb0777-9c70-4529-9935-29ea0946039c",
    "spark": "8ecb0777-9c70-4529-9935-29ea0946039c",
    "flink": "77",
}
KINDS = {"sql": sql.KIND, "spark": spark.KIND, "flink": flink.KIND}
CANCELS = {"sql": "cancel", "spark": "spark_cancel", "flink": "flink_stop"}
LOOKS = {"sql": "status", "spark": "spark_state", "flink": "flink_get"}
CODES = ["DLI.0001", "DLI.0007", "DLI.0012", "DLI.0019", "DLI.0999", "DLI.10001"]


def start(dli_local, hook, kind, run_for):
    """Start a job of the kind; return its id."""
    dli_local.will(run_for=run_for, kind=kind)
    if kind == "sql":
        return hook.submit_sql_job("select 1").id
    if kind == "spark":
        return hook.send(spark.create(spark.SparkWork("obs://b/x.py", spark_version="2.4.5"), name="x")).id
    definition = FlinkDefinition(job_type="flink_opensource_sql_job", sql_body="SELECT 1", queue_name="general")
    job = hook.send(flink.create(definition, name="x"))
    hook.send(flink.run(job.id))
    return job.id


def over(dli_local, hook, kind):
    job_id = start(dli_local, hook, kind, 0)
    dli_local.wait_until(lambda dli: dli.job(job_id).state == "FINISHED")
    return job_id


def cancel(hook, kind, job_id, seconds=2.0):
    return hook.client.patient(Patience(give_up_after=seconds)).cancel(KINDS[kind], job_id)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["", "500 ", "soft "])
def test_of_a_job_that_is_over_with_any_of_the_codes(dli_local, hook, kind, how):
    job_id = over(dli_local, hook, kind)
    for code in CODES:
        dli_local.settings(cancel_ended=how + code)
        before = dli_local.requests()[-1].seq
        cancellation = cancel(hook, kind, job_id)
        assert (cancellation.accepted, cancellation.state) == (False, "FINISHED"), code
        # In the same attempt.
        assert len(dli_local.requests(CANCELS[kind], since=before)) == 1, code


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500, "body": "<html>Internal error</html>"},
        {"status": 408, "body": ""},
        {"status": 200, "body": "<html>Sign in</html>"},
        {"status": 400, "body": "[1, 2]"},
    ],
    ids=lambda fault: f"{fault['status']}",
)
def test_of_a_job_that_is_over_without_a_code(dli_local, hook, fault):
    job_id = over(dli_local, hook, "sql")
    dli_local.fault("cancel", "status", times=None, **fault)
    assert cancel(hook, "sql", job_id).state == "FINISHED"
    assert len(dli_local.requests("cancel")) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_job_that_runs_is_repeated(dli_local, hook, kind):
    job_id = start(dli_local, hook, kind, 60)
    dli_local.wait_until(lambda dli: dli.job(job_id).state == "RUNNING")
    dli_local.fault(CANCELS[kind], "status", times=2, status=500, error_code="DLI.0999", error_msg="no")
    assert cancel(hook, kind, job_id).requests == 3


def test_what_is_proven_to_be_about_the_caller_is_not_looked_into(dli_local, hook):
    job_id = over(dli_local, hook, "sql")
    dli_local.fault("cancel", "status", times=2, status=403)
    with pytest.raises(DliPermissionError):
        cancel(hook, "sql", job_id)
    # Nor is what DLI has not looked at: another call would only add to the load.
    dli_local.fault("cancel", "status", status=429)
    assert cancel(hook, "sql", job_id).state == "FINISHED"
    assert len(dli_local.requests("status")) == 1


def test_when_the_look_fails_too_the_refusal_counts(dli_local, hook):
    job_id = start(dli_local, hook, "sql", 60)
    dli_local.fault("cancel", "status", times=None, status=500, error_code="DLI.0999", error_msg="no cancel")
    dli_local.fault("status", "status", times=None, status=403)
    began = time.monotonic()
    with pytest.raises(DliError, match="no cancel"):
        cancel(hook, "sql", job_id, 1.0)
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", ["DLI.0001", "404"])
def test_a_job_that_does_not_exist_is_gone(dli_local, hook, kind, answer):
    dli_local.settings(unknown_job=answer)
    job_id = UNKNOWN[kind]
    with pytest.raises(DliNotFoundError):
        cancel(hook, kind, job_id)
    # Both are asked twice: the first time, it may come from a proxy.
    assert len(dli_local.requests(LOOKS[kind])) == 2
    with pytest.raises(DliNotFoundError):
        hook.get_job(job_id, kind)
    with pytest.raises(DliNotFoundError):
        hook.wait_for_job(job_id, kind, poll_interval=0.1)


@pytest.mark.parametrize(
    "text", ["The job does not exist.", "job 1 is not exist", "The batch doesn't exist", "session not found"]
)
@pytest.mark.parametrize("status", [400, 500])
def test_however_dli_says_so(dli_local, hook, text, status):
    dli_local.fault("status", "status", times=None, status=status, error_code="DLI.0999", error_msg=text)
    with pytest.raises(DliNotFoundError):
        hook.get_job(UNKNOWN["sql"])


def test_elsewhere_it_says_nothing_of_a_job(dli_local, hook):
    dli_local.fault("submit", "status", status=400, error_code="DLI.0001", error_msg="Connection x is not exist")
    with pytest.raises(DliError) as caught:
        hook.submit_sql_job("select 1")
    assert not isinstance(caught.value, DliNotFoundError)
