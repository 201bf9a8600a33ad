"""A tag is a claim: what somebody else's job with the tags of ours does to a retry. Over HTTP, against the local DLI."""

from __future__ import annotations

import dataclasses

import pytest
from fakes import START, TaskInstance, context_of, execute, identity_of

from airflow_provider_dli import identity
from airflow_provider_dli.api import flink, spark
from airflow_provider_dli.api.flink_definition import FlinkDefinition
from airflow_provider_dli.api.kinds import KINDS
from airflow_provider_dli.api.spark import SparkWork
from airflow_provider_dli.api.sql import SqlWork
from airflow_provider_dli.core import decide
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.job import Job, JobState
from airflow_provider_dli.operators.dli import (
    DliStartFlinkJobOperator,
    DliSubmitSparkJobOperator,
    DliSubmitSqlJobOperator,
)
from airflow_provider_dli.tasks.takeover import running_jobs

INSERT = "insert into sales select * from orders"
FIRST = identity_of(work=SqlWork(INSERT).digest)
BATCH = {"file": "group/job.jar", "class_name": "Main", "spark_version": "2.4.5", "queue_name": "general"}
JAR = {"job_type": "flink_jar_job", "entrypoint": "group/job.jar", "main_class": "Main", "queue_name": "general"}


@pytest.fixture
def submit(connect, dli_local):
    """Return a function that submits a job, and gives its id when it runs or is over."""

    def submit(sql, mine=FIRST, run_for=60.0, **where):
        dli_local.will(run_for=run_for)
        job_id = connect().submit_sql_job(sql, tags=mine.tags(), **where).id
        dli_local.wait_until(lambda dli: dli.job(job_id).status == ("FINISHED" if run_for == 0 else "RUNNING"))
        return job_id

    return submit


@pytest.fixture
def run(connect):
    connect()

    def run(sql=INSERT, try_number=2, **arguments):
        task = DliSubmitSqlJobOperator(task_id="load", sql=sql, poll_interval=0.1, **arguments)
        return execute(task, context_of(TaskInstance(try_number=try_number)))

    return run


FORGED = {
    "copied": FIRST,
    "of a try that never was": dataclasses.replace(FIRST, try_number=7),
    "with a digest of its own, of a try that never was": dataclasses.replace(
        FIRST, try_number=7, work=SqlWork("select 1").digest
    ),
    "with a digest of its own": dataclasses.replace(FIRST, work=SqlWork("select 1").digest),
    "with any digest": dataclasses.replace(FIRST, work="0" * 16),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("is_over", [True, False], ids=["finished", "running"])
def test_a_foreign_job_with_our_tags_does_not_replace_ours(dli_local, submit, run, forged, is_over):
    ours = submit(INSERT, run_for=0.4)
    submit("select 1", forged, run_for=0 if is_over else 60)
    assert run() == ours
    assert not dli_local.job(ours).cancel_requests
    assert dli_local.job(ours).status == "FINISHED"


def test_nor_does_one_whose_tags_contradict_each_other(dli_local, connect, submit, run):
    """So that there is no statement to compare it with."""
    ours = submit(INSERT, run_for=0.4)
    attempt = dataclasses.replace(FIRST, statement_index=3).attempt
    dli_local.will(run_for=0)
    connect().submit_sql_job("select 1", tags={**FIRST.tags(), identity.ATTEMPT: attempt})
    assert run() == ours
    assert not dli_local.job(ours).cancel_requests


@pytest.mark.parametrize(
    "where", [{"queue_name": "other"}, {"database": "playground"}], ids=["another queue", "another database"]
)
def test_nor_does_one_that_runs_our_statement_elsewhere(dli_local, connect, submit, run, where):
    dli_local.settings(queues={"default": 10, "other": 10})
    submit("create database playground", identity_of(run_id="run 0"), run_for=0)
    mine = {"queue_name": "default", "database": "default"}
    claimed = dataclasses.replace(FIRST, work=SqlWork(INSERT, database="default", queue_name="default").digest)
    ours = submit(INSERT, claimed, run_for=0.4, **mine)
    foreign = submit(INSERT, claimed, run_for=60, **{**mine, **where})
    assert run(**mine) == ours
    assert not dli_local.job(foreign).cancel_requests


@pytest.mark.parametrize("state", [0, 60], ids=["finished", "running"])
def test_where_there_is_only_the_foreign_job_our_own_work_is_done(dli_local, submit, run, state, monkeypatch, capfd):
    monkeypatch.setattr("airflow_provider_dli.tasks.start.LIST_LAG", 1.0)
    foreign = submit("select 1", run_for=state)
    dli_local.will(run_for=0)
    result = run()
    assert result != foreign
    assert dli_local.job(result).statement == INSERT
    assert not dli_local.job(foreign).cancel_requests
    assert f"{foreign} carries the tags of this task, but it runs something else" in capfd.readouterr().out


def test_one_that_another_user_of_dli_submitted_does_not_count(dli_local, submit, run, monkeypatch):
    """Without what it runs, nothing but the user tells it from ours."""
    monkeypatch.setattr("airflow_provider_dli.tasks.start.LIST_LAG", 1.0)
    foreign = submit("select 1", FORGED["with a digest of its own"], run_for=0)
    dli_local.fault("list", "field", times=None, field="owner", value="mallory")
    dli_local.will(run_for=0)
    assert run() != foreign


def test_a_lost_answer_is_not_replaced_by_a_foreign_job(dli_local, submit, run):
    submit("select 1", FIRST, run_for=0)
    dli_local.fault("submit", "drop_after")
    dli_local.will(run_for=0)
    assert dli_local.job(run(try_number=1)).statement == INSERT


SHOWN = {
    "without the statement": ("statement", ""),
    "with blanks and a semicolon": ("statement", "INSERT  INTO sales\n SELECT * FROM orders ;"),
    "cut": ("statement", "insert into sales select * from orders where day"),
    "without the queue": ("queue_name", ""),
    "with the queue in capitals": ("queue_name", "DEFAULT"),
    "without the user": ("owner", ""),
    "with another user": ("owner", "somebody-before"),
    "without the database": ("database_name", ""),
}


@pytest.mark.parametrize(("field", "value"), SHOWN.values(), ids=SHOWN)
def test_our_own_job_stays_ours_however_dli_shows_it(dli_local, submit, run, field, value):
    sql = INSERT + (" where day = 1 and month = 12" if "day" in value else "")
    where = {"queue_name": "default", "database": "default"}
    ours = submit(sql, dataclasses.replace(FIRST, work=SqlWork(sql, **where).digest), run_for=0.4, **where)
    dli_local.fault("list", "field", times=None, field=field, value=value)
    dli_local.fault("status", "field", times=None, field=field, value=value)
    assert run(sql, **where) == ours
    assert not dli_local.job(ours).cancel_requests


@pytest.mark.parametrize(
    "theirs", [{"file": "group/evil.jar"}, {"class_name": "Evil"}, {"args": ["--nothing"]}, {"conf": {"spark.x": "2"}}]
)
def test_a_foreign_batch_does_not_replace_ours(dli_local, connect, theirs):
    hook = connect()
    task = DliSubmitSparkJobOperator(task_id="load", **BATCH, conf={"spark.x": "1"}, poll_interval=0.1)
    [work] = task.works(DliHook().client.connect())
    mine = identity_of(work=work.digest)
    dli_local.will(kind="spark", run_for=0.4)
    ours = hook.send(spark.KIND.create(work, mine)).id
    foreign = dataclasses.replace(work, **theirs)
    dli_local.will(kind="spark", run_for=0)
    hook.send(spark.KIND.create(foreign, mine))
    assert execute(task, context_of(TaskInstance(try_number=2))) == ours
    assert not dli_local.job(ours).cancel_requests


@pytest.mark.parametrize("theirs", [{"entrypoint": "group/evil.jar"}, {"main_class": "Evil"}])
def test_a_foreign_flink_job_does_not_replace_ours(dli_local, connect, theirs):
    hook, work = connect(), flink.FlinkWork(FlinkDefinition(**JAR))
    mine = identity_of(work=work.digest)
    ours = hook.send(flink.KIND.create(work, mine)).id
    hook.send(flink.run(ours))
    foreign = FlinkDefinition(**{**JAR, **theirs})
    text = identity.description(mine.tags(), 512)
    theirs_id = hook.send(flink.create(foreign, name="load-2", description=text)).id
    hook.send(flink.run(theirs_id))
    dli_local.wait_until(lambda dli: all(job.status == "job_running" for job in dli.jobs()))
    task = DliStartFlinkJobOperator(task_id="load", **JAR, wait_for="running", poll_interval=0.1)
    assert execute(task, context_of(TaskInstance(try_number=2))) == ours
    assert not any(job.cancel_requests for job in dli_local.jobs())


@pytest.mark.parametrize("kind", ["sql", "spark", "flink"])
def test_a_kill_before_the_own_work_is_known_cancels_no_sibling_whose_name_begins_alike(dli_local, connect, kind):
    """What fits into a tag, or the description of a Flink job, is the same of all of them."""
    hook, name = connect(), "表" * 40
    work = {
        "sql": SqlWork(INSERT),
        "spark": SparkWork(**BATCH),
        "flink": flink.FlinkWork(FlinkDefinition(**JAR)),
    }[kind]
    made = {}
    for task_id in (f"{name}-a", f"{name}-b", name):
        mine = identity_of(dag_id=name, task_id=task_id, work=work.digest)
        dli_local.will(kind=kind, run_for=60)
        made[task_id] = hook.send(KINDS[kind].create(work, mine)).id
    ti = TaskInstance(dag_id=name, task_id=f"{name}-a", try_number=2)
    assert running_jobs(hook.client, KINDS[kind], context_of(ti)) == [made[f"{name}-a"]]


def test_a_deployment_whose_name_is_cut_is_none():
    theirs = identity_of(deployment="d" * 300 + "-2", generation=identity.generation(START.add(days=1), 2))
    job = Job("job", "sql", "SQL job", JobState.RUNNING, "RUNNING", tags=theirs.tags())
    assert not identity.is_of_same_deployment(job, identity_of(deployment="d" * 300 + "-1"))


@pytest.mark.parametrize(("try_number", "counts"), [(1, True), (2, True), (3, False), (10**6, False)])
def test_a_try_that_never_was_counts_for_nothing(try_number, counts):
    mine = identity_of(try_number=2)
    theirs = dataclasses.replace(mine, try_number=try_number)
    job = Job("job", "sql", "SQL job", JobState.RUNNING, "RUNNING", statement="select 1", tags=theirs.tags())
    claim = decide.check_claim(job, identity.read_attempt(job.tags), mine, {0: SqlWork("select 1")}, ())
    assert (not claim.problem) == counts, claim
