"""Brings one try of a task that runs a DLI job to its end, here or across a deferral; the job may be of any kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowTaskTimeout, TaskDeferred

from airflow_provider_dli import compat, machine, xcoms
from airflow_provider_dli.client.patience import URGENT, watch_nothing
from airflow_provider_dli.exceptions import DliJobError, DliTaskKilledError
from airflow_provider_dli.task_instances import GONE, OVER, TaskInstanceKey
from airflow_provider_dli.tasks.deferral import Deferral, deadline_of, require_over
from airflow_provider_dli.tasks.start import start
from airflow_provider_dli.tasks.takeover import looks_for_earlier, take_up
from airflow_provider_dli.tasks.this_try import ThisTry
from airflow_provider_dli.waiting.watcher import JobWatcher, may_be_active, may_be_cancelled, wait_until_over

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.job import Job
    from airflow_provider_dli.tasks.this_try import JobTask

# The states of a task that was killed while it ran. (A later try has a process that takes care of the job.)
_KILLED = OVER | {GONE, "restarting"}
# How long a task that has found out that it was killed waits for Airflow to signal it, in seconds. Airflow 2 lets a
# task that was marked as a success run for 20 seconds more.
_TOLD_WITHIN = 60.0
# How long a resumed task whose time is over may still ask DLI how its job has ended, in seconds.
_TOLD_ONCE_MORE_WITHIN = 30.0
_TIME_IS_OVER = "execution_timeout is over, the time in which the task was deferred included."


class JobRun:
    """
    One try of a task that runs a job.

    :param task: The operator.
    :param context: Airflow's context of the try.
    """

    def __init__(self, task: JobTask, context: Context) -> None:
        self._task = task
        self._switch = task.switch
        self._context = context
        self._ti: Any = context["ti"]

    def begin(self) -> str:
        """Take up the job of an earlier try, or start one; wait for it; return its id."""
        deadline = deadline_of(self._task)  # type: ignore[arg-type]
        number = self._ti.try_number
        self._switch.expects_a_job = number > 1 and self._task.on_earlier_job != "ignore"
        if looks_for_earlier(self._task, number):
            # Killed before it comes to it, it still has to look for a job that an earlier try has left running.
            client = self._connected(watch_nothing).watching(self._switch.check)
        else:
            self._switch.check()
            client = self._connected(self._switch.check)
        with self._cancelling(client):
            this = ThisTry.of(self._task, client, self._context, deadline)
            job = take_up(this)
            is_earlier = job is not None
            return self._see_through(client, job or start(this), deadline, is_earlier)

    def resume(self, event: Mapping[str, Any] | None, deferral: Deferral) -> str:
        """Continue after a deferral that its trigger has ended; return the job id."""
        [self._task.job_id] = deferral.job_ids
        job_id, deadline = self._task.job_id, deferral.deadline
        with self._resumed() as client:
            if (job := self._has_finished(client)) is None:
                # A job that still runs has used up its time; one that finished and waited for a worker has not.
                require_over(event)
                # The trigger has seen the end: DLI gets a while to report it again.
                late = None if deadline is None else max(deadline, machine.time() + _TOLD_ONCE_MORE_WITHIN)
                job = self._wait(client.watching(self._watch_until(late)), job_id)
            return self._result(client, job, deadline, deferral.is_earlier)

    def resume_without_event(self) -> str | None:
        """
        Take care of the job of a deferral that the trigger has not ended.

        :return: The job id when the job has finished in time; None when the task has to fail.
        """
        # This operator is a new one, and Airflow hands it nothing else.
        self._task.job_id = xcoms.announced_job_id(TaskInstanceKey.of(self._ti))
        with self._resumed() as client:
            job = self._has_finished(client)
            if job is None:
                self._switch.abandon()
            return None if job is None else job.id

    def end_before_resuming(self) -> None:
        """
        Take care of the job when its time is over before the task is resumed, where Airflow would just end the task.

        :raises AirflowTaskTimeout: The job has not finished in time.
        """
        if compat.ends_before_resuming(self._ti, self._task.execution_timeout):
            if self.resume_without_event() is None:
                raise AirflowTaskTimeout(_TIME_IS_OVER)
            # The job has ended in time; only the worker was late.
            self._task.execution_timeout = None

    def _connected(self, watch: Callable[[], None]) -> DliClient:
        client = self._task.client(watch)
        client.connect()
        return client

    @contextmanager
    def _cancelling(self, client: DliClient) -> Iterator[None]:
        """Cancel the job of this task when it is killed here, or fails."""
        cancel = None
        if self._task.cancel_on_kill:
            urgent, kind = client.for_thread(URGENT), self._task.job_kind

            def cancel(job_id: str) -> Any:
                return urgent.cancel(kind, job_id)

        with self._switch.armed(cancel, self._task.log, client.access.reread):
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
    def _resumed(self) -> Iterator[DliClient]:
        """Be ready to cancel the job of a task that is resumed, also when it was killed before it came to this."""
        self._switch.expects_a_job = True
        client = self._connected(watch_nothing).watching(self._switch.check)
        with self._cancelling(client):
            if self._task.job_id is not None:
                self._switch.follow(self._task.job_id)
            self._switch.expects_a_job = False
            yield client

    def _has_finished(self, client: DliClient) -> Job | None:
        """Return the job when DLI reports right now that it has finished."""
        if self._task.job_id is None:
            return None
        job = JobWatcher(client, self._task.job_kind, self._task.job_id).look()
        self._switch.check()  # a task that was killed meanwhile must not end well
        return job if job is not None and job.state.is_success else None

    def _see_through(self, client: DliClient, job: Job, deadline: float | None, is_earlier: bool = False) -> str:
        """Wait for the job, here or in the triggerer; return its id."""
        task = self._task
        task.job_id = job.id
        xcoms.announce(self._ti, job.id, client.connect().console_url)
        if not task.wait_for_completion:
            return job.id
        if task.deferrable and may_be_active(client, task.job_kind, job.id):
            if task.cancel_on_kill:
                self._check_before_deferral()
            Deferral((job.id,), deadline, is_earlier).begin(
                task, task.job_kind.name, poll_interval=task.poll_interval, cancel_on_kill=task.cancel_on_kill
            )
        job = self._wait(client.watching(self._watch_in_last_try()), job.id)
        return self._result(client, job, deadline, is_earlier)

    def _wait(self, client: DliClient, job_id: str) -> Job:
        return wait_until_over(client, self._task.job_kind, job_id, poll_interval=self._task.poll_interval)

    def _result(self, client: DliClient, job: Job, deadline: float | None, is_earlier: bool) -> str:
        if is_earlier and may_be_cancelled(self._task.job_kind, job):
            self._switch.check()
            self._task.log.warning("%s was cancelled by the end of the earlier try; submitting afresh, once.", job)
            self._switch.release()
            this = ThisTry.of(self._task, client, self._context, deadline)
            return self._see_through(client, start(this), deadline)
        return job.require_success().id

    def _watch_until(self, deadline: float | None) -> Callable[[], None]:
        # Airflow gives a resumed task the whole `execution_timeout` again.
        def watch() -> None:
            self._switch.check()
            if deadline is not None and machine.time() > deadline:
                raise AirflowTaskTimeout(_TIME_IS_OVER)

        return watch

    def _watch_in_last_try(self) -> Callable[[], None]:
        # A task that has lost its supervisor cannot succeed any more: Airflow misses its heartbeats and fails it. The
        # next try then takes over the job; after the last try, there is none to do it.
        supervisor = compat.supervisor() if self._ti.try_number > self._ti.max_tries else None

        def watch() -> None:
            self._switch.check()
            if supervisor is not None and os.getppid() != supervisor:
                raise DliTaskKilledError("The task has lost Airflow's supervisor, and there is no next try.")

        return watch

    def _check_before_deferral(self) -> None:
        # Airflow signals a kill only at the next heartbeat. A task that asks to be deferred before that is refused
        # without noticing, and ends; then no process is left to cancel its job.
        key, log = TaskInstanceKey.of(self._ti), self._task.log
        try:
            state = compat.task_states(key.dag_id, [key.run_id], [key.task_id]).get(key[1:], GONE)
        except Exception as error:  # the deferral will show whether Airflow is there
            log.warning("Airflow does not tell whether the task still runs, before it is deferred: %s", error)
            return
        if state not in _KILLED:
            return
        log.info("The task was killed before it was deferred: for Airflow it is %s.", state)
        self._switch.abandon()
        # Airflow 2 would take a failure before the signal for an ordinary one, and retry the task.
        end = machine.monotonic() + _TOLD_WITHIN
        while not self._switch.killed and machine.monotonic() < end:
            machine.sleep(0.1)
        self._switch.check()
