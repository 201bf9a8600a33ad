"""The operators of queues over HTTP, against the local DLI, in this process and in processes that are killed."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import timedelta

import fakes
import pace
import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowFailException
from fakes import TaskInstance
from task_process import TaskProcesses

from airflow_provider_dli.api import flink, kinds, queues
from airflow_provider_dli.api.flink_definition import FlinkDefinition
from airflow_provider_dli.exceptions import DliError, DliNotFoundError, DliTemporaryError
from airflow_provider_dli.operators import queues as operators
from airflow_provider_dli.operators.dli import (
    DliCreateQueueOperator,
    DliDeleteQueueOperator,
    DliSubmitSqlJobOperator,
)

ETL = {"queue_name": "Etl", "elastic_resource_pool_name": "pool", "cu_count": 16}


@pytest.fixture
def execute(connect):
    """Return a function that executes an operator and gives its result."""
    connect()

    def run(operator_class, ti=None, **arguments):
        arguments.setdefault("poll_interval", 0.1)
        task = operator_class(task_id="setup", **arguments)
        return fakes.execute(task, fakes.context_of(ti or TaskInstance()))

    return run


@pytest.fixture
def create(execute):
    """Return a function that creates the queue ``etl``, without a wait unless asked for."""

    def run(ti=None, **changes):
        return execute(DliCreateQueueOperator, ti, **{**ETL, "wait_usable": 0, **changes})

    return run


@pytest.fixture
def delete(execute):
    """Return a function that deletes the queue ``etl``."""
    return lambda **changes: execute(DliDeleteQueueOperator, **{"queue_name": "etl", **changes})


def names_of(hook):
    return [queue.name for queue in hook.send(queues.list_queues())]


class TestCreate:
    def test_a_queue_is_created_and_takes_jobs(self, hook, create, execute):
        assert create(tags={"team": "sales"}) == "etl"
        [queue] = hook.send(queues.list_queues(tags={"team": "sales"}))
        assert (queue.name, queue.type, queue.cu_count, queue.pool) == ("etl", "sql", 16, "pool")
        assert queue.description.startswith("Airflow DAG sales task load ")
        assert execute(DliSubmitSqlJobOperator, sql="select 1", queue_name="etl")

    def test_one_of_the_other_type_with_a_size_from_a_template(self, hook, create):
        create(queue_type="general", cu_count="4")
        queue = hook.send(queues.show("ETL"))
        assert (queue.type, queue.cu_count) == ("general", 4)

    @pytest.mark.parametrize(
        ("arguments", "least"),
        [
            ({"wait_usable": timedelta(seconds=1)}, 1),
            ({"wait_usable": 0}, 0),
            ({"wait_usable": timedelta(minutes=4), "wait_for_completion": False}, 0),
        ],
    )
    def test_the_wait_after_the_creation(self, create, arguments, least):
        began = time.monotonic()
        create(**arguments)
        assert least <= time.monotonic() - began < least + pace.seconds(3)

    def test_a_later_try_takes_the_queue_of_an_earlier_one_and_waits_for_the_rest(self, dli_local, create, capsys):
        create()
        time.sleep(2)
        began = time.monotonic()
        assert create(TaskInstance(try_number=2), wait_usable=4) == "etl"
        assert 1 < time.monotonic() - began < pace.seconds(3.5)
        assert "this task has created it before" in capsys.readouterr().out
        assert create(TaskInstance(try_number=3), wait_usable=1) == "etl"
        assert len(dli_local.requests("queue_create")) == 3

    @pytest.mark.parametrize("fault", ["drop_after", "empty", "html"])
    def test_a_lost_answer_is_looked_up(self, dli_local, hook, create, fault):
        dli_local.fault("queue_create", fault, work_done=True)
        assert create() == "etl"
        assert names_of(hook) == ["default", "etl", "general"]
        assert len(dli_local.requests("queue_create")) == 1

    def test_a_creation_that_got_lost_on_its_way_is_tried_again(self, dli_local, hook, create, monkeypatch):
        monkeypatch.setattr(operators, "_LOOK_FOR_LOST", 0.5)
        dli_local.fault("queue_create", "drop_before", times=2)
        assert create() == "etl"
        assert len(dli_local.requests("queue_create")) == 3
        dli_local.fault("queue_create", "drop_before", times=3)
        with pytest.raises(DliTemporaryError, match="creation of queue etl_2 failed"):
            create(queue_name="etl_2")
        assert names_of(hook) == ["default", "etl", "general"]

    def test_a_queue_that_is_not_shown_at_once(self, dli_local, create):
        dli_local.fault("queue", "status", times=2, status=400, error_code="DLI.0002", error_msg="no such queue")
        assert create() == "etl"

    @pytest.mark.parametrize("ti", [TaskInstance(run_id="run 2"), TaskInstance(task_id="other", try_number=2)])
    def test_a_queue_of_another_task_is_left_alone(self, hook, create, ti):
        create()
        with pytest.raises(AirflowFailException, match="Queue etl exists already, and this task has not created it"):
            create(ti)
        assert "etl" in names_of(hook)

    def test_a_queue_of_the_settings_is_left_alone(self, dli_local, hook, create):
        dli_local.settings(queues={"etl": 1})
        with pytest.raises(AirflowFailException, match="exists already, and this task has not created it"):
            create(TaskInstance(try_number=2))
        assert "etl" in names_of(hook)

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"queue_type": "general"}, "with queue_type 'sql', and now it is to be 'general'"),
            (
                {"elastic_resource_pool_name": "big"},
                "with elastic_resource_pool_name 'pool', and now it is to be 'big'",
            ),
        ],
    )
    def test_what_differs_from_an_earlier_try_is_named(self, dli_local, create, changes, text):
        create()
        dli_local.fault("queue_create", "status", status=400, error_code="DLI.0006", error_msg="exists")
        with pytest.raises(AirflowFailException, match=text):
            create(**changes)

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"queue_name": "a-b"}, "queue_name"),
            ({"queue_name": "_a"}, "queue_name"),
            ({"queue_name": "12"}, "queue_name"),
            ({"queue_name": None}, "queue_name"),
            ({"elastic_resource_pool_name": ""}, "elastic_resource_pool_name"),
            ({"queue_type": "spark"}, "queue_type"),
            ({"cu_count": 7}, "cu_count"),
            ({"cu_count": "many"}, "cu_count"),
            ({"cu_count": True}, "cu_count"),
            ({"cu_count": 3, "queue_type": "general"}, "cu_count"),
            ({"tags": {"a/b": "c"}}, "tags"),
            ({"tags": ["a"]}, "tags"),
            ({"wait_usable": -1}, "wait_usable"),
            ({"wait_usable": "soon"}, "wait_usable"),
            ({"poll_interval": 0}, "poll_interval"),
        ],
    )
    def test_bad_input_is_named_and_nothing_sent(self, dli_local, create, changes, field):
        with pytest.raises(AirflowFailException, match=field) as caught:
            create(**changes)
        assert caught.value.__context__.field == field
        assert dli_local.requests() == []

    def test_an_unknown_pool(self, dli_local, create):
        with pytest.raises(DliNotFoundError, match="no elastic resource pool named nowhere"):
            create(elastic_resource_pool_name="nowhere")
        assert len(dli_local.requests("queue_create")) == 1

    def test_a_missing_right_is_named(self, dli_local, create):
        dli_local.fault("queue_create", "status", status=403, error_code="APIG.0302", error_msg="not allowed")
        began = time.monotonic()
        with pytest.raises(AirflowFailException, match="needs the IAM action dli:queue:createQueue"):
            create()
        assert time.monotonic() - began < pace.seconds(3)

    def test_a_failure_after_the_creation_deletes_the_queue_again(self, hook, create, monkeypatch):
        def fail(*_):
            raise RuntimeError("a bug")

        monkeypatch.setattr(DliCreateQueueOperator, "_wait", fail)
        with pytest.raises(RuntimeError, match="a bug"):
            create()
        assert names_of(hook) == ["default", "general"]


class TestDelete:
    def test_a_queue_and_one_that_is_gone(self, hook, create, delete):
        create()
        assert delete(queue_name="ETL") is None
        assert names_of(hook) == ["default", "general"]
        delete()

    def test_a_busy_queue_is_tried_again(self, dli_local, hook, create, delete):
        create()
        dli_local.will(run_for=1.5)
        hook.submit_sql_job("select 1", queue_name="etl")
        delete()
        assert "etl" not in names_of(hook)
        assert len(dli_local.requests("queue_delete")) > 2

    def test_a_busy_queue_fails_the_task_when_time_is_over(self, dli_local, hook, create, delete, monkeypatch):
        create()
        dli_local.will(run_for=60)
        hook.submit_sql_job("select 1", queue_name="etl")
        with pytest.raises(DliError, match="busy"):
            delete(wait_for_completion=False)
        assert len(dli_local.requests("queue_delete")) == 1
        monkeypatch.setattr(operators, "BUSY_BUDGET", 0.5)
        with pytest.raises(DliError, match="busy"):
            delete()
        assert len(dli_local.requests("queue_delete")) > 3
        assert [job.is_active for job in dli_local.jobs()] == [True]

    def test_force_cancels_the_active_jobs_of_this_queue_only(self, dli_local, hook, create, delete, capsys):
        create()
        dli_local.will(times=4, run_for=60, cancel_takes=0.5)
        ours = [hook.submit_sql_job("select 1", queue_name="etl").id for _ in range(3)]
        other = hook.submit_sql_job("select 1").id
        delete(force=True)
        assert [dli_local.job(job_id).status for job_id in ours] == ["CANCELLED"] * 3
        assert dli_local.job(other).is_active
        log = capsys.readouterr().out
        assert all(f"Cancel of SQL job {job_id} on queue etl: DLI accepted" in log for job_id in ours)
        assert len(dli_local.requests("cancel")) == 3
        assert "etl" not in names_of(hook)

    def test_force_cancels_flink_jobs_although_their_list_names_no_queue(self, dli_local, hook, create, delete):
        create(queue_type="general")
        jobs = {}
        for queue_name in ("etl", "general"):
            definition = FlinkDefinition("flink_jar_job", entrypoint="obs://bucket/job.jar", queue_name=queue_name)
            jobs[queue_name] = hook.send(flink.create(definition, name=f"on-{queue_name}", description="")).id
            hook.send(flink.run(jobs[queue_name]))
        delete(force=True)
        assert dli_local.job(jobs["etl"]).status == "job_cancel_success"
        assert dli_local.job(jobs["general"]).is_active

    def test_force_without_the_right_to_list_warns_and_goes_on(self, dli_local, hook, create, delete, capsys):
        create()
        dli_local.fault("list", "status", times=None, status=403, error_code="APIG.0302", error_msg="not allowed")
        delete(force=True)
        log = capsys.readouterr().out
        assert "Jobs of kind sql are not cancelled" in log
        assert "needs the IAM action dli:jobs:listAll" in log
        assert "etl" not in names_of(hook)

    def test_force_looks_at_every_kind_and_trusts_no_filter(self, dli_local, hook, create, delete, monkeypatch):
        dli_local.will(run_for=60)
        other = hook.submit_sql_job("select 1").id
        seen = []
        sql = kinds.KINDS["sql"]

        class Other:
            name, active, page_size, most_pages = "other", ("waiting",), 100, 1

            def page(self, query):
                seen.append((query.status, query.queue_name))
                return sql.page(replace(query, status=None, queue_name=None))

        monkeypatch.setitem(kinds.KINDS, "other", Other())
        create()
        delete(force=True)
        assert seen == [("waiting", "etl")]
        assert dli_local.job(other).is_active

    @pytest.mark.parametrize("name", ["default", "DEFAULT", "a/b", "", None])
    def test_bad_input_is_named_and_nothing_sent(self, dli_local, delete, name):
        with pytest.raises(AirflowFailException, match="queue_name"):
            delete(queue_name=name, force=True)
        assert dli_local.requests() == []

    def test_a_wrong_endpoint_is_not_taken_for_a_queue_that_is_gone(self, dli_local, create, delete):
        create()
        dli_local.fault("queue_delete", "status", status=404, error_code="APIG.0101", error_msg="no such API")
        with pytest.raises(DliNotFoundError, match="no such API"):
            delete(wait_for_completion=False)

    def test_a_missing_right_is_named(self, dli_local, create, delete):
        create()
        dli_local.fault("queue_delete", "status", status=403, error_code="APIG.0302", error_msg="not allowed")
        with pytest.raises(AirflowFailException, match="needs the IAM action dli:queue:dropQueue"):
            delete()


class TestKills:
    @pytest.fixture(scope="class")
    def processes(self, tmp_path_factory, dli_server):
        env = {"AIRFLOW_CONN_DLI_DEFAULT": json.dumps(dli_server.connection())}
        with TaskProcesses(tmp_path_factory.mktemp("tasks"), env) as processes:
            yield processes

    def test_during_the_wait_the_queue_is_deleted_again(self, dli_local, hook, processes):
        task = processes.start("DliCreateQueueOperator", **ETL)
        dli_local.wait_until(lambda dli: dli.requests("queue"))
        killed = task.kill()
        outcome = task.wait()
        assert outcome.ended - killed < pace.seconds(2)
        assert outcome.error == "DliTaskKilledError"
        assert "deleted again" in outcome.log
        assert names_of(hook) == ["default", "general"]

    @pytest.mark.matrix
    def test_by_a_timeout_too(self, hook, processes):
        outcome = processes.start("DliCreateQueueOperator", timeout=1, **ETL).wait()
        assert outcome.error == "AirflowTaskTimeout"
        assert names_of(hook) == ["default", "general"]

    @pytest.mark.matrix
    def test_during_the_creation_its_queue_is_looked_for(self, dli_local, hook, processes):
        dli_local.fault("queue_create", "hang_after", seconds=20)
        # The first look comes too early.
        dli_local.fault("queue", "status", status=400, error_code="DLI.0002", error_msg="no such queue")
        task = processes.start("DliCreateQueueOperator", **ETL)
        dli_local.wait_until(lambda dli: dli.requests("queue_create"))
        killed = task.kill()
        outcome = task.wait()
        assert outcome.ended - killed < pace.seconds(3)
        assert outcome.error == "DliTaskKilledError"
        assert [request.status for request in dli_local.requests("queue_delete")] == [200]
        assert names_of(hook) == ["default", "general"]

    def test_of_a_sigkill_the_next_try_takes_the_queue(self, dli_local, hook, processes):
        task = processes.start("DliCreateQueueOperator", run_id="run", **ETL)
        dli_local.wait_until(lambda dli: dli.requests("queue"))
        task.kill(9)
        outcome = processes.start("DliCreateQueueOperator", run_id="run", try_number=2, **ETL, wait_usable=0).wait()
        assert outcome.result == "etl"
        assert "etl" in names_of(hook)

    def test_while_a_queue_is_busy_the_task_ends_soon(self, dli_local, hook, create, processes):
        create()
        dli_local.will(run_for=60)
        hook.submit_sql_job("select 1", queue_name="etl")
        task = processes.start("DliDeleteQueueOperator", queue_name="etl")
        dli_local.wait_until(lambda dli: dli.requests("queue_delete"))
        killed = task.kill()
        outcome = task.wait()
        assert outcome.ended - killed < pace.seconds(1)
        assert outcome.error == "DliTaskKilledError"


class TestCalls:
    def test_the_detail_and_the_list_tell_the_same(self, hook, create):
        create()
        [listed] = [queue for queue in hook.send(queues.list_queues(queue_type="sql")) if queue.name == "etl"]
        assert hook.send(queues.show("etl")) == listed

    def test_pages_and_order(self, hook):
        call = queues.list_queues(order="queue_name_desc", page=1, page_size=1)
        assert [queue.name for queue in hook.send(call)] == ["general"]

    @pytest.mark.parametrize("body", ['{"queues": 1}', '{"queues": [{}]}', '{"queues": ["a"]}'])
    def test_a_list_that_cannot_be_read(self, dli_local, hook, body):
        dli_local.fault("queues", "status", status=200, body=body)
        assert len(hook.send(queues.list_queues())) == 2  # it was asked for again

    def test_what_dli_does_not_say_is_left_out(self, dli_local, hook):
        dli_local.fault("queue", "status", status=200, body='{"queueName": "Test", "create_time": "x", "cuCount": -1}')
        assert hook.send(queues.show("test")) == queues.Queue("test", "")


def test_they_make_a_setup_and_a_teardown():
    with DAG("sales", schedule=None) as dag:
        setup = DliCreateQueueOperator(task_id="create", **ETL)
        work = DliSubmitSqlJobOperator(task_id="load", sql="select 1", queue_name=setup.output)
        teardown = DliDeleteQueueOperator(task_id="delete", queue_name=setup.output, force=True)
        setup >> work >> teardown.as_teardown(setups=setup)
    assert dag.get_task("delete").is_teardown
    assert dag.get_task("create").is_setup


def test_operators_have_room_for_templates():
    assert {*ETL, "queue_type", "tags", "dli_conn_id", "region", "project_id"} <= set(
        DliCreateQueueOperator.template_fields
    )
    assert {"queue_name", "dli_conn_id", "region", "project_id"} <= set(DliDeleteQueueOperator.template_fields)
