"""The hook of Airflow's own SQL operators: stock operators, unchanged, over HTTP against the local DLI."""

from __future__ import annotations

import threading
import time
from datetime import date, timedelta
from decimal import Decimal

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowTaskTimeout, BaseHook
from airflow.providers.common.sql.operators.generic_transfer import GenericTransfer
from airflow.providers.common.sql.operators.sql import (
    BranchSQLOperator,
    SQLCheckOperator,
    SQLColumnCheckOperator,
    SQLExecuteQueryOperator,
    SQLInsertRowsOperator,
    SQLTableCheckOperator,
    SQLThresholdCheckOperator,
    SQLValueCheckOperator,
)
from airflow.providers.common.sql.sensors.sql import SqlSensor
from airflow.sdk.execution_time.context import set_current_context
from fakes import START, TaskInstance, context_of, lose_the_worker

from airflow_provider_dli.exceptions import DliError, DliJobError, DliTaskKilledError, DliValueError
from airflow_provider_dli.hooks.dli_sql import DliSqlHook
from airflow_provider_dli.identity import read_attempt
from airflow_provider_dli.tasks import of_hook
from airflow_provider_dli.tasks import run as machine_of_tasks

TABLE = "CREATE TABLE sales.orders AS SELECT id, id * 1.50 AS price, date'2026-01-01' AS day FROM range(10)"


@pytest.fixture(autouse=True)
def connected(dli_local, connect, airflow_says):
    dli_local.settings(queues={"default": 16, "sql": 4})
    connect(extra={"default_queue": "sql"})
    airflow_says("running")


@pytest.fixture
def orders():
    hook = DliSqlHook(poll_interval=0.1)
    hook.run("CREATE DATABASE sales")
    hook.run(TABLE)


def hook_of(**arguments):
    return DliSqlHook(poll_interval=0.1, **arguments)


def run(operator, ti=None, start=START):
    """Run a stock operator as Airflow does: with its context as the current one."""
    ti = ti or TaskInstance()
    ti.task = operator
    context = {**context_of(ti, start), "task": operator, "ts": "", "logical_date": START, "ds": "2026-01-01"}
    with set_current_context(context):
        return type(operator).execute.__wrapped__(operator, context)


def operator_of(sql="SELECT 1", kind=SQLExecuteQueryOperator, **arguments):
    arguments = {"conn_id": "dli_default", "hook_params": {"poll_interval": 0.1}, **arguments}
    return kind(task_id="load", **({} if sql is None else {"sql": sql}), **arguments)


class TestStockOperators:
    def test_a_query_returns_rows_with_types(self, orders):
        rows = run(operator_of("SELECT id, price, day FROM orders ORDER BY id LIMIT 2", database="sales"))
        assert rows == [(0, Decimal("0.00"), date(2026, 1, 1)), (1, Decimal("1.50"), date(2026, 1, 1))]

    def test_parameters_by_name_and_in_order(self):
        assert run(operator_of("SELECT :a, :b", parameters={"a": "it's", "b": 2})) == [("it's", 2)]
        assert run(operator_of("SELECT ?, ?", parameters=["x", None])) == [("x", None)]

    @pytest.mark.parametrize(
        "use",
        [
            lambda hook: hook.get_records("SELECT :a", {"a": "it's"}),
            lambda hook: hook.run("SELECT ?; SELECT ?", parameters=["it's"]),
            lambda hook: hook.insert_rows("t", [("it's",)]),
        ],
    )
    def test_values_where_spark_reads_no_escapes_are_refused(self, dli_local, use):
        with pytest.raises(DliValueError, match="conf cannot have spark.sql.parser.escapedStringLiterals") as raised:
            use(hook_of(conf={"spark.sql.parser.escapedStringLiterals": True}))
        assert raised.value.field == "conf"
        assert dli_local.requests(call="submit") == []

    def test_parameters_of_a_script_go_to_the_statements_that_have_them(self):
        assert run(operator_of(["SELECT 1", "SELECT :a"], parameters={"a": 2}, split_statements=True)) == [
            [(1,)],
            [(2,)],
        ]
        with pytest.raises(DliValueError, match="has no value for :b"):
            run(operator_of("SELECT :b", parameters={"a": 2}))
        with pytest.raises(DliValueError, match="has 2 values, and there are only 1"):
            run(operator_of("SELECT ?", parameters=[1, 2]))

    def test_a_script_is_split_by_the_dialect_of_dli(self, dli_local):
        script = "SELECT ';' AS a; SELECT 'it\\'s; one' AS b -- no; end\n;"
        assert run(operator_of(script, split_statements=True, return_last=False)) == [[(";",)], [("it's; one",)]]
        jobs = sorted(dli_local.jobs(), key=lambda job: job.submitted_at)
        assert [job.statement for job in jobs] == ["SELECT ';' AS a", "SELECT 'it\\'s; one' AS b -- no; end"]

    def test_a_script_that_is_not_split_runs_all_the_same(self):
        assert run(operator_of("SELECT 1; SELECT 2")) == [(2,)]

    def test_a_statement_without_rows(self, orders):
        assert run(operator_of("INSERT INTO sales.orders VALUES (11, 1.00, date'2026-01-01')")) is None

    def test_what_a_statement_shows(self, orders, dli_local):
        assert ("id",) in [row[:1] for row in run(operator_of("DESCRIBE sales.orders"))]
        assert dli_local.requests(call="preview") == []

    def test_rows_that_a_statement_shows_and_whose_answer_is_lost(self, orders, dli_local):
        dli_local.fault("submit", "drop_after")
        with pytest.raises(DliError, match="DLI has not sent the rows of SQL job .*: run it again"):
            run(operator_of("SHOW TABLES"))

    def test_checks(self, orders):
        named = {"database": "sales"}
        columns = {"id": {"null_check": {"equal_to": 0}, "max": {"leq_to": 9}, "distinct_check": {"equal_to": 10}}}
        run(operator_of(None, SQLColumnCheckOperator, table="orders", column_mapping=columns, **named))
        checks = {"rows": {"check_statement": "count(*) = 10"}}
        run(operator_of(None, SQLTableCheckOperator, table="orders", checks=checks, **named))
        count = "SELECT count(*) FROM orders"
        run(operator_of(count, SQLCheckOperator, **named))
        run(operator_of(count, SQLValueCheckOperator, pass_value=10, **named))
        run(operator_of(count, SQLThresholdCheckOperator, min_threshold=1, max_threshold=10, **named))

    @pytest.mark.parametrize(
        "operator",
        [
            operator_of("SELECT 9", SQLValueCheckOperator, pass_value=10),
            operator_of("SELECT 9", SQLThresholdCheckOperator, min_threshold=1, max_threshold=2),
            operator_of("SELECT 0", SQLCheckOperator),
            operator_of(
                None,
                SQLTableCheckOperator,
                table="(SELECT 1 AS id) AS t",
                checks={"rows": {"check_statement": "count(*) = 10"}},
            ),
        ],
        ids=lambda operator: type(operator).__name__,
    )
    def test_checks_that_fail(self, operator):
        with pytest.raises(AirflowException):
            run(operator)

    def test_a_transfer(self, orders):
        transfer = GenericTransfer(
            task_id="load",
            sql="SELECT id, price FROM sales.orders",
            destination_table="sales.copies",
            source_conn_id="dli_default",
            destination_conn_id="dli_default",
            source_hook_params={"poll_interval": 0.1},
            destination_hook_params={"poll_interval": 0.1},
            preoperator=["CREATE TABLE sales.copies (id BIGINT, price DECIMAL(10, 2))"],
        )
        run(transfer)
        assert hook_of().get_first("SELECT count(*), sum(price) FROM sales.copies") == (10, Decimal("67.50"))

    def test_rows_of_a_dag(self, orders):
        insert = operator_of(
            None,
            SQLInsertRowsOperator,
            table_name="orders",
            schema="sales",
            columns=["id", "price", "day"],
            rows=[(20, Decimal("1.00"), date(2026, 1, 1)), (21, None, date(2026, 1, 2))],
            insert_args={"commit_every": 1000, "autocommit": False, "executemany": True, "fast_executemany": True},
        )
        run(insert)
        assert hook_of(database="sales").get_first("SELECT count(*) FROM orders WHERE id > 19") == (2,)

    @pytest.mark.parametrize(("answer", "followed"), [("true", "a"), ("false", "b")])
    def test_a_branch(self, answer, followed, monkeypatch):
        branch = operator_of(
            f"SELECT {answer}", BranchSQLOperator, follow_task_ids_if_true="a", follow_task_ids_if_false="b"
        )
        chosen = []
        monkeypatch.setattr(branch, "skip_all_except", lambda ti, branches: chosen.append(branches))
        run(branch)
        assert chosen == [followed]

    def test_a_sensor(self):
        sensor = SqlSensor(task_id="load", conn_id="dli_default", sql="SELECT 1", hook_params={"poll_interval": 0.1})
        assert sensor.poke({})
        sensor.sql = "SELECT 0"
        assert not sensor.poke({})

    def test_each_poke_of_a_rescheduled_sensor_has_an_identity_of_its_own(self, dli_local):
        # In a new process each time, which counts from the beginning.
        for _ in range(2):
            run(operator_of())
        assert len({job.tags["airflow_ti"] for job in dli_local.jobs()}) == 2

    @pytest.mark.matrix
    def test_only_the_first_poke_of_a_later_try_waits_for_jobs_of_earlier_ones(self, dli_local, monkeypatch):
        monkeypatch.setattr("airflow_provider_dli.tasks.start.LIST_LAG", 2.0)
        run(operator_of())
        took = []
        for _ in range(2):
            begun = time.monotonic()
            run(operator_of(), TaskInstance(try_number=2))
            took.append(time.monotonic() - begun)
        assert took[0] > 2 > took[1]

    def test_fields_of_the_connection_come_as_hook_params(self, connect):
        connect(extra={"default_queue": "sql", "my_own": "field"})
        assert run(operator_of(hook_params={"queue_name": "sql", "my_own": "field"})) == [(1,)]

    def test_a_misspelt_hook_param_is_named(self, dli_local):
        with pytest.raises(DliValueError, match="hook_params has queue, which neither DliSqlHook nor the connection"):
            run(operator_of(hook_params={"queue": "sql"}))
        assert dli_local.jobs() == []

    def test_a_query_on_the_default_queue_is_refused_before_it_runs(self, connect, dli_local):
        connect()
        with pytest.raises(DliValueError, match="queue_name must not be 'default' for a query"):
            run(operator_of("/* why */ WITH a AS (SELECT 1) SELECT * FROM a"))
        assert dli_local.jobs() == []
        run(operator_of("CREATE DATABASE sales"))
        assert [job.status for job in dli_local.jobs()] == ["FINISHED"]


class TestHook:
    def test_it_is_the_hook_of_the_connection(self):
        assert isinstance(BaseHook.get_connection("dli_default").get_hook(), DliSqlHook)

    def test_first_and_records_outside_of_tasks(self, dli_local):
        assert hook_of().get_first("SELECT id FROM range(3) ORDER BY id") == (0,)
        assert hook_of().get_records("SELECT 1 AS a, 'x' AS b") == [(1, "x")]
        assert all("airflow_ti" not in job.tags for job in dli_local.jobs())

    def test_the_types_of_the_columns(self):
        hook = hook_of()
        hook.get_records("SELECT 1 AS a, 1.5 AS b")
        assert [column[:2] for column in hook.last_description] == [("a", "int"), ("b", "decimal(2,1)")]

    def test_a_thousand_rows_and_one_more(self):
        assert len(hook_of().get_records("SELECT id FROM range(1000)")) == 1000
        assert hook_of().get_first("SELECT id FROM range(1001) ORDER BY id") == (0,)
        with pytest.raises(DliError, match=r"has 1,001 rows, and DLI shows the first 1,000\. Add a LIMIT"):
            hook_of().get_records("SELECT id FROM range(1001)")

    def test_rows_are_inserted_together(self, orders, dli_local):
        before = len(dli_local.jobs())
        rows = [(100 + number, Decimal("1.00"), date(2026, 1, 1)) for number in range(25)]
        hook_of(database="sales").insert_rows("orders", rows, ["id", "price", "day"], commit_every=10)
        assert len(dli_local.jobs()) == before + 3
        assert hook_of(database="sales").get_first("SELECT count(*) FROM orders") == (35,)
        with pytest.raises(DliValueError, match="rows: the value of column day in row 2 has the type timedelta"):
            hook_of().insert_rows("orders", [(1, date(1, 1, 1)), (2, timedelta(1))], ["id", "day"])
        assert len(dli_local.jobs()) == before + 4
        with pytest.raises(DliValueError, match="replace"):
            hook_of().insert_rows("orders", rows, replace=True)

    def test_a_cursor_of_pep_249(self):
        with_rows = hook_of().get_conn().cursor().execute("SELECT id FROM range(5) ORDER BY id")
        assert with_rows.rowcount == 5
        assert with_rows.fetchmany(2) == [(0,), (1,)]
        assert list(with_rows) == [(2,), (3,), (4,)]
        assert with_rows.fetchone() is None
        assert with_rows.fetchall() == []
        with_rows.close()
        assert with_rows.description is None

    def test_what_is_interrupted_outside_of_tasks_is_cancelled(self, dli_local, monkeypatch):
        dli_local.will(run_for=30)
        monkeypatch.setattr(of_hook, "wait_until_over", raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            hook_of().get_records("SELECT 1")
        [job] = dli_local.jobs()
        assert job.cancel_requests


class TestKill:
    def test_on_kill_of_the_operator_cancels_the_job(self, dli_local):
        dli_local.will(run_for=30)
        operator = operator_of()
        thread = threading.Thread(target=self.kill, args=[operator, dli_local])
        thread.start()
        with pytest.raises(DliTaskKilledError):
            run(operator)
        thread.join()
        [job] = dli_local.jobs()
        dli_local.wait_until(lambda dli: dli.job(job.job_id).status == "CANCELLED")
        assert job.tags["airflow_task"] == "load"
        with pytest.raises(DliTaskKilledError):  # killed once, it submits nothing more
            run(operator)
        assert len(dli_local.jobs()) == 1

    def test_what_the_operator_does_itself_on_a_kill_is_still_done(self):
        called = []

        class Mine(SQLExecuteQueryOperator):
            def on_kill(self):
                called.append("mine")

        operator = operator_of(kind=Mine)
        run(operator)
        operator.on_kill()
        assert called == ["mine"]

    def test_a_timeout_cancels_the_job(self, dli_local, monkeypatch):
        dli_local.will(run_for=30)
        monkeypatch.setattr(machine_of_tasks, "wait_until_over", raising(AirflowTaskTimeout))
        with pytest.raises(AirflowTaskTimeout):
            run(operator_of())
        [job] = dli_local.jobs()
        dli_local.wait_until(lambda dli: dli.job(job.job_id).status == "CANCELLED")

    def test_the_next_try_cancels_what_a_lost_one_has_left(self, dli_local):
        dli_local.will(run_for=60)
        lose_the_worker(lambda: run(operator_of()))
        assert run(operator_of(), TaskInstance(try_number=2)) == [(1,)]
        first, second = sorted(dli_local.jobs(), key=lambda job: job.submitted_at)
        assert (first.status, second.status) == ("CANCELLED", "FINISHED")
        assert first.ended_at <= second.submitted_at

    def test_what_an_earlier_try_has_done_is_done_again(self, dli_local, monkeypatch):
        monkeypatch.setattr("airflow_provider_dli.tasks.start.LIST_LAG", 1.0)
        run(operator_of())
        assert run(operator_of(), TaskInstance(try_number=2)) == [(1,)]
        assert [job.status for job in dli_local.jobs()] == ["FINISHED", "FINISHED"]

    def test_a_later_statement_of_a_lost_try_that_the_list_does_not_show_yet(self, dli_local, monkeypatch):
        """That one of its statements has finished does not tell that there was no other."""
        run(operator_of())
        dli_local.will(run_for=60)
        lose_the_worker(lambda: run(operator_of()))
        dli_local.settings(list_lag=3)
        assert run(operator_of(), TaskInstance(try_number=2)) == [(1,)]
        statuses = [job.status for job in sorted(dli_local.jobs(), key=lambda job: job.submitted_at)]
        assert statuses == ["FINISHED", "CANCELLED", "FINISHED"]

    def test_a_failed_job_is_an_error_that_names_it(self):
        with pytest.raises(DliJobError, match="nowhere"):
            run(operator_of("SELECT * FROM nowhere"))

    def test_all_statements_of_a_task_are_found_by_one_tag(self, dli_local):
        run(operator_of(["SELECT 1", "SELECT 2"]))
        jobs = dli_local.jobs()
        assert len({job.tags["airflow_script"] for job in jobs}) == 1
        assert len({read_attempt(job.tags).statement_index for job in jobs}) == 2

    @staticmethod
    def kill(operator, dli):
        dli.wait_until(lambda dli: [job for job in dli.jobs() if job.status == "RUNNING"])
        time.sleep(0.2)
        operator.on_kill()


def raising(error):
    def wait(*_, **__):
        raise error

    return wait
