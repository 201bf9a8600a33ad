"""Tokens, refusals and connections that change, with hundreds of hooks, over HTTP against the local DLI."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pace
import pytest
from airflow.providers.common.compat.sdk import BaseHook
from fakes import TaskInstance
from task_process import TaskProcesses

from airflow_provider_dli import compat, machine
from airflow_provider_dli.api.sql import KIND
from airflow_provider_dli.client import credentials
from airflow_provider_dli.client.patience import URGENT, Patience
from airflow_provider_dli.exceptions import DliAuthenticationError, DliError
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.job import Job, JobState
from airflow_provider_dli.triggers import shared
from airflow_provider_dli.triggers.dli import DliJobTrigger
from airflow_provider_dli.waiting import watcher

NEW = "another-secret"


@pytest.fixture
def job_id(dli_local, connect):
    """A job that runs."""
    dli_local.will(run_for=60)
    return connect().submit_sql_job("select 1").id


@pytest.fixture
def rotate(dli_local, monkeypatch):
    """Return a function that changes password and secret key, in the connection too unless told otherwise."""

    def change(auth_type="password", known=True):
        dli_local.settings(rotated_secret=NEW)
        if known:
            connection = {**dli_local.connection(auth_type), "password": NEW}
            monkeypatch.setenv("AIRFLOW_CONN_DLI_DEFAULT", json.dumps(connection))

    return change


def all_at_once(function, count):
    """Call a function in so many threads at the same time; returns what each returned or raised."""
    barrier = threading.Barrier(count)

    def run(number):
        barrier.wait()
        try:
            return function(number)
        except DliError as error:
            return error

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


class TestOneFlight:
    def test_200_hooks_that_start_together_fetch_one_token(self, dli_local, job_id):
        credentials._known.clear()
        before = len(dli_local.requests("token"))
        dli_local.fault("token", "latency", seconds=0.5)
        jobs = all_at_once(lambda _: DliHook().get_job(job_id), 200)
        assert {job.status for job in jobs} == {"RUNNING"}
        assert len(dli_local.requests("token")) - before == 1

    def test_a_token_that_becomes_void_under_200_hooks_is_renewed_once(self, dli_local, job_id):
        hooks = [DliHook() for _ in range(200)]
        for hook in hooks:
            hook.connect()
        before = len(dli_local.requests("token"))
        dli_local.settings(rotated_secret=dli_local.password)  # the same, so only tokens end
        jobs = all_at_once(lambda number: hooks[number].get_job(job_id), 200)
        assert {job.status for job in jobs} == {"RUNNING"}
        assert len(dli_local.requests("token")) - before == 1

    @pytest.mark.parametrize("fault", [{"kind": "status", "status": 503}, {"kind": "drop_before"}])
    def test_a_flight_that_fails_is_repeated_by_one(self, dli_local, job_id, fault):
        credentials._known.clear()
        before = len(dli_local.requests("token"))
        dli_local.fault("token", **fault)
        jobs = all_at_once(lambda _: DliHook().get_job(job_id), 50)
        assert {job.status for job in jobs} == {"RUNNING"}
        assert len(dli_local.requests("token")) - before <= 4

    def test_one_that_hangs_does_not_hold_an_urgent_call(self, dli_local, job_id):
        hook = DliHook()
        urgent = hook.client.for_thread(URGENT)
        dli_local.settings(rotated_secret=dli_local.password)
        dli_local.fault("token", "hang", seconds=5)
        # Nothing of it is left for the next test.
        client = DliHook().client.patient(Patience(give_up_after=0))
        hanging = threading.Thread(target=lambda: all_at_once(lambda _: client.job(KIND, job_id), 1))
        hanging.start()
        dli_local.wait_until(lambda dli: [each for each in dli.requests("token") if each.answered_at is None])
        began = time.monotonic()
        assert urgent.cancel(KIND, job_id).accepted
        assert time.monotonic() - began < pace.seconds(3.5)
        # The next test counts what is asked for there.
        hanging.join()

    def test_one_that_is_given_up_half_way_is_taken_over(self, dli_local, job_id):
        """Its thread was killed."""
        credentials._known.clear()
        dli_local.fault("token", "latency", seconds=2)
        killed = DliHook()
        end = time.monotonic() + 0.5

        def watch():
            if time.monotonic() > end:
                raise KeyboardInterrupt

        killed = killed.client.watching(watch)

        def be_killed():
            with pytest.raises(KeyboardInterrupt):
                killed.connect()

        thread = threading.Thread(target=be_killed)
        thread.start()
        dli_local.wait_until(lambda dli: [each for each in dli.requests("token") if each.answered_at is None])
        began = time.monotonic()
        assert DliHook().get_job(job_id).status == "RUNNING"
        assert time.monotonic() - began < pace.seconds(2)
        thread.join()


class TestRefused:
    def test_50_hooks_with_a_wrong_password_try_it_once(self, dli_local, connect):
        connect(password="wrong")
        errors = all_at_once(lambda _: DliHook().connect(), 50)
        assert {type(error) for error in errors} == {DliAuthenticationError}
        assert len(dli_local.requests("token")) == 1

    def test_50_triggers_with_a_wrong_password_try_it_once(self, dli_local, connect, monkeypatch):
        monkeypatch.setattr(watcher, "REFUSAL_BUDGET", 0.5)
        monkeypatch.setattr(shared, "_ASKS_FOR_NEWER", 0.5)
        connect(password="wrong")

        async def fire(number):
            trigger = DliJobTrigger(job_ids=[f"job-{number}"], cancel_on_kill=True)
            return (await anext(trigger.run())).payload["outcome"]

        async def fire_all():
            return await asyncio.gather(*map(fire, range(50)))

        assert set(asyncio.run(fire_all())) == {"error"}
        assert len(dli_local.requests("token")) == 1

    def test_they_are_tried_again_after_a_minute(self, dli_local, connect, monkeypatch):
        connect(password="wrong")
        monkeypatch.setattr(credentials, "REFUSED_FOR", 0.5)
        for pause in (0, 0.6):
            time.sleep(pause)
            for _ in range(3):
                with pytest.raises(DliAuthenticationError, match="Check login, password"):
                    DliHook().connect()
        assert len(dli_local.requests("token")) == 2

    def test_others_are_tried_at_once(self, connect):
        with pytest.raises(DliAuthenticationError):
            connect(password="wrong").connect()
        connect().connect()

    def test_a_refused_key_is_not_sent_again(self, dli_local, connect):
        hook = connect("ak_sk", password="wrong")
        for _ in range(3):
            with pytest.raises(DliAuthenticationError):
                hook.get_job("8ecb0777")
        assert len(dli_local.requests("status")) == 1


@pytest.mark.parametrize("auth_type", ["password", "ak_sk"])
class TestAConnectionThatChanges:
    def test_while_a_task_waits(self, dli_local, connect, rotate, auth_type):
        dli_local.will(run_for=2)
        hook = connect(auth_type)
        job = hook.submit_sql_job("select 1")
        rotate(auth_type)
        assert hook.wait_for_job(job.id, poll_interval=0.2).status == "FINISHED"

    def test_before_a_cancel(self, dli_local, connect, rotate, auth_type):
        dli_local.will(run_for=60)
        hook = connect(auth_type)
        job = hook.submit_sql_job("select 1")
        rotate(auth_type)
        assert hook.cancel_job(job.id).accepted

    def test_while_a_task_is_deferred(self, dli_local, connect, rotate, auth_type):
        dli_local.will(run_for=2)
        job = connect(auth_type).submit_sql_job("select 1")

        async def run():
            waiting = asyncio.create_task(anext(DliJobTrigger(job_ids=[job.id], poll_interval=0.2).run()))
            await asyncio.sleep(0.5)
            rotate(auth_type)
            return (await waiting).payload["outcome"]

        assert asyncio.run(run()) == "over"

    def test_before_a_deferred_task_is_killed(self, dli_local, connect, rotate, monkeypatch, auth_type):
        dli_local.will(run_for=60)
        job = connect(auth_type).submit_sql_job("select 1")
        monkeypatch.setattr(compat, "task_states", lambda dag, runs, tasks: {(runs[0], tasks[0], -1): "failed"})

        async def run():
            trigger = DliJobTrigger(job_ids=[job.id], poll_interval=30, cancel_on_kill=True)
            trigger.task_instance = TaskInstance()
            waiting = asyncio.create_task(anext(trigger.run()))
            await asyncio.sleep(1)
            rotate(auth_type)
            waiting.cancel()
            await trigger.on_kill()

        asyncio.run(run())
        dli_local.wait_until(lambda dli: dli.job(job.id).status == "CANCELLED")


class TestARotationWithManyInFlight:
    """DLI and Airflow get a new key while the status calls of many triggers are under way."""

    @pytest.fixture
    def play(self, dli_local, connect, rotate, monkeypatch):
        """Return a function that rotates the key under some triggers, and kills them right after that if told."""

        def run(count, *, latency, airflow_is_late_by=0.0, kill=False):
            dli_local.settings(queues={"default": count})
            dli_local.will(run_for=120, times=count)
            hook = connect("ak_sk")
            job_ids = [hook.submit_sql_job(f"select {number}").id for number in range(count)]
            get_connection = BaseHook.get_connection

            def slow(conn_id):
                time.sleep(latency)
                return get_connection(conn_id)

            monkeypatch.setattr(BaseHook, "get_connection", staticmethod(slow))
            state = "failed" if kill else "deferred"
            monkeypatch.setattr(compat, "task_states", lambda dag, runs, tasks: {(runs[0], tasks[0], -1): state})
            asyncio.run(asyncio.wait_for(self.triggers(job_ids, rotate, airflow_is_late_by, kill), 60))
            return [dli_local.job(job_id) for job_id in job_ids]

        return run

    @staticmethod
    async def triggers(job_ids, rotate, airflow_is_late_by, kill):
        triggers = [DliJobTrigger(job_ids=[each], poll_interval=0.3, cancel_on_kill=True) for each in job_ids]
        for trigger in triggers:
            trigger.task_instance = TaskInstance()
        waiting = [asyncio.create_task(anext(trigger.run())) for trigger in triggers]
        await asyncio.sleep(1)
        rotate("ak_sk", known=not airflow_is_late_by)
        if airflow_is_late_by:
            await asyncio.sleep(airflow_is_late_by)
            rotate("ak_sk")
        if not kill:
            await asyncio.sleep(3)
        for each in waiting:
            each.cancel()
        if kill:
            await asyncio.gather(*(trigger.on_kill() for trigger in triggers))
        await asyncio.gather(*waiting, return_exceptions=True)

    CASES = pytest.mark.parametrize(
        ("count", "latency", "late"),
        [
            (8, 0.1, 0),
            pytest.param(8, 0.02, 2, marks=pytest.mark.matrix),
            *(pytest.param(40, latency, 0, marks=pytest.mark.matrix) for latency in (0.02, 0.1, 0.5)),
        ],
    )

    @CASES
    def test_cancels_no_healthy_job(self, play, count, latency, late):
        jobs = play(count, latency=latency, airflow_is_late_by=late)
        assert [job.status for job in jobs] == ["RUNNING"] * count
        assert not [job for job in jobs if job.cancel_requests]

    @CASES
    def test_a_kill_right_after_it_leaves_no_job(self, play, count, latency, late):
        jobs = play(count, latency=latency, airflow_is_late_by=late, kill=True)
        assert [job.status for job in jobs] == ["CANCELLED"] * count

    def test_who_was_refused_with_an_older_key_takes_the_newer_one(self, connect):
        access = connect("ak_sk").client.access
        refused = access.lease().version
        connect("ak_sk", password=NEW)
        assert access.reread(refused), "the first one reads it again"
        assert access.reread(refused), "the next one finds nothing new there, but is newer than what was refused"
        assert not access.reread(access.version)
        assert not access.reread()

    def test_a_refusal_counts_only_after_a_while(self, monkeypatch):
        job = watcher.WatchedJob("job", logging.getLogger("watched"))
        refused, clock = DliAuthenticationError("no"), [1000.0]
        monkeypatch.setattr(machine, "monotonic", lambda: clock[0])
        job.missed(refused, 0.1)
        clock[0] += watcher.REFUSAL_BUDGET - 1
        job.missed(refused, 0.1)
        job.heard(Job("job", "sql", "SQL job", JobState.RUNNING, "RUNNING"))
        clock[0] += 2
        job.missed(refused, 0.1)
        clock[0] += watcher.REFUSAL_BUDGET
        with pytest.raises(DliAuthenticationError):
            job.missed(refused, 0.1)

    def test_an_answer_that_is_older_does_not_bring_the_old_key_back(self, connect):
        access = connect("ak_sk").client.access
        old, first = access.connection(), access.begin_read()
        second = access.begin_read()
        new = access.use(replace(old, secret="new-secret"), second)
        assert access.use(old, first) == new


@pytest.mark.matrix
class TestInAProcess:
    @pytest.fixture
    def start(self, dli_local, tmp_path):
        """Return a function that runs the operator in a process, with a connection from a file."""
        file = tmp_path / "connections.json"
        env = {
            "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
            "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(file)}),
        }

        def write(**fields):
            file.write_text(json.dumps({"in_a_file": {**dli_local.connection(), **fields}}))

        write()
        with TaskProcesses(tmp_path, env) as processes:

            def run(**arguments):
                arguments = {"sql": "select 1", "dli_conn_id": "in_a_file", "poll_interval": 30, **arguments}
                return processes.start("DliSubmitSqlJobOperator", **arguments)

            yield SimpleNamespace(task=run, write=write)

    def test_a_kill_after_the_password_was_rotated(self, dli_local, start):
        dli_local.will(run_for=60)
        task = start.task()
        dli_local.wait_until(lambda dli: dli.requests("status"), timeout=pace.seconds(20))
        dli_local.settings(rotated_secret=NEW)
        start.write(password=NEW)
        killed = task.kill()
        outcome = task.wait()
        assert outcome.ended - killed < pace.seconds(4)
        assert "accepted the cancel" in outcome.message
        dli_local.wait_until(lambda dli: dli.jobs()[0].status == "CANCELLED")

    @pytest.mark.matrix
    def test_a_password_that_nobody_knows_lets_airflow_try_again_for_the_job_runs_on(self, dli_local, start):
        dli_local.will(run_for=300)
        task = start.task(poll_interval=0.5)
        dli_local.wait_until(lambda dli: dli.requests("status"), timeout=pace.seconds(20))
        dli_local.settings(rotated_secret=NEW)
        outcome = task.wait(120)
        assert outcome.error == "DliAuthenticationError"
        # At once, and perhaps once more when the minute is over.
        assert len(dli_local.requests("token")) <= 3
        start.write(password=NEW)
        polls = len(dli_local.requests("status"))
        again = start.task(run_id="run-1", try_number=2, poll_interval=0.5)
        dli_local.wait_until(lambda dli: len(dli.requests("status")) > polls, timeout=pace.seconds(20))
        [job] = dli_local.jobs()
        assert job.status == "RUNNING"
        again.kill()
        assert "this try waits for it instead of submitting again" in again.wait().log

    @pytest.mark.matrix
    def test_a_password_that_is_wrong_from_the_start_ends_the_task_for_good(self, dli_local, start):
        start.write(password="wrong")
        outcome = start.task().wait()
        assert outcome.error == "AirflowFailException"
        assert len(dli_local.requests("token")) == 1
