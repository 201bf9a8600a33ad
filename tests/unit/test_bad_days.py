"""
What the client does on a bad day: call x fault x outcome.

Every fault is made by the local DLI on the wire. ``again`` means that the call is repeated and succeeds, ``lost`` that it
is not repeated and says that the work may have been done, ``refused`` that it is not repeated because it failed.
"""

from __future__ import annotations

import gc
import threading
import time

import pace
import pytest

from airflow_provider_dli.api import sql
from airflow_provider_dli.client import client
from airflow_provider_dli.exceptions import DliAuthenticationError, DliError, DliPermissionError, DliTemporaryError

TIMEOUT = 1.0

FAULTS = {
    "500": {"kind": "status", "status": 500, "error_code": "APIG.0601", "error_msg": "internal"},
    "502": {"kind": "status", "status": 502, "body": "<html>bad gateway</html>"},
    "503": {"kind": "status", "status": 503, "error_code": "APIG.0610", "error_msg": "unavailable"},
    "504": {"kind": "status", "status": 504, "body": ""},
    "dli 0999": {"kind": "status", "status": 400, "error_code": "DLI.0999", "error_msg": "Server-side errors occur."},
    "dli 10001": {"kind": "status", "status": 400, "error_code": "DLI.10001", "error_msg": "internal"},
    "dli 0019": {"kind": "status", "status": 400, "error_code": "DLI.0019", "error_msg": "timed out"},
    "408": {"kind": "status", "status": 408, "body": ""},
    "429": {"kind": "status", "status": 429, "error_code": "APIG.0308", "error_msg": "throttled"},
    "429 with Retry-After": {"kind": "status", "status": 429, "retry_after": "1"},
    "429 with a date": {"kind": "status", "status": 429, "retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"},
    "429 with a date without a zone": {"kind": "status", "status": 429, "retry_after": "Wed, 21 Oct 2015 07:28:00"},
    "429 with nonsense": {"kind": "status", "status": 429, "retry_after": "soon"},
    "dropped before": {"kind": "drop_before"},
    "dropped after": {"kind": "drop_after"},
    "hangs": {"kind": "hang"},
    "hangs after": {"kind": "hang_after"},
    "drips": {"kind": "drip", "seconds": 0.6},
    "truncated": {"kind": "truncate"},
    "empty": {"kind": "empty"},
    "page of a proxy": {"kind": "html"},
    "huge": {"kind": "huge", "size": 100_000_000},
    "no object": {"kind": "status", "status": 200, "body": "[1]"},
    "deep": {"kind": "status", "status": 200, "body": "[" * 5000},
    "slow": {"kind": "latency", "seconds": 0.2},
    "token expired": {"kind": "expired_token"},
    "redirect": {"kind": "redirect"},
    "soft failure": {"kind": "soft_failure"},
    "forbidden": {"kind": "status", "status": 403, "error_code": "APIG.0302", "error_msg": "not authorized"},
    "unauthorized": {"kind": "status", "status": 401, "error_code": "APIG.0301", "error_msg": "no", "times": 2},
    "bad request": {"kind": "status", "status": 400, "error_code": "DLI.0001", "error_msg": "bad parameter"},
}

REFUSED = {
    "redirect": DliError,
    "soft failure": DliError,
    "forbidden": DliPermissionError,
    "bad request": DliError,
}
NOTHING_STARTED = {name for name in FAULTS if name.startswith("429")}
UNHURT = {"slow"}

CALLS = {
    "submit": lambda hook, job: hook.submit_sql_job("select 1"),
    "status": lambda hook, job: hook.get_job(job),
    "list": lambda hook, job: list(hook.list_jobs()),
    "preview": lambda hook, job: hook.send(sql.preview(job)),
    "progress": lambda hook, job: hook.send(sql.progress(job)),
    "cancel": lambda hook, job: hook.cancel_job(job),
}


def expected(call, fault):
    """Return the class of the error, or None, and the number of requests."""
    if call == "cancel" and fault in REFUSED:
        # While the job is active, whatever DLI said.
        return None, 2
    if fault in REFUSED:
        return REFUSED[fault], 1
    if (call, fault) == ("preview", "huge"):
        # A repeat would bring the same rows.
        return DliError, 1
    if fault == "unauthorized":
        return DliAuthenticationError, 2
    if fault in UNHURT:
        return None, 1
    if call == "submit" and fault not in NOTHING_STARTED and fault != "token expired":
        return DliTemporaryError, 1
    return None, 2


@pytest.fixture
def tired_hook(connect, monkeypatch):
    """A hook that waits a second for an answer, also of a submit, and repeats soon."""
    monkeypatch.setattr(sql, "_SUBMIT_TIMEOUT", TIMEOUT)
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.05)
    hook = connect(extra={"timeout": TIMEOUT})
    hook.connect()
    return hook


# All calls that only read are read in the same way; a submit is in the fault matrix, too.
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "call",
    [pytest.param(call, marks=[pytest.mark.matrix] * (call not in ("status", "cancel"))) for call in CALLS],
)
def test_a_call_on_a_bad_day(dli_local, tired_hook, call, fault):
    dli_local.settings(preview_on_default="works")
    job = tired_hook.submit_sql_job("select 1").id
    tired_hook.wait_for_job(job, poll_interval=0.1)
    if call == "cancel":
        dli_local.will(run_for=60)
        job = tired_hook.submit_sql_job("select 1").id
    before = dli_local.requests()[-1].seq
    if fault == "deep":
        # What other tests have left is not to be finalised at the end of the stack.
        gc.collect()
    dli_local.fault(call, **FAULTS[fault])
    error_class, requests = expected(call, fault)
    start = time.monotonic()
    try:
        CALLS[call](tired_hook, job)
        error = None
    except DliError as caught:
        error = caught
    took = time.monotonic() - start

    assert type(error) is (error_class or type(None)), error
    assert len(dli_local.requests(call=call, since=before)) == requests
    # One answer may take twice the timeout (to connect, and to answer), a repeat waits up to 2 s.
    assert took < 2 * TIMEOUT * requests + pace.seconds(3)
    if error is not None:
        assert call in str(error)
        assert "dli-local" not in str(error)
    if call == "submit" and error_class is DliTemporaryError:
        assert not error.nothing_started


@pytest.mark.parametrize(
    "fault", ["500", "503", "429", "dropped before", "dropped after", "hangs", "truncated", "empty"]
)
def test_the_token_on_a_bad_day(dli_local, connect, fault):
    dli_local.fault("token", **FAULTS[fault])
    connect(extra={"timeout": TIMEOUT}).send(sql.list_jobs())
    assert len(dli_local.requests(call="token")) == 2


def test_a_clock_that_is_wrong_is_told_and_not_repeated(dli_local, connect):
    dli_local.settings(clock_skew=1000)
    with pytest.raises(DliAuthenticationError, match="and this machine's clock"):
        connect("ak_sk").send(sql.list_jobs())
    assert len(dli_local.requests()) == 1


@pytest.mark.parametrize(
    "settings", [{"flags": "text"}, {"cancel_ended": "soft"}, {"unknown_job": "404"}, {"list_lag": 1}]
)
def test_either_answer_where_the_sources_disagree(dli_local, connect, settings):
    dli_local.settings(**settings)
    hook = connect()
    job = hook.submit_sql_job("select 1")
    assert hook.wait_for_job(job.id, poll_interval=0.1).state.is_success
    assert not hook.cancel_job(job.id).accepted
    dli_local.will(run_for=60)
    job = hook.submit_sql_job("select 1")
    assert hook.cancel_job(job.id).accepted
    assert hook.wait_for_job(job.id, poll_interval=0.1).status == "CANCELLED"


def test_a_server_that_goes_away_while_a_task_waits_is_waited_for(dli_local, connect):
    dli_local.will(run_for=1)
    hook = connect()
    job = hook.submit_sql_job("select 1")
    for call in ("status", "token"):
        dli_local.fault(call, "drop_before", times=None)
    threading.Timer(2, dli_local.clear_faults).start()
    assert hook.wait_for_job(job.id, poll_interval=0.2).state.is_success


@pytest.mark.parametrize("auth_type", ["password", "ak_sk"])
def test_a_dli_that_restarts_is_waited_for(dli_local, connect, restart, auth_type):
    dli_local.will(run_for=1)
    hook = connect(auth_type)
    job = hook.submit_sql_job("select 1")
    restart(down_for=2)
    assert hook.wait_for_job(job.id, poll_interval=0.2).state.is_success


def test_a_submit_while_dli_restarts_starts_one_job(dli_local, connect, restart):
    hook = connect()
    hook.connect()
    restart(down_for=2)
    assert hook.wait_for_job(hook.submit_sql_job("select 1").id, poll_interval=0.2).state.is_success
    assert len(dli_local.jobs()) == 1
