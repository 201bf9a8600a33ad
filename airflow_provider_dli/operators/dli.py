"""Operators: submit a SQL job, cancel jobs, sweep up the jobs that are left."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowTaskTimeout,
    BaseOperator,
    TaskDeferred,
)
from airflow.providers.common.compat.sdk import conf as airflow_config

from airflow_provider_dli import compat, identity, sweep
from airflow_provider_dli.api.jobs import JobState, checked_job_id
from airflow_provider_dli.deferral import deadline_of, defer_until_over, require_over
from airflow_provider_dli.earlier import Earlier, Verdict, differences, judge
from airflow_provider_dli.exceptions import (
    PERMANENT,
    DliAuthenticationError,
    DliError,
    DliJobError,
    DliNotFoundError,
    DliPermissionError,
    DliTaskKilledError,
    DliTemporaryError,
    DliValueError,
)
from airflow_provider_dli.hooks.dli import FIRST_POLL_INTERVAL, DliHook, JobWatcher, checked_poll_interval
from airflow_provider_dli.kill import KillSwitch
from airflow_provider_dli.links.dli import DliJobLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dli.api.jobs import Job

# How long a lost job is looked for: DLI's list may lag behind, in seconds.
LIST_LAG = 30.0
# How long a submit may take, refusals for load included, before its answer counts as lost, in seconds.
_SUBMIT_WITHIN = 240.0
# How long a killed task looks for its job when the answer to the submit got lost, in seconds.
_FIND_WITHIN = 3.0
# The states of a task that was killed while it ran. (Of a later try there is a process to see to the job.)
_KILLED = sweep.OVER | {sweep.GONE, "restarting"}
# How long a task that finds out by itself that it was killed waits until Airflow tells it, in seconds. Airflow 2 lets
# one that was marked as a success go on for 20 seconds.
_TOLD_WITHIN = 60.0
# DLI cancels a job by itself after this many seconds.
_JOB_TIMEOUT = "dli.sql.job.timeout"
_JOB_TIMEOUT_MARGIN = 60
_ON_EARLIER_JOB = ("reattach", "cancel", "ignore")
# The active states of which DLI can be asked for the jobs, one by one, and a job that was launched between the two
# questions is not missed. (SCALING jobs are a queue's own; a state that we do not know cannot be asked for.)
_SWEPT_STATES = ("LAUNCHING", "RUNNING")
# How long the sweep waits for the end of all jobs that it has cancelled, in seconds.
_CONFIRM_WITHIN = 300.0
# How long DLI may take to tell a resumed task how its job has ended, although its time is over, in seconds.
_TOLD_ONCE_MORE_WITHIN = 30.0
# How long the sweep repeats the cancel of one job, in seconds: there may be thousands, and it comes again.
_SWEPT_WITHIN = 5.0
_TIME_IS_OVER = "execution_timeout is over, the time in which the task was deferred included."
# The method that Airflow resumes a task with when its trigger crashed or was timed out.
_TRIGGER_FAILED = "__fail__"


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
        _refuse_queue(self, kwargs)
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

    def _connected_hook(self, watch: Callable[[], None] | None = None) -> DliHook:
        checked_poll_interval(self.poll_interval)
        hook = DliHook(self.dli_conn_id, region=self.region, project_id=self.project_id)
        hook.watch = watch or self._switch.check
        hook.connect()
        return hook

    @contextmanager
    def _failing_for_good(self) -> Iterator[None]:
        """
        Have Airflow not retry what no retry mends, and what would lock an account: refused credentials, a wrong field.

        Unless a job may be left running: then the next try is the one to take it over.
        """
        try:
            yield
        except PERMANENT as error:
            if self._may_leave_a_job:
                raise
            raise AirflowFailException(str(error)) from error

    @property
    def _may_leave_a_job(self) -> bool:
        """Whether a DLI job of this task may still run."""
        return self._switch.may_leave_a_job


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
        deferrable: bool = airflow_config.getboolean("operators", "default_deferrable", fallback=False),
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
        self.deferrable = deferrable
        self.job_id: str | None = None
        # Whether there may be a job that the switch does not follow yet: of an earlier try, or from before a deferral.
        self._may_have_a_job = False

    def execute(self, context: Context) -> str:
        """Submit the statement, or take up the job of an earlier try; wait for the job; return its id."""
        with self._failing_for_good():
            return self._execute(context)

    def _execute(self, context: Context) -> str:
        deadline = deadline_of(self)
        self._may_have_a_job = context["ti"].try_number > 1 and self.on_earlier_job != "ignore"
        if self._looks_for_earlier(context["ti"].try_number):
            # Killed before it comes to it, it still has to look for a job that an earlier try has left running.
            hook = self._connected_hook(watch=_watch_nothing)
            hook.watch = self._switch.check
        else:
            self._switch.check()
            hook = self._connected_hook()
        with self._cancelling(hook):
            mine = self._identity(hook, context)
            job = self._job_of_earlier_try(hook, mine)
            is_earlier = job is not None
            job = job or self._submit(hook, mine, deadline)
            return self._see_through(hook, context, job, deadline, is_earlier)

    def pre_execute(self, context: Context) -> None:
        """See to the job when the time is over before the task is resumed, where Airflow itself would just end it."""
        super().pre_execute(context)
        if compat.ends_before_resuming(context["ti"], self.execution_timeout):
            with self._resumed_without_event(context) as hook:
                if self._has_finished(hook) is None:
                    raise AirflowTaskTimeout(_TIME_IS_OVER)
                # The job has ended in time; only the worker comes late.
                self.execution_timeout = None

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """See to the job when the deferral itself has failed: the trigger crashed, or the scheduler ended it."""
        if next_method != _TRIGGER_FAILED:
            return super().resume_execution(next_method, next_kwargs, context)
        with self._failing_for_good(), self._resumed_without_event(context) as hook:
            if (job := self._has_finished(hook)) is not None:
                return job.id
            return super().resume_execution(next_method, next_kwargs, context)

    def execute_complete(
        self,
        context: Context,
        event: Mapping[str, Any] | None = None,
        *,
        job_id: str | None = None,
        deadline: float | None = None,
        is_earlier: bool = False,
    ) -> str:
        """
        Go on after the deferral; return the job id.

        :param event: What the trigger has fired.
        :param job_id: The job; by default, the one that the event tells of: ``dag.test()`` passes on nothing else.
        :param deadline: Seconds since the epoch at which ``execution_timeout`` is over.
        :param is_earlier: Whether an earlier try has submitted the job.
        """
        self.job_id = job_id or str((event or {})["job_ids"][0])
        with self._failing_for_good(), self._resumed() as hook:
            hook.watch = self._switch.check
            if (job := self._has_finished(hook)) is None:
                # The time is up for a job that still runs, not for one that waited for a worker to notice its end.
                require_over(event)
                # The trigger has seen the end: DLI gets a while to tell it once more.
                late = None if deadline is None else max(deadline, time.time() + _TOLD_ONCE_MORE_WITHIN)
                hook.watch = self._watch_until(late)
                job = hook.wait_for_job(self.job_id, poll_interval=self.poll_interval)
            return self._result(hook, context, job, deadline, is_earlier)

    def _has_finished(self, hook: DliHook) -> Job | None:
        """Return the job when it has ended well, as far as DLI tells right now."""
        if self.job_id is None:
            return None
        job = JobWatcher(hook, self.job_id).look()
        self._switch.check()  # a task that was killed meanwhile must not end well
        return job if job is not None and job.state.is_success else None

    @contextmanager
    def _cancelling(self, hook: DliHook) -> Iterator[None]:
        """Cancel the job of this task when it is killed here, or fails."""
        cancel = hook.for_thread(urgent=True).cancel_job if self.cancel_on_kill else None
        with self._switch.armed(cancel, self.log, hook.reread_connection):
            try:
                yield
            except TaskDeferred:
                self._switch.check()
                self._switch.stay_armed()
                raise
            except DliJobError:
                self._switch.check()  # a job that our own kill cancelled is not to blame
                raise
            except BaseException:
                self._switch.abandon()
                raise

    @contextmanager
    def _resumed_without_event(self, context: Context) -> Iterator[DliHook]:
        from airflow_provider_dli.questions import TaskInstanceKey, pushed_job_id

        # This operator is a new one, and Airflow hands it nothing else.
        self.job_id = pushed_job_id(TaskInstanceKey.of(context["ti"]))
        with self._resumed() as hook:
            yield hook

    @contextmanager
    def _resumed(self) -> Iterator[DliHook]:
        """Be ready to cancel the job of a task that is resumed, also when it was killed before it came to this."""
        self._may_have_a_job = True
        hook = self._connected_hook(watch=_watch_nothing)
        with self._cancelling(hook):
            if self.job_id is not None:
                self._switch.follow(self.job_id)
            self._may_have_a_job = False
            yield hook

    def _watch_until(self, deadline: float | None) -> Callable[[], None]:
        # A resumed task gets all of `execution_timeout` once more from Airflow.
        def watch() -> None:
            self._switch.check()
            if deadline is not None and time.time() > deadline:
                raise AirflowTaskTimeout(_TIME_IS_OVER)

        return watch

    def _see_through(
        self, hook: DliHook, context: Context, job: Job, deadline: float | None, is_earlier: bool = False
    ) -> str:
        """Wait for the job, here or in the triggerer; return its id."""
        self._announce(hook, context, job)
        if not self.wait_for_completion:
            return job.id
        if self.deferrable and _may_be_active(hook, job.id):
            if self.cancel_on_kill:
                self._check_before_deferral(context["ti"])
            defer_until_over(
                self,
                [job.id],
                poll_interval=self.poll_interval,
                deadline=deadline,
                cancel_on_kill=self.cancel_on_kill,
                kwargs={"job_id": job.id, "deadline": deadline, "is_earlier": is_earlier},
            )
        hook.watch = self._watch_in_last_try(context["ti"])
        job = hook.wait_for_job(job.id, poll_interval=self.poll_interval)
        return self._result(hook, context, job, deadline, is_earlier)

    def _watch_in_last_try(self, ti: Any) -> Callable[[], None]:
        # A task that has lost its supervisor cannot end well any more: Airflow will miss it, and call it failed. The
        # next try then takes up the job; nobody does after the last one.
        supervisor = compat.supervisor() if ti.try_number > ti.max_tries else None

        def watch() -> None:
            self._switch.check()
            if supervisor is not None and os.getppid() != supervisor:
                raise DliTaskKilledError("The task has lost Airflow's supervisor, and there is no next try.")

        return watch

    def _check_before_deferral(self, ti: Any) -> None:
        # Airflow tells a task of a kill only at its next heartbeat. One that asks to be deferred before gets a refusal
        # that it does not see, and ends, with nobody left to cancel its job.
        where = ti.run_id, ti.task_id, identity.map_index_of(ti)
        try:
            state = compat.task_states(ti.dag_id, [ti.run_id], [ti.task_id]).get(where, sweep.GONE)
        except Exception as error:  # the deferral will show whether Airflow is there
            self.log.warning("Airflow does not tell whether the task still runs, before it is deferred: %s", error)
            return
        if state not in _KILLED:
            return
        self.log.info("The task was killed before it was deferred: for Airflow it is %s.", state)
        self._switch.abandon()
        # Airflow 2 would take a failure for one that the user has not seen yet, and try again.
        end = time.monotonic() + _TOLD_WITHIN
        while not self._switch.killed and time.monotonic() < end:
            time.sleep(0.1)
        self._switch.check()

    def _result(self, hook: DliHook, context: Context, job: Job, deadline: float | None, is_earlier: bool) -> str:
        if is_earlier and job.state is JobState.CANCELLED:
            self._switch.check()
            self.log.warning("%s was cancelled by the end of the earlier try; submitting afresh, once.", job)
            self._switch.release()
            job = self._submit(hook, self._identity(hook, context), deadline)
            return self._see_through(hook, context, job, deadline)
        return job.require_success().id

    def _identity(self, hook: DliHook, context: Context) -> identity.Identity:
        ti, dag_run, connection = context["ti"], context["dag_run"], hook.connect()
        return identity.Identity(
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=identity.map_index_of(ti),
            statement_index=0,
            generation=identity.generation(dag_run.start_date, ti.max_tries),
            try_number=ti.try_number,
            owner="task" if self._owns_job else "detached",
            work=identity.work(
                self.sql,
                self.database or connection.default_database,
                self.queue_name or connection.default_queue,
                self._settings(),
            ),
            deployment=airflow_config.get("dli", "deployment", fallback=None) or None,
        )

    @property
    def _owns_job(self) -> bool:
        """Whether the job shall not outlive the task."""
        return self.wait_for_completion and self.cancel_on_kill

    def _settings(self) -> dict[str, Any]:
        """The author's settings; one that is None is left out."""
        return {name: value for name, value in _mapping("conf", self.conf).items() if value is not None}

    def _announce(self, hook: DliHook, context: Context, job: Job) -> None:
        """Make the job known to other tasks and people, whatever ``do_xcom_push`` says."""
        self.job_id = job.id
        context["ti"].xcom_push(key="job_id", value=job.id)
        if console_url := hook.connect().console_url:
            context["ti"].xcom_push(key=DliJobLink().xcom_key, value=console_url)

    def _submit(self, hook: DliHook, mine: identity.Identity, deadline: float | None) -> Job:
        sender = hook.for_thread(bounded=True)
        sender.watch = self._switch.raise_if_killed
        # All that a kill needs is there before anything is submitted: a token may end at any moment.
        searcher = hook.for_thread(urgent=True)
        submit = partial(
            sender.submit_sql_job,
            self.sql,
            database=self.database,
            queue_name=self.queue_name,
            conf={**self._settings(), **self._bound(deadline)},
            tags=identity.merged_tags(_mapping("tags", self.tags), mine.tags()),
        )
        tags = {identity.TI: mine.ti, identity.ATTEMPT: mine.attempt}

        def find(within: float = 0) -> list[str]:
            # Two threads may look.
            return [job.id for job in self._look(searcher.for_thread(urgent=True), tags, within)]

        try:
            try:
                job = self._switch.submit(submit, timeout=_SUBMIT_WITHIN, find=find)
            except DliAuthenticationError:
                # Refused, so nothing was started. The thread that sends must not ask Airflow for the connection itself.
                if not hook.reread_connection():
                    raise
                job = self._switch.submit(submit, timeout=_SUBMIT_WITHIN, find=find)
        except DliTemporaryError as error:
            if error.nothing_started:
                raise
            self._switch.search(partial(find, _FIND_WITHIN))
            job = self._find_submitted(hook, mine, tags, error)
        self._switch.check()
        self.log.info("Submitted %s to queue %s", job, job.queue_name or "default")
        return job

    def _bound(self, deadline: float | None) -> dict[str, int]:
        """Have DLI itself end the job when ``execution_timeout`` is over, so that even a dead Airflow stops paying."""
        if deadline is None or not self._owns_job or _JOB_TIMEOUT in _mapping("conf", self.conf):
            return {}
        return {_JOB_TIMEOUT: math.ceil(max(deadline - time.time(), 0) + _JOB_TIMEOUT_MARGIN)}

    def _find_submitted(self, hook: DliHook, mine: identity.Identity, tags: Mapping[str, str], lost: DliError) -> Job:
        """Find the job of this try by its tags, because the answer to its submit was lost."""
        self.log.warning("The answer to the submit was lost; looking for the job by its tags. %s", lost)
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

    def _look(
        self, hook: DliHook, tags: Mapping[str, str], patience: float, is_enough: Callable[[list[Job]], bool] = bool
    ) -> list[Job]:
        """Return the jobs with these tags, newest first; look again until they are enough, for the list may lag."""
        end = time.monotonic() + patience
        while True:
            jobs = list(hook.list_jobs(tags=tags))
            if is_enough(jobs) or time.monotonic() >= end:
                return jobs
            hook.pause(1)

    @property
    def _may_leave_a_job(self) -> bool:
        return self._may_have_a_job or super()._may_leave_a_job

    def _job_of_earlier_try(self, hook: DliHook, mine: identity.Identity) -> Job | None:
        """Return the job of an earlier try that serves this one too, if there is one; cancel what must not go on."""
        if self.on_earlier_job not in _ON_EARLIER_JOB:
            raise DliValueError(
                f"on_earlier_job must be one of {', '.join(_ON_EARLIER_JOB)}, not {self.on_earlier_job!r}.",
                field="on_earlier_job",
            )
        if not self._looks_for_earlier(mine.try_number):
            return None
        reuse = self.on_earlier_job == "reattach"
        searcher = hook.for_thread(urgent=True)
        # Killed while it looks, this task must not leave behind what it would have taken over.
        self._switch.search(lambda: _still_running(judge(searcher.list_jobs(tags={identity.TI: mine.ti}), mine, reuse)))
        found = judge(self._earlier_jobs(hook, mine, reuse), mine, reuse)
        # Killed while it cancels some of them, it must not leave the others behind either.
        self._switch.follow(*_still_running(found))
        self._may_have_a_job = False
        ended = self._cancel_earlier(hook, [earlier for earlier in found if earlier.verdict is Verdict.CANCEL])
        if ended:
            # One that has finished before its cancel came has done its work after all.
            found = judge([ended.get(earlier.job.id, earlier.job) for earlier in found], mine, reuse)
        serves = None
        for earlier in found:
            if earlier.verdict is Verdict.LEAVE:
                self.log.warning(
                    "%s carries the name of this task but was submitted in another DAG run of that name, maybe by "
                    "another Airflow: left alone. [dli] deployment, unlike in any other Airflow, tells them apart.",
                    earlier.job,
                )
            elif earlier.verdict in (Verdict.REATTACH, Verdict.RESULT):
                serves = earlier.job
                self._tell_of(hook, earlier, mine)
        if serves is None:
            self._switch.release()
        return serves

    def _tell_of(self, hook: DliHook, earlier: Earlier, mine: identity.Identity) -> None:
        job, number = earlier.job, earlier.attempt.try_number
        self.log.info(
            "%s of try %d is %s: this try %s instead of submitting again. To run it afresh on a retry, set "
            'on_earlier_job="cancel".',
            job,
            number,
            job.status,
            "waits for it" if job.state.is_active else "takes its result",
        )
        if earlier.attempt.work != mine.work:
            queue_name = self.queue_name or hook.connect().default_queue
            self.log.warning(
                "Try %d ran something else than this try would: %s. Its result counts all the same, for a second run "
                "would do its work twice. A template that differs from try to try, such as now() or try_number, is the "
                'usual reason; to run it afresh on a retry, set on_earlier_job="cancel".',
                number,
                differences(job, self.sql, queue_name),
            )

    def _looks_for_earlier(self, try_number: int) -> bool:
        return self.on_earlier_job != "ignore" and (try_number > 1 or not compat.TRY_1_IS_THE_FIRST)

    def _earlier_jobs(self, hook: DliHook, mine: identity.Identity, reuse: bool) -> list[Job]:
        # A job submitted just before its worker was lost may not be listed yet. The try before this one has one, unless
        # it took over what this one can take over too, or never came to its submit.
        def is_enough(jobs: list[Job]) -> bool:
            return any(
                _is_of(earlier.attempt, mine, mine.try_number - 1)
                or earlier.verdict in (Verdict.REATTACH, Verdict.RESULT)
                for earlier in judge(jobs, mine, reuse)
            )

        has_earlier = mine.try_number > 1
        try:
            return self._look(hook, {identity.TI: mine.ti}, LIST_LAG if has_earlier else 0, is_enough)
        except DliPermissionError as error:
            if not has_earlier:
                self.log.warning("Jobs that an uncounted earlier try has left running cannot be found: %s", error)
                return []
            raise DliPermissionError(
                f"{error} It is needed to look for a job of an earlier try, so that nothing runs twice; "
                'on_earlier_job="ignore" goes without.',
                status=error.status,
                code=error.code,
                request_id=error.request_id,
            ) from error

    def _cancel_earlier(self, hook: DliHook, unwanted: Sequence[Earlier]) -> dict[str, Job]:
        """Cancel these jobs, and return how they have ended, by id."""
        for earlier in unwanted:
            job = earlier.job
            self.log.info("Cancelling %s of try %d, which is %s.", job, earlier.attempt.try_number, job.status)
            hook.cancel_job(job.id)
        ended = {}
        for earlier in unwanted:
            job = hook.wait_for_job(earlier.job.id, poll_interval=self.poll_interval)
            self._switch.forget(earlier.job.id)
            # With the tags of the list, for a status call need not tell them.
            ended[earlier.job.id] = replace(earlier.job, state=job.state, status=job.status)
        return ended


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
    :param deferrable: Whether to wait in the triggerer, without a worker. Default: ``[operators] default_deferrable``.
    :raises DliNotFoundError: DLI knows no such job. The other jobs of a list are cancelled all the same.
    :raises DliJobError: With ``fail_if_finished``, a job was over before.
    """

    template_fields: Sequence[str] = ("job_id", "kind", "dli_conn_id", "region", "project_id")
    ui_color = "#fdecea"

    def __init__(
        self,
        *,
        job_id: str | Sequence[str],
        kind: str = "sql",
        fail_if_finished: bool = False,
        deferrable: bool = airflow_config.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.kind = kind
        self.fail_if_finished = fail_if_finished
        self.deferrable = deferrable

    def execute(self, context: Context) -> dict[str, str]:
        """Cancel the jobs, wait until they are over, return their end states by job id."""
        with self._failing_for_good():
            return self._run(deadline_of(self))

    def execute_complete(
        self, context: Context, event: Mapping[str, Any] | None = None, *, deadline: float | None = None
    ) -> dict[str, str]:
        """Return the end states after the deferral. To cancel once more what is over does no harm."""
        with self._failing_for_good():
            require_over(event)
            return self._run(deadline)

    def _run(self, deadline: float | None) -> dict[str, str]:
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
            if self.deferrable and (active := [job_id for job_id in states if _may_be_active(hook, job_id, self.kind)]):
                defer_until_over(
                    self,
                    active,
                    kind=self.kind,
                    poll_interval=self.poll_interval,
                    deadline=deadline,
                    kwargs={"deadline": deadline},
                )
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


def _is_of(attempt: identity.Attempt, mine: identity.Identity, try_number: int) -> bool:
    """Whether it is of this try of the same DAG run, and not of a run of that name in another Airflow."""
    return attempt.try_number == try_number and attempt.run_start == identity.run_start(mine.generation)


def _may_be_active(hook: DliHook, job_id: str, kind: str = "sql") -> bool:
    """Whether the job is worth a deferral; also when DLI does not answer, for the trigger waits that out."""
    job = JobWatcher(hook, job_id, kind).look()
    return job is None or job.state.is_active


def _still_running(found: Iterable[Earlier]) -> list[str]:
    """Return the ids of all jobs that a next try would take over or cancel."""
    ours = (Verdict.REATTACH, Verdict.CANCEL)
    return [earlier.job.id for earlier in found if earlier.verdict in ours]


def _refuse_queue(task: BaseOperator, arguments: Mapping[str, Any]) -> None:
    # A mapped task gets all of Airflow's own arguments, this one too.
    if "queue" in arguments and not getattr(task, "_BaseOperator__from_mapped", False):
        raise DliValueError(
            f"queue={arguments['queue']!r} is Airflow's own parameter: the queue of the worker. The queue of DLI is "
            "queue_name. (Airflow's can be set through default_args.)",
            field="queue",
        )


def _watch_nothing() -> None:
    """Let nothing end a wait."""


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


class DliCancelOrphanJobsOperator(_DliOperator):
    """
    Cancel the DLI jobs that no task waits for any more: what no process is left to do, a scheduled task does.

    Looks at the active jobs of this deployment (the option ``[dli] deployment``, without which it refuses to run) and
    cancels a job only if a task was to wait for its end, and the task instance is success, failed, skipped,
    upstream_failed, removed or gone from Airflow, or has submitted another job in a later try. A job whose task may
    still run or run again is left alone. Waits until the jobs are really over, and returns what became of which job, as
    a list of ``job``, ``dag``, ``run``, ``task``, ``map_index``, ``try``, ``age`` (seconds), ``verdict`` and ``why``
    (of the jobs that are simply left alone, the first hundred).

    Follows the pages "Querying All Jobs" and "Canceling a Job" of the DLI API Reference.

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
    """

    template_fields: Sequence[str] = ("queue_name", "dli_conn_id", "region", "project_id")
    ui_color = "#fdecea"

    def __init__(
        self,
        *,
        queue_name: str | None = None,
        older_than: timedelta | float = timedelta(minutes=5),
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.queue_name = queue_name
        self.older_than = older_than
        # Not `dry_run`: every operator of Airflow has a method of that name.
        self.only_tell = dry_run

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Find the orphans, cancel them, return what became of the active jobs."""
        with self._failing_for_good():
            return self._execute()

    def _execute(self) -> list[dict[str, Any]]:
        self._switch.check()
        deployment = _required_deployment()
        age = _checked_age(self.older_than)
        hook = self._connected_hook()
        candidates = self._active_jobs(hook, deployment)
        report = sweep.Report(time.time())
        try:
            self._sweep(hook, candidates, age, report)
        finally:
            self.log.info("%s", report)
        self._switch.check()
        if failures := report.failures():
            raise DliError(f"The sweep could not do all of its work; the rest is done.\n{failures}")
        return report.rows

    def _active_jobs(self, hook: DliHook, deployment: str) -> list[sweep.Candidate]:
        """Return the active jobs of this deployment, oldest first."""
        tags = {identity.DEPLOYMENT: identity.escape(deployment)}
        found = {}
        for status in _SWEPT_STATES:
            for job in hook.list_jobs(status=status, queue_name=self.queue_name, tags=tags):
                if (candidate := sweep.candidate(job, deployment)) is not None:
                    found[job.id] = candidate
        return sorted(found.values(), key=lambda candidate: candidate.submitted or 0)

    def _sweep(
        self, hook: DliHook, candidates: Sequence[sweep.Candidate], age: timedelta, report: sweep.Report
    ) -> None:
        later_tries = sweep.superseded(candidates)
        cancelled: dict[str, tuple[sweep.Candidate, str]] = {}
        for candidate, judgement in self._judged(candidates, age, later_tries):
            if judgement.verdict is sweep.Verdict.ORPHAN:
                judgement = self._cancel(hook, candidate, judgement, later_tries)
            if judgement.verdict is sweep.Verdict.CANCELLED and self.wait_for_completion:
                cancelled[candidate.job_id] = candidate, judgement.why
            else:
                report.add(candidate, judgement)
        for candidate, judgement in self._confirmed(hook, cancelled):
            report.add(candidate, judgement)

    def _judged(
        self, candidates: Sequence[sweep.Candidate], age: timedelta, later_tries: Mapping[str, int]
    ) -> Iterator[tuple[sweep.Candidate, sweep.Judgement]]:
        now, to_ask = time.time(), []
        for candidate in candidates:
            if judgement := sweep.exempt(candidate, now, age):
                yield candidate, judgement
            else:
                to_ask.append(candidate)
        for question in sweep.questions(to_ask):
            yield from self._ask(question, later_tries)

    def _ask(
        self, question: sweep.Question, later_tries: Mapping[str, int]
    ) -> Iterator[tuple[sweep.Candidate, sweep.Judgement]]:
        """Ask Airflow for the states of task instances, and judge their jobs."""
        self._switch.check()
        try:
            states = compat.task_states(question.dag_id, question.run_ids, [question.task_id])
        except Exception as error:  # of another kind in every Airflow; the other jobs shall be swept all the same
            self.log.exception("No states of task %s of DAG %s.", question.task_id, question.dag_id)
            why = f"Airflow did not tell the state of its task instance: {error}"
            for candidate in question.candidates:
                yield candidate, sweep.Judgement(sweep.Verdict.STATE_UNKNOWN, why)
            return
        self._switch.check()
        for candidate in question.candidates:
            state = states.get((candidate.run_id, candidate.task_id, candidate.map_index), sweep.GONE)
            yield candidate, sweep.judge(candidate, state, later_tries.get(candidate.job_id))

    def _cancel(
        self,
        hook: DliHook,
        candidate: sweep.Candidate,
        judgement: sweep.Judgement,
        later_tries: Mapping[str, int],
    ) -> sweep.Judgement:
        if self.only_tell:
            return judgement._replace(verdict=sweep.Verdict.WOULD_BE_CANCELLED)
        # Minutes may have passed since Airflow was asked, for other jobs are cancelled first. Whoever clears the task
        # meanwhile gets a new generation, as a rule, whose try cancels this job itself. But when `retries` in the DAG
        # file was lowered, a clear can bring the old generation back, and its try takes up this very job. So one more
        # small question for each orphan, right before its cancel.
        [(_, judgement)] = self._ask(sweep.Question(candidate.dag_id, candidate.task_id, [candidate]), later_tries)
        if judgement.verdict is not sweep.Verdict.ORPHAN:
            return judgement
        try:
            cancellation = hook.cancel_job(candidate.job_id, give_up_after=_SWEPT_WITHIN)
        except (DliTaskKilledError, DliAuthenticationError):
            raise
        except DliNotFoundError:
            return sweep.Judgement(sweep.Verdict.OVER, "DLI does not know it any more")
        except DliError as error:
            self.log.error("%s", error)
            return sweep.Judgement(sweep.Verdict.NOT_CANCELLED, str(error))
        self.log.info("Cancel of job %s (%s): %s.", candidate.job_id, judgement.why, cancellation)
        if cancellation.accepted:
            return judgement._replace(verdict=sweep.Verdict.CANCELLED)
        return sweep.Judgement(sweep.Verdict.OVER, f"{cancellation.state} before the cancel")

    def _confirmed(
        self, hook: DliHook, cancelled: dict[str, tuple[sweep.Candidate, str]]
    ) -> Iterator[tuple[sweep.Candidate, sweep.Judgement]]:
        """Wait until the cancelled jobs are over, all together for 5 minutes at most."""
        end = time.monotonic() + _CONFIRM_WITHIN
        interval = min(FIRST_POLL_INTERVAL, self.poll_interval)
        waiting = dict(cancelled)
        while waiting:
            for job_id, (candidate, why) in list(waiting.items()):
                if judgement := self._end(hook, job_id, why, is_last_look=time.monotonic() >= end):
                    del waiting[job_id]
                    yield candidate, judgement
            if waiting:
                hook.pause(interval)
                interval = min(interval * 1.5, self.poll_interval)

    def _end(self, hook: DliHook, job_id: str, why: str, *, is_last_look: bool) -> sweep.Judgement | None:
        """Tell how a cancelled job ended; None when it has not, and there is time to look again."""
        try:
            job = hook.get_job(job_id, give_up_after=0)
            if job.state is JobState.CANCELLED:
                return sweep.Judgement(sweep.Verdict.CANCELLED, why)
            if not job.state.is_active:
                return sweep.Judgement(sweep.Verdict.OVER, f"{job.status} in spite of the cancel")
            problem = f"it is still {job.status} {sweep.in_words(_CONFIRM_WITHIN)} later"
        except DliNotFoundError:
            return sweep.Judgement(sweep.Verdict.OVER, "DLI does not know it any more")
        except (DliTaskKilledError, DliAuthenticationError):
            raise
        except DliError as error:
            problem = str(error)
            is_last_look = is_last_look or not isinstance(error, DliTemporaryError)
        if not is_last_look:
            return None
        return sweep.Judgement(sweep.Verdict.NOT_CANCELLED, f"DLI accepted the cancel, but {problem}")


def _required_deployment() -> str:
    deployment = airflow_config.get("dli", "deployment", fallback=None)
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
    return str(deployment)


def _checked_age(older_than: timedelta | float) -> timedelta:
    with suppress(TypeError, ValueError, OverflowError):
        age = older_than if isinstance(older_than, timedelta) else timedelta(seconds=older_than)
        if age >= timedelta():
            return age
    raise DliValueError(
        f"older_than must be a timedelta, or a number of seconds, of 0 or more, not {older_than!r}.", field="older_than"
    )
