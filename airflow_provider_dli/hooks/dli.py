"""The hook: Airflow's face of the client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from airflow.providers.common.compat.sdk import BaseHook

from airflow_provider_dli import DEFAULT_CONN_ID, compat
from airflow_provider_dli.api import sql
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.client.access import Access
from airflow_provider_dli.client.client import DliClient
from airflow_provider_dli.client.connection import CONN_TYPE, DliConnection
from airflow_provider_dli.client.patience import Patience
from airflow_provider_dli.exceptions import DliPermissionError
from airflow_provider_dli.waiting.watcher import wait_until_over

if TYPE_CHECKING:
    from airflow_provider_dli.api.call import Call
    from airflow_provider_dli.api.job_kind import JobKind
    from airflow_provider_dli.job import Cancellation, Job

T = TypeVar("T")


# Ends of the codes with which the gateway refuses a project, an address or a region, whatever rights the user has.
_NO_RIGHT_HELPS = (".0310", ".0401", ".0402", ".0802")


class DliHook(BaseHook):
    """
    Sends calls to DLI with the credentials of an Airflow connection.

    The connection is read, and a token fetched, at the first call or by :meth:`connect`, never in the constructor.

    :param dli_conn_id: Airflow connection of type ``dli``.
    :param region: Takes the place of the connection's ``region``.
    :param project_id: Takes the place of the connection's ``project_id``.
    """

    conn_name_attr = "dli_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = CONN_TYPE
    hook_name = "Data Lake Insight (DLI)"

    def __init__(
        self,
        dli_conn_id: str = default_conn_name,
        *,
        region: str | None = None,
        project_id: str | None = None,
    ) -> None:
        super().__init__()
        self.dli_conn_id = dli_conn_id
        self.region = region
        self.project_id = project_id
        self._client: DliClient | None = None

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the fields of the connection form, for Airflow before 3.2."""
        return compat.connection_form(_connection_type())

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the labels and the hidden fields of the connection form, for Airflow before 3.2."""
        return compat.connection_form_behaviour(_connection_type())

    def __getstate__(self) -> dict[str, Any]:
        # A copy has connections of its own.
        return {**self.__dict__, "_client": None, "_log": None}

    @property
    def client(self) -> DliClient:
        """What sends the calls of this hook; its connection is read when it is needed first."""
        if self._client is None:
            self._client = DliClient(Access(self._read_connection, self.log), self.log)
        return self._client

    def connect(self) -> DliConnection:
        """
        Read the connection and get a token, unless that was done: from then on a cancel is a single call.

        :raises DliValueError: A field of the connection is missing or contradicts another one.
        :raises DliAuthenticationError: IAM refuses the user.
        """
        return self.client.connect()

    def send(self, call: Call[T], *, give_up_after: float = 60.0) -> T:
        """
        Send a call and return what it reads from the answer.

        A temporary failure is repeated, with growing pauses or as long as ``Retry-After`` says, where a repeat
        does no harm. A void token is renewed once, and the connection is read again once when its credentials are
        refused; a refused signature is never repeated, for that locks the key.

        :param call: The call, such as ``sql.progress(job_id)``.
        :param give_up_after: Seconds after which no further try is started, 0 for a single one. Default 60.
        :raises DliError: It failed; the subclass says in what way.
        """
        return self.client.patient(Patience(give_up_after=give_up_after)).send(call)

    def submit_sql_job(
        self,
        statement: str,
        *,
        database: str | None = None,
        queue_name: str | None = None,
        conf: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Job:
        """
        Submit one SQL statement (API page "Submitting a SQL Job").

        Never repeated unless it is certain that nothing was started.

        :param statement: One SQL statement, in DLI's Spark dialect.
        :param database: Database of unqualified names; default is the connection's ``default_database``.
        :param queue_name: Queue of type ``sql``; default is the connection's ``default_queue``, then DLI's own.
        :param conf: Settings, such as ``{"spark.sql.shuffle.partitions": 200}``.
        :param tags: Labels for look-ups.
        :raises DliValueError: The statement is empty, or DLI refuses a name; nothing was sent.
        :raises DliTemporaryError: No answer. Unless ``nothing_started``, the job may run all the same.
        """
        connection = self.connect()
        return self.send(
            sql.submit(
                statement,
                database=database or connection.default_database,
                queue_name=queue_name or connection.default_queue,
                conf=conf,
                tags=tags,
            )
        )

    def get_job(self, job_id: str, kind: str = "sql") -> Job:
        """
        Ask DLI for the state of a job (API page "Querying Job Status", and its like of the other kinds).

        :param job_id: The job.
        :param kind: Its kind: ``"sql"``, ``"spark"`` or ``"flink"``.
        :raises DliNotFoundError: DLI knows no such job.
        """
        return self.client.job(_kind_of(kind), job_id)

    def cancel_job(self, job_id: str, kind: str = "sql") -> Cancellation:
        """
        Cancel a job (API page "Canceling a Job", and its like of the other kinds). One that is over is not an error.

        Repeated for a minute while the job is active, whatever DLI said; a second request goes out on a fresh
        connection when the first is not answered within a second. Cancelling twice does no harm. That DLI accepted it
        does not mean that the job is over: it may still finish. :meth:`wait_for_job` tells.

        :param job_id: The job.
        :param kind: Its kind: ``"sql"``, ``"spark"`` or ``"flink"``.
        :raises DliNotFoundError: DLI knows no such job.
        :raises DliPermissionError: The user may not cancel.
        :raises DliError: The time was over, and the job is still active, as far as is known.
        """
        return self.client.cancel(_kind_of(kind), job_id)

    def list_jobs(
        self,
        kind: str = "sql",
        *,
        status: str | None = None,
        queue_name: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[Job]:
        """
        List jobs, newest first, page by page as they are asked for (API page "Querying All Jobs").

        DLI shows at most 10,000 jobs per query; older ones are then asked for by their start time.

        :param kind: Kind of the jobs: ``"sql"``, ``"spark"`` or ``"flink"``.
        :param status: Only jobs in this state, such as ``RUNNING``.
        :param queue_name: Only jobs of this queue.
        :param tags: Only jobs with these tags, compared exactly. Of kinds without tags, what their jobs carry instead.
        """
        return self.client.jobs(_kind_of(kind), Query(tags=tags or {}, status=status, queue_name=queue_name))

    def wait_for_job(self, job_id: str, kind: str = "sql", *, poll_interval: float = 10.0) -> Job:
        """
        Wait until a job is over, however it ends, and return it.

        Asks often at first, then every ``poll_interval``. Bears it for 30 minutes when DLI does not answer.
        Logs changes of the state and the progress.

        :param job_id: The job.
        :param kind: Its kind: ``"sql"``, ``"spark"`` or ``"flink"``.
        :param poll_interval: Seconds between two status calls, at most. Default 10.
        :raises DliNotFoundError: DLI knows no such job.
        :raises DliTemporaryError: DLI has not answered for 30 minutes.
        """
        return wait_until_over(self.client, _kind_of(kind), job_id, poll_interval=poll_interval)

    def test_connection(self) -> tuple[bool, str]:
        """
        Tell whether the connection works, for Airflow's *Test* button and ``airflow connections test``.

        Reads one line of the list of jobs; that the user may not do so is no failure. The sentence says at which step
        it failed (the fields, IAM, DLI), with which host, and what to change.
        """
        client, step = DliClient(Access(self._read_connection, self.log), self.log, Patience(give_up_after=0)), "Fields"
        try:
            fields = client.access.connection()
            step = {
                "ak_sk": f"DLI at {fields.endpoint}",
                "metadata": f"The metadata service at {fields.metadata_endpoint}",
            }.get(fields.auth_type, f"IAM at {fields.iam_endpoint}")
            client.connect()
            step = f"DLI at {fields.endpoint}"
            try:
                client.send(sql.list_jobs(page_size=1))
            except DliPermissionError as error:
                if (error.code or "").endswith(_NO_RIGHT_HELPS):
                    raise
                may = "may not list jobs, which later tries of a task and the sweep need"
                return True, f"{step} answers, and knows {fields.user!r}, who {may}. {error}"
        except Exception as error:  # the edge of the button: everything becomes a sentence
            return False, f"{step}: {error}"
        return True, f"{step} answers, and {fields.user!r} may list the jobs of project {client.project_id(fields)}."

    def _read_connection(self) -> DliConnection:
        found = compat.connection(self.dli_conn_id)
        return DliConnection.from_airflow(found, region=self.region, project_id=self.project_id)


def _kind_of(name: str) -> JobKind[Any]:
    # All kinds are loaded only where one is asked for by its name: a DAG file pays for its own.
    from airflow_provider_dli.api.kinds import kind_of

    return kind_of(name)


def _connection_type() -> dict[str, Any]:
    from airflow_provider_dli.get_provider_info import get_provider_info

    return cast("dict[str, Any]", get_provider_info()["connection-types"][0])
