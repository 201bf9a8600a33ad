"""The operator that cancels the jobs which no task waits for any more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import compat, identity
from airflow_provider_dli.api import checks
from airflow_provider_dli.api.kinds import KINDS, kind_of
from airflow_provider_dli.exceptions import DliError, DliValueError
from airflow_provider_dli.operators.base import DliOperator
from airflow_provider_dli.task_instances import OLDER_THAN

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dli.compat import Templated


class DliCancelOrphanJobsOperator(DliOperator):
    """
    Cancel the DLI jobs that no task waits for any more: what no process is left to do, a scheduled task does.

    Looks at the active jobs of this deployment (the option ``[dli] deployment``, without which it refuses to run) and
    cancels a job only if a task was to wait for its end, and the task instance is success, failed, skipped,
    upstream_failed, removed or gone from Airflow, or has submitted another job in a later try. A job whose task may
    still run or run again is left alone. Waits until the jobs are really over, and returns what became of which job, as
    a list of ``job``, ``dag``, ``run``, ``task``, ``map_index``, ``try``, ``age`` (seconds), ``verdict`` and ``why``
    (of the jobs that are simply left alone, the first hundred).

    Follows the pages on listing and cancelling jobs of the DLI API Reference.

    :param kinds: Kinds of the jobs. Default: all, ``["sql", "spark", "flink"]``. (templated)
    :param queue_name: Only jobs of this queue; default is all queues. (templated)
    :param older_than: Jobs that were submitted less than this long ago are left alone: a timedelta, or seconds. Default
        5 minutes.
    :param dry_run: Whether to only tell what would be cancelled. Default False.
    :param dli_conn_id: Airflow connection of type ``dli``. Default ``dli_default``. (templated)
    :param region: Takes the place of the connection's ``region``. (templated)
    :param project_id: Takes the place of the connection's ``project_id``. (templated)
    :param poll_interval: Seconds between two status calls, at most. Default 10.
    :param wait_for_completion: Whether to wait until the jobs are over, for 5 minutes at most. Default True; otherwise
        the task is done when DLI has accepted the cancels.
    :raises DliValueError: ``[dli] deployment`` is not set.
    :raises DliError: Some jobs could not be cancelled, or Airflow did not tell the states of their task instances. All
        others were swept before.
    :raises DliPermissionError: The user may not list the jobs of a kind. The jobs of all others were swept before.
    :raises DliNotFoundError: DLI does not know the list of a kind. The jobs of all others were swept before.
    """

    template_fields: Sequence[str] = ("kinds", "queue_name", "dli_conn_id", "region", "project_id")
    ui_color = "#fdecea"

    def __init__(
        self,
        *,
        kinds: Templated[Sequence[str]] = tuple(KINDS),
        queue_name: Templated[str] | None = None,
        older_than: timedelta | float = OLDER_THAN,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kinds: Any = kinds
        self.queue_name: Any = queue_name
        self.older_than = older_than
        # Not `dry_run`: every operator of Airflow has a method of that name.
        self.only_tell = dry_run

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Find the orphans, cancel them, return what became of the active jobs."""
        from airflow_provider_dli.sweep.walk import Walk

        with self.failing_for_good():
            self.switch.check()
            deployment, age = _required_deployment(), _checked_age(self.older_than)
            kinds = [kind_of(name) for name in checks.texts("kinds", self.kinds) or ()]
            client = self.client(self.switch.check)
            client.introduce()
            walk = Walk(
                client,
                deployment,
                older_than=age,
                only_tell=self.only_tell,
                confirm=self.wait_for_completion,
                poll_interval=self.poll_interval,
                kinds=kinds,
            )
            try:
                walk.go(self.queue_name)
            finally:
                self.log.info("%s", walk.report)
            self.switch.check()
            if failures := walk.report.failures():
                raise DliError(f"The sweep could not do all of its work; the rest is done.\n{failures}")
            for refusal in walk.refusals:
                text = f"{refusal} The jobs of the other kinds were swept; `kinds` leaves one out for good."
                raise type(refusal)(text, status=refusal.status, code=refusal.code, request_id=refusal.request_id)
            return walk.report.rows


def _required_deployment() -> str:
    deployment = compat.deployment()
    if not deployment:
        raise DliValueError(
            "The option `deployment` in section [dli] of Airflow's configuration is not set, and without it the sweep "
            "cannot tell the jobs of this Airflow from those of another one. Set it (AIRFLOW__DLI__DEPLOYMENT in the "
            "environment) to a name that no other Airflow uses which sees the same DLI projects; jobs that are "
            "submitted from then on carry it.",
            field="deployment",
        )
    if identity.unescape(identity.escape(deployment)) is None:
        raise DliValueError(
            "The option `deployment` in section [dli] of Airflow's configuration is too long for a tag: cut, "
            "it could be mistaken for another one. Use a shorter name.",
            field="deployment",
        )
    return deployment


def _checked_age(older_than: timedelta | float) -> timedelta:
    with suppress(TypeError, ValueError, OverflowError):
        age = older_than if isinstance(older_than, timedelta) else timedelta(seconds=older_than)
        if age >= timedelta():
            return age
    raise DliValueError(
        f"older_than must be a timedelta, or a number of seconds, of 0 or more, not {older_than!r}.", field="older_than"
    )
