"""Operators: submit a SQL job, cancel jobs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import BaseOperator
from airflow.providers.common.compat.sdk import conf as airflow_config

from airflow_provider_dli import identity
from airflow_provider_dli.api.jobs import JobState, checked_job_id
from airflow_provider_dli.earlier import Earlier, Verdict, judge
from airflow_provider_dli.exceptions import (
    DliAuthenticationError,
    DliError,
    DliJobError,
    DliPermissionError,
    DliTaskKilledError,
    DliTemporaryError,
    DliValueError,
)
from airflow_provider_dli.hooks.dli import DliHook, checked_poll_interval
from airflow_provider_dli.kill import KillSwitch
from airflow_provider_dli.links.dli import DliJobLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dli.api.jobs import Job

# How long a lost job is looked for: DLI's list may lag behind, in seconds.
LIST_LAG = 30.0
# How long a submit may take, refusals for load included, before its answer counts as lost, in seconds.
_SUBMIT_WITHIN = 240.0
# How long the cancel of a killed task's job waits for an answer before it tries again, in seconds.
_CANCEL_TIMEOUT = 3.0
# DLI cancels a job by itself after this many seconds.
_JOB_TIMEOUT = "dli.sql.job.timeout"
_JOB_TIMEOUT_MARGIN = 60
_ON_EARLIER_JOB = ("reattach", "cancel", "ignore")


class _DliOperator(BaseOperator):
    """What all operators have in common: a connection, and an end that comes soon when they are killed."""

    def __init__(
        self,
        *,
        dli_conn_id: str = DliHook.default_conn_name,
        region: str | None = None,
        project_id: str | None = None,
        poll_interval: float = 10.0,
        wait_for_completion: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dli_conn_id = dli_conn_id
        self.region = region
        self.project_id = project_id
        self.poll_interval = poll_interval
        self.wait_for_completion = wait_for_completion

    @property
    def _switch(self) -> KillSwitch:
        # Made on demand, for an operator is copied and pickled and a switch cannot be; in one step, for a kill may come
        # between two.
        switch: KillSwitch = self.__dict__.setdefault("_kill_switch", KillSwitch())
        return switch

    def on_kill(self) -> None:
        """Cancel the job, if this task waits for one, and end the task soon. Called by Airflow, at any moment."""
        self._switch.pull()

    def _connected_hook(self) -> DliHook:
        checked_poll_interval(self.poll_interval)
        hook = DliHook(self.dli_conn_id, region=self.region, project_id=self.project_id)
        hook.watch = self._switch.check
        hook.connect()
        return hook


class DliSubmitSqlJobOperator(_DliOperator):
    """
    Submit one SQL statement to DLI and wait until it is done.

    When the task is killed, in whatever way, the job is cancelled. When the answer to the submit is lost, the job
    is looked up by its tags instead of being submitted again. Returns the job id, and pushes it as XCom ``job_id``
    as soon as it is known.

    Follows the chapter "APIs Related to SQL Jobs" of the DLI API Reference.

    :param sql: One statement in DLI's Spark dialect, or a path to a ``.sql`` file. (templated)
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
    :param wait_for_completion: Whether to wait for the end of the job. Default True; otherwise the task is done
        when DLI has the job, and nothing cancels it afterwards.
    :param cancel_on_kill: Whether a killed or failing task cancels its job. Default True.
    :param on_earlier_job: What a later try does with the job of an earlier one. ``"reattach"`` (default): an automatic
        retry waits for a job that still runs, and takes the result of one that has finished, if it runs the same; a
        cleared task cancels what still runs and runs again. ``"cancel"``: cancel what still runs, run again.
        ``"ignore"``: do not look; needs no right to list jobs, but a job may then run twice.
    :raises DliJobError: The job failed or was cancelled.
    :raises DliError: DLI could not be reached or refused the job.
    """

    template_fields: Sequence[str] = (
        "sql",
        "database",
        "queue_name",
        "conf",
        "tags",
        "dli_conn_id",
        "region",
        "project_id",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers = {"sql": "sql", "conf": "json", "tags": "json"}
    operator_extra_links = (DliJobLink(),)
    ui_color = "#e8f4fd"

    def __init__(
        self,
        *,
        sql: str,
        database: str | None = None,
        queue_name: str | None = None,
        conf: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        cancel_on_kill: bool = True,
        on_earlier_job: Literal["reattach", "cancel", "ignore"] = "reattach",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sql = sql
        self.database = database
        self.queue_name = queue_name
        self.conf = conf
        self.tags = tags
        self.cancel_on_kill = cancel_on_kill
        self.on_earlier_job = on_earlier_job
        self.job_id: str | None = None

    def execute(self, context: Context) -> str:
        """Submit the statement, or take up the job of an earlier try; wait for the job; return its id."""
        begun = time.monotonic()
        self._switch.check()
        hook = self._connected_hook()
        canceller = hook.for_thread(timeout=_CANCEL_TIMEOUT)
        with self._switch.armed(canceller.cancel_job if self.cancel_on_kill else None, self.log):
            try:
                mine = self._identity(hook, context)
                job = self._job_of_earlier_try(hook, mine)
                reattached = job is not None
                job = job or self._submit(hook, mine, begun)
                self._announce(hook, context, job)
                if not self.wait_for_completion:
                    return job.id
                job = hook.wait_for_job(job.id, poll_interval=self.poll_interval)
                if reattached and job.state is JobState.CANCELLED:
                    self._switch.check()
                    self.log.warning("%s was cancelled by the end of the earlier try; submitting afresh, once.", job)
                    self._switch.release()
                    job = self._submit(hook, mine, begun)
                    self._announce(hook, context, job)
                    job = hook.wait_for_job(job.id, poll_interval=self.poll_interval)
                return job.require_success().id
            except DliJobError:
                self._switch.check()  # a job that our own kill cancelled is not to blame
                raise
            except BaseException:
                self._switch.abandon()
                raise

    def _identity(self, hook: DliHook, context: Context) -> identity.Identity:
        ti, dag_run, connection = context["ti"], context["dag_run"], hook.connect()
        waits: Literal["task", "detached"] = "task" if self.wait_for_completion and self.cancel_on_kill else "detached"
        return identity.Identity(
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=-1 if ti.map_index is None else ti.map_index,
            statement_index=0,
            generation=identity.generation(dag_run.start_date, ti.max_tries),
            try_number=ti.try_number,
            owner=waits,
            work=identity.work(
                self.sql,
                self.database or connection.default_database,
                self.queue_name or connection.default_queue,
                self._settings(),
            ),
            deployment=airflow_config.get("dli", "deployment", fallback=None) or None,
        )

    def _settings(self) -> dict[str, Any]:
        """The author's settings; one that is None is left out."""
        return {name: value for name, value in _mapping("conf", self.conf).items() if value is not None}

    def _announce(self, hook: DliHook, context: Context, job: Job) -> None:
        """Make the job known to other tasks and people, whatever ``do_xcom_push`` says."""
        self.job_id = job.id
        context["ti"].xcom_push(key="job_id", value=job.id)
        if console_url := hook.connect().console_url:
            context["ti"].xcom_push(key=DliJobLink().xcom_key, value=console_url)

    def _submit(self, hook: DliHook, mine: identity.Identity, begun: float) -> Job:
        sender = hook.for_thread()
        sender.watch = self._switch.check
        submit = partial(
            sender.submit_sql_job,
            self.sql,
            database=self.database,
            queue_name=self.queue_name,
            conf={**self._settings(), **self._bound(begun)},
            tags=identity.merged_tags(_mapping("tags", self.tags), mine.tags()),
        )
        try:
            job = self._switch.submit(submit, timeout=_SUBMIT_WITHIN)
        except DliTemporaryError as error:
            if error.nothing_started:
                raise
            job = self._find_submitted(hook, mine, error)
        self._switch.check()
        self.log.info("Submitted %s to queue %s", job, job.queue_name or "default")
        return job

    def _bound(self, begun: float) -> dict[str, int]:
        """Have DLI itself end the job when ``execution_timeout`` is over, so that even a dead Airflow stops paying."""
        waits = self.wait_for_completion and self.cancel_on_kill
        if not self.execution_timeout or not waits or _JOB_TIMEOUT in _mapping("conf", self.conf):
            return {}
        left = self.execution_timeout.total_seconds() - (time.monotonic() - begun)
        return {_JOB_TIMEOUT: math.ceil(max(left, 0) + _JOB_TIMEOUT_MARGIN)}

    def _find_submitted(self, hook: DliHook, mine: identity.Identity, lost: DliError) -> Job:
        """Find the job of this try by its tags, because the answer to its submit was lost."""
        self.log.warning("The answer to the submit was lost; looking for the job by its tags. %s", lost)
        tags = {identity.TI: mine.ti, identity.ATTEMPT: mine.attempt}
        searcher = hook.for_thread(timeout=_CANCEL_TIMEOUT)
        self._switch.search(lambda: next((job.id for job in self._look(searcher, tags, _CANCEL_TIMEOUT)), None))
        try:
            job = next(iter(self._look(hook, tags, LIST_LAG)), None)
        except (DliTaskKilledError, DliValueError):
            raise
        except DliError as error:
            raise _lost_job(mine, f"and the list of jobs cannot be read: {error}") from lost
        if job is None:
            raise _lost_job(mine, f"and DLI lists no job of this try within {LIST_LAG:.0f} s") from lost
        self._switch.follow(job.id)
        self.log.info("Found %s, which DLI had started.", job)
        return job

    def _look(self, hook: DliHook, tags: Mapping[str, str], patience: float) -> list[Job]:
        """Return the jobs with these tags, newest first; look again while there is none, for the list may lag."""
        end = time.monotonic() + patience
        while True:
            jobs = list(hook.list_jobs(tags=tags))
            if jobs or time.monotonic() >= end:
                return jobs
            hook.pause(1)

    def _job_of_earlier_try(self, hook: DliHook, mine: identity.Identity) -> Job | None:
        """Return the job of an earlier try that serves this one too, if there is one; cancel what must not go on."""
        if self.on_earlier_job not in _ON_EARLIER_JOB:
            raise DliValueError(
                f"on_earlier_job must be one of {', '.join(_ON_EARLIER_JOB)}, not {self.on_earlier_job!r}.",
                field="on_earlier_job",
            )
        if mine.try_number < 2 or self.on_earlier_job == "ignore":
            return None
        serves = None
        for earlier in judge(self._earlier_jobs(hook, mine), mine, reuse=self.on_earlier_job == "reattach"):
            job, number = earlier.job, earlier.attempt.try_number
            if earlier.verdict is Verdict.CANCEL:
                self._cancel_earlier(hook, earlier)
            elif earlier.verdict is Verdict.LEAVE:
                self.log.warning(
                    "%s carries the name of this task but was submitted in another DAG run of that name, maybe by "
                    "another Airflow: left alone. [dli] deployment, unlike in any other Airflow, tells them apart.",
                    job,
                )
            elif earlier.verdict in (Verdict.REATTACH, Verdict.RESULT):
                serves = job
                self.log.info(
                    "%s of try %d is %s: this try %s instead of submitting again. To run it afresh on a retry, set "
                    'on_earlier_job="cancel".',
                    job,
                    number,
                    job.status,
                    "waits for it" if job.state.is_active else "takes its result",
                )
        if serves is not None:
            self._switch.follow(serves.id)
        return serves

    def _earlier_jobs(self, hook: DliHook, mine: identity.Identity) -> list[Job]:
        # A job submitted just before its worker was lost may not be listed yet. An orderly end leaves no such job, and
        # Airflow retries no sooner than this.
        patience = max(0.0, LIST_LAG - self.retry_delay.total_seconds())
        try:
            return self._look(hook, {identity.TI: mine.ti}, patience)
        except DliPermissionError as error:
            raise DliPermissionError(
                f"{error} It is needed to look for a job of an earlier try, so that nothing runs twice; "
                'on_earlier_job="ignore" goes without.',
                status=error.status,
                code=error.code,
                request_id=error.request_id,
            ) from error

    def _cancel_earlier(self, hook: DliHook, earlier: Earlier) -> None:
        job = earlier.job
        self.log.info("Cancelling %s of try %d, which is %s.", job, earlier.attempt.try_number, job.status)
        # Killed meanwhile, this task must not leave it running either.
        self._switch.follow(job.id)
        hook.cancel_job(job.id)
        hook.wait_for_job(job.id, poll_interval=self.poll_interval)
        self._switch.release()


class DliCancelJobOperator(_DliOperator):
    """
    Cancel one or more DLI jobs and wait until they are really over.

    A job that is cancelled satisfies it, by whomever it was; so its own retry does no harm. One that finished or
    failed before does too, unless ``fail_if_finished``. Returns the end state of every job, by its id (with
    ``wait_for_completion=False``, the state that is known).

    Follows the page "Canceling a Job" of the DLI API Reference.

    :param job_id: The job, or a list of jobs. (templated)
    :param kind: Family of the jobs: ``"sql"``. Default ``"sql"``. (templated)
    :param fail_if_finished: Whether to fail when a job FINISHED or FAILED instead of being cancelled. Default False.
    :param dli_conn_id: Airflow connection of type ``dli``. Default ``dli_default``. (templated)
    :param region: Takes the place of the connection's ``region``. (templated)
    :param project_id: Takes the place of the connection's ``project_id``. (templated)
    :param poll_interval: Seconds between two status calls, at most. Default 10.
    :param wait_for_completion: Whether to wait until the jobs are over. Default True; otherwise the task is done
        when DLI has accepted the cancels, and a job may still finish.
    :raises DliNotFoundError: DLI knows no such job. The other jobs of a list are cancelled all the same.
    :raises DliJobError: With ``fail_if_finished``, a job was over before.
    """

    template_fields: Sequence[str] = ("job_id", "kind", "dli_conn_id", "region", "project_id")
    ui_color = "#fdecea"

    def __init__(
        self, *, job_id: str | Sequence[str], kind: str = "sql", fail_if_finished: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.kind = kind
        self.fail_if_finished = fail_if_finished

    def execute(self, context: Context) -> dict[str, str]:
        """Cancel the jobs, wait until they are over, return their end states by job id."""
        self._switch.check()
        job_ids = [self.job_id] if isinstance(self.job_id, str) else self.job_id
        if not isinstance(job_ids, Sequence) or not job_ids:
            raise DliValueError(
                f"job_id must be a job id or a list of at least one, not {self.job_id!r}.", field="job_id"
            )
        # All are looked at before the first is cancelled: a slip in one id must not end half way.
        unique = list(dict.fromkeys(checked_job_id(job_id) for job_id in job_ids))
        hook = self._connected_hook()
        states: dict[str, str] = {}
        errors: list[DliError] = []
        for job_id in unique:
            try:
                states[job_id] = self._cancel(hook, job_id)
            except (DliAuthenticationError, DliValueError):
                raise
            except DliError as error:
                self.log.error("%s", error)
                errors.append(error)
        if self.wait_for_completion:
            states = {job_id: self._end_state(hook, job_id) for job_id in states}
        if errors:
            raise errors[0]
        if self.fail_if_finished:
            _require_cancelled(states)
        return states

    def _cancel(self, hook: DliHook, job_id: str) -> str:
        cancellation = hook.cancel_job(job_id, self.kind)
        self.log.info("Cancel of job %s: %s.", job_id, cancellation)
        return str(cancellation.state or "accepted")

    def _end_state(self, hook: DliHook, job_id: str) -> str:
        return str(hook.wait_for_job(job_id, self.kind, poll_interval=self.poll_interval).state)


def _require_cancelled(states: Mapping[str, str]) -> None:
    too_late = [f"{job_id} ({state})" for job_id, state in states.items() if state in ("FINISHED", "FAILED")]
    if too_late:
        raise DliJobError(f"Not cancelled, because over before: {', '.join(too_late)}.")


def _mapping(field: str, value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise DliValueError(f"{field} must be a mapping of names to values, not {value!r}.", field=field)
    return value or {}


def _lost_job(mine: identity.Identity, problem: str) -> DliError:
    return DliError(
        f"The answer to the submit was lost, {problem}. The job may run all the same: look in the DLI console for "
        f"a job with the tag {identity.TI} = {mine.ti} and cancel it if it is there. It was not submitted again, so "
        "that nothing runs twice."
    )
