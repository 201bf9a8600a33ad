"""Deferred work of Airflow's own SQL operators: the hook runs its statements inside a trigger of Airflow's."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from airflow.providers.common.sql.triggers.sql import SQLExecuteQueryTrigger
from asgiref.sync import sync_to_async
from fakes import TaskInstance, assert_cancelled

from airflow_provider_dli import compat, identity
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.hooks.dli_sql import DliSqlHook
from airflow_provider_dli.sweep import verdict
from airflow_provider_dli.triggers import questions

USER_ACTION = "user-action"


@pytest.fixture(autouse=True)
def connected(dli_local, connect, airflow_says):
    dli_local.settings(queues={"default": 16, "sql": 4})
    connect(extra={"default_queue": "sql"})
    airflow_says("deferred")


def trigger_of(sql="SELECT 7", trigger_id=3, **ti):
    trigger = SQLExecuteQueryTrigger(sql=sql, conn_id="dli_default", hook_params={"poll_interval": 0.1})
    trigger.task_instance, trigger.trigger_id = TaskInstance(**ti), trigger_id
    return trigger


def fired_by(trigger):
    async def run():
        return (await anext(trigger.run())).payload

    return asyncio.run(run())


def run_ended(trigger, dli, *, when=lambda dli: [job for job in dli.jobs() if job.status == "RUNNING"], by=USER_ACTION):
    """Run a trigger in a triggerer, which ends it when this is so."""

    async def run_trigger():
        try:
            await anext(trigger.run())
        except asyncio.CancelledError:
            await trigger.on_kill()
            raise

    async def triggerer():
        task = asyncio.create_task(run_trigger(), name=f"sales/run 1/load/-1/1 (ID {trigger.trigger_id})")
        while not when(dli):  # noqa: ASYNC110 - DLI rings no bell
            await asyncio.sleep(0.05)
        task.cancel(by)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        # It continues with other triggers: when the next one gets the thread, this one has left it.
        await sync_to_async(int)()
        while mine := [each for each in questions._background if each.get_loop() is asyncio.get_running_loop()]:
            await asyncio.gather(*mine)

    asyncio.run(triggerer())


class TestIdentity:
    def test_the_job_is_known_as_that_of_the_task(self, dli_local):
        assert fired_by(trigger_of()) == {"status": "success", "results": [(7,)]}
        [job] = dli_local.jobs()
        attempt = identity.read_attempt(job.tags)
        assert (job.tags["airflow_dag"], job.tags["airflow_run"], job.tags["airflow_task"]) == (
            "sales",
            "run 1",
            "load",
        )
        assert (attempt.try_number, attempt.map_index, attempt.owner) == (1, -1, "task")

    def test_the_sweep_takes_it_for_an_orphan_once_its_task_is_over(self):
        fired_by(trigger_of())
        [job] = DliHook().list_jobs()
        candidate = verdict.submitter(job)
        assert verdict.judge("failed", {}, None).verdict is verdict.Verdict.ORPHAN
        assert not candidate.problem

    def test_several_statements_have_one_each(self, dli_local):
        fired_by(trigger_of(["SELECT 1", "SELECT 1"]))
        assert len({job.tags["airflow_ti"] for job in dli_local.jobs()}) == 2


class TestEnd:
    @pytest.mark.parametrize("told", [True, False], ids=["3.3", "older"])
    def test_a_kill_cancels_the_job(self, dli_local, airflow_says, monkeypatch, told):
        monkeypatch.setattr(compat, "TRIGGERS_ARE_TOLD_OF_KILLS", told)
        airflow_says("failed")
        dli_local.will(run_for=20)
        run_ended(trigger_of(), dli_local)
        [job] = dli_local.jobs()
        assert_cancelled(dli_local, job.job_id)

    def test_a_hand_over_leaves_it_alone_and_the_next_triggerer_finds_it(self, dli_local):
        dli_local.will(run_for=4)
        run_ended(trigger_of(), dli_local, by=None)
        assert fired_by(trigger_of())["status"] == "success"
        [job] = dli_local.jobs()
        assert (job.status, job.cancel_requests) == ("FINISHED", ())

    def test_one_that_has_finished_meanwhile_does_not_run_again(self, dli_local):
        for _ in range(2):
            assert fired_by(trigger_of()) == {"status": "success", "results": [(7,)]}
        assert len(dli_local.jobs()) == 1

    @pytest.mark.parametrize("other", [{"trigger_id": 4}, {"try_number": 2}, {"sql": "SELECT 8"}], ids=str)
    def test_that_of_another_page_or_try_is_not_taken(self, dli_local, other):
        fired_by(trigger_of())
        fired_by(trigger_of(**other))
        assert len(dli_local.jobs()) == 2

    def test_a_failure_is_an_event(self, dli_local):
        assert "nowhere" in fired_by(trigger_of("SELECT * FROM nowhere"))["message"]


class TestWhere:
    def test_on_the_event_loop_it_is_refused(self, dli_local):
        """There it would stop the whole triggerer, and no kill would reach it."""

        class Blocking(SQLExecuteQueryTrigger):
            async def _get_records(self):
                return self.get_hook().get_records(self.sql)

        trigger = Blocking(sql="SELECT 7", conn_id="dli_default")
        trigger.task_instance, trigger.trigger_id = TaskInstance(), 3
        event = fired_by(trigger)
        assert "deferrable=False" in event["message"]
        assert not dli_local.jobs()

    def test_a_hook_that_is_made_in_the_thread(self, dli_local, airflow_says):
        class Mine(SQLExecuteQueryTrigger):
            async def _get_records(self):
                return await sync_to_async(self._read)()

            def _read(self):
                return DliSqlHook(poll_interval=0.1).get_records(self.sql)

        airflow_says("failed")
        dli_local.will(run_for=20)
        trigger = Mine(sql="SELECT 7", conn_id="dli_default")
        trigger.task_instance, trigger.trigger_id = TaskInstance(), 3
        run_ended(trigger, dli_local)
        [job] = dli_local.jobs()
        assert_cancelled(dli_local, job.job_id)

    def test_ctrl_c_in_dag_test_cancels_the_job(self, dli_local):
        dli_local.will(run_for=20)
        trigger = SQLExecuteQueryTrigger(sql="SELECT 7", conn_id="dli_default", hook_params={"poll_interval": 0.1})
        run_ended(trigger, dli_local, by=None)
        [job] = dli_local.jobs()
        assert_cancelled(dli_local, job.job_id)
