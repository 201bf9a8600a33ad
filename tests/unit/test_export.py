"""Exports of results: the operator, `export_to`, and how an export that nothing tells from others is not lost."""

from __future__ import annotations

import threading

import pendulum
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from fakes import TaskInstance, assert_cancelled, context_of, deferral_of, execute, lose_the_worker, resume

from airflow_provider_dli import compat
from airflow_provider_dli.api import sql
from airflow_provider_dli.exceptions import DliError, DliJobError, DliTaskKilledError
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.local.handle import LocalDli
from airflow_provider_dli.operators.dli import DliExportResultOperator, DliSubmitSqlJobOperator

PATH = "obs://exports/daily/{job_id}"


@pytest.fixture(scope="module")
def obs(tmp_path_factory):
    return tmp_path_factory.mktemp("obs")


@pytest.fixture(scope="module")
def dli_server(obs):
    with LocalDli.start(obs=str(obs)) as dli:
        yield dli


@pytest.fixture
def start():
    """When the DAG run began."""
    return pendulum.now("UTC")


@pytest.fixture(autouse=True)
def connected(dli_local, connect, airflow_says, monkeypatch):
    dli_local.settings(queues={"default": 16, "sql": 4})
    connect(extra={"default_queue": "sql"})
    airflow_says("running")
    monkeypatch.setattr("airflow_provider_dli.tasks.start.LIST_LAG", 1.5)


@pytest.fixture
def query():
    """A job with a result."""
    hook = DliHook()
    return hook.wait_for_job(hook.submit_sql_job("SELECT id FROM range(3)").id, poll_interval=0.1)


def export_of(query, **arguments):
    arguments = {"job_id": query.id, "obs_path": PATH, "poll_interval": 0.1, "retries": 2, **arguments}
    return DliExportResultOperator(task_id="export", **arguments)


def sql_of(**arguments):
    arguments = {"sql": "SELECT id FROM range(3)", "export_to": PATH, "poll_interval": 0.1, "retries": 2, **arguments}
    return DliSubmitSqlJobOperator(task_id="load", **arguments)


def exports(dli):
    jobs = [job for job in dli.jobs() if job.job_type == "EXPORT"]
    return sorted(jobs, key=lambda job: job.submitted_at)


def files(folder, path):
    return sorted(file.name for file in (folder / path.removeprefix("obs://")).iterdir())


class TestOperator:
    def test_it_waits_until_the_files_are_there(self, dli_local, query, obs):
        job_id = execute(export_of(query, compress="gzip", with_header=True), context_of(ti := TaskInstance()))
        [job] = exports(dli_local)
        assert (job.job_id, job.status, job.queue_name) == (job_id, "FINISHED", "sql")
        assert ti.xcoms["job_id"] == job_id
        assert files(obs, f"obs://exports/daily/{query.id}") == ["_SUCCESS", "part-00000.csv.gz"]

    def test_all_options_are_sent(self, dli_local, query):
        task = export_of(query, data_type="json", export_mode="Overwrite", queue_name="default", compress="bzip2")
        job_id = execute(task, context_of())
        told = DliHook().send(sql.detail(job_id))
        options = {"data_type": "json", "export_mode": "Overwrite", "compress": "bzip2"}
        assert options.items() <= told.items()
        assert told["data_path"] == f"obs://exports/daily/{query.id}"
        assert dli_local.job(job_id).queue_name == "default"

    def test_deferred(self, dli_local, query):
        dli_local.will(kind="sql", matching="EXPORT", run_for=2)
        task = export_of(query, deferrable=True)
        deferral = deferral_of(task, context := context_of())
        [job] = exports(dli_local)
        dli_local.wait_until(lambda dli: dli.job(job.job_id).status == "FINISHED")
        assert resume(export_of(query, deferrable=True), deferral, context) == job.job_id

    def test_an_existing_folder_is_an_error_that_says_what_to_do(self, dli_local, query):
        task = export_of(query, obs_path="obs://exports/same")
        execute(task, context_of(TaskInstance(run_id="run 0")))
        with pytest.raises(DliJobError, match=r"already exists \(Where the folder exists: put {job_id} into the path"):
            execute(export_of(query, obs_path="obs://exports/same"), context_of())
        execute(export_of(query, obs_path="obs://exports/same", export_mode="Overwrite"), context_of())

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("obs_path", "/tmp/x"),
            ("obs_path", "obs://bucket"),
            ("obs_path", "obs://bucket/a,b"),
            ("obs_path", "obs://bucket/a?b"),
            ("obs_path", "obs://bucket/.hidden"),
            ("obs_path", "obs://my.1bucket/a"),
            ("data_type", "parquet"),
            ("compress", "zip"),
            ("export_mode", "Append"),
            ("with_header", "yes"),
            ("queue_name", "a-b"),
            ("job_id", "131"),
            ("job_id", "None"),
        ],
    )
    def test_what_dli_would_refuse_is_refused_here(self, dli_local, query, field, value):
        with pytest.raises(AirflowFailException, match=field):
            execute(export_of(query, **{field: value}), context_of())
        assert exports(dli_local) == []

    def test_only_a_finished_query_can_be_exported(self, dli_local):
        hook = DliHook()
        ddl = hook.wait_for_job(hook.submit_sql_job("CREATE DATABASE sales").id, poll_interval=0.1)
        with pytest.raises(AirflowFailException, match="is of type DDL: only a query has a result to export"):
            execute(export_of(ddl), context_of())
        dli_local.will(run_for=30)
        running = hook.submit_sql_job("SELECT 1")
        dli_local.wait_until(lambda dli: dli.job(running.id).status == "RUNNING")
        with pytest.raises(AirflowFailException, match="is RUNNING"):
            execute(export_of(hook.get_job(running.id)), context_of())


class TestKill:
    def kill(self, task, dli):
        dli.wait_until(lambda dli: [job for job in exports(dli) if job.status == "RUNNING"])
        task.on_kill()

    @pytest.mark.parametrize(
        "make", [lambda query: export_of(query), lambda query: sql_of()], ids=["export", "export_to"]
    )
    def test_a_kill_cancels_the_export(self, dli_local, query, make):
        dli_local.will(kind="sql", matching="EXPORT", run_for=30)
        task = make(query)
        thread = threading.Thread(target=self.kill, args=[task, dli_local])
        thread.start()
        with pytest.raises(DliTaskKilledError):
            execute(task, context_of())
        thread.join()
        [job] = exports(dli_local)
        assert_cancelled(dli_local, job.job_id)

    def test_a_lost_answer_is_looked_up_by_the_folder(self, dli_local, query):
        # An older one, to another folder, and one to the same folder that was over long ago.
        execute(export_of(query, obs_path="obs://exports/other"), context_of(TaskInstance(run_id="run 0")))
        dli_local.fault("export", "drop_after")
        job_id = execute(export_of(query), context_of())
        assert [job.status for job in exports(dli_local)] == ["FINISHED", "FINISHED"]
        assert job_id == exports(dli_local)[-1].job_id

    def test_a_lost_answer_and_a_list_that_lags(self, dli_local, query):
        dli_local.fault("export", "drop_after")
        dli_local.settings(list_lag=1)
        assert execute(export_of(query), context_of()) == exports(dli_local)[0].job_id

    def test_an_export_that_never_began_is_an_error(self, dli_local, query):
        dli_local.fault("export", "drop_before")
        with pytest.raises(
            DliError, match=f"look in the DLI console for a job with the folder obs://exports/daily/{query.id}"
        ):
            execute(export_of(query), context_of())
        assert exports(dli_local) == []


@pytest.mark.matrix
class TestNextTry:
    def test_a_retry_waits_for_the_export_of_the_lost_try(self, dli_local, query, start):
        dli_local.will(kind="sql", matching="EXPORT", run_for=2)
        lose_the_worker(lambda: execute(export_of(query), context_of(TaskInstance(), start)))
        job_id = execute(export_of(query), context_of(TaskInstance(try_number=2), start))
        assert [job.job_id for job in exports(dli_local)] == [job_id]

    def test_a_kill_of_a_retry_cancels_the_export_that_it_has_taken_over(self, dli_local, query, start):
        dli_local.will(kind="sql", matching="EXPORT", run_for=30)
        lose_the_worker(lambda: execute(export_of(query), context_of(TaskInstance(), start)))
        task = export_of(query)
        thread = threading.Timer(2.5, task.on_kill)
        thread.start()
        with pytest.raises(DliTaskKilledError):
            execute(task, context_of(TaskInstance(try_number=2), start))
        thread.join()
        [job] = exports(dli_local)
        assert_cancelled(dli_local, job.job_id)

    def test_a_retry_takes_the_result_of_the_lost_try(self, dli_local, query, start):
        lose_the_worker(lambda: execute(export_of(query), context_of(TaskInstance(), start)))
        [job] = exports(dli_local)
        dli_local.wait_until(lambda dli: dli.job(job.job_id).status == "FINISHED")
        assert execute(export_of(query), context_of(TaskInstance(try_number=2), start)) == job.job_id

    def test_a_clear_cancels_it_and_exports_again(self, dli_local, query, start):
        dli_local.will(kind="sql", matching="EXPORT", run_for=30)
        first = TaskInstance()
        lose_the_worker(lambda: execute(export_of(query), context_of(first, start)))
        second = TaskInstance(first, try_number=2, max_tries=3)
        job_id = execute(export_of(query, export_mode="Overwrite"), context_of(second, start))
        assert [job.status for job in exports(dli_local)] == ["CANCELLED", "FINISHED"]
        assert exports(dli_local)[-1].job_id == job_id

    def test_an_export_of_an_earlier_run_is_another_one(self, dli_local, query, start):
        options = {"obs_path": "obs://exports/of-two-runs", "export_mode": "Overwrite"}
        first = execute(export_of(query, **options), context_of(TaskInstance(run_id="run 0"), start))
        again = context_of(TaskInstance(try_number=2), pendulum.now("UTC"))
        hook = DliHook()
        of_this_run = hook.wait_for_job(hook.submit_sql_job("SELECT id FROM range(3)").id, poll_interval=0.1)
        assert execute(export_of(of_this_run, **options), again) != first

    @pytest.mark.parametrize("seconds", [-3, -120, 120])
    def test_a_clock_of_dli_that_is_off_makes_no_second_export(self, dli_local, seconds):
        dli_local.settings(clock_skew=seconds)
        hook, start = DliHook(), pendulum.now("UTC")
        query = hook.wait_for_job(hook.submit_sql_job("SELECT id FROM range(3)").id, poll_interval=0.1)
        lose_the_worker(lambda: execute(export_of(query), context_of(TaskInstance(), start)))
        execute(export_of(query), context_of(TaskInstance(try_number=2), start))
        assert len(exports(dli_local)) == 1

    def test_nor_does_it_lose_a_job_whose_answer_was_lost(self, dli_local):
        dli_local.settings(clock_skew=-120)
        hook = DliHook()
        query = hook.wait_for_job(hook.submit_sql_job("SELECT id FROM range(3)").id, poll_interval=0.1)
        dli_local.fault("export", "drop_after")
        execute(export_of(query), context_of())
        assert len(exports(dli_local)) == 1

    def test_the_query_is_not_run_again_for_a_lost_export(self, dli_local, start):
        dli_local.will(kind="sql", matching="EXPORT", run_for=2)
        # At the second wait: that for the export.
        lose_the_worker(lambda: execute(sql_of(), context_of(TaskInstance(), start)), at_wait=2)
        ti = TaskInstance(try_number=2)
        job_id = execute(sql_of(), context_of(ti, start))
        assert [job.job_id for job in exports(dli_local)] == [job_id]
        [query] = [job for job in dli_local.jobs() if job.job_type == "QUERY"]
        assert ti.xcoms["query_job_id"] == query.job_id

    def test_where_airflow_may_lose_count_a_first_try_looks_without_waiting(self, dli_local, query, monkeypatch):
        monkeypatch.setattr(compat, "TRY_1_IS_THE_FIRST", False)
        monkeypatch.setattr("airflow_provider_dli.tasks.start.LIST_LAG", 60)
        execute(export_of(query), context_of(TaskInstance()))
        assert len(dli_local.requests("list")) == 1
        dli_local.fault("list", "status", status=403, error_code="DLI.0003", error_msg="not allowed")
        execute(export_of(query, export_mode="Overwrite"), context_of(TaskInstance()))
        assert [job.status for job in exports(dli_local)] == ["FINISHED"] * 2


class TestExportTo:
    def test_the_result_of_the_last_statement_goes_there(self, dli_local, obs):
        ti = TaskInstance()
        job_id = execute(sql_of(sql="SELECT 1; SELECT id FROM range(3)", fetch_result=2), context_of(ti))
        [export] = exports(dli_local)
        query = max((job for job in dli_local.jobs() if job.job_type == "QUERY"), key=lambda job: job.submitted_at)
        assert job_id == export.job_id == ti.xcoms["job_id"]
        assert ti.xcoms["query_job_id"] == query.job_id
        assert ti.xcoms["export_path"] == f"obs://exports/daily/{query.job_id}"
        assert ti.xcoms["result"] == [{"id": 0}, {"id": 1}]
        assert files(obs, ti.xcoms["export_path"]) == ["_SUCCESS", "part-00000.csv"]

    def test_deferred(self, dli_local):
        dli_local.fault("status", "unknown_state", times=None, state="RUNNING")
        dli_local.will(kind="sql", matching="EXPORT", run_for=2)
        ti = TaskInstance()
        deferral = deferral_of(sql_of(deferrable=True), context := context_of(ti))
        [query] = dli_local.jobs()
        dli_local.clear_faults()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("airflow_provider_dli.compat.xcom", lambda key, name: ti.xcoms.get(name))
            task = sql_of(deferrable=True)
            deferral = deferral_of_resumed(task, deferral, context)
            [export] = exports(dli_local)
            dli_local.wait_until(lambda dli: dli.job(export.job_id).status == "FINISHED")
            assert resume(sql_of(deferrable=True), deferral, context) == export.job_id
        assert ti.xcoms["query_job_id"] == query.job_id

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"sql": "INSERT INTO t VALUES (1)"}, "export_to needs a query as the last statement"),
            ({"export_to": "s3://a/b"}, "export_to must be a folder of OBS"),
            ({"wait_for_completion": False}, "wait_for_completion cannot be False with export_to"),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_runs(self, dli_local, arguments, field):
        with pytest.raises(AirflowFailException, match=field):
            execute(sql_of(**arguments), context_of())
        assert dli_local.jobs() == []


def deferral_of_resumed(task, deferral, context):
    from airflow.providers.common.compat.sdk import TaskDeferred

    with pytest.raises(TaskDeferred) as again:
        resume(task, deferral, context)
    return again.value
