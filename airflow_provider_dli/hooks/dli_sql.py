"""DLI for Airflow's own SQL operators, sensors and checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.sql.hooks.sql import DbApiHook

from airflow_provider_dli import identity
from airflow_provider_dli.api import checks, script
from airflow_provider_dli.api import sql as api
from airflow_provider_dli.api.rows import FOR_POLARS, MOST_ROWS, Form, Rows
from airflow_provider_dli.exceptions import DliValueError
from airflow_provider_dli.hooks.dbapi import Connection
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.job import Job, JobState
from airflow_provider_dli.lineage import openlineage
from airflow_provider_dli.tasks import of_hook, of_trigger

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.providers.openlineage.sqlparser import DatabaseInfo

# Airflow's lineage asks each database for the columns of its tables. DLI has no table that tells them, and a job that
# looks for one costs money: this name stands for it, and has no rows.
_NO_INFORMATION_SCHEMA = "dli_has_no_information_schema"
_NO_ROWS = Job(
    id="none", kind=api.KIND.name, title="SQL job", state=JobState.FINISHED, status="FINISHED", rows=Rows([], [])
)

# A statement that shows something has its rows in the answer to its submit, if it is not run in the background.
_AT_ONCE = {"dli.sql.sqlasync.enabled": False}


class DliSqlHook(DliHook, DbApiHook):  # type: ignore[misc]
    """
    Runs SQL for the operators of ``apache-airflow-providers-common-sql``, and for your own functions.

    Each statement is a DLI job. When the task that uses the hook is killed or fails, its job is cancelled, whatever
    the operator is; the next try cancels what a lost one has left running. So it is with every hook that a task, or its
    trigger, uses in its own process. In the event loop of a triggerer it refuses to run anything.

    Rows are read by a preview, which shows the first 1,000 and none of DLI's queue ``default``. A result that has more
    is an error once somebody reads past them. Follows the chapter "APIs Related to SQL Jobs" of the DLI API Reference.

    :param dli_conn_id: Airflow connection of type ``dli``.
    :param region: Takes the place of the connection's ``region``.
    :param project_id: Takes the place of the connection's ``project_id``.
    :param database: Database of unqualified names; default is the connection's ``default_database``. The parameter
        ``database`` of Airflow's SQL operators takes its place.
    :param schema: The same, under the name that Airflow's SQL operators have for it.
    :param queue_name: Queue of type ``sql``; default is the connection's ``default_queue``, then DLI's queue
        ``default``.
    :param conf: Settings, such as ``{"spark.sql.shuffle.partitions": 200}``.
    :param tags: Tags of the jobs, beside those that the provider sets.
    :param poll_interval: Seconds between two status calls, at most. Default 10.
    :param log_sql: Whether to log the statements. Default True.
    :param others: Fields of the connection, which Airflow's SQL operators hand over too. They change nothing.
    """

    supports_autocommit = True
    _placeholder = "?"

    def __init__(
        self,
        dli_conn_id: str = DliHook.default_conn_name,
        *,
        region: str | None = None,
        project_id: str | None = None,
        database: str | None = None,
        schema: str | None = None,
        queue_name: str | None = None,
        conf: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        poll_interval: float = 10.0,
        log_sql: bool = True,
        **others: Any,
    ) -> None:
        super().__init__(dli_conn_id, region=region, project_id=project_id)
        self.schema = schema or database
        self.queue_name = queue_name
        self.conf = conf
        self.tags = tags
        self.poll_interval = poll_interval
        self.log_sql = log_sql
        self._others = others
        self._last_job_id: str | None = None
        # A trigger of Airflow's own makes the hook, and has a thread use it.
        self._trigger = of_trigger.running_trigger()

    def get_conn(self, form: Form | None = None) -> Connection:
        """
        Return a connection of PEP 249. Nothing is sent before a statement is executed.

        :param form: Whom the values are for; see :class:`.Form`. Default: Python code.
        :raises DliValueError: ``hook_params`` holds a name that neither the hook nor its connection has.
        """
        if self._others and (unknown := sorted(self._others.keys() - self.connection_extra.keys())):
            raise checks.refuse(
                "hook_params", f"has {', '.join(unknown)}, which neither {type(self).__name__} nor the connection has."
            )
        return Connection(self.run_statement, self._fetch, form, self.conf)

    def run_statement(self, statement: str) -> Job:
        """
        Run one statement to its end; return its job. A kill of the task in which this happens cancels it.

        :param statement: One statement, in DLI's Spark dialect.
        :raises DliValueError: It has rows, and DLI shows none of its queue; nothing was submitted.
        :raises DliJobError: The job failed or was cancelled.
        """
        if _NO_INFORMATION_SCHEMA in statement:
            return _NO_ROWS
        defaults = self.connect()
        work = api.SqlWork(
            statement,
            database=self.schema or defaults.default_database,
            queue_name=self.queue_name or defaults.default_queue,
            conf={**(_AT_ONCE if script.shows(statement) else {}), **checks.mapping("conf", self.conf)},
            tags=checks.mapping("tags", self.tags),
        )
        if (work.queue_name or api.DEFAULT_QUEUE).lower() == api.DEFAULT_QUEUE and script.is_query(statement):
            raise checks.refuse(
                "queue_name",
                f"must not be {api.DEFAULT_QUEUE!r} for a query: DLI shows no rows of that queue. Name a queue of type "
                'sql, in the connection as default_queue or with hook_params={"queue_name": ...}.',
            )
        job = self._run(work)
        self._last_job_id = job.id
        return job

    def _run(self, work: api.SqlWork) -> Job:
        task, trigger = of_hook.running_task(), self._trigger or of_trigger.running_trigger()
        if task is None:
            submit = api.submit(
                work.sql,
                database=work.database,
                queue_name=work.queue_name,
                conf=work.settings,
                tags=identity.merged_tags(work.tags, {}),
            )
            if trigger is not None:
                # What a statement shows is in the answer to its submit only.
                how: Any = {"poll_interval": self.poll_interval, "can_be_taken_up": not script.shows(work.sql)}
                return of_trigger.run(trigger, self, api.KIND, work, submit, **how)
            return of_hook.run_outside_of_tasks(self.client, api.KIND, submit, poll_interval=self.poll_interval)
        return task.run(self.client, api.KIND, work, conn_id=self.dli_conn_id, poll_interval=self.poll_interval)

    @staticmethod
    def split_sql_string(sql: str, strip_semicolon: bool = False) -> list[str]:
        """Split a script into statements, by DLI's dialect."""
        return script.statements(sql)

    def insert_rows(
        self,
        table: str,
        rows: Any,
        target_fields: Sequence[str] | None = None,
        commit_every: int = 1000,
        replace: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Insert rows, a thousand with one statement: each statement is a job.

        :param table: The table.
        :param rows: The rows; their values are put in as literals, by the rules of parameters.
        :param target_fields: Names of the columns, in the order of the values. Default: all of the table.
        :param commit_every: Rows per statement. Default 1000.
        :param replace: Not supported: Spark has no such statement.
        :raises DliValueError: A value cannot be written as SQL, or ``conf`` has
            ``spark.sql.parser.escapedStringLiterals``; nothing was submitted.
        """
        if replace:
            raise checks.refuse("replace", "cannot be True: use MERGE INTO or INSERT OVERWRITE.")
        checks.conf_with_parameters(self.conf)
        columns = f" ({', '.join(target_fields)})" if target_fields else ""
        values = [_written(number, row, target_fields or ()) for number, row in enumerate(rows, 1)]
        size = commit_every or len(values) or 1
        for start in range(0, len(values), size):
            part = ", ".join(values[start : start + size])
            self.run_statement(f"INSERT INTO {table}{columns} VALUES {part}")  # noqa: S608 - literals of the parser

    def get_sqlalchemy_engine(self, engine_kwargs: Any = None) -> None:  # type: ignore[override]
        """Return None: SQLAlchemy knows no DLI. Airflow's lineage asks for an engine, and goes without."""

    def get_openlineage_database_info(self, connection: Any) -> DatabaseInfo:
        """Return how OpenLineage names the tables of this project."""
        from airflow.providers.openlineage.sqlparser import DatabaseInfo

        authority = openlineage.authority(self.client.access.connection())
        return DatabaseInfo(
            scheme=openlineage.SCHEME, authority=authority, information_schema_table_name=_NO_INFORMATION_SCHEMA
        )

    def get_openlineage_database_dialect(self, connection: Any) -> str:
        """Return the dialect of DLI, for OpenLineage's parser."""
        return "spark"

    def get_openlineage_default_schema(self) -> str:
        """Return the database of unqualified names."""
        return self.schema or self.client.access.connection().default_database or openlineage.DEFAULT_DATABASE

    def get_openlineage_database_specific_lineage(self, task_instance: Any) -> OperatorLineage | None:
        """Return the job that ran last."""
        return openlineage.lineage(self.client.access.connection(), job_id=self._last_job_id)

    def _get_polars_df(self, sql: Any, parameters: Any = None, **kwargs: Any) -> Any:
        import polars

        options = {"parameters": parameters} if parameters else None
        # The first rows may have nothing but NULL in a column; there are at most 1,000.
        kwargs = {"infer_schema_length": None, **kwargs}
        return polars.read_database(sql, connection=self.get_conn(FOR_POLARS), execute_options=options, **kwargs)

    def _fetch(self, job: Job) -> Rows:
        queue_name = job.queue_name or self.queue_name or self.connect().default_queue
        return self.send(api.preview(job.id, rows=MOST_ROWS, queue_name=queue_name))


def _written(number: int, row: Iterable[Any], names: Sequence[str]) -> str:
    """Write a row as SQL does."""
    written = []
    for position, value in enumerate(row):
        try:
            written.append(script.literal(value))
        except (TypeError, ValueError) as error:
            column = names[position] if position < len(names) else position + 1
            raise DliValueError(f"rows: the value of column {column} in row {number} {error}.", field="rows") from error
    return f"({', '.join(written)})"
