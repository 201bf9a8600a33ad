"""The operators that start and stop Flink jobs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_provider_dli.api import checks
from airflow_provider_dli.api import flink as api
from airflow_provider_dli.api.flink_definition import FIELDS, FlinkDefinition
from airflow_provider_dli.exceptions import DliError
from airflow_provider_dli.job import Goal, goal_of
from airflow_provider_dli.operators.base import DliJobOperator
from airflow_provider_dli.operators.cancel import DliCancelJobOperator

if TYPE_CHECKING:
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.client.connection import DliConnection
    from airflow_provider_dli.compat import Templated
    from airflow_provider_dli.job import Job
    from airflow_provider_dli.xcoms import Place


class DliStartFlinkJobOperator(DliJobOperator):
    """
    Create a Flink job and start it, or start one that exists; wait until it runs, or until it has finished.

    When the task is killed before that, the job is stopped. A streaming job that is only started belongs to nobody
    afterwards: neither a later kill nor the sweep stops it, but :class:`DliStopFlinkJobOperator` does. When the answer
    to the create or the start is lost, the job is looked up instead of being created or started twice. Returns the id
    of the job, and pushes it as XCom ``job_id`` as soon as it is known.

    Give either ``job_id``, or ``job_type`` with the rest of the definition. A job that exists and runs already is not
    started again, and a kill leaves it alone.

    Follows the chapter "APIs Related to Flink Jobs" of the DLI API Reference.

    :param job_id: A job that exists. (templated)
    :param job_type: ``"flink_opensource_sql_job"`` or ``"flink_jar_job"``. (templated)
    :param name: Beginning of the name of the job, up to 23 letters, digits, ``-`` and ``_``; default are the ids of DAG
        and task. What the job is found by is appended. (templated)
    :param sql_body: SQL job: its statements, or a path to a ``.sql`` file. (templated)
    :param entrypoint: JAR job: the JAR, as an ``obs://`` path or, before Flink 1.15, the name of a package in DLI.
        (templated)
    :param main_class: JAR job: its main class. (templated)
    :param args: JAR job: its arguments; they are joined with blanks. (templated)
    :param dependency_jars: JAR job: JARs that it needs. (templated)
    :param dependency_files: JAR job: other files that it needs. (templated)
    :param queue_name: Queue of type ``general``; default is the connection's ``default_queue``. (templated)
    :param run_mode: SQL job: ``"exclusive_cluster"`` (default), the only one for a job on a queue.
    :param flink_version: Version of Flink, such as ``1.15``. (templated)
    :param cu_number: CUs of the job, that of the job manager included. DLI's default is 2. (templated)
    :param manager_cu_number: CUs of the job manager. DLI's default is 1. (templated)
    :param parallel_number: Tasks that run at the same time. DLI's default is 1. (templated)
    :param tm_cus: CUs of a task manager. DLI's default is 1. (templated)
    :param tm_slot_num: Slots of a task manager. DLI's default follows from the numbers above. (templated)
    :param resource_config_version: ``"v1"`` (DLI's default), with the CUs above, or ``"v2"``, with ``resource_config``.
    :param resource_config: With ``"v2"``: slots, parallelism, and cores and memory of the managers. (templated)
    :param checkpoint_enabled: Whether DLI makes checkpoints. DLI's default is not to.
    :param checkpoint_mode: 1 for exactly once (DLI's default), 2 for at least once.
    :param checkpoint_interval: Seconds between two checkpoints. DLI's default is 10. (templated)
    :param checkpoint_path: JAR job: ``obs://`` path of the program's own checkpoints; not with ``checkpoint_enabled``.
        (templated)
    :param resume_checkpoint: Whether DLI starts a job that failed from its last checkpoint. DLI's default is not to.
    :param resume_max_num: How often an hour DLI does so; -1 for without limit, which is DLI's default.
    :param restart_when_exception: Whether DLI starts a job again that failed. DLI's default is not to.
    :param obs_bucket: Bucket of checkpoints and logs, which need it. (templated)
    :param log_enabled: Whether the logs of the job are written to ``obs_bucket``. DLI's default is not to.
    :param runtime_config: Settings of Flink. (templated)
    :param execution_agency_urn: Agency of the job; Flink 1.15 and later need one. (templated)
    :param smn_topic: Topic of notifications when the job fails. (templated)
    :param tags: Tags of the job, up to 20. (templated)
    :param resume_savepoint: Whether to start from the latest savepoint. Default False.
    :param wait_for: ``"running"`` (default) or ``"finished"``: a bounded job finishes, a streaming job never does.
    :param start_timeout: How long the job may take until it runs. Default 15 minutes; None for any time.
    :param cancel_on_kill: Whether a killed or failing task stops the job. Default True.
    :param stop_with_savepoint: Whether its state is saved then. Default False.
    :param delete_on_finish: With ``wait_for="finished"``: whether to delete the job once it has finished. Default
        False.
    :param dli_conn_id: Airflow connection of type ``dli``. Default ``dli_default``. (templated)
    :param region: Takes the place of the connection's ``region``. (templated)
    :param project_id: Takes the place of the connection's ``project_id``. (templated)
    :param poll_interval: Seconds between two status calls, at most. Default 10.
    :param deferrable: Whether to wait in the triggerer, without a worker. Default: ``[operators] default_deferrable``.
    :param wait_for_completion: Whether to wait at all. Default True; otherwise the task is done when DLI has accepted
        the start.
    :param on_earlier_job: What a later try does with the job of an earlier one: ``"reattach"`` (default), ``"cancel"``
        or ``"ignore"``; see :class:`.DliSubmitSqlJobOperator`.
    :raises DliJobError: The job failed or was stopped.
    :raises DliError: DLI could not be reached or refused the job, or it has not started in time.
    :raises AirflowFailException: What no retry mends, and no job is left: a wrong field, a certificate that does not
        verify, refused credentials, a missing right.
    """

    job_kind = api.KIND
    template_fields: Sequence[str] = (
        "job_id",
        "job_type",
        "name",
        "sql_body",
        "entrypoint",
        "main_class",
        "args",
        "dependency_jars",
        "dependency_files",
        "queue_name",
        "flink_version",
        "cu_number",
        "manager_cu_number",
        "parallel_number",
        "tm_cus",
        "tm_slot_num",
        "resource_config",
        "checkpoint_interval",
        "checkpoint_path",
        "obs_bucket",
        "runtime_config",
        "execution_agency_urn",
        "smn_topic",
        "tags",
        "dli_conn_id",
        "region",
        "project_id",
    )
    template_ext: Sequence[str] = (".sql",)
    file_fields: ClassVar[Collection[str]] = ("sql_body",)
    template_fields_renderers = {
        "sql_body": "sql",
        "args": "json",
        "resource_config": "json",
        "runtime_config": "json",
        "tags": "json",
    }

    def __init__(
        self,
        *,
        job_id: Templated[str | int] | None = None,
        job_type: Templated[str] | None = None,
        name: Templated[str] | None = None,
        sql_body: Templated[str] | None = None,
        entrypoint: Templated[str] | None = None,
        main_class: Templated[str] | None = None,
        args: Templated[Sequence[str]] | None = None,
        dependency_jars: Templated[Sequence[str]] | None = None,
        dependency_files: Templated[Sequence[str]] | None = None,
        queue_name: Templated[str] | None = None,
        run_mode: str | None = None,
        flink_version: Templated[str] | None = None,
        cu_number: Templated[int] | None = None,
        manager_cu_number: Templated[int] | None = None,
        parallel_number: Templated[int] | None = None,
        tm_cus: Templated[int] | None = None,
        tm_slot_num: Templated[int] | None = None,
        resource_config_version: str | None = None,
        resource_config: Templated[Mapping[str, Any]] | None = None,
        checkpoint_enabled: bool | None = None,
        checkpoint_mode: int | None = None,
        checkpoint_interval: Templated[int] | None = None,
        checkpoint_path: Templated[str] | None = None,
        resume_checkpoint: bool | None = None,
        resume_max_num: int | None = None,
        restart_when_exception: bool | None = None,
        obs_bucket: Templated[str] | None = None,
        log_enabled: bool | None = None,
        runtime_config: Templated[Mapping[str, Any]] | None = None,
        execution_agency_urn: Templated[str] | None = None,
        smn_topic: Templated[str] | None = None,
        tags: Templated[Mapping[str, Any]] | None = None,
        resume_savepoint: bool = False,
        wait_for: Literal["running", "finished"] = "running",
        start_timeout: timedelta | None = timedelta(minutes=15),
        stop_with_savepoint: bool = False,
        delete_on_finish: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # The job that the task waits for, too.
        self.job_id: Any = job_id
        self.job_type: Any = job_type
        self.name: Any = name
        self.sql_body: Any = sql_body
        self.entrypoint: Any = entrypoint
        self.main_class: Any = main_class
        self.args: Any = args
        self.dependency_jars: Any = dependency_jars
        self.dependency_files: Any = dependency_files
        self.queue_name: Any = queue_name
        self.run_mode = run_mode
        self.flink_version: Any = flink_version
        self.cu_number: Any = cu_number
        self.manager_cu_number: Any = manager_cu_number
        self.parallel_number: Any = parallel_number
        self.tm_cus: Any = tm_cus
        self.tm_slot_num: Any = tm_slot_num
        self.resource_config_version = resource_config_version
        self.resource_config: Any = resource_config
        self.checkpoint_enabled = checkpoint_enabled
        self.checkpoint_mode = checkpoint_mode
        self.checkpoint_interval: Any = checkpoint_interval
        self.checkpoint_path: Any = checkpoint_path
        self.resume_checkpoint = resume_checkpoint
        self.resume_max_num = resume_max_num
        self.restart_when_exception = restart_when_exception
        self.obs_bucket: Any = obs_bucket
        self.log_enabled = log_enabled
        self.runtime_config: Any = runtime_config
        self.execution_agency_urn: Any = execution_agency_urn
        self.smn_topic: Any = smn_topic
        self.tags: Any = tags
        self.resume_savepoint = resume_savepoint
        self.wait_for = wait_for
        self.start_timeout = start_timeout
        self.stop_with_savepoint = stop_with_savepoint
        self.delete_on_finish = delete_on_finish

    @property
    def goal(self) -> Goal:
        """What the task waits for."""
        return goal_of(self.wait_for)

    @property
    def creates_job(self) -> bool:
        """Whether the task creates its job; else it starts one that exists."""
        return bool(self.job_type)

    def work(self, connection: DliConnection) -> api.FlinkWork:
        """Return what is to be started, with what the connection adds to it."""
        if self.delete_on_finish and self.goal is not Goal.FINISHED:
            raise checks.refuse("delete_on_finish", 'goes with wait_for="finished" only.')
        if self.start_timeout is not None and not isinstance(self.start_timeout, timedelta):
            raise checks.refuse("start_timeout", f"must be a timedelta or None, not {self.start_timeout!r}.")
        parameters = {name: getattr(self, name) for name in FIELDS}
        given = [name for name, value in parameters.items() if value not in (None, "")]
        if self.job_id is None:
            if not self.creates_job:
                raise checks.refuse("job_id", "or job_type (with the rest of a definition) is missing: give one.")
            parameters["queue_name"] = self.queue_name or connection.default_queue
            return api.FlinkWork(FlinkDefinition(**parameters), resume_savepoint=self.resume_savepoint)
        if given:
            raise checks.refuse("job_id", f"names a job that exists: {', '.join(given)} cannot go with it.")
        return api.FlinkWork(existing=str(checks.job_number(self.job_id)), resume_savepoint=self.resume_savepoint)

    def finish(self, client: DliClient, job: Job, ti: Any, place: Place) -> None:
        """Delete the job, where that is asked for."""
        if not self.delete_on_finish:
            return
        try:
            client.send(api.delete(job.id))
            self.log.info("Deleted %s.", job)
        except DliError as error:  # the work is done all the same
            self.log.warning("%s has finished, but could not be deleted: %s", job, error)


class DliStopFlinkJobOperator(DliCancelJobOperator):
    """
    Stop one or more Flink jobs and wait until they have really stopped.

    A job that does not run satisfies it, so its own retry does no harm. A stop that fails is repeated once; then the
    task fails. Returns the end state of every job, by its id.

    Follows the page "Batch Stopping Jobs" of the DLI API Reference.

    :param job_id: The job, or a list of jobs. (templated)
    :param stop_with_savepoint: Whether to save the state of the jobs first; a job whose state cannot be saved is
        stopped all the same. Default False.
    :param dli_conn_id: Airflow connection of type ``dli``. Default ``dli_default``. (templated)
    :param region: Takes the place of the connection's ``region``. (templated)
    :param project_id: Takes the place of the connection's ``project_id``. (templated)
    :param poll_interval: Seconds between two status calls, at most. Default 10.
    :param wait_for_completion: Whether to wait until the jobs have stopped. Default True; otherwise the task is done
        when DLI has accepted the stops.
    :param deferrable: Whether to wait in the triggerer, without a worker. Default: ``[operators] default_deferrable``.
    :raises DliNotFoundError: DLI knows no such job. The other jobs of a list are stopped all the same.
    :raises DliJobError: A job could not be stopped, and may still run.
    """

    template_fields: Sequence[str] = ("job_id", "dli_conn_id", "region", "project_id")

    def __init__(
        self, *, job_id: Templated[str | int | Sequence[str | int]], stop_with_savepoint: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(job_id=job_id, kind=api.KIND.name, **kwargs)
        self.stop_with_savepoint = stop_with_savepoint
        self.with_savepoint = stop_with_savepoint
