"""
What the log of a task tells, from the first line to the last, over HTTP against the local DLI: ``stories.txt``.

``pytest -n 0 tests/unit/test_story.py --write-stories`` writes that file anew. Read it then as somebody who is called
out of bed because of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import threading
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import fakes
import pace
import pendulum
import pytest
import structlog
import test_trigger
from airflow.providers.common.compat.sdk import AirflowTaskTimeout, TaskDeferred
from fakes import TaskInstance, identity_of

from airflow_provider_dli.api import sql
from airflow_provider_dli.client.patience import URGENT
from airflow_provider_dli.exceptions import DliTaskKilledError
from airflow_provider_dli.job import Job, JobState
from airflow_provider_dli.operators.dli import (
    DliCancelJobOperator,
    DliCancelOrphanJobsOperator,
    DliStartFlinkJobOperator,
    DliSubmitSparkJobOperator,
    DliSubmitSqlJobOperator,
)
from airflow_provider_dli.sensors.dli import DliJobSensor
from airflow_provider_dli.tasks import kill, start
from airflow_provider_dli.tasks.run import JobRun
from airflow_provider_dli.threads import BackgroundLog

STORIES = Path(__file__).with_name("stories.txt")

SQL = partial(DliSubmitSqlJobOperator, poll_interval=0.1, sql="select 1", queue_name="etl", database="sales")
SPARK = partial(
    DliSubmitSparkJobOperator,
    poll_interval=0.1,
    file="group/job.jar",
    class_name="Main",
    spark_version="2.4.5",
    queue_name="general",
)
FLINK = partial(
    DliStartFlinkJobOperator,
    poll_interval=0.1,
    job_type="flink_opensource_sql_job",
    sql_body="select 1",
    queue_name="general",
    wait_for="finished",
)
KINDS = {"sql": SQL, "spark": SPARK, "flink": FLINK}
each_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "sql" else [pytest.mark.matrix]) for kind in KINDS]
)

# What differs from run to run, and what stands for it. Of ids, see `_shown`.
_PLACEHOLDERS = [
    (re.compile(r"\b[0-9a-f]{32}\b"), "48cc…"),
    (re.compile(r"https?://127\.0\.0\.1:\d+"), "https://dli…"),
    (re.compile(r"\b\d+\.\d s\b"), "n s"),
    (re.compile(r"\b\d+ s  "), "n s  "),
]
_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|\b10\d{4}\b")


class Log:
    """All that is logged in this process, in order."""

    def __init__(self):
        self.lines = []
        self.is_over = False
        self._ids = {}

    def __call__(self, logger, method, event):
        if self.is_over or "outside of the Task Runner" in event["event"]:
            raise structlog.DropEvent
        trace = " with a stack trace" if event.get("exc_info") else ""
        self.lines.append(f"{method.upper():8}{event['event']}{trace}")
        raise structlog.DropEvent

    def where(self, place):
        """Note where the story goes on."""
        self.lines.append(f"[{place}]")

    def shows(self, text):
        """Return a condition: whether a line has this text."""
        return lambda: any(text in line for line in self.lines)

    def __str__(self):
        return "".join(f"{self._shown(line)}\n" for line in self.lines)

    def _shown(self, line):
        line = _ID.sub(lambda found: f"job-{self._ids.setdefault(found[0], len(self._ids) + 1)}", line)
        for pattern, placeholder in _PLACEHOLDERS:
            line = pattern.sub(placeholder, line)
        return line.replace("\n", "\n        ")


@pytest.fixture
def log():
    """What is logged, instead of being printed."""
    found = Log()
    processors = structlog.get_config()["processors"]
    before = processors.copy()
    processors[:] = [found]
    yield found
    processors[:] = before


@pytest.fixture
def told(log, request):
    """Compare the log with the story of the test once it is over."""
    yield
    cls = request.cls.__name__.removeprefix("Test")
    name = f"{cls}: {request.node.name.removeprefix('test_')}"
    stories = read_stories()
    if request.config.option.write_stories:
        write_stories({**stories, name: str(log)})
        return
    assert str(log) == stories[name]


def read_stories():
    parts = re.split(r"^== (.*) ==\n", STORIES.read_text() if STORIES.exists() else "", flags=re.MULTILINE)
    return {name: text.strip("\n") + "\n" for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def write_stories(stories):
    STORIES.write_text("\n".join(f"== {name} ==\n{text}" for name, text in stories.items()))


@pytest.fixture
def run(dli_local, connect, log, told):
    """Return a function that runs a task to its end, through its deferrals; its error is the last line of the story."""
    connect()
    dli_local.settings(queues={"default": 16, "etl": 4})
    dli_local.will(matching="create database", run_for=0)

    def run(operator, ti=None, kill_when=lambda: False, on_signal=None, kill_deferred=False, **arguments):
        make = partial(operator, task_id="load", **arguments)
        ti, task = ti or TaskInstance(), make()
        go_on = partial(fakes.execute, task, fakes.context_of(ti))
        log.where(f"task, try {ti.try_number}")
        try:
            with signalled(kill_when, on_signal or task.on_kill):
                while True:
                    try:
                        return go_on()
                    except TaskDeferred as found:
                        deferral = found
                    log.where("triggerer")
                    trigger = deferral.trigger
                    trigger.task_instance = ti
                    if kill_deferred:
                        return asyncio.run(test_trigger.killed(trigger))
                    event = asyncio.run(test_trigger.event_of(trigger))
                    log.where("task, resumed")
                    go_on = partial(fakes.resume, make(), deferral, fakes.context_of(ti), event)
        except BaseException as error:  # what Airflow would log
            log.lines.append(f"{type(error).__name__}: {error}")

    return run


@contextlib.contextmanager
def signalled(condition, handler):
    """Call this in the main thread, in a signal handler as Airflow does, once a condition holds."""

    def watch():
        end = time.monotonic() + pace.seconds(20)
        while not is_over.is_set() and time.monotonic() < end:
            if condition():
                os.kill(os.getpid(), signal.SIGUSR1)
                return
            time.sleep(0.02)

    is_over = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: handler())
    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        watching.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def lost(log, run):
    """Return a function that loses the worker of a try: its job goes on."""

    def lose(operator, **arguments):
        log.where("task, try 1")
        task = operator(task_id="load", **arguments)
        fakes.lose_the_worker(lambda: fakes.execute(task, fakes.context_of()))
        log.where("the worker is lost")

    return lose


SECOND = partial(TaskInstance, try_number=2)
CLEARED = partial(TaskInstance, try_number=2, max_tries=5)


def runs(dli):
    """Whether the last job runs."""
    return dli.jobs()[-1].state == "RUNNING"


class TestOneTry:
    @each_kind
    def test_it_finishes(self, dli_local, run, kind):
        dli_local.will(kind=kind, launching_for=1, run_for=1)
        run(KINDS[kind])

    @each_kind
    def test_it_fails(self, dli_local, run, kind):
        dli_local.will(
            kind=kind, launching_for=1, run_for=1, then="FAILED", message="DLI.0999: lost", log=["one", "two"]
        )
        run(KINDS[kind])

    def test_somebody_else_cancels_the_job(self, dli_local, run):
        dli_local.will(launching_for=1, run_for=1, then="CANCELLED")
        run(SQL)

    @each_kind
    def test_deferred(self, dli_local, run, airflow_says, kind):
        airflow_says("deferred")
        dli_local.will(kind=kind, launching_for=1.5, run_for=1.5)
        run(KINDS[kind], deferrable=True)

    def test_a_flink_job_that_runs_on(self, dli_local, run):
        dli_local.will(kind="flink", launching_for=0.6, run_for=60)
        run(FLINK, wait_for="running")

    def test_a_script(self, dli_local, run):
        dli_local.will(launching_for=1, run_for=1, times=2)
        run(SQL, sql="select 1; select 2")

    def test_by_access_key(self, dli_local, connect, run):
        connect("ak_sk")
        dli_local.will(launching_for=1, run_for=1)
        run(SQL)

    def test_the_answer_to_the_submit_is_lost(self, dli_local, run):
        dli_local.will(launching_for=1.5, run_for=0.6)
        dli_local.fault("submit", "drop_after")
        run(SQL)

    def test_dli_is_away_for_a_while(self, dli_local, run):
        dli_local.will(launching_for=0.6, run_for=1.5)
        dli_local.fault("status", "status", status=503, error_msg="try later", times=3, skip=1)
        run(SQL)

    def test_the_job_is_cancelled_when_the_task_fails(self, dli_local, run):
        class Unreachable(TaskInstance):
            def xcom_push(self, key, value):
                raise RuntimeError("the supervisor is gone")

        dli_local.will(run_for=60)
        run(SQL, ti=Unreachable())


class TestKilled:
    @each_kind
    def test_it_runs(self, dli_local, log, run, kind):
        dli_local.will(kind=kind, launching_for=0.6, run_for=60)
        run(KINDS[kind], kill_when=log.shows(", after "))

    @each_kind
    def test_deferred(self, dli_local, run, airflow_says, monkeypatch, kind):
        # Only once it was deferred.
        monkeypatch.setattr(JobRun, "_may_be_deferred", lambda self: True)
        airflow_says("failed")
        dli_local.will(kind=kind, launching_for=60)
        run(KINDS[kind], deferrable=True, kill_deferred=True)

    def test_before_it_is_deferred(self, dli_local, run, airflow_says, monkeypatch):
        monkeypatch.setattr("airflow_provider_dli.tasks.run._TOLD_WITHIN", 0)
        airflow_says("success")
        dli_local.will(launching_for=60)
        run(SQL, deferrable=True)

    def test_dli_refuses_two_requests(self, dli_local, log, run):
        dli_local.will(launching_for=0.6, run_for=60)
        dli_local.fault("cancel", "status", status=503, error_msg="try later", times=2)
        run(SQL, kill_when=log.shows(", after "))

    @pytest.mark.matrix
    def test_dli_does_not_answer(self, dli_local, log, run, monkeypatch):
        monkeypatch.setattr(kill, "CANCEL_WITHIN", 4)
        dli_local.will(launching_for=0.6, run_for=60)
        dli_local.fault("cancel", "hang", times=None, seconds=2)
        run(SQL, kill_when=log.shows(", after "))
        log.is_over = True
        dli_local.clear_faults()
        dli_local.wait_until(lambda dli: not dli.jobs()[-1].is_active)

    def test_the_user_may_not_cancel(self, dli_local, log, run):
        dli_local.will(launching_for=0.6, run_for=60)
        dli_local.fault("cancel", "status", status=403, error_code="DLI.0003", error_msg="not yours", times=None)
        run(SQL, kill_when=log.shows(", after "))

    def test_during_the_submit(self, dli_local, run):
        dli_local.will(run_for=60)
        dli_local.fault("submit", "latency", seconds=1.5)
        run(SQL, kill_when=lambda: dli_local.requests(call="submit"))

    def test_without_cancel_on_kill(self, dli_local, log, run):
        dli_local.will(launching_for=0.6, run_for=60)
        run(SQL, kill_when=log.shows(", after "), cancel_on_kill=False)

    def test_its_time_is_over(self, dli_local, log, run):
        def time_is_over():
            raise AirflowTaskTimeout("Timeout, PID: 1")

        dli_local.will(launching_for=0.6, run_for=60)
        run(SQL, kill_when=log.shows(", after "), on_signal=time_is_over)

    def test_its_time_is_over_while_it_is_deferred(self, dli_local, run, airflow_says):
        airflow_says("deferred")
        dli_local.will(launching_for=60)
        run(SQL, deferrable=True, execution_timeout=timedelta(seconds=2))


@pytest.mark.matrix
class TestLaterTry:
    @each_kind
    def test_the_job_still_runs(self, dli_local, run, lost, kind):
        dli_local.will(kind=kind, run_for=2)
        lost(KINDS[kind])
        dli_local.wait_until(runs)
        run(KINDS[kind], ti=SECOND())

    def test_the_job_has_finished(self, dli_local, run, lost):
        dli_local.will(run_for=0.3)
        lost(SQL)
        dli_local.wait_until(lambda dli: not dli.jobs()[-1].is_active)
        run(SQL, ti=SECOND())

    def test_the_job_has_failed(self, dli_local, run):
        dli_local.will(launching_for=1, run_for=1, then="FAILED", message="DLI.0999: lost")
        run(SQL)
        dli_local.will(launching_for=1, run_for=1)
        run(SQL, ti=SECOND())

    def test_somebody_has_cleared_the_task(self, dli_local, run, lost):
        dli_local.will(run_for=60)
        lost(SQL)
        dli_local.wait_until(runs)
        dli_local.will(launching_for=1, run_for=1)
        run(SQL, ti=CLEARED())

    def test_it_runs_something_else(self, dli_local, run, lost):
        dli_local.will(run_for=60)
        lost(SQL)
        dli_local.wait_until(runs)
        dli_local.will(launching_for=1, run_for=1)
        run(SQL, ti=SECOND(), sql="select 2", queue_name="default")

    def test_it_takes_the_result_of_something_else(self, dli_local, run, lost):
        dli_local.will(run_for=0.3)
        lost(SQL)
        dli_local.wait_until(lambda dli: not dli.jobs()[-1].is_active)
        run(SQL, ti=SECOND(), sql="select 2")

    def test_nothing_is_reused(self, dli_local, run, lost):
        dli_local.will(run_for=60)
        lost(SQL)
        dli_local.wait_until(runs)
        dli_local.will(launching_for=1, run_for=1)
        run(SQL, ti=SECOND(), on_earlier_job="cancel")

    def test_there_is_none(self, dli_local, run, monkeypatch):
        monkeypatch.setattr(start, "LIST_LAG", 0)
        dli_local.will(launching_for=1, run_for=1)
        run(SQL, ti=SECOND())


class TestBackgroundLog:
    """A kill must not wait for the log: the code that it interrupts may hold a lock of the logging."""

    class Held:
        """A log that cannot be written for a while."""

        def __init__(self):
            self.may_write = threading.Event()
            self.lines = []

        def info(self, event, *values):
            assert self.may_write.wait(10)
            self.lines.append(event % values)

        def warning(self, event, *values):
            raise BrokenPipeError

    def test_it_holds_nobody_up_and_keeps_the_order(self):
        held = self.Held()
        log = BackgroundLog(held)
        began = time.monotonic()
        for number in range(20):
            log.info("line %d", number)
        assert time.monotonic() - began < pace.seconds(5)
        assert not log.is_written
        held.may_write.set()
        until(lambda: log.is_written)
        assert held.lines == [f"line {number}" for number in range(20)]

    def test_a_line_that_cannot_be_written_does_not_keep_the_others_back(self):
        held = self.Held()
        held.may_write.set()
        log = BackgroundLog(held)
        log.warning("lost")
        log.info("kept")
        until(lambda: log.is_written)
        assert held.lines == ["kept"]

    def test_a_job_is_cancelled_while_nothing_can_be_logged(self, dli_local, hook):
        dli_local.will(run_for=60)
        job, held, switch = hook.submit_sql_job("select 1"), self.Held(), kill.KillSwitch()
        held.warning = held.info
        log = BackgroundLog(held)
        urgent = hook.client.for_thread(URGENT, log)
        with switch.armed(partial(urgent.cancel, sql.KIND), log, named=sql.KIND.named):
            switch.follow(job.id)
            switch.pull()
            assert switch.state is kill.State.SETTLED
            assert (held.lines, log.is_written) == ([], False)
            held.may_write.set()
            with pytest.raises(DliTaskKilledError, match="DLI accepted the cancel"):
                switch.check()
        assert [line.partition(f" SQL job {job.id}")[0][-12:] for line in held.lines] == [": cancelling", "Cancel of"]


def until(condition):
    end = time.monotonic() + pace.seconds(10)
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("auth_type", "who"),
    [
        ("password", "user 'dli'"),
        ("ak_sk", "access key 'local-access-key'"),
        ("environment", "access key 'local-access-key'"),
        ("agency", "agency local-agency"),
        ("metadata", "the machine's agency"),
    ],
)
def test_as_whom_dli_is_called(dli_local, connect, log, monkeypatch, auth_type, who):
    for name, value in {"AK": dli_local.access_key, "SK": dli_local.secret_key}.items():
        monkeypatch.setenv(f"HUAWEICLOUD_SDK_{name}", value)
    client = connect(auth_type).client
    client.introduce()
    client.introduce()
    [line] = log.lines
    assert f", as {who} of connection 'dli_default'." in line
    assert dli_local.secret_key not in line


def test_the_figures_of_a_job():
    job = Job(
        *("job", "sql", "SQL job", JobState.FINISHED, "FINISHED"),
        duration=pendulum.duration(minutes=75),
        result_count=1200,
        input_count=31000,
        input_size=5_234_000_000,
        bad_count=3,
    )
    assert job.figures == "1 h 15 min, 1,200 rows, 31,000 rows read, 5.2 GB read, 3 faulty rows"
    assert replace(job, duration=None, result_count=1, input_count=0, input_size=22, bad_count=0).figures == (
        "1 row, 22 bytes read"
    )


@pytest.mark.matrix
class TestOtherTasks:
    def test_a_sweep(self, dli_local, hook, run, airflow_says, monkeypatch):
        monkeypatch.setenv("AIRFLOW__DLI__DEPLOYMENT", "prod")
        airflow_says("failed")
        dli_local.will(run_for=60)
        hook.submit_sql_job("select 1", tags=identity_of(deployment="prod").tags())
        run(DliCancelOrphanJobsOperator, older_than=0)

    def test_a_task_that_cancels(self, dli_local, run, lost):
        dli_local.will(kind="flink", run_for=60, cancel_takes=1)
        lost(FLINK)
        dli_local.wait_until(runs)
        run(partial(DliCancelJobOperator, job_id=dli_local.jobs()[0].job_id, kind="flink"))

    def test_a_sensor(self, dli_local, hook, run):
        dli_local.will(launching_for=1, run_for=1)
        job = hook.submit_sql_job("select 1")
        run(partial(DliJobSensor, job_id=job.id, poke_interval=0.2))
