"""Least privilege: each row of docs/rights.md, over HTTP against a local DLI that grants exactly these rights."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from datetime import timedelta
from pathlib import Path

import fakes
import pace
import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred
from airflow.providers.common.compat.sdk import task as tasks
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk.execution_time.context import set_current_context
from contract import contract
from fakes import START, TaskInstance, identity_of

from airflow_provider_dli import identity
from airflow_provider_dli.api import flink, queues, spark, sql
from airflow_provider_dli.api.flink_definition import FlinkDefinition
from airflow_provider_dli.exceptions import DliAuthenticationError, DliPermissionError
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.local.dli import routes
from airflow_provider_dli.operators import dli as operators
from airflow_provider_dli.sensors.dli import DliJobSensor
from airflow_provider_dli.triggers.dli import DliJobTrigger

PAGE = (Path(__file__).parents[2] / "docs" / "rights.md").read_text()
JAR = {"job_type": "flink_jar_job", "entrypoint": "obs://bucket/job.jar", "queue_name": "general"}
EXAMPLE = "00000000-0000-0000-0000-000000000001"


def table():
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| ") and "| task |" not in line]
    return {task.strip(): [re.findall(r"`(\S+)`", cell) for cell in cells] for task, *cells in rows}


TABLE = table()


class Stage:
    """Makes tasks, and what they need to find."""

    def __init__(self, dli, connect):
        self.dli, self.connect = dli, connect

    def job(self, run_for=0.0, kind="sql"):
        """A job of somebody else, by its id."""
        hook = self.connect(extra={"default_queue": "sql"})
        if kind == "flink":
            return hook.send(flink.create(FlinkDefinition(**JAR), name="mine", description="mine")).id
        if run_for:
            self.dli.will(run_for=run_for)
        job = hook.submit_sql_job("SELECT 1")
        return job.id if run_for else hook.wait_for_job(job.id, poll_interval=0.1).id

    def running_flink(self):
        job_id = self.job(kind="flink")
        DliHook().send(flink.run(job_id))
        return job_id

    def orphan(self, monkeypatch):
        monkeypatch.setenv("AIRFLOW__DLI__DEPLOYMENT", "ours")
        mine = identity_of(work="", deployment="ours")
        hook = self.connect(extra={"default_queue": "sql"})
        self.dli.will(run_for=60)
        job = hook.submit_sql_job("SELECT 1", tags=mine.tags())
        description = identity.description(mine.tags(), flink.MAX_DESCRIPTION)
        streaming = hook.send(flink.create(FlinkDefinition(**JAR), name="left", description=description)).id
        hook.send(flink.run(streaming))
        self.dli.wait_until(lambda dli: dli.job(job.id).status == "RUNNING")
        self.dli.wait_until(lambda dli: dli.job(streaming).status == "job_running")


@pytest.fixture
def stage(dli_local, connect, airflow_says, monkeypatch):
    dli_local.settings(queues={"default": 16, "sql": 4})
    connect(extra={"default_queue": "sql"})
    airflow_says("failed")
    # The deferral asks too, for which the task runs.
    monkeypatch.setattr("airflow_provider_dli.tasks.run._KILLED", ())
    monkeypatch.setattr("airflow_provider_dli.tasks.start.LIST_LAG", 0.5)
    return Stage(dli_local, connect)


def make(name, stage, monkeypatch):
    """Prepare the row with all rights; return the operator."""

    def of(operator, **arguments):
        return operator(task_id="load", **{"poll_interval": 0.1, **arguments})

    def submit(**arguments):
        return of(operators.DliSubmitSqlJobOperator, **{"sql": "SELECT 1", **arguments})

    folder = "obs://exports/{job_id}"
    finished = {"older_than": timedelta(0)}
    return {
        "`DliSubmitSqlJobOperator`": lambda: submit(sql="SELECT 1; SELECT 2"),
        "`DliSubmitSqlJobOperator` with `fetch_result`": lambda: submit(fetch_result=1),
        "`DliSubmitSqlJobOperator` with `export_to`": lambda: submit(export_to=folder),
        "`DliSubmitSqlJobOperator` with `deferrable`": lambda: submit(deferrable=True),
        "`DliExportResultOperator`": lambda: of(operators.DliExportResultOperator, job_id=stage.job(), obs_path=folder),
        "`@task.dli_sql`": lambda: decorated(lambda: "SELECT 1"),
        "Airflow's SQL operators (`DliSqlHook`)": lambda: SQLExecuteQueryOperator(
            task_id="load", sql="SELECT 1", conn_id="dli_default", hook_params={"poll_interval": 0.1}
        ),
        "`DliSubmitSparkJobOperator`": lambda: of(
            operators.DliSubmitSparkJobOperator,
            file="group/job.jar",
            class_name="Main",
            spark_version="2.4.5",
            queue_name="general",
        ),
        "`DliStartFlinkJobOperator`": lambda: of(operators.DliStartFlinkJobOperator, **JAR, wait_for="finished"),
        "`DliStartFlinkJobOperator` with `job_id`": lambda: of(
            operators.DliStartFlinkJobOperator, job_id=stage.job(kind="flink"), wait_for="finished"
        ),
        "`DliStopFlinkJobOperator`": lambda: of(operators.DliStopFlinkJobOperator, job_id=stage.running_flink()),
        "`DliCancelJobOperator`": lambda: of(operators.DliCancelJobOperator, job_id=stage.job(60)),
        "`DliCancelJobOperator` of Flink jobs": lambda: of(
            operators.DliCancelJobOperator, job_id=stage.running_flink(), kind="flink"
        ),
        "`DliCreateQueueOperator`": lambda: of(
            operators.DliCreateQueueOperator,
            queue_name="etl",
            elastic_resource_pool_name="pool",
            cu_count=16,
            wait_usable=0,
        ),
        "`DliDeleteQueueOperator`": lambda: (
            stage.connect().send(queues.create("etl", 16)),
            of(operators.DliDeleteQueueOperator, queue_name="etl"),
        )[1],
        "`DliJobSensor`": lambda: DliJobSensor(task_id="load", job_id=stage.job(), poke_interval=0.1),
        "`DliCancelOrphanJobsOperator`": lambda: (
            stage.orphan(monkeypatch),
            of(operators.DliCancelOrphanJobsOperator, **finished),
        )[1],
    }[name]()


def decorated(function):
    with DAG("sales"):
        return tasks.dli_sql(task_id="load", poll_interval=0.1)(function)().operator


def execute(task, ti=None):
    ti = ti or TaskInstance()
    ti.task = task
    context = {**fakes.context_of(ti), "task": task, "ts": "", "logical_date": START, "ds": "2026-11-22"}
    with set_current_context(context):
        try:
            return fakes.execute(task, context)
        except TaskDeferred as deferral:
            event = asyncio.run(first_event(trigger_of(deferral, ti)))
            return fakes.resume(task, deferral, context, event)


def trigger_of(deferral, ti):
    _, arguments = deferral.trigger.serialize()
    trigger = DliJobTrigger(**arguments)
    trigger.task_instance = ti
    return trigger


async def first_event(trigger):
    return (await anext(trigger.run())).payload


async def killed_while_deferred(trigger):
    task = asyncio.create_task(first_event(trigger))
    await asyncio.sleep(0.5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await trigger.on_kill()


def active(dli):
    return [job for job in dli.jobs() if job.is_active]


JOBS = [name for name, (_, cancel, _) in TABLE.items() if cancel and "Queue" not in name]
TASKS = [name for name in TABLE if name != "*Test* of the connection"]
FOUND_AGAIN = [name for name, (_, _, find) in TABLE.items() if find]


def ends(name, dli):
    """Have the job that the row starts end soon, where nothing runs it."""
    if "deferrable" in name:
        dli.will(run_for=1.5)
    if "Spark" in name or "StartFlink" in name:
        dli.will(kind="flink" if "Flink" in name else "spark", run_for=0.2)


@pytest.mark.parametrize("name", TASKS)
def test_with_exactly_these_rights_it_runs(stage, dli_local, monkeypatch, name):
    task = make(name, stage, monkeypatch)
    ends(name, dli_local)
    dli_local.settings(rights=TABLE[name][0])
    execute(task)
    assert active(dli_local) == []


@pytest.mark.parametrize("may_cancel", [True, pytest.param(False, marks=pytest.mark.matrix)])
def test_a_deferred_task_and_its_kill(stage, dli_local, monkeypatch, capsys, may_cancel):
    name = "`DliSubmitSqlJobOperator` with `deferrable`"
    run, cancel, _ = TABLE[name]
    task = make(name, stage, monkeypatch)
    dli_local.will(run_for=60)
    dli_local.settings(rights=run + cancel * may_cancel)
    deferral = fakes.deferral_of(task, fakes.context_of(ti := TaskInstance()))
    asyncio.run(killed_while_deferred(trigger_of(deferral, ti)))
    [job] = dli_local.jobs()
    if may_cancel:
        fakes.assert_cancelled(dli_local, job.job_id)
    else:
        out = capsys.readouterr().out
        assert f"SQL job {job.job_id} could NOT be cancelled and may still run" in out
        assert "needs the IAM action dli:queue:cancelJob " in out
        assert job.is_active


@pytest.mark.matrix
@pytest.mark.parametrize(("name", "missing"), [(name, right) for name in TASKS for right in TABLE[name][0]])
def test_without_one_of_them_it_fails_with_its_name_and_leaves_no_job(stage, dli_local, monkeypatch, name, missing):
    task = make(name, stage, monkeypatch)
    others = {job.job_id for job in dli_local.jobs()}
    if "StartFlink" in name or "Submit" in name:
        dli_local.will(run_for=60)
    dli_local.settings(rights=[right for cell in TABLE[name] for right in cell if right != missing])
    with pytest.raises(Exception, match=f"needs the IAM action {missing} "):
        execute(task)
    dli_local.wait_until(lambda dli: not {job.job_id for job in active(dli)} - others, timeout=pace.seconds(5))


def killed(task, dli):
    """Kill a task as soon as its job runs; return why it ended."""
    said = []

    def kill():
        dli.wait_until(lambda dli: [each for each in active(dli) if each.status.lower().endswith("running")])
        task.on_kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        execute(task)
    except BaseException as error:  # whatever it is, the task is not green
        said.append(str(error))
    thread.join()
    return "".join(said)


KILLABLE = [
    name for name in JOBS if "DliSqlHook" not in name and "deferrable" not in name and "export" not in name.lower()
]


@pytest.mark.matrix
@pytest.mark.parametrize("name", KILLABLE)
def test_with_the_rights_to_cancel_a_kill_cancels_the_job(stage, dli_local, monkeypatch, name):
    task = make(name, stage, monkeypatch)
    dli_local.will(run_for=60)
    dli_local.settings(rights=TABLE[name][0] + TABLE[name][1])
    assert "The task was killed" in killed(task, dli_local)
    dli_local.wait_until(lambda dli: not active(dli), timeout=pace.seconds(5))


@pytest.mark.parametrize(
    "name", [KILLABLE[0], *(pytest.param(name, marks=pytest.mark.matrix) for name in KILLABLE[1:])]
)
def test_without_the_right_to_cancel_a_kill_says_so_and_the_task_fails(stage, dli_local, monkeypatch, capsys, name):
    task = make(name, stage, monkeypatch)
    dli_local.will(run_for=60)
    right = TABLE[name][1][0]
    dli_local.settings(rights=[each for each in TABLE[name][0] + TABLE[name][1] if each != right])
    said = killed(task, dli_local)
    assert "could NOT be cancelled and may still run" in said
    assert f"needs the IAM action {right} " in said
    # A job that is just being launched is cancelled twice.
    lines = [line for line in capsys.readouterr().out.splitlines() if "could NOT be cancelled" in line]
    assert lines
    assert all("error" in line.lower().partition("could not")[0] for line in lines)
    assert len(active(dli_local)) == 1


@pytest.mark.parametrize(
    "name", [FOUND_AGAIN[0], *(pytest.param(name, marks=pytest.mark.matrix) for name in FOUND_AGAIN[1:])]
)
def test_without_the_right_to_list_a_later_try_fails_and_runs_nothing(stage, dli_local, monkeypatch, name):
    task = make(name, stage, monkeypatch)
    before = len(dli_local.jobs())
    dli_local.settings(rights=TABLE[name][0] + TABLE[name][1])
    with pytest.raises(Exception, match="needs the IAM action dli:jobs:listAll "):
        execute(task, TaskInstance(try_number=2))
    assert len(dli_local.jobs()) == before


def test_a_queue_that_the_user_may_not_delete_again_is_named(stage, dli_local, monkeypatch, capsys):
    task = make("`DliCreateQueueOperator`", stage, monkeypatch)
    dli_local.settings(rights=TABLE["`DliCreateQueueOperator`"][0])
    task.wait_usable = 60
    threading.Timer(1, task.on_kill).start()
    with pytest.raises(Exception, match="The task was killed"):
        execute(task)
    out = capsys.readouterr().out
    assert "Queue etl may be left, and cost" in out
    assert "needs the IAM action dli:queue:dropQueue " in out


@pytest.mark.matrix
def test_a_finished_flink_job_that_the_user_may_not_delete_stays_with_a_warning(stage, dli_local, capsys):
    name = "`DliStartFlinkJobOperator`"
    task = operators.DliStartFlinkJobOperator(
        task_id="load", **JAR, wait_for="finished", delete_on_finish=True, poll_interval=0.1
    )
    ends(name, dli_local)
    dli_local.settings(rights=TABLE[name][0])
    execute(task)
    assert "needs the IAM action dli:jobs:delete " in capsys.readouterr().out


@pytest.mark.matrix
def test_a_killed_flink_task_that_may_not_delete_its_draft_says_so(stage, dli_local, monkeypatch):
    name = "`DliStartFlinkJobOperator`"
    task = make(name, stage, monkeypatch)
    dli_local.settings(rights=[*TABLE[name][0], "dli:jobs:stop"])
    dli_local.fault("flink_create_jar", "latency", seconds=1, work_done=True)
    threading.Timer(0.5, task.on_kill).start()
    with pytest.raises(Exception, match=r"could NOT be cancelled .* needs the IAM action dli:jobs:delete "):
        execute(task)


@pytest.mark.matrix
@pytest.mark.parametrize("may_list", [True, False])
def test_a_forced_deletion_of_a_queue_cancels_what_the_user_may_list(stage, dli_local, capsys, may_list):
    hook = stage.connect()
    hook.send(queues.create("etl", 16))
    dli_local.will(run_for=3)
    job = hook.submit_sql_job("SELECT 1", queue_name="etl")
    rights = ["dli:queue:dropQueue", "dli:queue:cancelJob", "dli:jobs:stop"]
    dli_local.settings(rights=rights + ["dli:jobs:listAll"] * may_list)
    execute(operators.DliDeleteQueueOperator(task_id="load", queue_name="etl", force=True, poll_interval=0.1))
    assert dli_local.job(job.id).status == ("CANCELLED" if may_list else "FINISHED")
    assert ("needs the IAM action dli:jobs:listAll " in capsys.readouterr().out) is not may_list


@pytest.mark.matrix
def test_a_lost_answer_without_the_right_to_list_is_told(stage, dli_local, monkeypatch):
    name = "`DliSubmitSqlJobOperator`"
    task = make(name, stage, monkeypatch)
    dli_local.settings(rights=TABLE[name][0] + TABLE[name][1])
    dli_local.fault("submit", "drop_after")
    with pytest.raises(Exception, match=r"answer to the submit was lost.* needs the IAM action dli:jobs:listAll "):
        execute(task)


def test_the_test_of_a_connection_needs_no_right(stage, dli_local):
    dli_local.settings(rights=[])
    works, sentence = DliHook().test_connection()
    assert works
    assert "needs the IAM action dli:jobs:listAll " in sentence


def test_each_public_name_has_a_row():
    named = {name for task in TABLE for name in re.findall(r"`(Dli\w+(?:Operator|Sensor))`", task)}
    public = {name for name in operators.__all__ if name.endswith("Operator")}
    assert named == public | {"DliJobSensor"}


CALLS = [
    sql.submit("select 1"),
    sql.status(EXAMPLE),
    sql.detail(EXAMPLE),
    sql.progress(EXAMPLE),
    sql.preview(EXAMPLE),
    sql.export_result(EXAMPLE, "obs://a/b"),
    sql.KIND.target_of(EXAMPLE),
    sql.check_sql("select 1"),
    sql.list_jobs(),
    sql.cancel(EXAMPLE),
    spark.create(spark.SparkWork(file="a.jar", class_name="Main", spark_version="2.4.5"), name="a"),
    spark.status(EXAMPLE),
    spark.detail(EXAMPLE),
    spark.log(EXAMPLE),
    spark.list_batches(),
    spark.cancel(EXAMPLE),
    flink.create(FlinkDefinition(**JAR), name="a", description=""),
    flink.run(1),
    flink.stop(1),
    flink.status(1),
    flink.delete(1),
    flink.list_jobs(),
    queues.create("a", 16),
    queues.show("a"),
    queues.delete("a"),
    queues.list_queues(),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.what)
def test_a_call_names_the_action_that_dli_asks_for(call):
    route, _ = routes.find(call.method, call.path.replace("{project_id}", "p"))
    assert call.iam_action == route.action


def test_the_contract_names_the_same_actions():
    paths = contract()["paths"]
    told = {
        route.name: (action.split()[0], route.action)
        for route in routes.ROUTES
        if (action := paths.get(route.path, {}).get(route.method.lower(), {}).get("x-iam-action"))
    }
    assert len(told) == 13
    assert all(action == ours for action, ours in told.values()), told


def test_the_policy_of_the_page_is_what_a_sql_job_needs():
    [policy] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    [statement] = json.loads(policy)["Statement"]
    needed = TABLE["`DliSubmitSqlJobOperator`"]
    assert set(statement["Action"]) == {right for cell in needed for right in cell}


def test_a_call_without_its_right_is_refused_by_the_gateway(dli_local, hook):
    dli_local.settings(rights=["dli:jobs:get"])
    with pytest.raises(DliPermissionError) as refusal:
        hook.submit_sql_job("select 1")
    assert (refusal.value.status, refusal.value.code) == (403, "APIG.0302")
    assert refusal.value.request_id
    dli_local.settings(rights=None)
    assert hook.submit_sql_job("select 1")


def test_credentials_count_before_rights(dli_local, connect):
    dli_local.settings(rights=[])
    with pytest.raises(DliAuthenticationError):
        connect(auth_type="ak_sk", password="wrong").submit_sql_job("select 1")


def test_a_right_that_does_not_exist_is_an_error(dli_local):
    with pytest.raises(ValueError, match=r"rights\.0 is not valid: Input should be 'dli:queue:submitJob', "):
        dli_local.settings(rights=["dli:jobs:listEverything"])
