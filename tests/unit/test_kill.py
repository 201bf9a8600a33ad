"""
Kills of real processes at chosen moments, counted in the local DLI's job table.

The processes handle SIGTERM as Airflow's task runner does; whole Airflows are killed in ``tests/airflow``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial

import pace
import pendulum
import pytest
from task_process import TaskProcesses

from airflow_provider_dli import identity
from airflow_provider_dli.api.sql import KIND, SqlWork
from airflow_provider_dli.client.patience import URGENT
from airflow_provider_dli.exceptions import DliTaskKilledError
from airflow_provider_dli.tasks.kill import KillSwitch
from airflow_provider_dli.threads import BackgroundLog

SUBMIT = "DliSubmitSqlJobOperator"


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    started = []

    def start(env):
        if not started:
            started.append(TaskProcesses(tmp_path_factory.mktemp("tasks"), env))
        return started[0]

    yield start
    for each in started:
        each.__exit__()


@pytest.fixture
def start(processes, dli_local):
    """Return a function that runs an operator in a process of its own."""
    env = {f"AIRFLOW_CONN_{name.upper()}": json.dumps(dli_local.connection(name)) for name in ("password", "ak_sk")}

    def run(operator=SUBMIT, connection="password", **arguments):
        if operator == SUBMIT:
            arguments.setdefault("sql", "select 1")
        return processes(env).start(operator, dli_conn_id=connection, poll_interval=1, **arguments)

    return run


def wait_for_call(dli_local, name, count=1):
    dli_local.wait_until(lambda dli: len(dli.requests(call=name)) >= count, timeout=pace.seconds(10))


def states(dli_local):
    return [job.status for job in dli_local.jobs()]


def wait_until_cancelled(dli_local):
    dli_local.wait_until(lambda dli: states(dli) == ["CANCELLED"], timeout=pace.seconds(5))


@pytest.mark.parametrize("auth_type", ["password", "ak_sk"])
def test_a_killed_task_cancels_its_job_and_ends_soon_and_not_green(dli_local, start, auth_type):
    dli_local.will(run_for=60)
    task = start(connection=auth_type)
    wait_for_call(dli_local, "status")
    killed = task.kill()
    outcome = task.wait()
    assert outcome.ended - killed < pace.seconds(1)
    assert outcome.error == "DliTaskKilledError"
    assert "DLI accepted the cancel" in outcome.message
    # The import lock may be held by the code that the signal interrupted.
    assert outcome.imported_by_kill == []
    wait_until_cancelled(dli_local)


@pytest.mark.matrix
def test_the_thread_tells_what_it_did_in_the_log(dli_local, start):
    dli_local.will(run_for=60)
    task = start()
    wait_for_call(dli_local, "status")
    task.kill()
    [job] = dli_local.jobs()
    assert f"Cancel of SQL job {job.job_id}: DLI accepted the cancel after 0." in task.wait().log


def test_a_kill_before_the_submit_submits_nothing(dli_local, start):
    dli_local.fault("token", "latency", seconds=2)
    task = start()
    wait_for_call(dli_local, "token")
    task.kill()
    assert task.wait().error == "DliTaskKilledError"
    assert dli_local.jobs() == []


def test_a_kill_while_dli_does_not_know_the_job_that_it_has_named(dli_local, start):
    dli_local.will(run_for=60)
    dli_local.settings(list_lag=3)
    dli_local.fault("submit", "field", field="job_id", value="00000000-0000-0000-0000-000000000000")
    task = start()
    wait_for_call(dli_local, "list")
    task.kill()
    assert task.wait().error == "DliTaskKilledError"
    wait_until_cancelled(dli_local)


@pytest.mark.parametrize("list_lag", [0, 2])
def test_a_kill_before_dli_says_that_it_does_not_know_the_job(dli_local, start, list_lag):
    dli_local.will(run_for=60)
    dli_local.settings(list_lag=list_lag)
    dli_local.fault("submit", "field", field="job_id", value="00000000-0000-0000-0000-000000000000")
    dli_local.fault("status", "latency", seconds=5)
    task = start()
    wait_for_call(dli_local, "status")
    task.kill()
    outcome = task.wait()
    assert outcome.error == "DliTaskKilledError"
    assert "the job of this try was found under another id" in outcome.message
    assert "DLI accepted the cancel" in outcome.message
    wait_until_cancelled(dli_local)


def test_a_kill_during_the_submit_cancels_when_the_answer_arrives(dli_local, start):
    dli_local.will(run_for=60)
    dli_local.fault("submit", "latency", seconds=1.5)
    task = start()
    wait_for_call(dli_local, "submit")
    killed = task.kill()
    outcome = task.wait()
    assert outcome.error == "DliTaskKilledError"
    assert outcome.ended - killed < pace.seconds(4)
    wait_until_cancelled(dli_local)


def test_a_kill_during_a_submit_that_is_not_answered_cancels_what_dli_has_started(dli_local, start):
    """As of a synchronous statement, which DLI answers when it is over: Airflow's SIGKILL would come first."""
    dli_local.will(run_for=60)
    dli_local.fault("submit", "latency", seconds=20, work_done=True)
    task = start()
    dli_local.wait_until(states, timeout=pace.seconds(10))
    killed = task.kill()
    outcome = task.wait()
    assert outcome.ended - killed < pace.seconds(3)
    assert outcome.error == "DliTaskKilledError"
    assert "accepted the cancel" in outcome.message
    assert outcome.imported_by_kill == []
    wait_until_cancelled(dli_local)
    [job] = dli_local.jobs()
    assert len(job.cancel_requests) == 1


def test_a_kill_during_a_submit_that_is_not_answered_while_the_token_ends(dli_local, start):
    """The search needs a new token then, and must not get it through what the kill has ended."""
    dli_local.settings(token_lifetime=4)
    dli_local.will(run_for=60)
    dli_local.fault("submit", "latency", seconds=20, work_done=True)
    task = start()
    dli_local.wait_until(states, timeout=pace.seconds(10))
    time.sleep(2.5)  # a token is renewed after half its life
    dli_local.fault("token", "latency", seconds=0.6)
    killed = task.kill()
    outcome = task.wait()
    assert outcome.ended - killed < pace.seconds(4)
    assert "accepted the cancel" in outcome.message
    wait_until_cancelled(dli_local)


def test_a_kill_during_the_submit_stays_for_a_late_answer(dli_local, start):
    """Where nothing sends SIGKILL after 5 s: Airflow does not when it was its supervisor that got SIGTERM."""
    dli_local.will(run_for=60)
    dli_local.fault("submit", "latency", seconds=6)
    task = start()
    wait_for_call(dli_local, "submit")
    task.kill()
    outcome = task.wait()
    assert outcome.error == "DliTaskKilledError"
    assert states(dli_local) == ["CANCELLED"]
    assert "accepted the cancel" in outcome.message


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_kill_during_a_status_call_that_never_ends(dli_local, start, fault):
    dli_local.will(run_for=60)
    dli_local.fault("status", fault, times=None)
    task = start()
    wait_for_call(dli_local, "status")
    killed = task.kill()
    outcome = task.wait()
    assert outcome.ended - killed < pace.seconds(1.5)
    assert outcome.error == "DliTaskKilledError"
    wait_until_cancelled(dli_local)


def test_a_slow_cancel_during_a_status_call_that_never_ends(dli_local, start):
    dli_local.will(run_for=60)
    dli_local.fault("status", "hang", times=None)
    dli_local.fault("cancel", "latency", seconds=1)
    task = start()
    wait_for_call(dli_local, "status")
    killed = task.kill()
    outcome = task.wait()
    assert outcome.ended - killed < pace.seconds(2.5)
    assert outcome.error == "DliTaskKilledError"
    assert states(dli_local) == ["CANCELLED"]


@pytest.mark.matrix
def test_a_dli_that_never_answers_the_cancel_holds_the_handler_for_4_s_and_the_task_for_34(dli_local, start):
    dli_local.will(run_for=60)
    task = start()
    wait_for_call(dli_local, "status")
    dli_local.fault("*", "hang", times=None, seconds=60)
    killed = task.kill()
    outcome = task.wait(timeout=40)
    assert outcome.on_kill_took < 3.5 + pace.seconds(0.5)
    assert 29 < outcome.ended - killed < 34 + pace.seconds(2)
    assert outcome.error == "DliTaskKilledError"
    assert "could NOT be cancelled and may still run" in outcome.message
    assert "the answer did not come in time" in outcome.message
    assert len(dli_local.requests("cancel")) >= 4


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_cancel_that_is_not_answered_is_sent_again_on_a_connection_of_its_own(dli_local, start, fault):
    dli_local.will(run_for=60)
    task = start()
    wait_for_call(dli_local, "status")
    dli_local.fault("cancel", fault, seconds=60)
    killed = task.kill()
    outcome = task.wait()
    assert outcome.ended - killed < pace.seconds(3)
    # (The dripping one may have been carried out.)
    assert "DLI accepted the cancel" in outcome.message or "over before (CANCELLED)" in outcome.message
    connections = [request.connection for request in dli_local.requests("cancel")]
    assert len(connections) == len(set(connections)) == 2
    wait_until_cancelled(dli_local)


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 503, "times": 6},
        {"kind": "soft_failure", "times": 3},
        {"kind": "status", "status": 400, "error_code": "DLI.0001", "error_msg": "not now", "times": 3},
    ],
    ids=lambda fault: f"{fault['kind']}-{fault.get('status', '')}",
)
def test_a_cancel_that_is_refused_is_repeated_for_longer_than_the_handler_lasts(dli_local, start, fault):
    """Where nobody sends SIGKILL: SIGTERM to the supervisor or the process, a node that is drained, Airflow 2.11."""
    dli_local.will(run_for=60)
    task = start()
    wait_for_call(dli_local, "status")
    dli_local.fault("cancel", **fault)
    task.kill()
    outcome = task.wait()
    assert outcome.error == "DliTaskKilledError"
    assert "DLI accepted the cancel" in outcome.message
    assert len(dli_local.requests("cancel")) == fault["times"] + 1
    wait_until_cancelled(dli_local)


def test_a_second_kill_while_the_first_still_cancels(dli_local, start):
    dli_local.will(run_for=60)
    dli_local.fault("cancel", "latency", seconds=1)
    task = start()
    wait_for_call(dli_local, "status")
    killed = task.kill()
    time.sleep(0.3)
    task.kill()
    outcome = task.wait()
    assert outcome.ended - killed < pace.seconds(3)
    assert outcome.error == "DliTaskKilledError"
    wait_until_cancelled(dli_local)


def test_a_token_that_died_meanwhile_is_renewed_for_the_cancel(dli_local, start):
    dli_local.will(run_for=60)
    task = start()
    wait_for_call(dli_local, "status")
    dli_local.fault("cancel", "expired_token")
    task.kill()
    assert "DLI accepted the cancel" in task.wait().message
    wait_until_cancelled(dli_local)


def test_a_stumbling_dli_is_asked_again(dli_local, start):
    dli_local.will(run_for=60)
    dli_local.fault("cancel", "status", status=503, error_code="APIG.0602", error_msg="unavailable")
    task = start()
    wait_for_call(dli_local, "status")
    task.kill()
    assert "DLI accepted the cancel" in task.wait().message
    wait_until_cancelled(dli_local)


def test_cancel_on_kill_false_leaves_the_job_alone(dli_local, start):
    dli_local.will(run_for=60)
    task = start(cancel_on_kill=False)
    wait_for_call(dli_local, "status")
    task.kill()
    outcome = task.wait()
    assert outcome.error == "DliTaskKilledError"
    assert "goes on, as `cancel_on_kill=False` asks" in outcome.message
    assert dli_local.requests(call="cancel") == []
    assert [job.is_active for job in dli_local.jobs()] == [True]


def test_an_execution_timeout_cancels_and_stays_airflows_own_exception(dli_local, start):
    dli_local.will(run_for=60)
    outcome = start(timeout=1.5).wait()
    assert outcome.error == "AirflowTaskTimeout"
    wait_until_cancelled(dli_local)


def test_an_execution_timeout_during_the_submit_cancels_what_was_submitted(dli_local, start):
    dli_local.will(run_for=60)
    dli_local.fault("submit", "latency", seconds=3)
    outcome = start(timeout=1.5).wait()
    assert outcome.error == "AirflowTaskTimeout"
    wait_until_cancelled(dli_local)


def test_an_execution_timeout_during_a_submit_that_is_not_answered_cancels_what_dli_has_started(dli_local, start):
    dli_local.will(run_for=60)
    dli_local.fault("submit", "latency", seconds=20, work_done=True)
    outcome = start(timeout=1.5).wait()
    assert outcome.error == "AirflowTaskTimeout"
    wait_until_cancelled(dli_local)


def test_a_kill_during_the_submit_leaves_the_job_alone_when_it_shall(dli_local, start):
    dli_local.will(run_for=60)
    dli_local.fault("submit", "latency", seconds=2, work_done=True)
    task = start(cancel_on_kill=False)
    dli_local.wait_until(states, timeout=pace.seconds(10))
    task.kill()
    assert task.wait().error == "DliTaskKilledError"
    assert states(dli_local) == ["RUNNING"]
    assert dli_local.requests("list") == []


def test_a_kill_while_a_lost_job_is_looked_for_finds_and_cancels_it(dli_local, start):
    dli_local.settings(list_lag=3)
    dli_local.will(run_for=60)
    dli_local.fault("submit", "drop_after")
    task = start()
    wait_for_call(dli_local, "list", 2)
    killed = task.kill()
    outcome = task.wait()
    assert outcome.ended - killed < pace.seconds(5)
    assert outcome.error == "DliTaskKilledError"
    wait_until_cancelled(dli_local)


def test_a_kill_while_dli_restarts_cancels_as_soon_as_it_is_back(dli_local, start, restart):
    dli_local.will(run_for=60)
    task = start()
    wait_for_call(dli_local, "status")
    restart(down_for=1.5)
    task.kill()
    outcome = task.wait()
    assert outcome.error == "DliTaskKilledError"
    wait_until_cancelled(dli_local)


def test_a_kill_does_not_wait_for_as_long_as_a_busy_dli_asks(dli_local, start):
    dli_local.will(run_for=60)
    task = start()
    wait_for_call(dli_local, "status")
    dli_local.fault("cancel", "status", times=2, status=429, retry_after="30")
    killed = task.kill()
    outcome = task.wait()
    assert outcome.ended - killed < pace.seconds(5)
    wait_until_cancelled(dli_local)


def job_of_an_earlier_try(connect, sql="select 1", max_tries=0, try_number=1):
    earlier = identity.Identity(
        dag_id="dag",
        run_id="again",
        task_id="task",
        map_index=-1,
        statement_index=0,
        generation=identity.generation(pendulum.datetime(2026, 11, 22), max_tries),
        try_number=try_number,
        owner="task",
        work=SqlWork(sql).digest,
    )
    connect().submit_sql_job(sql, tags=earlier.tags())


@pytest.mark.parametrize("sql", ["select 1", "select 2"], ids=["re-attached", "cancelling it"])
def test_a_kill_while_waiting_for_the_job_of_an_earlier_try_cancels_that_one(dli_local, connect, start, sql):
    dli_local.will(run_for=60, cancel_takes=2)
    job_of_an_earlier_try(connect, sql)
    task = start(run_id="again", try_number=2)
    wait_for_call(dli_local, "status")
    killed = task.kill()
    outcome = task.wait()
    assert outcome.ended - killed < pace.seconds(1)
    assert outcome.error == "DliTaskKilledError"
    wait_until_cancelled(dli_local)


def test_a_kill_before_the_look_for_the_job_of_an_earlier_try_cancels_that_one(dli_local, connect, start):
    dli_local.will(run_for=60)
    job_of_an_earlier_try(connect)
    dli_local.fault("token", "latency", seconds=1)
    since = max(request.seq for request in dli_local.requests())
    task = start(run_id="again", try_number=2)
    dli_local.wait_until(lambda dli: [each for each in dli.requests("token", since) if each.answered_at is None])
    killed = task.kill()
    outcome = task.wait()
    assert outcome.ended - killed < pace.seconds(3)
    assert outcome.error == "DliTaskKilledError"
    wait_until_cancelled(dli_local)


@pytest.mark.parametrize("max_tries", [0, 7], ids=["retried", "cleared"])
def test_a_kill_while_one_of_two_earlier_jobs_is_being_cancelled_cancels_both(dli_local, connect, start, max_tries):
    """Of a retry, the newer one is to be re-attached to; of a clear, both must go."""
    dli_local.will(run_for=60, times=2, cancel_takes=3)
    job_of_an_earlier_try(connect, max_tries=max_tries)
    job_of_an_earlier_try(connect, max_tries=max_tries, try_number=2)
    task = start(run_id="again", try_number=3)
    wait_for_call(dli_local, "cancel")
    time.sleep(0.5)
    task.kill()
    outcome = task.wait()
    assert outcome.error == "DliTaskKilledError"
    dli_local.wait_until(lambda dli: states(dli) == ["CANCELLED", "CANCELLED"], timeout=pace.seconds(5))


def test_a_kill_while_two_earlier_jobs_are_looked_for_cancels_both(dli_local, connect, start):
    dli_local.will(run_for=60, times=2)
    job_of_an_earlier_try(connect)
    job_of_an_earlier_try(connect, try_number=2)
    dli_local.fault("list", "latency", seconds=2)
    task = start(run_id="again", try_number=3)
    wait_for_call(dli_local, "list")
    task.kill()
    assert task.wait().error == "DliTaskKilledError"
    dli_local.wait_until(lambda dli: states(dli) == ["CANCELLED", "CANCELLED"], timeout=pace.seconds(5))


def test_a_job_that_is_found_after_the_kill_has_looked_in_vain_is_cancelled(dli_local, connect):
    dli_local.will(run_for=60)
    hook = connect()
    job = hook.submit_sql_job("select 1")
    switch = KillSwitch()
    with switch.armed(partial(hook.client.for_thread(URGENT).cancel, KIND), BackgroundLog(hook.log)):
        switch.search(list)
        switch.pull()
        with pytest.raises(DliTaskKilledError):
            switch.follow(job.id)
    wait_until_cancelled(dli_local)


def test_a_killed_cancel_task_ends_soon(dli_local, connect, start):
    dli_local.will(run_for=60, cancel_takes=3)
    job = connect().submit_sql_job("select 1")
    task = start("DliCancelJobOperator", job_id=job.id)
    wait_for_call(dli_local, "status")
    killed = task.kill()
    outcome = task.wait()
    assert outcome.ended - killed < pace.seconds(1)
    assert outcome.error == "DliTaskKilledError"


class TestImports:
    """The main thread holds the lock of a module that a kill interrupts it in, and may hold it for the whole kill."""

    @pytest.mark.parametrize("auth_type", ["ak_sk", "password"])
    @pytest.mark.parametrize("is_away", [False, True], ids=["answers", "away"])
    def test_once_connected_what_a_kill_does_imports_nothing(self, dli_local, auth_type, is_away):
        code = f"""
import logging, sys, threading
from types import SimpleNamespace
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.api.sql import KIND
from airflow_provider_dli.client.access import Access
from airflow_provider_dli.client.client import DliClient
from airflow_provider_dli.client.connection import DliConnection
from airflow_provider_dli.client.patience import Patience
from airflow_provider_dli.exceptions import DliError

def what_a_kill_does():
    for do in (lambda: list(client.jobs(KIND, Query())), lambda: client.cancel(KIND, "unknown")):
        try:
            do()
        except DliError as error:
            print(type(error).__name__)

fields = {dli_local.connection(auth_type)!r}
fields = SimpleNamespace(conn_id="dli", schema=None, port=None, extra_dejson=fields.pop("extra"), **fields)
if {is_away}:
    fields.host = "http://127.0.0.1:9"
client = DliClient(Access(lambda: DliConnection.from_airflow(fields), logging.getLogger()), logging.getLogger())
client.connect()
client, known = client.for_thread(Patience(give_up_after=0)), set(sys.modules)
thread = threading.Thread(target=what_a_kill_does)
thread.start()
thread.join()
print(*sorted(set(sys.modules) - known))
"""
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        errors = ["DliTemporaryError", "DliTemporaryError"] if is_away else ["DliNotFoundError"]
        assert output.splitlines() == [*errors, ""]
