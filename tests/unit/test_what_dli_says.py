"""Errors in all the forms in which DLI was seen to tell them."""

from __future__ import annotations

import json

import fakes
import pytest
from test_odd_answers import JOB, answered

from airflow_provider_dli.api import flink, spark, sql
from airflow_provider_dli.client import exchange
from airflow_provider_dli.exceptions import DliError, DliNotFoundError, DliPermissionError, DliTemporaryError
from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

BODY = {"error_code": "DLI.0002", "error_msg": "no queue etl"}
SUBMIT = sql.submit("select 1")


def refused(call, body, status=400):
    with pytest.raises(DliError) as caught:
        answered(call, json.dumps(body).encode(), status=status)
    return caught.value


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"is_success": False, "message": "DLI.0002: no queue etl"}, 200),
        ({"is_success": "false", "message": json.dumps(BODY)}, 200),
        ({"is_success": False, "message": json.dumps([BODY])}, 200),
        ({"is_success": False, "message": "Failed. DLI.0002 no queue etl"}, 200),
        ({"error_code": "DLI.0002", "message": "no queue etl"}, 400),
        ({"errorCode": "DLI.0002", "message": "no queue etl"}, 400),
        ({"error_code": "", "error_msg": "DLI.0002: no queue etl"}, 400),
        ([{"error_code": "DLI.0002", "message": "no queue etl"}], 400),
        ({"error": BODY}, 400),
        ("DLI.0002: no queue etl", 400),
        ({"error_code": "DLI.0008", "error_msg": "There is no queue etl: no queue etl"}, 400),
    ],
    ids=range(11),
)
def test_the_code_and_the_text_are_found(body, status):
    error = refused(SUBMIT, body, status)
    assert isinstance(error, DliNotFoundError)
    assert error.code in ("DLI.0002", "DLI.0008")
    assert "no queue etl" in str(error)


def test_the_code_of_the_body_counts_before_that_of_its_text():
    error = refused(SUBMIT, {"error_code": "DLI.0999", "error_msg": "caused by DLI.0002: x"})
    assert (type(error), error.code) == (DliTemporaryError, "DLI.0999")


@pytest.mark.parametrize("options", [{"error": "no agency"}, json.dumps({"error": "no agency"})], ids=type)
def test_the_cause_that_is_kept_apart_is_told(options):
    body = {"error_code": "DLI.10001", "error_msg": "An internal error occurred. {0}", "error_json_opt": options}
    for shown in (body, [body]):
        assert "An internal error occurred. no agency (DLI.10001" in str(refused(SUBMIT, shown, 500))


def test_of_the_cancel_of_a_batch_too():
    body = {"is_success": False, "message": "DLI.0999: later"}
    assert refused(spark.cancel(JOB), body, 200).code == "DLI.0999"


def test_a_missing_right_may_be_a_grant_of_dli():
    error = refused(SUBMIT, {"error_code": "DLI.0003", "error_msg": "no privilege SUBMIT_JOB on queues.default"}, 403)
    assert isinstance(error, DliPermissionError)
    assert "dli:queue:submitJob" in str(error)
    assert "a grant of DLI itself" in str(error)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("The account is restricted for no budget", "pay the bill"),
        ("The queue is sold out", "try again later, or use another queue"),
    ],
)
@pytest.mark.parametrize(
    "call", [SUBMIT, spark.create(spark.SparkWork("obs://b/x.py", spark_version="2.4.5"), name="x")]
)
def test_what_to_do_is_said_in_plain_words(text, advice, call):
    assert advice in str(refused(call, {"error_code": "DLI.0001", "error_msg": text}))
    assert "Upload the package" not in str(refused(call, {"error_code": "DLI.0001", "error_msg": text}))


def test_of_a_job_that_has_failed_too():
    shown = {"job_id": JOB, "status": "FAILED", "message": "DLI.0001: restricted for no budget"}
    assert "pay the bill" in answered(sql.status(JOB), json.dumps(shown).encode()).message
    shown = {"job_detail": {"job_id": 131, "status": "job_arrearage_stopped"}}
    assert "pay the bill" in answered(flink.status("131"), json.dumps(shown).encode()).message


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (["stdout: ", "\nstderr: ", "Exception: x", "\nYARN Diagnostics: "], "Exception: x"),
        (["Exception: x", "YARN Diagnostics:", ""], "Exception: x"),
        (["Exception: x\nYARN Diagnostics: "], "Exception: x"),
        (["stderr: ", "YARN Diagnostics: ", "Container killed"], "Container killed"),
        (["stdout: ", "stderr:", "YARN Diagnostics:"], ""),
        (["Exception: lost stderr"], "Exception: lost stderr"),
    ],
    ids=range(6),
)
def test_why_a_batch_has_failed(log, message):
    body = {"id": JOB, "state": "dead", "log": log}
    assert answered(spark.detail(JOB), json.dumps(body).encode()).message == message


def test_a_time_out_that_names_the_job(dli_local, connect):
    """The job is adopted before the list shows it; one of somebody else is not."""
    hook = connect()
    other = hook.submit_sql_job("select 2").id
    dli_local.settings(list_lag=60)
    task = DliSubmitSqlJobOperator(task_id="load", sql="select 1", poll_interval=0.1)

    # The id is known only once the job is there: the answer names both.
    answer = exchange._answer

    def named(call, connection, project_id, response, content, secrets):
        if response.status_code == 408:
            content = content.replace(b"ID", dli_local.jobs()[-1].job_id.encode())
        return answer(call, connection, project_id, response, content, secrets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "_answer", named)
        dli_local.fault(
            "submit",
            "status",
            status=408,
            work_done=True,
            error_code="DLI.0019",
            error_msg=f"{other} or ID took too long",
        )
        assert fakes.execute(task, fakes.context_of()) == dli_local.jobs()[-1].job_id
