"""The operator that cancels jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import machine, story
from airflow_provider_dli.api.kinds import kind_of
from airflow_provider_dli.exceptions import DliAuthenticationError, DliError, DliJobError, DliValueError
from airflow_provider_dli.job import Goal, JobState
from airflow_provider_dli.operators.base import DEFERRABLE, DliOperator
from airflow_provider_dli.story import Told
from airflow_provider_dli.tasks.deferral import Deferral, deadline_of, require_over
from airflow_provider_dli.waiting.watcher import has_to_be_waited_for, may_be_cancelled, wait_until_stopped

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dli.api.job_kind import JobKind
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.compat import Templated


class DliCancelJobOperator(DliOperator):
    """
    Cancel one or more DLI jobs and wait until they are really over.

    A job that is cancelled satisfies it, by whomever it was; so its own retry does no harm. One that finished or
    failed before does too, unless ``fail_if_finished``. Returns the end state of every job, by its id (with
    ``wait_for_completion=False``, the state that is known).

    Follows the page "Canceling a Job" of the DLI API Reference.

    :param job_id: The job, or a list of jobs. (templated)
    :param kind: Kind of the jobs: ``"sql"``, ``"spark"`` or ``"flink"``. Default ``"sql"``. (templated)
    :param fail_if_finished: Whether to fail when a job FINISHED or FAILED instead of being cancelled. Default False.
    :param dli_conn_id: Airflow connection of type ``dli``. Default ``dli_default``. (templated)
    :param region: Takes the place of the connection's ``region``. (templated)
    :param project_id: Takes the place of the connection's ``project_id``. (templated)
    :param poll_interval: Seconds between two status calls, at most. Default 10.
    :param wait_for_completion: Whether to wait until the jobs are over. Default True; otherwise the task is done
        when DLI has accepted the cancels, and a job may still finish.
    :param deferrable: Whether to wait in the triggerer, without a worker. Default: ``[operators] default_deferrable``.
    :raises DliNotFoundError: DLI knows no such job. The other jobs of a list are cancelled all the same.
    :raises DliJobError: With ``fail_if_finished``, a job was over before.
    """

    template_fields: Sequence[str] = ("job_id", "kind", "dli_conn_id", "region", "project_id")
    #: Whether the state of the jobs is saved before.
    with_savepoint = False
    ui_color = "#fdecea"

    def __init__(
        self,
        *,
        job_id: Templated[str | int | Sequence[str | int]],
        kind: Templated[str] = "sql",
        fail_if_finished: bool = False,
        deferrable: bool = DEFERRABLE,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id: Any = job_id
        self.kind: Any = kind
        self.fail_if_finished = fail_if_finished
        self.deferrable = deferrable

    def execute(self, context: Context) -> dict[str, str]:
        """Cancel the jobs, wait until they are over, return their end states by job id."""
        with self.failing_for_good():
            return self._cancel_all(Deferral(deadline=deadline_of(self)))

    def execute_complete(
        self, context: Context, event: Mapping[str, Any] | None = None, **crossed: Any
    ) -> dict[str, str]:
        """Return the end states after the deferral. Cancelling again what is over does no harm."""
        with self.failing_for_good():
            require_over(event)
            return self._cancel_all(Deferral.resumed(event, crossed))

    def _cancel_all(self, deferral: Deferral) -> dict[str, str]:
        self.switch.check()
        kind = kind_of(self.kind)
        job_ids = self._checked_job_ids(kind)
        client = self.client(self.switch.check)
        client.connect()
        client.introduce()
        states: dict[str, str] = {}
        waiting: dict[str, Told] = {}
        accepted = set(deferral.cancelled)
        errors: list[DliError] = []
        for job_id in job_ids:
            try:
                cancellation = client.cancel(kind, job_id, with_savepoint=self.with_savepoint)
                self.log.info("%s", story.cancelled(kind.named(job_id), cancellation))
                states[job_id] = str(cancellation.state or "accepted")
                if cancellation.state is not JobState.CREATED:
                    waiting[job_id] = Told()
                accepted.update([job_id] if cancellation.accepted else [])
            except (DliAuthenticationError, DliValueError):
                raise
            except DliError as error:
                self.log.error("%s", story.not_cancelled(kind.named(job_id), error))
                errors.append(error)
        if self.wait_for_completion:
            if self.may_defer and (active := self._still_active(client, kind, waiting)):
                Deferral(tuple(active), deferral.deadline, cancelled=tuple(accepted)).begin(
                    self, kind.name, poll_interval=self.poll_interval, goal=Goal.STOPPED
                )
            for job_id, told in waiting.items():
                try:
                    job = wait_until_stopped(client, kind, job_id, poll_interval=self.poll_interval, told=told)
                except DliJobError as error:
                    errors.append(error)
                    continue
                is_cancelled = job.is_reset or (job_id in accepted and may_be_cancelled(kind, job))
                states[job_id] = str(JobState.CANCELLED if is_cancelled else job.state)
        if errors:
            raise errors[0]
        if self.fail_if_finished:
            _require_cancelled(states)
        return states

    def _still_active(self, client: DliClient, kind: JobKind[Any], waiting: Mapping[str, Told]) -> list[str]:
        """Return the jobs that a deferral is worth, after a short wait for all."""
        end = machine.monotonic() + Deferral.worker_waits
        return [
            job_id
            for job_id, told in waiting.items()
            if has_to_be_waited_for(client, kind, job_id, told, Goal.STOPPED, within=end - machine.monotonic())
        ]

    def _checked_job_ids(self, kind: JobKind[Any]) -> list[str]:
        job_ids = [self.job_id] if isinstance(self.job_id, (str, int)) else self.job_id
        if not isinstance(job_ids, Sequence) or not job_ids:
            raise DliValueError(
                f"job_id must be a job id or a list of at least one, not {self.job_id!r}.", field="job_id"
            )
        # All are looked at before the first is cancelled: a slip in one id must not end half way.
        found = [str(job_id) if isinstance(job_id, int) else job_id for job_id in job_ids]
        for job_id in found:
            kind.stop(job_id)
        return list(dict.fromkeys(found))


def _require_cancelled(states: Mapping[str, str]) -> None:
    too_late = [f"{job_id} ({state})" for job_id, state in states.items() if state in ("FINISHED", "FAILED")]
    if too_late:
        raise DliJobError(f"Not cancelled, because over before: {', '.join(too_late)}.")
