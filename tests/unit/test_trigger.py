"""
The trigger over HTTP, against the local DLI, in this process.

What Airflow says about the task is made up here; ``tests/airflow`` kills real deferred tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pace
import pytest
from airflow.providers.common.compat.sdk import BaseHook
from fakes import TaskInstance, assert_cancelled

from airflow_provider_dli import compat
from airflow_provider_dli.api.job_kind import JobPage
from airflow_provider_dli.client import credentials
from airflow_provider_dli.client.client import DliClient
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.job import Cancellation, Job, JobState
from airflow_provider_dli.triggers import dli as triggers
from airflow_provider_dli.triggers import questions
from airflow_provider_dli.triggers.dli import DliJobTrigger
from airflow_provider_dli.waiting import watcher

KEPT = json.loads((Path(__file__).parent / "fixtures" / "triggers.json").read_text())
TI = TaskInstance()


@pytest.fixture
def submit(dli_local, connect):
    """Return a function that submits a job which runs this long."""
    connect()

    def run(run_for=60.0):
        dli_local.will(run_for=run_for)
        return DliHook().submit_sql_job("select 1").id

    return run


def trigger_of(*job_ids, **arguments):
    trigger = DliJobTrigger(job_ids=job_ids, **{"poll_interval": 0.2, "cancel_on_kill": True, **arguments})
    trigger.task_instance = TI
    return trigger


async def event_of(trigger):
    return (await anext(trigger.run())).payload


def fired_by(trigger):
    return asyncio.run(event_of(trigger))


async def killed(trigger, after=1.0, again_every=0.1, on_kill=True):
    """Do what a triggerer does when a user kills the task: cancel, call on_kill, cancel again and again."""

    async def run_trigger():
        try:
            await event_of(trigger)
        except asyncio.CancelledError:
            if on_kill:
                with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                    await asyncio.wait_for(trigger.on_kill(), 30)
            raise

    task = asyncio.create_task(run_trigger())
    await asyncio.sleep(after)
    while not task.done():
        task.cancel()
        await asyncio.sleep(again_every)
    with pytest.raises(asyncio.CancelledError):
        task.result()
    # Like a triggerer, the loop goes on.
    await background_ends()


async def background_ends():
    """Wait for what continues in the background of this event loop; a loop that is closed may have left some behind."""
    while mine := [task for task in questions._background if task.get_loop() is asyncio.get_running_loop()]:
        await asyncio.gather(*mine)


class TestArguments:
    def test_they_are_json_and_make_the_same_trigger_again(self):
        trigger = trigger_of("a", "b", region="eu-de", deadline=1.5)
        path, arguments = trigger.serialize()
        again = DliJobTrigger(**json.loads(json.dumps(arguments)))
        assert path == "airflow_provider_dli.triggers.dli.DliJobTrigger"
        assert again.serialize() == trigger.serialize()
        assert again.__dict__.keys() == trigger.__dict__.keys()

    def test_there_is_no_secret_in_them(self, dli_local, submit):
        trigger = trigger_of(submit(run_for=0))
        fired_by(trigger)
        text = json.dumps(trigger.serialize()) + repr(trigger) + repr(vars(trigger))
        assert dli_local.connection("password")["password"] not in text

    @pytest.mark.parametrize("kept", KEPT, ids=lambda kept: kept["release"])
    def test_those_of_earlier_releases_are_understood(self, submit, kept):
        job_id = submit(run_for=0.2)
        module, _, name = kept["class"].rpartition(".")
        cls = getattr(__import__(module, fromlist=[name]), name)
        arguments = json.loads(json.dumps(kept["arguments"]).replace("JOB", job_id))
        assert fired_by(cls(**arguments)) == {"outcome": "over", "message": "", "job_ids": [job_id]}

    def test_those_of_this_release_are_kept(self):
        assert any(kept["arguments"].keys() == trigger_of("a").serialize()[1].keys() for kept in KEPT)


class TestWaiting:
    def test_it_fires_when_the_job_is_over_however_it_ended(self, dli_local, connect):
        connect()
        dli_local.will(run_for=0.5, then="FAILED", message="DLI.0999: lost")
        job_id = DliHook().submit_sql_job("select 1").id
        assert fired_by(trigger_of(job_id)) == {"outcome": "over", "message": "", "job_ids": [job_id]}

    def test_of_several_jobs_it_waits_for_all(self, dli_local, submit):
        job_ids = [submit(run_for=0.3), submit(run_for=1.5), submit(run_for=0.3)]
        fired_by(trigger_of(*job_ids))
        assert {dli_local.job(job_id).status for job_id in job_ids} == {"FINISHED"}

    def test_nothing_blocks_the_event_loop_while_dli_and_iam_are_slow(self, dli_local, submit):
        job_id = submit(run_for=0.2)
        credentials._known.clear()
        dli_local.fault("token", "latency", seconds=1)
        dli_local.fault("status", "latency", times=2, seconds=1)

        async def watched():
            gaps, over = [], asyncio.Event()

            async def tick():
                while not over.is_set():
                    began = time.monotonic()
                    await asyncio.sleep(0.01)
                    gaps.append(time.monotonic() - began)

            ticking = asyncio.create_task(tick())
            await event_of(trigger_of(job_id))
            over.set()
            await ticking
            return gaps

        began = time.monotonic()
        gaps = asyncio.run(watched())
        assert time.monotonic() - began > 2, "the server was not slow"
        assert max(gaps) < pace.seconds(0.5)
        assert len(gaps) > 50

    @pytest.mark.matrix
    def test_an_outage_is_waited_out(self, dli_local, submit):
        job_id = submit(run_for=0.5)
        dli_local.fault("status", "status", times=4, status=503)
        assert fired_by(trigger_of(job_id))["outcome"] == "over"
        assert len(dli_local.requests("status")) > 4
        assert dli_local.job(job_id).cancel_requests == ()

    def test_an_answer_that_drips_is_not_waited_for(self, dli_local, submit, monkeypatch):
        monkeypatch.setattr(watcher, "FIRST_PATIENCE", 1)
        job_id = submit(run_for=0.5)
        dli_local.fault("status", "drip", seconds=0.5)
        began = time.monotonic()
        assert fired_by(trigger_of(job_id))["outcome"] == "over"
        assert time.monotonic() - began < pace.seconds(4)

    @pytest.mark.matrix
    def test_a_dli_that_is_always_slow_is_waited_for_longer_and_longer(self, dli_local, submit, monkeypatch):
        monkeypatch.setattr(watcher, "FIRST_PATIENCE", 0.5)
        job_id = submit(run_for=0.1)
        dli_local.fault("status", "latency", times=None, seconds=1.2)
        assert fired_by(trigger_of(job_id))["outcome"] == "over"

    @pytest.mark.parametrize(
        "fault",
        [
            {"kind": "status", "status": 404, "body": "<html>no such page</html>"},
            {"kind": "status", "status": 403, "body": "<html>go away</html>"},
            {"kind": "status", "status": 400, "error_code": "DLI.0001", "error_msg": "odd"},
            {"kind": "soft_failure"},
            {"kind": "redirect"},
            {"kind": "status", "status": 200, "body": '{"status": 7, "tags": 5}'},
        ],
        ids=str,
    )
    def test_one_odd_answer_does_a_healthy_job_no_harm(self, dli_local, submit, fault):
        job_id = submit(run_for=1)
        dli_local.fault("status", **fault)
        assert fired_by(trigger_of(job_id))["outcome"] == "over"
        assert dli_local.job(job_id).cancel_requests == ()

    def test_an_airflow_that_does_not_tell_the_connection_is_waited_out(self, submit, monkeypatch):
        job_id = submit(run_for=0)
        connection = os.environ["AIRFLOW_CONN_DLI_DEFAULT"]

        async def run():
            monkeypatch.delenv("AIRFLOW_CONN_DLI_DEFAULT")
            waiting = asyncio.create_task(event_of(trigger_of(job_id)))
            await asyncio.sleep(1.5)
            monkeypatch.setenv("AIRFLOW_CONN_DLI_DEFAULT", connection)
            return await waiting

        assert asyncio.run(run())["outcome"] == "over"

    def test_an_iam_that_is_away_is_waited_out(self, dli_local, submit, monkeypatch):
        job_id = submit(run_for=0)
        credentials._known.clear()
        dli_local.fault("token", "status", times=2, status=503)
        assert fired_by(trigger_of(job_id))["outcome"] == "over"


class TestSlowScheduler:
    """One that finds the end of a worker and the resumed task in the same loop takes the first for that of the second."""

    @pytest.fixture(autouse=True)
    def later(self, monkeypatch):
        monkeypatch.setattr(DliJobTrigger, "fires_after", 0.7)

    @pytest.mark.parametrize("arguments", [{}, {"deadline": 1.0}, {"kind": "unknown"}], ids=["over", "late", "error"])
    def test_a_deferral_lasts_for_a_while_whatever_it_fires(self, submit, arguments):
        began = time.monotonic()
        fired_by(trigger_of(submit(run_for=0), **arguments))
        assert time.monotonic() - began >= 0.7

    def test_it_fires_before_airflow_ends_the_deferral(self, submit, monkeypatch):
        monkeypatch.setattr(DliJobTrigger, "fires_after", 60)
        trigger = trigger_of(submit(run_for=0))
        trigger.timeout_after = datetime.now(UTC) + timedelta(seconds=3.5)
        began = time.monotonic()
        assert fired_by(trigger)["outcome"] == "over"
        assert time.monotonic() - began < 30

    def test_without_a_scheduler_nothing_is_waited_for(self, submit, monkeypatch):
        monkeypatch.setattr(DliJobTrigger, "fires_after", 60)
        job_id = submit(run_for=0)
        began = time.monotonic()
        assert fired_by(DliJobTrigger(job_ids=[job_id], poll_interval=0.2))["outcome"] == "over"
        assert time.monotonic() - began < 30


class TestNoWayOn:
    def test_a_job_that_dli_does_not_know_is_an_event_not_an_exception(self, connect):
        connect()
        event = fired_by(trigger_of("00000000-0000-0000-0000-000000000000"))
        assert event["outcome"] == "error"
        assert "00000000-0000-0000-0000-000000000000" in event["message"]

    def test_a_bug_is_an_event_too_and_the_job_is_cancelled_before(self, dli_local, submit, monkeypatch):
        job_id = submit()
        monkeypatch.setattr(DliClient, "job", lambda *_: 1 / 0)
        event = fired_by(trigger_of(job_id))
        assert event == {"outcome": "error", "message": "division by zero", "job_ids": [job_id]}
        assert_cancelled(dli_local, job_id)

    def test_a_bug_in_the_cancel_does_not_keep_the_task_from_being_told(self, submit, monkeypatch):
        job_id = submit()
        monkeypatch.setattr(DliClient, "cancel_attempt", lambda *_: 1 / 0)
        assert fired_by(trigger_of(job_id, deadline=time.time() + 0.5))["outcome"] == "timeout"

    def test_when_the_time_is_over_the_job_is_cancelled_before_the_task_is_told(self, dli_local, submit):
        job_id = submit()
        event = fired_by(trigger_of(job_id, deadline=time.time() + 1))
        assert event["outcome"] == "timeout"
        assert_cancelled(dli_local, job_id)

    def test_a_job_of_somebody_else_is_left_alone(self, dli_local, submit):
        job_id = submit()
        event = fired_by(trigger_of(job_id, deadline=time.time() + 0.5, cancel_on_kill=False))
        assert event["outcome"] == "timeout"
        assert dli_local.job(job_id).cancel_requests == ()

    def test_a_deadline_holds_while_the_status_call_hangs(self, dli_local, submit):
        job_id = submit()
        dli_local.fault("status", "hang", times=None, seconds=30)
        began = time.monotonic()
        assert fired_by(trigger_of(job_id, deadline=time.time() + 1))["outcome"] == "timeout"
        assert time.monotonic() - began < pace.seconds(5)


class TestKill:
    @pytest.mark.parametrize("state", ["failed", "success", "skipped", "queued", "running", None, "gone"])
    def test_a_task_that_waits_no_more_gives_up_its_job(self, dli_local, submit, airflow_says, state):
        job_id = submit()
        airflow_says(state, job_id)
        asyncio.run(killed(trigger_of(job_id)))
        assert_cancelled(dli_local, job_id)

    def test_a_task_that_waits_for_another_job_by_now_gives_up_this_one(self, dli_local, submit, airflow_says):
        job_id = submit()
        airflow_says("deferred", "the job of the next try")
        asyncio.run(killed(trigger_of(job_id)))
        assert_cancelled(dli_local, job_id)

    @pytest.mark.parametrize("pushed", [True, False])
    def test_a_task_that_still_waits_keeps_its_job(self, dli_local, submit, airflow_says, pushed):
        job_id = submit()
        airflow_says("deferred", job_id if pushed else None)
        asyncio.run(killed(trigger_of(job_id)))
        assert dli_local.job(job_id).cancel_requests == ()

    def test_not_knowing_a_kill_that_airflow_tells_of_counts(self, dli_local, submit, airflow_says, monkeypatch):
        monkeypatch.setattr(triggers, "_REFUSED_FOR", 4)
        job_id = submit()
        airflow_says(RuntimeError("no answer"))
        asyncio.run(killed(trigger_of(job_id)))
        assert_cancelled(dli_local, job_id)

    def test_a_job_of_somebody_else_is_left_alone(self, dli_local, submit, airflow_says):
        job_id = submit()
        airflow_says("failed")
        asyncio.run(killed(trigger_of(job_id, cancel_on_kill=False)))
        assert dli_local.job(job_id).cancel_requests == ()

    def test_it_is_delivered_although_airflow_cancels_again_and_again(self, dli_local, submit, airflow_says):
        job_id = submit()
        airflow_says("failed", job_id)
        dli_local.fault("cancel", "latency", seconds=2)
        asyncio.run(killed(trigger_of(job_id)))
        assert_cancelled(dli_local, job_id)

    def test_a_cancel_that_dli_refuses_at_first_is_repeated(self, dli_local, submit, airflow_says):
        job_id = submit()
        airflow_says("failed", job_id)
        dli_local.fault("cancel", "status", times=2, status=503)
        asyncio.run(killed(trigger_of(job_id)))
        assert_cancelled(dli_local, job_id)

    def test_before_the_connection_was_read(self, dli_local, submit, airflow_says):
        job_id = submit()
        airflow_says("failed", job_id)
        asyncio.run(killed(trigger_of(job_id), after=0))
        assert_cancelled(dli_local, job_id)


class TestKillOnAirflowBefore33:
    """There is no ``on_kill``: a kill and a shutdown look the same."""

    @pytest.fixture(autouse=True)
    def older(self, monkeypatch):
        monkeypatch.setattr(compat, "TRIGGERS_ARE_TOLD_OF_KILLS", False)

    @pytest.mark.parametrize("state", ["failed", "success", None, "gone"])
    def test_a_task_that_waits_no_more_gives_up_its_job(self, dli_local, submit, airflow_says, state):
        job_id = submit()
        airflow_says(state, job_id)
        asyncio.run(killed(trigger_of(job_id), on_kill=False))
        assert_cancelled(dli_local, job_id)

    def test_a_clear_that_got_as_far_as_the_next_deferral(self, dli_local, submit, airflow_says):
        job_id = submit()
        airflow_says("deferred", "the job of the next try")
        asyncio.run(killed(trigger_of(job_id), on_kill=False))
        assert_cancelled(dli_local, job_id)

    def test_a_shutdown_leaves_the_job_alone(self, dli_local, submit, airflow_says):
        job_id = submit()
        airflow_says("deferred", job_id)
        asyncio.run(killed(trigger_of(job_id), on_kill=False))
        assert dli_local.job(job_id).cancel_requests == ()

    def test_not_knowing_the_job_is_left_alone(self, dli_local, submit, airflow_says):
        job_id = submit()
        airflow_says(RuntimeError("no answer"))
        asyncio.run(killed(trigger_of(job_id), on_kill=False))
        assert dli_local.job(job_id).cancel_requests == ()

    def test_it_is_delivered_although_airflow_cancels_again_and_again(self, dli_local, submit, airflow_says):
        job_id = submit()
        airflow_says("failed", job_id)
        dli_local.fault("cancel", "latency", seconds=2)
        asyncio.run(killed(trigger_of(job_id), on_kill=False))
        assert_cancelled(dli_local, job_id)


class TestInline:
    """``dag.test()`` and ``airflow tasks test`` run the trigger themselves; nobody calls ``on_kill`` there."""

    @pytest.mark.parametrize("told", [True, False], ids=["3.3", "older"])
    def test_ctrl_c_cancels_the_job(self, dli_local, submit, monkeypatch, told):
        monkeypatch.setattr(compat, "TRIGGERS_ARE_TOLD_OF_KILLS", told)
        job_id = submit()
        self.interrupt(DliJobTrigger(job_ids=[job_id], poll_interval=0.2, cancel_on_kill=True))
        assert_cancelled(dli_local, job_id)

    def test_a_job_of_somebody_else_is_left_alone(self, dli_local, submit):
        job_id = submit()
        self.interrupt(DliJobTrigger(job_ids=[job_id], poll_interval=0.2))
        assert not dli_local.job(job_id).cancel_requests

    @staticmethod
    def interrupt(trigger):
        """Run it as ``dag.test()`` does, and press Ctrl-C."""

        async def run_trigger():
            asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), signal.SIGINT)
            await anext(trigger.run(), None)

        with pytest.raises(KeyboardInterrupt):
            asyncio.run(run_trigger())


class SlowChannel:
    """
    The one way to Airflow that all triggers of a triggerer share: one question at a time, each takes a while.

    :param states: What Airflow answers, by task id and map index; None when it has not answered yet.
    """

    def __init__(self, monkeypatch, seconds, states=None, fails=0):
        self.questions, self._lock, self._seconds, self._states, self._fails = (
            [],
            threading.Lock(),
            seconds,
            states,
            fails,
        )
        monkeypatch.setattr(compat, "task_states", self.task_states)
        monkeypatch.setattr(compat, "xcom", self.xcom)

    def task_states(self, dag_id, run_ids, task_ids):
        with self._lock:
            self.questions.append(("states", len(run_ids), len(task_ids)))
            time.sleep(self._seconds)
            if len(self.questions) <= self._fails:
                raise RuntimeError("too busy")
            return {
                (run_id, task_id, index): self._states(index)
                for run_id in run_ids
                for task_id in task_ids
                for index in range(-1, TestMany.MANY)
                if self._states(index) != "gone"
            }

    def xcom(self, key, name):
        with self._lock:
            self.questions.append("xcom")
            time.sleep(self._seconds)
            return f"job-{key.map_index}"


class TestMany:
    """Hundreds of triggers at once, behind a channel that gives 24 answers a second, as measured."""

    MANY = 200
    SECONDS = 1 / 24

    @pytest.fixture(autouse=True)
    def cancelled(self, monkeypatch):
        """The jobs that are cancelled; of DLI, only what the cancels ask of it matters here."""
        found = []
        monkeypatch.setattr(DliClient, "for_thread", lambda self, _: self)

        def cancel_attempt(self, kind, job_id, patience, *, with_savepoint):
            return lambda: found.append(job_id) or Cancellation(job_id, accepted=True)

        monkeypatch.setattr(DliClient, "cancel_attempt", cancel_attempt)
        monkeypatch.setattr(
            DliClient, "job", lambda self, kind, job_id: Job(job_id, "sql", "SQL job", JobState.RUNNING, "RUNNING")
        )
        monkeypatch.setattr(DliClient, "send", lambda self, call: JobPage([], 0))
        return found

    def play(self, triggers, on_kill):
        async def run():
            running = [asyncio.create_task(event_of(trigger)) for trigger in triggers]
            await asyncio.sleep(1)
            for task in running:
                task.cancel()
            if on_kill:
                await asyncio.gather(*(trigger.on_kill() for trigger in triggers))
            await asyncio.gather(*running, return_exceptions=True)
            await background_ends()

        began = time.monotonic()
        asyncio.run(run())
        return time.monotonic() - began

    def mapped(self):
        triggers = []
        for index in range(self.MANY):
            triggers.append(trigger_of(f"job-{index}"))
            triggers[-1].task_instance = TaskInstance(map_index=index)
        return triggers

    def in_runs_of_their_own(self):
        triggers = []
        for index in range(self.MANY):
            triggers.append(trigger_of(f"job-{index}"))
            triggers[-1].task_instance = TaskInstance(run_id=f"run {index}")
        return triggers

    def in_tasks_of_their_own(self):
        triggers = []
        for index in range(self.MANY):
            triggers.append(trigger_of(f"job-{index}"))
            triggers[-1].task_instance = TaskInstance(task_id=f"load_{index}")
        return triggers

    @pytest.mark.parametrize(
        ("of", "told"),
        [("mapped", True), ("mapped", False), ("in_runs_of_their_own", True), ("in_tasks_of_their_own", False)],
    )
    def test_a_mass_kill_asks_a_few_questions_and_cancels_all(self, connect, monkeypatch, cancelled, of, told):
        connect()
        monkeypatch.setattr(compat, "TRIGGERS_ARE_TOLD_OF_KILLS", told)
        channel = SlowChannel(monkeypatch, self.SECONDS, lambda index: "failed")
        took = self.play(getattr(self, of)(), on_kill=told)
        assert sorted(cancelled) == sorted(f"job-{index}" for index in range(self.MANY))
        # One that warms up, and one or two for all.
        assert len(channel.questions) <= 5
        assert took < pace.seconds(5)

    def test_of_a_killed_run_one_answer_is_enough(self, connect, monkeypatch, cancelled):
        """Also for triggers that are told of the kill only after the answer came: the task waits for none of them."""
        connect()
        channel = SlowChannel(monkeypatch, self.SECONDS, lambda index: "failed")

        async def main():
            triggers = self.mapped()
            running = [asyncio.create_task(event_of(trigger)) for trigger in triggers]
            await asyncio.sleep(1)
            for trigger in triggers:
                await trigger.on_kill()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

        asyncio.run(main())
        # One that warms up, and one at most for all kills.
        assert len(channel.questions) <= 2
        assert len(cancelled) == self.MANY

    def test_an_answer_from_before_the_trigger_began_does_not_count(self, connect, monkeypatch, cancelled):
        """The task may not have been deferred then."""
        connect()
        states = {"state": None}
        SlowChannel(monkeypatch, 0, lambda index: states["state"])

        async def main():
            [first, second, *_] = self.mapped()
            waiting = asyncio.create_task(event_of(first))
            await asyncio.sleep(0.5)
            await first.on_kill()
            states["state"] = "deferred"
            also_waiting = asyncio.create_task(event_of(second))
            await asyncio.sleep(0.5)
            await second.on_kill()
            for task in (waiting, also_waiting):
                task.cancel()
            await asyncio.gather(waiting, also_waiting, return_exceptions=True)

        asyncio.run(main())
        assert cancelled == ["job-0"]

    @pytest.mark.parametrize("told", [True, pytest.param(False, marks=pytest.mark.matrix)])
    def test_a_hand_over_leaves_all_jobs_alone(self, connect, monkeypatch, cancelled, told):
        connect()
        monkeypatch.setattr(compat, "TRIGGERS_ARE_TOLD_OF_KILLS", told)
        channel = SlowChannel(monkeypatch, self.SECONDS, lambda index: "deferred")
        self.play(self.mapped(), on_kill=told)
        assert cancelled == []
        assert len([question for question in channel.questions if question != "xcom"]) <= 5

    @pytest.mark.matrix
    def test_not_answered_yet_is_not_killed(self, connect, monkeypatch, cancelled):
        connect()
        monkeypatch.setattr(questions, "ANSWER_WITHIN", 0.2)
        SlowChannel(monkeypatch, 0.5, lambda index: "deferred")
        monkeypatch.setattr(watcher, "OUTAGE_BUDGET", 3)
        monkeypatch.setattr(triggers, "OUTAGE_BUDGET", 3)
        self.play(self.mapped()[:20], on_kill=True)
        assert cancelled == []

    @pytest.mark.matrix
    @pytest.mark.parametrize(("state", "killed"), [("failed", True), ("deferred", False)])
    def test_an_airflow_that_is_too_busy_at_first_is_asked_again(self, connect, monkeypatch, cancelled, state, killed):
        connect()
        SlowChannel(monkeypatch, self.SECONDS, lambda index: state, fails=4)
        self.play(self.mapped()[:20], on_kill=True)
        assert len(cancelled) == (20 if killed else 0)

    @pytest.mark.matrix
    def test_the_connection_is_asked_for_once_for_all_who_wait(self, connect, monkeypatch):
        connect()
        asked = []
        get_connection = BaseHook.get_connection

        def slow(conn_id):
            asked.append(conn_id)
            time.sleep(0.3)
            return get_connection(conn_id)

        monkeypatch.setattr(BaseHook, "get_connection", staticmethod(slow))
        SlowChannel(monkeypatch, 0, lambda index: "deferred")
        self.play(self.mapped(), on_kill=True)
        assert 1 <= len(asked) <= 2
