"""Brings one try of a task that runs a DLI job to its end, here or across a deferral; the job may be of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowTaskTimeout, TaskDeferred

from airflow_provider_dli import compat, machine, story, xcoms
from airflow_provider_dli.client.patience import URGENT, watch_nothing
from airflow_provider_dli.exceptions import DliError, DliJobError, DliNotFoundError, DliTaskKilledError
from airflow_provider_dli.job import Goal, JobState
from airflow_provider_dli.story import Told
from airflow_provider_dli.task_instances import GONE, OVER, TaskInstanceKey
from airflow_provider_dli.tasks.bound import explained
from airflow_provider_dli.tasks.cleared import remember
from airflow_provider_dli.tasks.deferral import Deferral, deadline_of, require_over, says_over
from airflow_provider_dli.tasks.start import Started, find_instead, start
from airflow_provider_dli.tasks.takeover import TakenUp, looks_for_earlier, running_jobs, take_up, take_up_target
from airflow_provider_dli.tasks.this_try import ThisTry
from airflow_provider_dli.threads import BackgroundLog
from airflow_provider_dli.waiting.watcher import JobWatcher, has_to_be_waited_for, is_cancelled, wait_until_over
from airflow_provider_dli.xcoms import Place

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
# How long a task whose `start_timeout` is over may still ask DLI whether its job has started, in seconds.
_STARTED_MEANWHILE = 30.0
# The pause before Airflow is asked again whether a task still runs that wants to be deferred, in seconds.
_ASK_AGAIN_AFTER = 2.0
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
        # The task whose function executes this one.
        of_airflow = getattr(self._ti, "task", None)
        self._around = None if of_airflow is task else of_airflow
        self._supervisor = compat.supervisor(self._ti)
        # Of the job that the task waits for.
        self._told = Told()

    def begin(self) -> str:
        """Take up the job of an earlier try, or start one; wait for it; return its id."""
        deadline = deadline_of(self._task, self._around)
        number = self._ti.try_number
        self._switch.expects_a_job = number > 1 and self._task.on_earlier_job != "ignore"
        if looks_for_earlier(self._task, number):
            # Killed before it comes to it, it still has to look for a job that an earlier try has left running.
            client = self._connected(watch_nothing).watching(self._check)
        else:
            self._check()
            client = self._connected(self._check)
        client.introduce()
        with self._cancelling(client):
            if self._switch.expects_a_job:
                searcher = client.for_thread(URGENT)
                self._switch.search(lambda: running_jobs(searcher, self._task.job_kind, self._context))
            statements = ThisTry.of(self._task, client, self._context, deadline)
            remember(self._ti, statements)
            return self._run(client, statements, take_up(statements), deadline)

    def resume(self, event: Mapping[str, Any] | None, deferral: Deferral) -> str:
        """Continue after a deferral that its trigger has ended; return the job id."""
        [self._task.current_job_id] = deferral.job_ids
        job_id, deadline = self._task.current_job_id, deferral.deadline
        with self._resumed(is_foreign=deferral.is_foreign) as client:
            # What a trigger gives up, it cancels: then that the job still runs says nothing.
            goal = self._task.goal if says_over(event) else Goal.FINISHED
            if (job := self._is_done(client, goal)) is None:
                # A job that still runs has used up its time; one that finished and waited for a worker has not.
                require_over(event)
                # The trigger has seen the end: DLI gets a while to report it again.
                late = None if deadline is None else max(deadline, machine.time() + _TOLD_ONCE_MORE_WITHIN)
                in_time = client.watching(self._watch_until(late))
                job = self._wait(in_time, job_id, deferral.start_by, has_started=True)
            place = Place(*deferral.statement or xcoms.announced_statement(TaskInstanceKey.of(self._ti)))
            ended = Started(job, deferral.is_earlier, deferral.is_foreign)
            job = self._result(client, place, ended, deadline)
            self._finish(client, job, place)
            if place.is_last:
                return job.id
            statements = self._same_statements(client, place, deadline)
            return self._run(client, statements, TakenUp(place.number + 1), deadline, ended._replace(job=job))

    def resume_without_event(self) -> str | None:
        """
        Take care of the job of a deferral that the trigger has not ended.

        :returns: The job id when the job has finished in time; None when the task has to fail.
        """
        # This operator is a new one, and Airflow hands it nothing else.
        key = TaskInstanceKey.of(self._ti)
        self._task.current_job_id = xcoms.announced_job_id(key)
        with self._resumed(is_foreign=xcoms.is_foreign(key)) as client:
            job, place = self._is_done(client, Goal.FINISHED), xcoms.announced_statement(key)
            if job is None or not place.is_last:
                self._switch.abandon("Airflow has ended the deferral: its trigger has failed, or its time is over")
                return None
            self._finish(client, job, place)
            return job.id

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
        cancel, kind, log = None, self._task.job_kind, BackgroundLog(self._task.log)
        if self._task.cancel_on_kill:
            urgent = client.for_thread(URGENT, log)

            def cancel(job_id: str) -> Any:
                return urgent.cancel(
                    kind,
                    job_id,
                    with_savepoint=self._task.stop_with_savepoint,
                    # A start that is under way may reach DLI after the deletion has been decided.
                    keep_draft=self._switch.is_launching or not self._task.creates_job,
                )

        with self._switch.armed(cancel, log, client.access.reread, kind.named, self._is_left_to_next_try):
            try:
                yield
            except TaskDeferred:
                self._switch.check()
                self._switch.stay_armed()
                raise
            except DliJobError as error:
                self._switch.check()  # a job that our own kill cancelled is not to blame
                if error.job is not None and (error.job.may_recover or not error.job.state.is_at_rest):
                    self._switch.abandon("DLI may start the failed job again by itself, or could not stop it")
                raise
            except BaseException as error:
                self._switch.abandon(_why(error))
                raise

    @contextmanager
    def _resumed(self, *, is_foreign: bool) -> Iterator[DliClient]:
        """Be ready to cancel the job of a task that is resumed, also when it was killed before it came to this."""
        self._switch.expects_a_job = True
        client = self._connected(watch_nothing).watching(self._check)
        self._task.console_url = client.connect().console_url or ""
        with self._cancelling(client):
            if self._task.current_job_id is not None and not is_foreign:
                self._switch.follow(self._task.current_job_id)
            self._switch.expects_a_job = False
            yield client

    def _is_done(self, client: DliClient, goal: Goal) -> Job | None:
        """Return the job when DLI reports right now that it has finished, or is what the task waits for."""
        if self._task.current_job_id is None:
            return None
        job = JobWatcher(client, self._task.job_kind, self._task.current_job_id, told=self._told).look()
        self._switch.check()  # a task that was killed meanwhile must not end well
        if job is not None and not job.state.is_active and not job.may_recover:
            self._switch.forget(job.id)
        return job if job is not None and goal.is_reached(job.state) else None

    def _run(
        self,
        client: DliClient,
        statements: Sequence[ThisTry],
        first: TakenUp,
        deadline: float | None,
        previous: Started | None = None,
    ) -> str:
        """
        Run these statements, one after the other; return the id of the last job.

        :param first: Where to begin.
        :param previous: The job of the statement before that.
        """
        number, started = first
        while True:
            if previous is not None:
                # After a deferral, Airflow would give the statements that are left the whole time again.
                self._watch_until(deadline)()
            place = Place(number, len(statements))
            if place.of > 1:
                self._task.log.info("%s:", place)
            this = statements[number - 1]
            started = started or self._start(client, this, previous)
            previous = started._replace(job=self._see_through(client, this, place, started, deadline))
            self._finish(client, previous.job, place)
            if place.is_last:
                return previous.job.id
            number, started = number + 1, None
            self._task.current_job_id = None
            self._switch.release()

    def _same_statements(self, client: DliClient, place: Place, deadline: float | None) -> list[ThisTry]:
        """Return the statements again, after a deferral."""
        statements = ThisTry.of(self._task, client, self._context, deadline)
        if len(statements) != place.of:
            raise DliError(
                f"The task has {len(statements)} statements now, and had {place.of} when it began: statement "
                f"{place.number} was the last that ran, and which is the next is not known. Clear the task to run all "
                "again."
            )
        return statements

    def _start(self, client: DliClient, this: ThisTry, previous: Started | None) -> Started:
        """Start the job of a statement; or take up that of an earlier try, where nothing but its target tells of it."""
        before = None if previous is None else previous.job
        if this.work.begins_after is not None:
            before = client.job(self._task.job_kind, this.work.begins_after)
        if before is not None:
            this = replace(this, work=this.work.after(before))
        this, taken_up = take_up_target(this, is_after_earlier=previous is None or previous.is_earlier)
        # Without its supervisor, this task counts as lost, and the next try submits.
        self._check()
        return taken_up or start(this)

    def _finish(self, client: DliClient, job: Job, place: Place) -> None:
        if self._task.wait_for_completion:
            self._task.finish(client, job, self._ti, place)
            self._switch.check()  # killed meanwhile, the task must not end well

    def _see_through(
        self, client: DliClient, this: ThisTry, place: Place, started: Started, deadline: float | None
    ) -> Job:
        """Wait for the job, here or in the triggerer; return it."""
        try:
            return self._see_job_through(client, place, started, deadline)
        except DliNotFoundError as error:
            if started.is_earlier or started.is_foreign or this.work.existing_job_id is not None:
                raise
            instead = find_instead(this, started.job, error)
        return self._see_job_through(client, place, instead, deadline)

    def _see_job_through(self, client: DliClient, place: Place, started: Started, deadline: float | None) -> Job:
        task, job = self._task, started.job
        task.current_job_id = job.id
        self._told = Told(job.status) if started.is_earlier or started.is_foreign else Told.submitted()
        url, taken_over = client.connect().console_url, started.is_earlier
        xcoms.announce(self._ti, job.id, url, is_foreign=started.is_foreign, is_taken_over=taken_over, place=place)
        task.console_url = url or ""
        if not task.wait_for_completion:
            return job
        start_by = None if task.start_timeout is None else machine.time() + task.start_timeout.total_seconds()
        while task.may_defer and has_to_be_waited_for(
            client, task.job_kind, job.id, self._told, task.goal, within=Deferral.worker_waits
        ):
            cancel_on_kill = task.cancel_on_kill and not started.is_foreign
            if cancel_on_kill and not self._may_be_deferred():
                client.pause(_ASK_AGAIN_AFTER)
                continue
            deferral = Deferral((job.id,), deadline, started.is_earlier, is_foreign=started.is_foreign)
            replace(deferral, start_by=start_by, statement=place).begin(
                task,
                task.job_kind.name,
                poll_interval=task.poll_interval,
                cancel_on_kill=cancel_on_kill,
                stop_with_savepoint=task.stop_with_savepoint,
                goal=task.goal,
            )
        # A synchronous statement has brought its rows; no later answer does.
        watching = client if self._around is None else client.watching(self._watch_until(deadline))
        job = replace(self._wait(watching, job.id, start_by), rows=job.rows)
        return self._result(client, place, started._replace(job=job), deadline)

    def _wait(self, client: DliClient, job_id: str, start_by: float | None = None, *, has_started: bool = False) -> Job:
        task = self._task
        how: dict[str, Any] = {"poll_interval": task.poll_interval, "told": self._told, "has_started": has_started}
        if start_by is not None:
            in_time = client.watching(self._watch_start(client.patience.watch, start_by))
            job = wait_until_over(in_time, task.job_kind, job_id, goal=Goal.RUNNING, **how)
            if task.goal.ends_wait(job.state) or not job.state.is_active or job.state is JobState.CREATED:
                return job
            how["has_started"] = True
        return wait_until_over(client, task.job_kind, job_id, goal=task.goal, **how)

    def _result(self, client: DliClient, place: Place, ended: Started, deadline: float | None) -> Job:
        """Return the job when it has ended well; one that was cancelled after an earlier try is run again."""
        task, job = self._task, ended.job
        if ended.is_earlier and is_cancelled(task.job_kind, job):
            self._switch.check()
            task.log.warning("%s of an earlier try was cancelled; resubmitting (once).", job)
            self._switch.release()
            task.current_job_id = None
            this = self._same_statements(client, place, deadline)[place.number - 1]
            again = self._start(client, this, None)._replace(is_earlier=False)
            return self._see_through(client, this, place, again, deadline)
        if job.state is JobState.FAILED:
            self._switch.check()
            self._show_log(client, job)
        try:
            return job.require(task.goal)
        except DliJobError as error:
            lines = [str(error) if place.of == 1 else f"{place}: {error}"]
            if job.state in (JobState.CANCELLED, JobState.FAILED):
                # What cannot be told of the statements any more says nothing about the job.
                with suppress(DliError):
                    lines += [explained(self._same_statements(client, place, deadline)[place.number - 1], job)]
            raise DliJobError("\n".join(filter(None, lines)), job=job) from None

    def _show_log(self, client: DliClient, job: Job) -> None:
        """Show the end of the job's own log, where DLI has one."""
        task, read = self._task, self._task.job_kind.log
        if read is None or task.log_tail_lines <= 0:
            return
        lines = job.log
        try:
            once = client.patient(replace(client.patience, give_up_after=0))
            shown = once.send(read(job.id, task.log_tail_lines))
            lines = tuple(shown) or lines
        except DliError as error:
            task.log.info("DLI does not show the log of %s: %s", job, error)
        if lines:
            text = "\n".join(f"    {line}" for line in lines[-task.log_tail_lines :])
            task.log.info("The last lines of the log of %s:\n%s", job, text)

    def _watch_until(self, deadline: float | None) -> Callable[[], None]:
        # Airflow gives a resumed task the whole `execution_timeout` again.
        def watch() -> None:
            self._check()
            if deadline is not None and machine.time() > deadline:
                raise AirflowTaskTimeout(_TIME_IS_OVER)

        return watch

    def _watch_start(self, watch: Callable[[], None], start_by: float) -> Callable[[], None]:
        # A task that is resumed late gets a look all the same.
        end = max(start_by, machine.time() + _STARTED_MEANWHILE)

        def watch_start() -> None:
            watch()
            if machine.time() > end:
                raise DliError(f"The job has not started within start_timeout ({self._task.start_timeout}).")

        return watch_start

    def _check(self) -> None:
        """
        End the task when it was killed, or cannot succeed any more: Airflow misses its heartbeats and fails it.

        :raises DliTaskKilledError: So it is.
        """
        self._switch.check()
        if compat.NEEDS_SUPERVISOR and self._has_lost_supervisor():
            then = "and there is no next try" if self._is_last_try else "and leaves its job to the next try"
            raise DliTaskKilledError(f"The task has lost Airflow's supervisor, {then}.")

    @property
    def _is_last_try(self) -> bool:
        return bool(self._ti.try_number > self._ti.max_tries)

    def _has_lost_supervisor(self) -> bool:
        return self._supervisor is not None and machine.parent_process_id() != self._supervisor

    def _is_left_to_next_try(self) -> bool:
        """Whether the next try takes the job over, so that whatever ends this task must not cancel it."""
        return not self._is_last_try and self._has_lost_supervisor()

    def _may_be_deferred(self) -> bool:
        """
        Whether the task still runs, as Airflow knows it; False when Airflow does not tell.

        :raises DliTaskKilledError: It was killed.
        """
        # Airflow signals a kill only at the next heartbeat. A task that asks to be deferred before that is refused
        # without noticing, and ends; then no process is left to cancel its job.
        key, log = TaskInstanceKey.of(self._ti), self._task.log
        try:
            state = compat.task_states(key.dag_id, [key.run_id], [key.task_id]).get(key[1:], GONE)
        except Exception as error:  # deferred, a task that was killed would leave its job behind
            if self._supervisor is None:
                log.warning("Airflow does not tell whether the task still runs, before it is deferred: %s", error)
                return True  # as in dag.test(), where nobody else could end it
            log.warning("Airflow does not tell whether the task still runs: waiting in the worker meanwhile. %s", error)
            return False
        if state not in _KILLED:
            return True
        self._switch.abandon(f"The task was ended before it was deferred ({story.in_airflow(state)})")
        # Airflow 2 would take a failure before the signal for an ordinary one, and retry the task.
        end = machine.monotonic() + _TOLD_WITHIN
        while not self._switch.killed and machine.monotonic() < end:
            machine.sleep(0.1)
        self._switch.check()
        return False


def _why(error: BaseException) -> str:
    """Tell why a task gives its job up. The error itself is logged by Airflow."""
    if isinstance(error, AirflowTaskTimeout):
        return "execution_timeout is over"
    return f"The task fails ({type(error).__name__})"
