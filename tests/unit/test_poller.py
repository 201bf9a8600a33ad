"""
Many triggers in one event loop, over HTTP against the local DLI: what they ask, and that none is lost.

What Airflow says about the tasks is made up; ``tests/airflow/test_many.py`` defers a thousand real ones.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter

import pace
import pytest
from fakes import TaskInstance

from airflow_provider_dli.api import sql
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.triggers import dli as triggers
from airflow_provider_dli.triggers import shared
from airflow_provider_dli.triggers.dli import DliJobTrigger
from airflow_provider_dli.waiting import poller
from airflow_provider_dli.waiting.poller import Poller

EMPTY = '{"is_success": true, "job_count": 0, "jobs": []}'
MANY = 250


# How an id of a SQL job looks.
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture
def submit(dli_local, connect):
    """Return a function that submits jobs which run this long, all at the same time."""
    connect()
    dli_local.settings(queues={"default": 1000})

    def run(number=1, run_for=60.0):
        dli_local.will(run_for=run_for, times=number)
        hook = DliHook()
        return [hook.submit_sql_job("select 1").id for _ in range(number)]

    return run


def trigger_of(job_id, **arguments):
    trigger = DliJobTrigger(job_ids=[job_id], **{"poll_interval": 1, "cancel_on_kill": True, **arguments})
    trigger.task_instance = TaskInstance()
    return trigger


async def event_of(trigger):
    return (await anext(trigger.run())).payload


def waiting_for(job_ids, **arguments):
    return [asyncio.create_task(event_of(trigger_of(job_id, **arguments))) for job_id in job_ids]


async def events_of(job_ids, **arguments):
    return Counter(event["outcome"] for event in await asyncio.gather(*waiting_for(job_ids, **arguments)))


async def stopped(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def calls_since(dli_local, since, call=None):
    return [request for request in dli_local.requests(call) if request.at >= since and request.call != "token"]


def no_job_was_cancelled(dli_local):
    return not [job for job in dli_local.jobs() if job.cancel_requests]


class TestTheCheaperWay:
    async def steady(self, dli_local, job_ids, seconds, **arguments):
        """Let triggers wait until they are looked at every second; return the calls of the time after that."""
        tasks = waiting_for(job_ids, **arguments)
        await asyncio.sleep(3)
        since = time.time()
        await asyncio.sleep(seconds)
        await stopped(tasks)
        return Counter(request.call for request in calls_since(dli_local, since))

    @pytest.mark.matrix
    def test_one_job_costs_one_status_call(self, dli_local, submit):
        calls = asyncio.run(self.steady(dli_local, submit(), 3))
        assert calls.keys() == {"status"}
        assert 2 <= calls["status"] <= 4

    def test_many_cost_the_pages_of_the_list(self, dli_local, submit):
        calls = asyncio.run(self.steady(dli_local, submit(MANY), 3))
        # Each second: LAUNCHING, three pages of RUNNING, and one job that the list shows is checked.
        assert 8 <= calls["list"] <= 16
        assert 2 <= calls["status"] <= 4
        assert calls.keys() == {"list", "status"}

    @pytest.mark.matrix
    def test_a_list_that_is_full_of_other_jobs_is_not_read(self, dli_local, submit):
        ours = submit(5)
        submit(MANY)
        calls = asyncio.run(self.steady(dli_local, ours, 3))
        assert calls.keys() == {"status"}
        assert 10 <= calls["status"] <= 20

    @pytest.mark.matrix
    def test_it_asks_only_for_what_all_jobs_have_in_common(self, dli_local, submit):
        """A queue that is full of other jobs costs nothing then."""
        dli_local.settings(queues={"default": 1000, "ours": 1000})
        hook = DliHook()
        dli_local.will(run_for=60, times=20)
        ours = [
            hook.submit_sql_job("select 1", queue_name="ours", tags={"airflow_deployment": "x"}).id for _ in range(20)
        ]
        submit(MANY)

        async def main():
            tasks = waiting_for(ours)
            # The first list shows too many; later ones are of this queue.
            await asyncio.sleep(2)
            [known] = shared.shared()._clients.values()
            known.poller(sql.KIND)._pages_counted = None
            await asyncio.sleep(3)
            await stopped(tasks)

        asyncio.run(main())
        last = dli_local.requests("list")[-1]
        assert "queue_name=ours" in last.query
        assert "tags=airflow_deployment%3Dx" in last.query
        assert no_job_was_cancelled(dli_local)


class TestAListThatIsWrong:
    """It says of no job that it is over; those that it does not show are asked for one by one."""

    @pytest.mark.parametrize(
        "fault",
        [
            {"kind": "status", "status": 403, "error_code": "DLI.0003", "error_msg": "no right"},
            {"kind": "status", "status": 503},
            {"kind": "status", "status": 200, "body": EMPTY},
            {"kind": "status", "status": 200, "body": '{"is_success": true, "job_count": "many", "jobs": [{}]}'},
            {"kind": "unknown_state"},
        ],
        ids=str,
    )
    def test_the_end_of_each_job_is_noticed_all_the_same(self, dli_local, submit, fault):
        job_ids = submit(40, run_for=2)
        dli_local.fault("list", times=None, **fault)
        assert asyncio.run(events_of(job_ids)) == {"over": 40}
        assert {job.status for job in dli_local.jobs()} == {"FINISHED"}
        asked = Counter(request.job_id for request in dli_local.requests("status"))
        assert set(asked) == set(job_ids)
        # Never all at once: some fifty a second.
        moments = [request.at for request in dli_local.requests("status")]
        assert max(sum(begin <= at < begin + 1 for at in moments) for begin in moments) <= 60

    def test_one_that_lags_shows_no_job_that_is_new(self, dli_local, submit):
        dli_local.settings(list_lag=60)
        assert asyncio.run(events_of(submit(40, run_for=2))) == {"over": 40}
        assert no_job_was_cancelled(dli_local)

    def test_one_that_shows_what_was_long_ago_is_found_out(self, dli_local, submit):
        job_ids = submit(10, run_for=1)
        lines = [{"job_id": job_id, "status": "RUNNING"} for job_id in job_ids]
        body = json.dumps({"is_success": True, "job_count": len(lines), "jobs": lines})
        dli_local.fault("list", "status", times=None, status=200, body=body)
        assert asyncio.run(events_of(job_ids)) == {"over": 10}

    @pytest.mark.matrix
    def test_one_that_omits_a_job_costs_one_call_more(self, dli_local, submit):
        [omitted, *shown] = submit(MANY)
        first_page = json.dumps(
            {
                "is_success": True,
                "job_count": 99,
                "jobs": [{"job_id": job_id, "status": "RUNNING"} for job_id in shown[:99]],
            }
        )
        dli_local.fault("list", "status", times=None, status=200, body=first_page)

        async def main():
            tasks = waiting_for([omitted, *shown[:99]])
            await asyncio.sleep(6)
            await stopped(tasks)

        asyncio.run(main())
        asked = Counter(request.job_id for request in dli_local.requests("status"))
        assert asked[omitted] >= 4
        assert max(asked[job_id] for job_id in shown[:80]) <= 2, "those that the list shows"
        assert no_job_was_cancelled(dli_local)


class TestFairAndCalm:
    def test_a_short_job_beside_many_long_ones_is_noticed_within_a_second(self, dli_local, submit):
        long = submit(MANY)

        async def main():
            tasks = waiting_for(long, poll_interval=10)
            await asyncio.sleep(3)
            [short] = await asyncio.to_thread(submit, 1, 1.0)
            await event_of(trigger_of(short, poll_interval=10))
            noticed = time.time()
            await stopped(tasks)
            return noticed - dli_local.job(short).ended_at

        assert asyncio.run(main()) < pace.seconds(1)

    @pytest.mark.matrix
    def test_nor_does_one_that_comes_last_of_very_many_wait_for_the_list(self, dli_local, submit):
        job_ids = submit(60)
        [short] = submit(1, run_for=1)
        dli_local.fault("list", "latency", times=None, seconds=2)

        async def main():
            tasks = waiting_for(job_ids, poll_interval=10)
            await asyncio.sleep(0)  # all of them begin
            await event_of(trigger_of(short, poll_interval=10))
            noticed = time.time()
            await stopped(tasks)
            return noticed - dli_local.job(short).ended_at

        assert asyncio.run(main()) < pace.seconds(1)

    @pytest.mark.matrix
    def test_when_dli_asks_to_wait_no_job_is_asked_for(self, dli_local, submit):
        job_ids = submit(40)

        async def main():
            tasks = waiting_for(job_ids)
            await asyncio.sleep(2)
            dli_local.fault("*", "status", times=1, status=429, retry_after=3)
            await asyncio.sleep(4)
            await stopped(tasks)

        asyncio.run(main())
        refused = next(request.at for request in dli_local.requests() if request.status == 429)
        after = sorted(request.at for request in calls_since(dli_local, refused + 0.2))
        assert after[0] - refused > 2.9

    @pytest.mark.matrix
    def test_while_dli_is_away_one_call_at_a_time_tries_out_whether_it_is_back(self, dli_local, submit):
        job_ids = submit(60, run_for=4)

        async def main():
            tasks = waiting_for(job_ids)
            await asyncio.sleep(2)
            dli_local.fault("*", "status", times=None, status=503)
            away = time.time()
            await asyncio.sleep(3)
            asked = len(calls_since(dli_local, away))
            dli_local.clear_faults()
            return asked, Counter(event["outcome"] for event in await asyncio.gather(*tasks))

        asked, outcomes = asyncio.run(main())
        assert asked <= 8
        assert outcomes == {"over": 60}

    @pytest.mark.matrix
    def test_a_job_whose_status_always_fails_does_not_slow_down_the_others(self, dli_local, submit):
        [bad, *good] = submit(3, run_for=4)
        dli_local.fault("status", "status", times=None, status=500, matching=bad)

        async def main():
            tasks = waiting_for([bad, *good])
            began = time.monotonic()
            await asyncio.gather(*tasks[1:])
            took = time.monotonic() - began
            await stopped(tasks)
            return took

        assert asyncio.run(main()) < pace.seconds(7)

    def test_the_jobs_of_different_projects_are_asked_for_apart(self, dli_local, submit):
        job_ids = submit(20)

        async def main():
            tasks = waiting_for(job_ids) + waiting_for(job_ids[:10], region="eu-de")
            await asyncio.sleep(2)
            clients = shared.shared()._clients
            await stopped(tasks)
            return clients

        assert len(asyncio.run(main())) == 2

    def test_two_triggers_of_the_same_job_cost_no_more_than_one(self, dli_local, submit):
        [job_id] = submit(run_for=4)

        async def main():
            first, second, third = waiting_for([job_id] * 3, cancel_on_kill=False)
            await asyncio.sleep(1)
            await stopped([third])
            return await asyncio.gather(first, second)

        assert [event["outcome"] for event in asyncio.run(main())] == ["over", "over"]
        assert len(dli_local.requests("status")) <= 10

    def test_no_call_asks_for_progress(self, dli_local, submit):
        asyncio.run(events_of(submit(20, run_for=1)))
        assert dli_local.requests("progress") == []


class TestItIsStartedAgain:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch):
        monkeypatch.setattr(poller, "_TEND_EVERY", 0.5)
        monkeypatch.setattr(poller, "_HANGS_AFTER", 1.5)

    @pytest.mark.parametrize(
        ("method", "error"),
        [("_scan", ZeroDivisionError()), ("_ask_soon", asyncio.CancelledError()), ("_is_list_cheaper", MemoryError())],
        ids=repr,
    )
    def test_when_it_dies(self, dli_local, submit, monkeypatch, method, error):
        job_ids = submit(30, run_for=3)
        works, left = getattr(Poller, method), [3]

        def dies(self, *arguments):
            if left[0] and len(self._jobs) == 30:
                left[0] -= 1
                raise error
            return works(self, *arguments)

        monkeypatch.setattr(Poller, method, dies)
        assert asyncio.run(events_of(job_ids)) == {"over": 30}
        assert left == [0]
        assert no_job_was_cancelled(dli_local)

    @pytest.mark.parametrize("method", ["_walk", "_schedule"])
    def test_when_reading_the_list_fails_with_a_bug(self, dli_local, submit, monkeypatch, method):
        job_ids = submit(30, run_for=2)
        works, left = getattr(Poller, method), [1]

        def fails(self, *arguments):
            if left[0]:
                left[0] -= 1
                raise ZeroDivisionError
            return works(self, *arguments)

        monkeypatch.setattr(Poller, method, fails)
        outcomes = asyncio.run(events_of(job_ids))
        assert outcomes["over"] >= 29

    def test_when_somebody_cancels_all_tasks_but_the_triggers(self, dli_local, submit):
        job_ids = submit(30, run_for=4)

        async def main():
            tasks = waiting_for(job_ids)
            for _ in range(3):
                await asyncio.sleep(0.7)
                for task in asyncio.all_tasks() - {*tasks, asyncio.current_task()}:
                    task.cancel()
            return Counter(event["outcome"] for event in await asyncio.gather(*tasks))

        assert asyncio.run(main()) == {"over": 30}

    def test_when_it_hangs(self, dli_local, submit, monkeypatch):
        job_ids = submit(30, run_for=2)
        works, hung = Poller._poll, []

        async def hangs(self):
            if len(hung) < 2:
                hung.append(self)
                await asyncio.sleep(3600)
            await works(self)

        monkeypatch.setattr(Poller, "_poll", hangs)
        assert asyncio.run(events_of(job_ids)) == {"over": 30}

    @pytest.mark.matrix
    def test_when_the_event_loop_is_replaced(self, dli_local, submit):
        job_ids = submit(30, run_for=4)

        async def begin():
            tasks = waiting_for(job_ids, cancel_on_kill=False)
            await asyncio.sleep(1)
            await stopped(tasks)

        asyncio.run(begin())
        assert asyncio.run(events_of(job_ids)) == {"over": 30}

    def test_a_poller_that_never_works_does_not_let_its_triggers_wait_for_ever(self, dli_local, submit, monkeypatch):
        monkeypatch.setattr(poller, "OUTAGE_BUDGET", 2)
        monkeypatch.setattr(poller, "_GIVE_UP_AT_ONCE", 10)
        job_ids = submit(30)
        monkeypatch.setattr(Poller, "_scan", lambda *_: 1 / 0)
        events = asyncio.run(asyncio.wait_for(_all_events(job_ids), pace.seconds(20)))
        assert {event["outcome"] for event in events} == {"error"}
        assert {event["message"] for event in events} == {"division by zero"}
        # They were the tasks' own: nothing is left running.
        dli_local.wait_until(lambda dli: {job.status for job in dli.jobs()} == {"CANCELLED"})

    @pytest.mark.matrix
    def test_a_triggerer_that_stood_still_for_longer_gives_no_job_up(self, dli_local, submit, monkeypatch):
        """Nobody has asked DLI meanwhile, and another triggerer may wait for the jobs by now."""
        monkeypatch.setattr(poller, "OUTAGE_BUDGET", 2)
        job_ids = submit(30, run_for=8)

        async def main():
            tasks = waiting_for(job_ids)
            await asyncio.sleep(2)
            time.sleep(5)  # noqa: ASYNC251  (the event loop stands still)
            return Counter(event["outcome"] for event in await asyncio.gather(*tasks))

        assert asyncio.run(main()) == {"over": 30}
        assert no_job_was_cancelled(dli_local)

    def test_nor_does_a_dli_that_is_away_for_too_long(self, dli_local, submit, monkeypatch):
        monkeypatch.setattr(poller, "OUTAGE_BUDGET", 2)
        job_ids = submit(30)
        dli_local.fault("*", "status", times=None, status=503)
        events = asyncio.run(asyncio.wait_for(_all_events(job_ids, cancel_on_kill=False), pace.seconds(30)))
        assert {event["outcome"] for event in events} == {"error"}
        assert all("503" in event["message"] for event in events)
        # Each task is told of its own job, and of no other.
        assert [set(re.findall(UUID, event["message"])) for event in events] == [{job_id} for job_id in job_ids]


async def _all_events(job_ids, **arguments):
    return await asyncio.gather(*waiting_for(job_ids, **arguments))


class TestMassKill:
    def test_cancels_go_before_all_status_calls(self, dli_local, submit, airflow_says, monkeypatch):
        monkeypatch.setattr(shared, "_CANCELS_AT_ONCE", 8)
        job_ids = submit(60)
        airflow_says("failed")
        dli_local.fault("cancel", "latency", times=None, seconds=0.3)

        async def main():
            tasks = waiting_for(job_ids + submit(200), poll_interval=0.5)
            await asyncio.sleep(3)
            triggers = [trigger_of(job_id) for job_id in job_ids]
            await asyncio.gather(*(trigger.on_kill() for trigger in triggers))
            await stopped(tasks)

        asyncio.run(main())
        deletes = sorted(request.at for request in dli_local.requests("cancel"))
        assert len(deletes) == 60
        # (Those that were sent just before are answered meanwhile.)
        between = [
            r for r in dli_local.requests() if deletes[0] + 0.1 < r.at < deletes[-1] and r.call in ("status", "list")
        ]
        assert between == []

    def test_cancels_that_dli_does_not_answer_hold_up_the_others_once(
        self, dli_local, submit, airflow_says, monkeypatch
    ):
        monkeypatch.setattr(shared, "_CANCELS_FIRST_FOR", 2)
        monkeypatch.setattr(triggers, "_END_WITHIN", 1)
        killed, long = submit(2), submit(2)
        [short] = submit(1, run_for=3)
        airflow_says("failed")
        dli_local.fault("cancel", "hang", times=None, seconds=30)

        async def main():
            tasks = waiting_for([*killed, *long], poll_interval=1, cancel_on_kill=False)
            waiting = asyncio.create_task(event_of(trigger_of(short, poll_interval=1)))
            await asyncio.sleep(1)
            kills = [asyncio.create_task(trigger_of(job_id).on_kill()) for job_id in killed]
            await waiting
            noticed = time.time()
            await stopped([*tasks, *kills])
            return noticed - dli_local.job(short).ended_at

        assert asyncio.run(main()) < pace.seconds(2)


@pytest.mark.matrix
def test_few_connections_for_very_many_jobs(dli_local, submit):
    job_ids = submit(MANY)
    dli_local.fault("list", "latency", times=None, seconds=0.3)

    async def main():
        tasks = waiting_for(job_ids, poll_interval=0.5)
        await asyncio.sleep(4)
        await stopped(tasks)

    began = time.time()
    asyncio.run(main())
    assert len({request.connection for request in calls_since(dli_local, began)}) <= 8
