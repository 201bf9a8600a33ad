"""
The sweep over HTTP, against the local DLI: which jobs it cancels, which it leaves alone, and what it tells.

What Airflow would answer is given here; ``tests/airflow/test_orphans.py`` asks a real one.
"""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
import threading
import time
import tracemalloc
from datetime import timedelta
from types import SimpleNamespace
from urllib.parse import urlsplit

import pace
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from fakes import START, identity_of

from airflow_provider_dli import compat, identity
from airflow_provider_dli.exceptions import DliError, DliTaskKilledError
from airflow_provider_dli.job import Job, JobState
from airflow_provider_dli.operators.dli import DliCancelOrphanJobsOperator
from airflow_provider_dli.sweep import verdict, walk
from airflow_provider_dli.sweep.report import Report
from airflow_provider_dli.text import in_words

LATER_START = START.add(days=1)
MINE = identity_of(deployment="ours")
ALIVE = [None, "scheduled", "queued", "running", "restarting", "up_for_retry", "up_for_reschedule", "deferred"]
NEVER_HEARD_OF = "awaiting_input"


class Airflow:
    """Answers as Airflow does: with the task instances that it knows."""

    def __init__(self):
        self.states = {}
        self.then = {}
        self.questions = []
        self.broken = set()
        #: The job that each task instance waits for.
        self.job_ids = {}
        self.meanwhile = lambda: None

    def set(self, state, mine=MINE, then=None):
        """Give a task instance a state; ``then`` is what it is when asked again."""
        self.states[mine.dag_id, mine.run_id, mine.task_id, mine.map_index] = state
        if then:
            self.then[mine.dag_id, mine.run_id, mine.task_id, mine.map_index] = then

    def xcom(self, key, name):
        assert name == "job_id"
        if key.dag_id in self.broken:
            raise RuntimeError("Airflow is away")
        return self.job_ids.get(tuple(key))

    def task_states(self, dag_id, run_ids, task_ids):
        [task_id] = task_ids
        self.questions.append((dag_id, list(run_ids), task_id))
        self.meanwhile()
        if dag_id in self.broken:
            raise RuntimeError("Airflow is away")
        found = {
            (run_id, task_id, map_index): state
            for (of_dag, run_id, of_task, map_index), state in self.states.items()
            if (of_dag, of_task) == (dag_id, task_id) and run_id in run_ids
        }
        self.states.update(self.then)
        return found


@pytest.fixture
def airflow_says(monkeypatch):
    says = Airflow()
    monkeypatch.setattr(compat, "task_states", says.task_states)
    monkeypatch.setattr(compat, "xcom", says.xcom)
    monkeypatch.setenv("AIRFLOW__DLI__DEPLOYMENT", "ours")
    return says


@pytest.fixture
def left_behind(connect, dli_local):
    """Return a function that leaves a job behind, and gives its id."""

    def leave(run_for=60, tags=None, queue_name=None, will=None, **changes):
        mine = dataclasses.replace(MINE, **changes)
        dli_local.will(run_for=run_for, **(will or {}))
        job = connect().submit_sql_job("select 1", queue_name=queue_name, tags={**mine.tags(), **(tags or {})})
        if not will:
            dli_local.wait_until(lambda dli: dli.job(job.id).status == "RUNNING")
        return job.id

    return leave


@pytest.fixture
def run(connect, airflow_says):
    """Return a function that runs the sweep, and gives its rows by job id."""
    connect()

    def sweep_up(older_than=timedelta(0), prepare=lambda task: None, **arguments):
        arguments = {"poll_interval": 0.1, **arguments}
        task = DliCancelOrphanJobsOperator(task_id="sweep", older_than=older_than, **arguments)
        prepare(task)
        rows = DliCancelOrphanJobsOperator.execute.__wrapped__(task, {"ti": SimpleNamespace()})
        assert json.loads(json.dumps(rows)) == rows, "an XCom has to be JSON"
        return {row["job"]: row for row in rows}

    return sweep_up


def verdicts(rows):
    return {job_id: row["verdict"] for job_id, row in rows.items()}


def deletes(dli_local):
    return [request.job_id for request in dli_local.requests(call="cancel")]


class TestWhatIsCancelled:
    @pytest.mark.parametrize("state", ["success", "failed", "skipped", "upstream_failed", "removed", "gone"])
    def test_the_job_of_a_task_instance_that_is_over(self, dli_local, airflow_says, left_behind, run, state):
        job_id = left_behind()
        if state != "gone":
            airflow_says.set(state)
        [row] = run().values()
        assert dli_local.job(job_id).status == "CANCELLED"
        assert {name: row[name] for name in ("job", "dag", "run", "task", "map_index", "try", "verdict")} == {
            "job": job_id,
            "dag": "sales",
            "run": "run 1",
            "task": "load",
            "map_index": -1,
            "try": 1,
            "verdict": "cancelled",
        }
        assert 0 <= row["age"] < 10
        assert state in row["why"]

    @pytest.mark.parametrize("state", [*ALIVE, NEVER_HEARD_OF])
    def test_not_that_of_one_that_is_not(self, dli_local, airflow_says, left_behind, run, state):
        job_id = left_behind()
        airflow_says.set(state)
        assert verdicts(run()) == {job_id: "left alone"}
        assert deletes(dli_local) == []

    def test_a_mapped_task_instance_by_its_own_state(self, dli_local, airflow_says, left_behind, run):
        jobs = {}
        for index, state in enumerate(["running", "failed", "success"]):
            jobs[index] = left_behind(map_index=index)
            airflow_says.set(state, dataclasses.replace(MINE, map_index=index))
        assert verdicts(run()) == {jobs[0]: "left alone", jobs[1]: "cancelled", jobs[2]: "cancelled"}

    def test_a_job_that_still_waits_for_its_queue(self, dli_local, left_behind, run):
        dli_local.settings(queues={"default": 0})
        job_id = left_behind(will={"launching_for": 0})
        assert dli_local.job(job_id).status == "LAUNCHING"
        assert verdicts(run()) == {job_id: "cancelled"}

    def test_names_are_read_back(self, airflow_says, left_behind, run):
        names = {"dag_id": "größe/1", "run_id": "scheduled__2026-11-22T00:00:00+00:00 @x", "task_id": "группа.load"}
        job_id = left_behind(**names)
        airflow_says.set("running", dataclasses.replace(MINE, **names))
        [row] = run().values()
        assert (row["verdict"], row["dag"], row["run"], row["task"]) == ("left alone", *names.values())
        assert row["job"] == job_id


class TestWhatIsNotTouched:
    @pytest.mark.parametrize("deployment", ["theirs", "ours-2", "ou", None])
    def test_a_job_of_another_deployment(self, dli_local, left_behind, run, deployment):
        left_behind(deployment=deployment)
        assert run() == {}
        assert deletes(dli_local) == []

    def test_a_job_that_no_task_waits_for(self, dli_local, left_behind, run):
        job_id = left_behind(owner="detached")
        rows = run()
        assert verdicts(rows) == {job_id: "left alone"}
        assert rows[job_id]["why"] == "no task waits for its end (detached)"
        assert deletes(dli_local) == []

    @pytest.mark.parametrize("older_than", [timedelta(seconds=1.9), 1.9])
    def test_a_job_that_is_younger(self, dli_local, airflow_says, left_behind, run, older_than):
        old = left_behind()
        time.sleep(2)
        young = left_behind(run_id="run 2")
        assert verdicts(run(older_than=older_than)) == {old: "cancelled", young: "left alone"}
        assert {question[1][0] for question in airflow_says.questions} == {"run 1"}

    def test_five_minutes_unless_told_otherwise(self, left_behind):
        assert DliCancelOrphanJobsOperator(task_id="sweep").older_than == timedelta(minutes=5)

    @pytest.mark.parametrize(
        ("tags", "why"),
        [
            ({"airflow_attempt": "2:x"}, "its tag airflow_attempt is cut or unreadable"),
            ({"airflow_run": identity.escape("r" * 300)}, "its tag airflow_run is cut or unreadable"),
            (
                {"airflow_dag": identity.escape("ü" * 90), "airflow_task": "@ff"},
                "its tags airflow_dag, airflow_task are cut or unreadable",
            ),
            ({"airflow_run": "run 2"}, "its tag airflow_ti is not that of its names"),
        ],
    )
    def test_a_job_whose_task_cannot_be_told(self, dli_local, airflow_says, left_behind, run, tags, why):
        job_id = left_behind(tags=tags)
        orphan = left_behind(run_id="run 3")
        rows = run()
        assert verdicts(rows) == {job_id: "unidentified", orphan: "cancelled"}
        assert rows[job_id]["why"] == why
        assert deletes(dli_local) == [orphan]
        assert {question[1][0] for question in airflow_says.questions} == {"run 3"}

    def test_a_job_of_another_queue_when_one_is_named(self, dli_local, left_behind, run):
        dli_local.settings(queues={"default": 16, "etl": 16})
        left_behind()
        etl = left_behind(queue_name="etl")
        assert verdicts(run(queue_name="etl")) == {etl: "cancelled"}
        assert deletes(dli_local) == [etl]

    def test_a_dry_run_only_tells(self, dli_local, left_behind, run):
        job_id = left_behind()
        rows = run(dry_run=True)
        assert verdicts(rows) == {job_id: "would be cancelled"}
        assert rows[job_id]["why"] == "its task instance is gone from Airflow"
        assert deletes(dli_local) == []

    @pytest.mark.parametrize("then", ["queued", "running", "deferred"])
    def test_a_task_that_was_cleared_between_the_question_and_the_cancel(
        self, dli_local, airflow_says, left_behind, run, then
    ):
        job_id = left_behind()
        airflow_says.set("failed", then=then)
        assert verdicts(run()) == {job_id: "left alone"}
        assert deletes(dli_local) == []

    def test_dli_is_asked_before_airflow(self, dli_local, airflow_says, left_behind, run):
        left_behind()
        asked_at = []
        airflow_says.meanwhile = lambda: asked_at.append(time.time())
        run()
        assert max(request.answered_at for request in dli_local.requests(call="list")) <= asked_at[0]


class TestLaterTry:
    """A job beside which a later try of the same task instance has another one."""

    @pytest.mark.parametrize(
        "later",
        [
            {"try_number": 2},
            {"try_number": 2, "generation": identity.generation(START, 5)},
            {"try_number": 2, "generation": identity.generation(LATER_START, 5)},
            # A run that was deleted and created again counts its tries from 1.
            {"try_number": 1, "generation": identity.generation(LATER_START, 2), "earlier_try": 3},
        ],
    )
    @pytest.mark.parametrize("state", ["running", "up_for_retry"])
    def test_the_earlier_job_is_cancelled_and_the_later_one_is_not(
        self, dli_local, airflow_says, left_behind, run, later, state
    ):
        later = dict(later)
        earlier_job = left_behind(try_number=later.pop("earlier_try", 1))
        later_job = left_behind(**later)
        airflow_says.set(state)
        airflow_says.job_ids["sales", "run 1", "load", -1] = later_job
        rows = run()
        assert verdicts(rows) == {earlier_job: "cancelled", later_job: "left alone"}
        assert f"try {later['try_number']} of its task instance has submitted another job" in rows[earlier_job]["why"]
        assert deletes(dli_local) == [earlier_job]

    @pytest.mark.parametrize("awaited", ["the earlier job", None])
    def test_but_not_because_of_a_job_that_only_its_tags_make_later(
        self, dli_local, airflow_says, left_behind, run, awaited
    ):
        healthy = left_behind()
        forged = left_behind(try_number=2, generation=identity.generation(LATER_START, 2))
        airflow_says.set("running")
        airflow_says.job_ids["sales", "run 1", "load", -1] = awaited and healthy
        assert verdicts(run()) == {healthy: "left alone", forged: "left alone"}
        assert deletes(dli_local) == []

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            # A try that Airflow gave up submits late.
            ({"try_number": 2}, {"try_number": 1}),
            # The start of the run says one thing, the order of the submits another.
            ({"generation": identity.generation(LATER_START, 2)}, {"try_number": 2}),
            ({"generation": identity.generation(None, 2)}, {"try_number": 2, "generation": "x.2"}),
            # Two jobs of one try.
            ({}, {}),
            # Another statement, another mapped task instance.
            ({}, {"try_number": 2, "statement_index": 1}),
            ({}, {"try_number": 2, "map_index": 0}),
            # Of another Airflow.
            ({}, {"try_number": 2, "deployment": "theirs"}),
        ],
    )
    def test_unless_it_is_not_certain_which_is_later(self, dli_local, airflow_says, left_behind, run, first, second):
        left_behind(**first)
        left_behind(**second)
        for map_index in (-1, 0):
            airflow_says.set("running", dataclasses.replace(MINE, map_index=map_index))
        assert set(verdicts(run()).values()) == {"left alone"}
        assert deletes(dli_local) == []


class TestWhatGoesWrong:
    def test_without_a_deployment_it_refuses_to_run(self, dli_local, left_behind, run, monkeypatch):
        left_behind()
        monkeypatch.delenv("AIRFLOW__DLI__DEPLOYMENT")
        seen = dli_local.requests()[-1].seq
        with pytest.raises(
            AirflowFailException, match=r"`deployment` in section \[dli\].* is not set.*Set it"
        ) as caught:
            run()
        assert caught.value.__context__.field == "deployment"
        assert dli_local.requests(since=seen) == []

    def test_a_deployment_that_would_be_cut_is_refused(self, run, monkeypatch):
        monkeypatch.setenv("AIRFLOW__DLI__DEPLOYMENT", "d" * 256)
        with pytest.raises(AirflowFailException, match="too long for a tag"):
            run()

    @pytest.mark.parametrize("older_than", [timedelta(seconds=-1), -1, "5", None, float("nan"), float("inf")])
    def test_older_than_is_a_duration(self, run, older_than):
        with pytest.raises(AirflowFailException, match="older_than must be a timedelta, or a number of seconds, of 0"):
            run(older_than=older_than)

    def test_a_job_that_cannot_be_cancelled_does_not_stop_the_others(self, dli_local, left_behind, run, caplog):
        first, second, third = (left_behind(run_id=f"run {number}") for number in (1, 2, 3))
        dli_local.fault(
            "cancel", "status", times=2, matching=second, status=403, error_code="APIG.0302", error_msg="not authorized"
        )
        with pytest.raises(
            DliError, match=rf"job {second} of sales.load, run run 2: not cancelled.*cancelJob"
        ) as caught:
            run()
        assert first not in str(caught.value)
        assert third not in str(caught.value)
        assert [dli_local.job(job_id).status for job_id in (first, second, third)] == [
            "CANCELLED",
            "RUNNING",
            "CANCELLED",
        ]

    def test_a_job_that_is_over_between_the_list_and_the_cancel_is_no_failure(
        self, dli_local, connect, airflow_says, left_behind, run
    ):
        job_id = left_behind()
        hook = connect()

        def end():
            hook.cancel_job(job_id)
            hook.wait_for_job(job_id, poll_interval=0.1)

        airflow_says.meanwhile = end
        rows = run()
        assert verdicts(rows) == {job_id: "over by itself"}
        assert rows[job_id]["why"] == "CANCELLED before the cancel"

    def test_a_job_that_dli_forgets_meanwhile_is_no_failure(self, dli_local, left_behind, run):
        job_id = left_behind()
        for call in ("cancel", "status"):
            dli_local.fault(call, "status", times=2, status=400, error_code="DLI.0002", error_msg="no such job")
        assert verdicts(run()) == {job_id: "over by itself"}

    def test_a_job_that_dli_still_shows_is_not_taken_for_forgotten(self, dli_local, left_behind, run):
        job_id = left_behind()
        dli_local.fault("cancel", "status", times=2, status=404, error_code="APIG.0101", error_msg="no such call")
        assert verdicts(run()) == {job_id: "cancelled"}
        assert dli_local.job(job_id).status == "CANCELLED"

    def test_a_job_that_finishes_in_spite_of_the_cancel_is_told_as_finished(self, dli_local, left_behind, run):
        job_id = left_behind(run_for=2)
        dli_local.fault("cancel", "status", status=200, body='{"is_success": true, "message": ""}')
        rows = run()
        assert verdicts(rows) == {job_id: "over by itself"}
        assert rows[job_id]["why"] == "FINISHED in spite of the cancel"

    def test_the_end_is_waited_for(self, dli_local, left_behind, run):
        job_id = left_behind(will={"cancel_takes": 2})
        dli_local.wait_until(lambda dli: dli.job(job_id).status == "RUNNING")
        dli_local.fault("status", "status", times=2, status=503)
        assert verdicts(run()) == {job_id: "cancelled"}
        assert dli_local.job(job_id).status == "CANCELLED"

    def test_but_not_for_ever(self, dli_local, left_behind, run, monkeypatch):
        monkeypatch.setattr(walk, "_CONFIRM_WITHIN", 1)
        slow = left_behind(will={"cancel_takes": 5})
        dli_local.wait_until(lambda dli: dli.job(slow).status == "RUNNING")
        quick = left_behind(run_id="run 2")
        with pytest.raises(
            DliError, match=f"job {slow} .*accepted the cancel, but it is still RUNNING 1 s later"
        ) as caught:
            run()
        assert quick not in str(caught.value)

    def test_nor_while_dli_is_slow(self, dli_local, left_behind, run, monkeypatch):
        monkeypatch.setattr(walk, "_CONFIRM_WITHIN", 2)
        slow = [left_behind(will={"cancel_takes": 60}, run_id=f"run {number}") for number in range(12)]
        dli_local.wait_until(lambda dli: all(dli.job(job_id).status == "RUNNING" for job_id in slow))
        dli_local.fault("status", "latency", times=None, seconds=0.7)
        with pytest.raises(DliError) as caught:
            run()
        # No more than there was time for.
        assert len(dli_local.requests("status")) <= 4
        assert "there was no time to look whether it has ended" in str(caught.value)

    def test_without_waiting_it_is_enough_that_dli_accepts(self, dli_local, left_behind, run):
        job_id = left_behind(will={"cancel_takes": 5})
        assert verdicts(run(wait_for_completion=False)) == {job_id: "cancelled"}
        assert dli_local.requests(call="status") == []

    def test_a_state_that_airflow_does_not_tell_leaves_the_job_alone_and_fails_at_the_end(
        self, dli_local, airflow_says, left_behind, run
    ):
        unknown = left_behind(dag_id="broken")
        orphan = left_behind()
        airflow_says.broken.add("broken")
        with pytest.raises(DliError, match=f"job {unknown} of broken.load.*state unknown.*Airflow is away") as caught:
            run()
        assert orphan not in str(caught.value)
        assert dli_local.job(orphan).status == "CANCELLED"
        assert deletes(dli_local) == [orphan]

    def test_an_error_names_ten_jobs_and_counts_the_others(self, dli_local, airflow_says, left_behind, run):
        airflow_says.broken.add("sales")
        for number in range(12):
            left_behind(run_id=f"run {number}")
        with pytest.raises(DliError, match="and 2 more") as caught:
            run()
        assert len(re.findall(r"^job ", str(caught.value), re.MULTILINE)) == 10

    def test_without_the_right_to_list_it_fails(self, dli_local, run):
        dli_local.fault("list", "status", times=None, status=403, error_code="APIG.0302", error_msg="not authorized")
        with pytest.raises(AirflowFailException, match="dli:jobs:listAll"):
            run()

    def test_a_refused_login_is_not_repeated_for_every_job(self, dli_local, left_behind, run):
        for number in range(3):
            left_behind(run_id=f"run {number}")
        dli_local.fault("cancel", "status", times=None, status=401, error_code="APIG.0301", error_msg="no")
        with pytest.raises(AirflowFailException):
            run()
        assert len(deletes(dli_local)) == 2

    def test_being_killed_ends_it(self, dli_local, airflow_says, left_behind, run):
        first, second = left_behind(), left_behind(run_id="run 2")
        killed_at = []

        def prepare(task):
            def kill_at_the_third_question():
                if len(airflow_says.questions) == 3:
                    killed_at.append(time.monotonic())
                    task.on_kill()

            airflow_says.meanwhile = kill_at_the_third_question

        with pytest.raises(DliTaskKilledError):
            run(prepare=prepare)
        assert time.monotonic() - killed_at[0] < pace.seconds(1)
        assert deletes(dli_local) == [first]
        assert dli_local.job(second).is_active

    def test_being_killed_ends_the_wait_for_the_end_of_the_jobs(self, dli_local, left_behind, run):
        left_behind(will={"cancel_takes": 5})
        killed_at = []

        def prepare(task):
            def kill():
                killed_at.append(time.monotonic())
                task.on_kill()

            threading.Timer(2, kill).start()

        with pytest.raises(DliTaskKilledError):
            run(prepare=prepare)
        assert time.monotonic() - killed_at[0] < pace.seconds(1)
        assert len(deletes(dli_local)) == 1


@pytest.mark.matrix  # half a minute, most of it to submit them
class TestTenThousandJobs:
    COUNT = 10_000
    STATEMENT = 2_000

    @pytest.fixture
    def many(self, dli_local):
        """Ten thousand active jobs with long statements, of a hundred runs of a hundred tasks."""
        dli_local.settings(queues={"default": self.COUNT // 2})
        dli_local.will(times=self.COUNT, run_for=3600)
        connection = http.client.HTTPConnection(urlsplit(dli_local.url).netloc, timeout=30)
        user = {"name": dli_local.user, "password": dli_local.password, "domain": {"name": dli_local.domain}}
        scope = {"project": {"id": dli_local.project_id}}
        body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
        json_body = {"Content-Type": "application/json"}
        connection.request("POST", "/v3/auth/tokens", json.dumps(body), json_body)
        answer = connection.getresponse()
        answer.read()
        headers = {**json_body, "X-Auth-Token": answer.headers["X-Subject-Token"]}
        mine = []
        for number in range(self.COUNT):
            run_id = f"scheduled__2026-{number // 100:04}"
            mine.append(dataclasses.replace(MINE, run_id=run_id, task_id=f"task_{number % 100}"))
            tags = [{"key": key, "value": value} for key, value in mine[-1].tags().items()]
            body = {"sql": f"select {number} -- {'x' * self.STATEMENT}", "tags": tags}
            connection.request("POST", f"/v1.0/{dli_local.project_id}/jobs/submit-job", json.dumps(body), headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
        return mine

    def test_are_listed_with_102_calls_and_little_memory(self, dli_local, many, run, monkeypatch, capfd):
        running = {(mine.run_id, mine.task_id) for mine in many[:-3]}
        run_ids_asked = []

        def task_states(dag_id, run_ids, task_ids):
            [task_id] = task_ids
            run_ids_asked.append(list(run_ids))
            return {(run_id, task_id, -1): "running" for run_id in run_ids if (run_id, task_id) in running}

        monkeypatch.setattr(compat, "task_states", task_states)
        run(queue_name="nothing-here")  # what is imported and cached at the first use is not counted
        seen = dli_local.requests()[-1].seq
        tracemalloc.start()
        began = time.monotonic()
        rows = run()
        took = time.monotonic() - began
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        calls = len(dli_local.requests(call="list", since=seen))
        assert calls <= 102
        # The statements alone are 19 MiB.
        assert peak < 8 * 2**20
        assert list(verdicts(rows).values()).count("cancelled") == 3
        assert len(rows) == 103
        assert len(deletes(dli_local)) == 3
        assert len(run_ids_asked) <= 300
        assert max(len("".join(run_ids)) for run_ids in run_ids_asked) < 4000
        log = capfd.readouterr().out
        print(f"{calls} list calls, {len(run_ids_asked)} questions, {peak / 2**20:.1f} MiB at most, {took:.1f} s")
        assert "Active jobs of this deployment: 10000 (3 cancelled, 9997 left alone)" in log
        assert "and 9897 more left alone" in log


class TestPureFunctions:
    def a_job(self, state="RUNNING", **changes):
        return Job(
            "job",
            "sql",
            "SQL job",
            JobState[state],
            state,
            start_time=START,
            tags=dataclasses.replace(MINE, **changes).tags(),
        )

    @pytest.mark.parametrize("state", ["FINISHED", "FAILED", "CANCELLED"])
    def test_a_job_that_is_over_is_no_candidate(self, state):
        assert verdict.candidate(self.a_job(state), "ours") is None

    @pytest.mark.parametrize("state", ["LAUNCHING", "RUNNING", "SCALING", "UNKNOWN"])
    def test_one_in_any_other_state_is(self, state):
        assert verdict.candidate(self.a_job(state), "ours") is not None
        assert verdict.judge("failed", {}, None).verdict is verdict.Verdict.ORPHAN

    @pytest.mark.parametrize("deployment", ["theirs", "our", "ours2", "OURS", None])
    def test_the_deployment_is_compared_exactly(self, deployment):
        assert verdict.candidate(self.a_job(deployment=deployment), "ours") is None

    def test_a_deployment_with_other_characters(self):
        assert verdict.candidate(self.a_job(deployment="prod/eu,1"), "prod/eu,1") is not None

    def test_a_job_of_unknown_age_is_left_alone(self):
        candidate = verdict.candidate(dataclasses.replace(self.a_job(), start_time=None), "ours")
        assert verdict.exempt(candidate, time.time(), timedelta(0)).verdict is verdict.Verdict.LEFT_ALONE

    def test_an_owner_of_a_later_release_is_left_alone(self):
        candidate = verdict.candidate(self.a_job(owner="savepoint"), "ours")
        assert verdict.exempt(candidate, time.time(), timedelta(0)).verdict is verdict.Verdict.LEFT_ALONE

    @pytest.mark.parametrize("state", [*ALIVE, NEVER_HEARD_OF])
    def test_no_state_but_an_end_makes_an_orphan(self, state):
        assert verdict.judge(state, {}, None).verdict is verdict.Verdict.LEFT_ALONE
        # Unless the task waits for the job of a later try by now, and so decided against this one.
        assert verdict.judge(state, {"later": 2}, "later").verdict is verdict.Verdict.ORPHAN
        assert verdict.judge(state, {"later": 2}, None).verdict is verdict.Verdict.LEFT_ALONE

    @pytest.mark.parametrize("state", ["success", "failed", "skipped", "upstream_failed", "removed", "gone"])
    def test_every_end_does(self, state):
        assert verdict.judge(state, {}, None).verdict is verdict.Verdict.ORPHAN

    @pytest.mark.parametrize(("age", "is_exempt"), [(0, True), (299, True), (300, False), (10**9, False)])
    def test_a_young_job_is_left_alone(self, age, is_exempt):
        candidate = verdict.candidate(self.a_job(), "ours")
        judgement = verdict.exempt(candidate, START.timestamp() + age, timedelta(minutes=5))
        assert (judgement is not None) is is_exempt

    @pytest.mark.parametrize(
        "changes",
        [
            {"tags": {identity.TI: "0" * 40}},
            {"tags": {identity.TI: ""}},
            {"tags": {identity.TASK: "another"}},
            {"tags": {identity.RUN: "run 2"}},
            {"tags": {identity.DAG: "cut@-"}},
            {"tags": {identity.DAG: ""}},
            {"tags": {identity.ATTEMPT: "2:1.2:1:-1:0:task:abc"}},
            {"tags": {identity.ATTEMPT: MINE.attempt.replace(":-1:", ":7:")}},
            # All that a name tells.
            {"tags": {identity.DAG: "", identity.RUN: "", identity.TASK: ""}, "is_proved": False},
        ],
        ids=str,
    )
    def test_what_does_not_prove_whose_it_is_is_left_alone(self, changes):
        job = self.a_job()
        job = dataclasses.replace(job, **{**changes, "tags": {**job.tags, **changes.get("tags", {})}})
        found = verdict.submitter(job)
        judgement = verdict.exempt(found, time.time(), timedelta(0))
        assert judgement.verdict is verdict.Verdict.UNIDENTIFIED
        # Nor does it make an orphan of another job.
        later = found._replace(try_number=9, submitted=found.submitted + 9)
        assert verdict.superseded([verdict.submitter(self.a_job()), later._replace(job_id="later")]) == {}

    @pytest.mark.parametrize(
        ("changes", "is_superseded"),
        [
            ({"try_number": 2}, True),
            ({"try_number": 1}, False),
            ({"try_number": 2, "map_index": 1}, False),
            ({"try_number": 2, "statement_index": 1}, False),
            ({"try_number": 2, "task_id": "other"}, False),
            ({"try_number": 2, "run_id": "run 2"}, False),
            ({"try_number": 2, "dag_id": "other"}, False),
            # A clear keeps the start of the run.
            ({"try_number": 2, "generation": identity.generation(START, 7)}, True),
            # A run that was deleted and created again counts from 1 once more.
            ({"try_number": 1, "generation": identity.generation(LATER_START, 2)}, True),
            ({"try_number": 9, "generation": identity.generation(START.subtract(days=1), 2)}, False),
            ({"try_number": 9, "generation": "nonsense.2"}, False),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("seconds", [60, -60, None])
    def test_what_counts_as_a_later_job_of_the_same_task_instance(self, changes, is_superseded, seconds):
        first = dataclasses.replace(self.a_job(try_number=1), id="first")
        second = dataclasses.replace(self.a_job(**changes), id="second")
        start = None if seconds is None else START.add(seconds=seconds)
        second = dataclasses.replace(second, start_time=start)
        found = verdict.superseded([verdict.submitter(second), verdict.submitter(first)])
        # The order in which DLI got them has to agree.
        assert ("first" in found) is (is_superseded and seconds == 60)

    def test_airflow_is_asked_once_for_one_task_unless_the_url_gets_too_long(self):
        candidates = [
            verdict.candidate(self.a_job(run_id=f"{number:03}" + "r" * 97, map_index=index, task_id=task), "ours")
            for task in ("one", "two")
            for number in range(50)
            for index in range(3)
        ]
        questions = list(verdict.questions(candidates))
        assert [(question.task_id, len(question.run_ids)) for question in questions] == [
            ("one", 36),
            ("one", 14),
            ("two", 36),
            ("two", 14),
        ]
        assert [each for question in questions for each in question.candidates] == candidates

    def test_a_run_id_that_is_too_long_by_itself_is_asked_for_alone(self):
        candidates = [verdict.candidate(self.a_job(run_id="/" * 40), "ours")._replace(run_id="/" * 2000)] * 2
        [question] = verdict.questions(candidates)
        assert question.run_ids == ["/" * 2000]

    def test_the_table_reads_well(self):
        report = Report(now=START.timestamp() + 3700)
        candidate = verdict.candidate(self.a_job(map_index=7), "ours")
        report.add(candidate, verdict.judge("failed", {}, None)._replace(verdict=verdict.Verdict.CANCELLED))
        report.add(
            candidate._replace(submitted=None, try_number=0), verdict.Judgement(verdict.Verdict.UNIDENTIFIED, "x")
        )
        assert str(report).splitlines() == [
            "Active jobs of this deployment: 2 (1 cancelled, 1 unidentified)",
            "job  dag    run    task     try  age        verdict       why",
            "job  sales  run 1  load[7]  1    1 h 1 min  cancelled     its task instance is failed",
            "job  sales  run 1  load[7]                  unidentified  x",
        ]

    @pytest.mark.parametrize(
        ("seconds", "words"), [(0, "0 s"), (59.6, "1 min"), (3605, "1 h 5 s"), (200000, "2 d 7 h"), (-3, "0 s")]
    )
    def test_durations_in_words(self, seconds, words):
        assert in_words(seconds) == words


def test_the_operator_has_room_for_templates_and_keeps_airflows_dry_run():
    task = DliCancelOrphanJobsOperator(task_id="sweep", dry_run=True)
    assert set(DliCancelOrphanJobsOperator.template_fields) == {
        "kinds",
        "queue_name",
        "dli_conn_id",
        "region",
        "project_id",
    }
    assert callable(task.dry_run)
