"""The sensor: waits for a job that another task, or someone else, has submitted."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
)
from airflow.providers.common.compat.sdk import conf as airflow_config

from airflow_provider_dli import machine
from airflow_provider_dli.api.kinds import kind_of
from airflow_provider_dli.exceptions import PERMANENT, DliError, DliJobError, DliTemporaryError
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.job import Goal, goal_of
from airflow_provider_dli.tasks.deferral import Deferral, deadline_of, require_over, says_over
from airflow_provider_dli.tasks.of_hook import is_in_another_task
from airflow_provider_dli.waiting.watcher import WatchedJob

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dli.compat import Templated
    from airflow_provider_dli.job import Job

# Seconds between two status calls of a trigger, at least: Airflow allows a sensor 0, which would ask without a pause.
_SHORTEST_INTERVAL = 1.0


class DliJobSensor(BaseSensorOperator):
    """
    Wait until a DLI job has finished, or runs; fail early when it failed or was cancelled.

    The job is not the sensor's: however the sensor ends, it is left alone. An outage of DLI is waited out, for as
    long as the sensor's ``timeout`` allows. What the triggerer cannot wait for (because it lacks the connection, or
    DLI is away for more than 30 minutes), the sensor waits for in the worker.

    Airflow's three ways to go easy on a sensor are the same in all modes, deferred or not:

    - ``soft_fail`` skips it when the job failed or was cancelled, or when time is over (``timeout``,
      ``execution_timeout``). Other errors, such as a job that DLI does not know or refused credentials, fail it.
    - ``never_fail`` skips it on all of these.
    - ``silent_fail`` logs an error of a status call, and asks again; the end of the job and of the time count.

    Follows the page "Querying Job Status" of the DLI API Reference.

    :param job_id: The job. (templated)
    :param kind: Its kind: ``"sql"``, ``"spark"`` or ``"flink"``. Default ``"sql"``. (templated)
    :param wait_for: ``"finished"`` (default) or ``"running"``: a streaming job never finishes. (templated)
    :param dli_conn_id: Airflow connection of type ``dli``. Default ``dli_default``. (templated)
    :param region: Takes the place of the connection's ``region``. (templated)
    :param project_id: Takes the place of the connection's ``project_id``. (templated)
    :param deferrable: Whether to wait in the triggerer. Default: ``[operators] default_deferrable``.
    :param poke_interval: Seconds between two status calls; deferred, at most, and then 1 where it is less (Airflow
        allows 0). Default 60, as of all sensors.
    :param mode: ``"poke"`` (default) or ``"reschedule"``, as of all sensors.
    :param timeout: Seconds to wait in all, as of all sensors.
    :raises DliJobError: The job failed or was cancelled.
    :raises DliNotFoundError: DLI knows no such job.
    :raises AirflowFailException: What no retry mends: a wrong field, refused credentials, a missing right.
    """

    template_fields: Sequence[str] = ("job_id", "kind", "wait_for", "dli_conn_id", "region", "project_id")
    ui_color = "#e8f4fd"

    def __init__(
        self,
        *,
        job_id: Templated[str | int],
        kind: Templated[str] = "sql",
        wait_for: Templated[str] = Goal.FINISHED,
        dli_conn_id: Templated[str] = DliHook.default_conn_name,
        region: Templated[str] | None = None,
        project_id: Templated[str] | None = None,
        deferrable: bool = airflow_config.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id: Any = job_id
        self.kind: Any = kind
        self.wait_for: Any = wait_for
        self.dli_conn_id: Any = dli_conn_id
        self.region: Any = region
        self.project_id: Any = project_id
        self.deferrable = deferrable
        self._job: Job | None = None
        self._watched: WatchedJob | None = None

    def execute(self, context: Context) -> None:
        """Wait for the job, here or in the triggerer."""
        with self._skipped_where_asked():
            if self.deferrable and not is_in_another_task(self):
                self._defer_unless_over(context)
            else:
                super().execute(context)
            self._require_success()

    def poke(self, context: Context) -> bool:
        """Tell whether the job is over, however it ended, or is what is waited for."""
        goal = goal_of(self.wait_for)
        hook = DliHook(self.dli_conn_id, region=self.region, project_id=self.project_id)
        try:
            self._job = hook.get_job(self._checked_job_id(), self.kind)
        except DliTemporaryError as error:
            self.log.warning("DLI does not answer; asking again. %s", error)
            return False
        watched = self._watch()
        watched.heard(self._job)
        return watched.ends_wait(self._job, goal)

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None, **crossed: Any) -> None:
        """
        Look at how the job ended, after the deferral.

        :param event: What the trigger has fired.
        :param crossed: See :class:`.Deferral`.
        """
        give_up_at = Deferral.resumed(event, crossed).give_up_at
        try:
            require_over(event)
        except DliError as error:
            self.log.warning("Waiting for the job in the worker. %s", error)
        # What has ended the wait of the trigger ends this one too.
        self._watch().has_started = says_over(event)
        if give_up_at is not None:
            self.timeout = max(give_up_at - machine.time(), 0)
        # Airflow guards `execute` against calls from other methods. The first poke is the last, usually.
        inspect.unwrap(BaseSensorOperator.execute)(self, context)
        self._require_success()

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral. Called by Airflow."""
        with self._skipped_where_asked():
            error = str((next_kwargs or {}).get("error", ""))
            if next_method == "__fail__" and "timeout" in error:
                # Airflow 2 would retry it.
                raise AirflowSensorTimeout(error)
            return super().resume_execution(next_method, next_kwargs, context)

    def _defer_unless_over(self, context: Context) -> None:
        deadline, give_up_at = deadline_of(self), machine.time() + self.timeout
        try:
            is_over = self.poke(context)
        except Exception:
            if not self.silent_fail:
                raise
            self.log.exception("Sensor poke failed")
            is_over = False
        if not is_over:
            Deferral((self._checked_job_id(),), deadline, give_up_at=give_up_at).begin(
                self,
                self.kind,
                poll_interval=max(self.poke_interval, _SHORTEST_INTERVAL),
                goal=goal_of(self.wait_for),
            )

    def _watch(self) -> WatchedJob:
        self._watched = self._watched or WatchedJob(str(self.job_id), self.log)
        return self._watched

    def _require_success(self) -> None:
        if self._job is not None:
            self._job.require(goal_of(self.wait_for))

    def _checked_job_id(self) -> str:
        # Kinds differ in what an id is: building the call checks it.
        job_id = str(self.job_id) if isinstance(self.job_id, int) else self.job_id
        kind_of(self.kind).status(job_id)
        return job_id

    @contextlib.contextmanager
    def _skipped_where_asked(self) -> Iterator[None]:
        """Skip the task instead of failing it, where ``soft_fail`` or ``never_fail`` says so."""
        try:
            yield
        except (AirflowSkipException, AirflowRescheduleException):
            raise
        except (DliJobError, AirflowSensorTimeout, AirflowTaskTimeout) as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(error)) from error
            raise
        except Exception as error:
            if self.never_fail:
                raise AirflowSkipException(str(error)) from error
            if isinstance(error, PERMANENT):
                raise AirflowFailException(str(error)) from None
            raise
