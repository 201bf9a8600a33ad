"""The sensor: waits for a job that another task, or somebody else, has submitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowSkipException, BaseSensorOperator
from airflow.providers.common.compat.sdk import conf as airflow_config

from airflow_provider_dli.api.jobs import checked_job_id
from airflow_provider_dli.deferral import deadline_of, defer_until_over, require_over
from airflow_provider_dli.exceptions import DliJobError, DliTemporaryError
from airflow_provider_dli.hooks.dli import DliHook

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dli.api.jobs import Job


class DliJobSensor(BaseSensorOperator):
    """
    Wait until a DLI job has finished; fail early when it failed or was cancelled.

    The job is not the sensor's: however the sensor ends, it is left alone. An outage of DLI is waited out, for as
    long as the sensor's ``timeout`` allows.

    Follows the page "Querying Job Status" of the DLI API Reference.

    :param job_id: The job. (templated)
    :param kind: Its family: ``"sql"``. Default ``"sql"``. (templated)
    :param dli_conn_id: Airflow connection of type ``dli``. Default ``dli_default``. (templated)
    :param region: Takes the place of the connection's ``region``. (templated)
    :param project_id: Takes the place of the connection's ``project_id``. (templated)
    :param deferrable: Whether to wait in the triggerer. Default: ``[operators] default_deferrable``.
    :param poke_interval: Seconds between two status calls; deferred, at most. Default 60, as of all sensors.
    :param mode: ``"poke"`` (default) or ``"reschedule"``, as of all sensors.
    :param timeout: Seconds to wait in all, as of all sensors.
    :raises DliJobError: The job failed or was cancelled; with ``soft_fail``, the sensor is skipped instead.
    :raises DliNotFoundError: DLI knows no such job.
    """

    template_fields: Sequence[str] = ("job_id", "kind", "dli_conn_id", "region", "project_id")
    ui_color = "#e8f4fd"

    def __init__(
        self,
        *,
        job_id: str,
        kind: str = "sql",
        dli_conn_id: str = DliHook.default_conn_name,
        region: str | None = None,
        project_id: str | None = None,
        deferrable: bool = airflow_config.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.kind = kind
        self.dli_conn_id = dli_conn_id
        self.region = region
        self.project_id = project_id
        self.deferrable = deferrable

    def execute(self, context: Context) -> Any:
        """Wait for the job, here or in the triggerer."""
        if not self.deferrable:
            return super().execute(context)
        deadline = deadline_of(self)
        if not self.poke(context):
            defer_until_over(
                self,
                [self.job_id],
                kind=self.kind,
                poll_interval=self.poke_interval,
                deadline=deadline,
                timeout=self.timeout,
            )
        return None

    def poke(self, context: Context) -> bool:
        """Tell whether the job has finished."""
        try:
            job = self._hook().get_job(checked_job_id(self.job_id), self.kind)
        except DliTemporaryError as error:
            self.log.warning("DLI does not answer; asking again. %s", error)
            return False
        self.log.info("%s is %s", job, job.status)
        return not job.state.is_active and self._has_finished(job)

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> None:
        """Look at how the job ended, after the deferral."""
        require_over(event)
        self._has_finished(self._hook().wait_for_job(self.job_id, self.kind))

    def _has_finished(self, job: Job) -> bool:
        try:
            job.require_success()
        except DliJobError as error:
            if self.soft_fail:
                raise AirflowSkipException(str(error)) from error
            raise
        return True

    def _hook(self) -> DliHook:
        return DliHook(self.dli_conn_id, region=self.region, project_id=self.project_id)
