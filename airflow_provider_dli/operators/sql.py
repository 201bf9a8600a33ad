"""The operator of SQL jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_dli.api import checks
from airflow_provider_dli.api import sql as api
from airflow_provider_dli.api.sql import DEFAULT_QUEUE
from airflow_provider_dli.client.patience import watch_nothing
from airflow_provider_dli.exceptions import DliValueError
from airflow_provider_dli.operators.base import DliJobOperator

if TYPE_CHECKING:
    from airflow_provider_dli.api.job_kind import Work
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.client.connection import DliConnection
    from airflow_provider_dli.compat import Templated
    from airflow_provider_dli.job import Job
    from airflow_provider_dli.xcoms import Place

# How many rows of a result are shown in the log.
_SHOWN_ROWS = 10


class DliSubmitSqlJobOperator(DliJobOperator):
    """
    Run one SQL statement, or several one after the other, and wait until they are done.

    When the task is killed, in whatever way, the job is cancelled. When the answer to the submit is lost, the job
    is looked up by its tags instead of being submitted again. Returns the job id, and pushes it as XCom ``job_id``
    as soon as it is known.

    Each statement is a job of its own, and begins when the one before it is done. The first failure ends the task. An
    automatic retry goes on with the first statement that was not done; a cleared task runs all of them again. The job
    id is that of the statement that runs, or ran last.

    Follows the chapter "APIs Related to SQL Jobs" of the DLI API Reference.

    :param sql: A statement in DLI's Spark dialect, a script of statements separated by semicolons, a path to a ``.sql``
        file, or a list of these. DLI keeps no session between statements: a warning says what to write instead of
        ``SET``, ``USE`` and temporary tables. (templated)
    :param parameters: Values for ``:name`` in the statements, by name; or a list, for each ``?`` in order. They are put
        in as literals, so a value cannot change what the statement does; a template can. Text, numbers, decimals,
        dates, times (as text), bytes, None, and lists for ``IN``. Default: none. (templated)
    :param fetch_result: Number of rows of the last statement's result to push as XCom ``result``, 1 to 1,000: a list of
        dicts, with Python's types. A few are shown in the log. DLI shows no rows of its queue ``default``. Default:
        none. (templated)
    :param export_to: Folder of OBS that the result of the last statement is exported to, as CSV; ``{job_id}`` in it is
        replaced. The export is one more job, for which the task waits: its id is the job id then. The XComs
        ``query_job_id`` and ``export_path`` tell the id of the query's job and the folder. For other formats, use
        :class:`DliExportResultOperator`. Default: none. (templated)
    :param database: Database of unqualified names; default is the connection's ``default_database``. (templated)
    :param queue_name: Queue of type ``sql``; default is the connection's ``default_queue``, then DLI's queue
        ``default``. (templated)
    :param conf: Settings, such as ``{"spark.sql.shuffle.partitions": 200}``. With ``execution_timeout``,
        ``dli.sql.job.timeout`` is set to it plus a minute, unless it is given here; None leaves it out. (templated)
    :param tags: Tags of the job, for look-ups and cost reports, beside those that the provider sets. (templated)
    :param dli_conn_id: Airflow connection of type ``dli``. Default ``dli_default``. (templated)
    :param region: Takes the place of the connection's ``region``. (templated)
    :param project_id: Takes the place of the connection's ``project_id``. (templated)
    :param poll_interval: Seconds between two status calls, at most. Default 10.
    :param deferrable: Whether to wait in the triggerer, without a worker. Default: ``[operators] default_deferrable``.
    :param wait_for_completion: Whether to wait for the end of the job. Default True; otherwise the task is done
        when DLI has the job, and nothing cancels it afterwards.
    :param cancel_on_kill: Whether a killed or failing task cancels its job. Default True.
    :param on_earlier_job: What a later try does with the job of an earlier one. ``"reattach"`` (default): an automatic
        retry waits for a job that still runs, if it runs the same, and takes the result of one that has finished, with
        a warning if it ran something else; a cleared task cancels what still runs and runs again. ``"cancel"``: cancel
        what still runs, run again. ``"ignore"``: do not look; needs no right to list jobs, but a job may then run
        twice.
    :raises DliJobError: The job failed or was cancelled.
    :raises DliError: DLI could not be reached or refused the job.
    :raises AirflowFailException: What no retry mends, and no job is left: a wrong field, a certificate that does not
        verify, refused credentials, a missing right.
    """

    job_kind = api.KIND
    template_fields: Sequence[str] = (
        "sql",
        "parameters",
        "fetch_result",
        "export_to",
        "database",
        "queue_name",
        "conf",
        "tags",
        "dli_conn_id",
        "region",
        "project_id",
    )
    template_ext: Sequence[str] = (".sql",)
    file_fields: ClassVar[Collection[str]] = ("sql",)
    template_fields_renderers = {"sql": "sql", "conf": "json", "tags": "json"}

    def __init__(
        self,
        *,
        sql: Templated[str | Sequence[str]],
        parameters: Templated[Mapping[str, Any] | Sequence[Any]] | None = None,
        fetch_result: Templated[int] | None = None,
        export_to: Templated[str] | None = None,
        database: Templated[str] | None = None,
        queue_name: Templated[str] | None = None,
        conf: Templated[Mapping[str, Any]] | None = None,
        tags: Templated[Mapping[str, str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql: Any = sql
        self.parameters: Any = parameters
        self.fetch_result: Any = fetch_result
        self.export_to: Any = export_to
        self.database: Any = database
        self.queue_name: Any = queue_name
        self._exported_to: str | None = None
        self._result_columns: Sequence[tuple[str, str]] = ()
        self.conf: Any = conf
        self.tags: Any = tags

    def works(self, connection: DliConnection) -> Sequence[Work]:
        """Return the statements, with what the connection adds to them."""
        # Here, for every DAG that is parsed would pay for them.
        from airflow_provider_dli.api import script
        from airflow_provider_dli.api.rows import MOST_ROWS

        conf = checks.conf_with_parameters(self.conf) if self.parameters else checks.mapping("conf", self.conf)
        statements = script.statements(self.sql, self.parameters)
        if not self.wait_for_completion:
            if len(statements) > 1:
                raise checks.refuse(
                    "wait_for_completion",
                    f"cannot be False, for sql has {len(statements)} statements: each waits for the one before it.",
                )
            if self.export_to:
                raise checks.refuse(
                    "wait_for_completion", "cannot be False with export_to, which waits for the result."
                )
        if self.export_to and not script.is_query(statements[-1]):
            raise checks.refuse(
                "export_to",
                f"needs a query as the last statement, for it exports the result: statement {len(statements)} is none.",
            )
        queue_name = self.queue_name or connection.default_queue
        if self.fetch_result is not None:
            checks.whole_number("fetch_result", self.fetch_result, 1, MOST_ROWS)
            self._refuse_default_queue(queue_name)
        # Not again after a deferral.
        for number, statement in enumerate(statements if self.current_job_id is None else (), 1):
            if instead := script.without_effect(statement):
                self.log.warning(
                    "Statement %d changes a session, and DLI keeps none between jobs: %s.", number, instead
                )
        works: list[Work] = [
            api.SqlWork(
                statement,
                database=self.database or connection.default_database,
                queue_name=queue_name,
                conf=conf,
                tags=checks.mapping("tags", self.tags),
            )
            for statement in statements
        ]
        if self.export_to:
            from airflow_provider_dli.api import export

            works.append(export.ExportWork(export.folder("export_to", self.export_to)))
        return works

    def finish(self, client: DliClient, job: Job, ti: Any, place: Place) -> None:
        """Push what is asked for of the result: the first rows, and where it is exported to."""
        if place.number != place.of - (1 if self.export_to else 0):
            return
        if self.export_to:
            ti.xcom_push(key="query_job_id", value=job.id)
            self._exported_to = self.export_to.replace("{job_id}", job.id)
            self._result_columns = job.columns
            ti.xcom_push(key="export_path", value=self._exported_to)
        if self.fetch_result is None:
            return
        from airflow_provider_dli.api.rows import Rows

        queue_name = self.queue_name or client.connect().default_queue
        found = client.send(api.preview(job.id, rows=int(self.fetch_result), queue_name=queue_name))
        # DLI may not know how many were asked for.
        result = Rows(found.columns, found.rows[: int(self.fetch_result)])
        ti.xcom_push(key="result", value=result.records())
        self.log.info("The first rows of the result:\n%s", result.shown(_SHOWN_ROWS, secrets=client.secrets))

    def lineage_fields(self) -> dict[str, Any]:
        """Return the statements, and where their result is exported to."""
        from airflow_provider_dli.api import script

        try:
            found = script.statements(self.sql, self.parameters)
        except DliValueError:  # the task fails for it, too
            return {}
        database = self.database or self.client(watch_nothing).access.connection().default_database
        return {
            "statements": found,
            "database": database,
            "exported_to": self._exported_to,
            "columns": self._result_columns,
        }

    def _refuse_default_queue(self, queue_name: str | None) -> None:
        if (queue_name or DEFAULT_QUEUE).lower() == DEFAULT_QUEUE:
            raise checks.refuse(
                "queue_name",
                f"must be given with fetch_result, and not be {DEFAULT_QUEUE!r}: DLI shows no rows of that queue. Name "
                "a queue of type sql, or export the result.",
            )
