"""
Runs jobs for a hook in a trigger of Airflow's own, such as that of a ``GenericTransfer`` which is deferred.

Such a trigger knows nothing of DLI, and runs the hook in a thread that nobody can end. So the thread watches whether
its trigger still runs. When it does not, :class:`.DliJobTrigger` decides whether that is a kill, and cancels the job
then. Each job has the identity of the task that is deferred: a triggerer that takes the trigger over finds the job, and
the sweep the rest.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import compat, identity, story
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.exceptions import DliError, DliNotFoundError, DliPermissionError, DliTaskKilledError
from airflow_provider_dli.tasks.deferral import Deferral
from airflow_provider_dli.tasks.kill import KillSwitch
from airflow_provider_dli.tasks.of_hook import Statement, run_outside_of_tasks
from airflow_provider_dli.tasks.run import JobRun
from airflow_provider_dli.tasks.this_try import ThisTry

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger

    from airflow_provider_dli.api.call import Call
    from airflow_provider_dli.api.job_kind import JobKind, Work
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.hooks.dli import DliHook
    from airflow_provider_dli.job import Job
    from airflow_provider_dli.triggers.dli import DliJobTrigger

# How many statements one trigger can have before they are counted as those of the next one: each has a number.
_STATEMENTS = 10_000
_ENDED = "The trigger that ran the statement was ended."


@dataclass(frozen=True)
class RunningTrigger:
    """
    The trigger that a hook is used in.

    :param trigger: The trigger.
    :param task: What runs it in the event loop; None where that is not known.
    """

    trigger: BaseTrigger
    task: asyncio.Task[Any] | None

    @property
    def is_inline(self) -> bool:
        """Whether no triggerer runs it, but ``dag.test()``, which does not say for which task."""
        return self.trigger.task_instance is None

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for its statement any more."""
        return self.task is not None and (self.task.done() or self.task.cancelling() > 0)

    @property
    def is_told_of_a_kill(self) -> bool:
        """Whether Airflow says so: it ends a trigger with words then, and without any in a shutdown."""
        if not compat.TRIGGERS_ARE_TOLD_OF_KILLS or self.task is None or not self.task.cancelled():
            return False
        try:
            self.task.result()
        except asyncio.CancelledError as end:
            return bool(end.args)
        return False

    def check(self) -> None:
        """
        Check that somebody still waits for its statement.

        :raises DliTaskKilledError: Nobody does.
        """
        if self.is_over:
            raise DliTaskKilledError(_ENDED)

    def next_index(self) -> int:
        """Return the number of the next statement: the same when another triggerer begins the trigger again."""
        count = getattr(self.trigger, "_dli_statements", 0)
        self.trigger._dli_statements = count + 1  # type: ignore[attr-defined]
        return (self.trigger.trigger_id or 0) * _STATEMENTS + count


def running_trigger() -> RunningTrigger | None:
    """Return the trigger whose code calls this; None outside of triggers."""
    trigger = compat.calling_trigger()
    if trigger is None:
        return None
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread of the trigger
        task = compat.task_of_trigger(trigger)
    return RunningTrigger(trigger, task)


def run(
    running: RunningTrigger,
    hook: DliHook,
    kind: JobKind[Any],
    work: Work,
    submit: Call[Job],
    *,
    poll_interval: float,
    can_be_taken_up: bool,
) -> Job:
    """
    Run a job to its end; return it.

    :param running: The trigger.
    :param hook: The hook.
    :param kind: Kind of the job.
    :param work: What it does.
    :param submit: Submits it where no task is known.
    :param poll_interval: Seconds between two status calls, at most.
    :param can_be_taken_up: Whether its result can be read later, too: not only from the answer to its submit.
    :raises DliError: It would block the triggerer.
    """
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        raise DliError(
            "On this version of Airflow, the trigger would run the statement in the event loop of the triggerer: it "
            "would stop all other triggers, and no kill would reach its job. Nothing was submitted. Set "
            "deferrable=False, or upgrade to Airflow 3.2."
        )
    running.check()
    if running.is_inline:
        return run_outside_of_tasks(hook.client, kind, submit, poll_interval=poll_interval, watch=running.check)
    return _StatementOfTrigger(running, hook, kind, work, poll_interval).run(can_be_taken_up=can_be_taken_up)


class _Switch(KillSwitch):
    """Pulled by nobody: it looks itself whether the trigger still runs."""

    def __init__(self, statement: _StatementOfTrigger) -> None:
        super().__init__()
        self._statement = statement

    def check(self) -> None:
        """End the statement when its trigger was ended, and leave its job to who finds out why."""
        if self._statement.running.is_over:
            self._statement.leave_to_the_loop()
            self.release()
            raise DliTaskKilledError(_ENDED)
        super().check()


class _StatementOfTrigger(Statement):
    """A statement of a trigger, as a task of its own."""

    def __init__(
        self, running: RunningTrigger, hook: DliHook, kind: JobKind[Any], work: Work, poll_interval: float
    ) -> None:
        unlimited: timedelta | None = None
        no_operator = SimpleNamespace(retries=None, execution_timeout=unlimited)
        index = running.next_index()
        super().__init__(hook.client, kind, work, index, False, no_operator, hook.dli_conn_id, poll_interval)
        self.running = running
        self.region, self.project_id = hook.region, hook.project_id
        self.switch = _Switch(self)
        ti = running.trigger.task_instance
        self._ti: Any = SimpleNamespace(
            **{name: getattr(ti, name) for name in ("dag_id", "run_id", "task_id", "map_index", "try_number")},
            # A trigger is not told: the generation of its jobs is unknown.
            max_tries=0,
            # What a task announces by XComs, a trigger cannot.
            xcom_push=lambda key, value: None,
        )
        # There is one event loop in a triggerer, and it runs the trigger.
        self._loop = running.task.get_loop() if running.task is not None else None
        self._is_left = False

    def run(self, *, can_be_taken_up: bool) -> Job:
        """Take up the job that another triggerer has left, or start one; wait for it; return it."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self._in_its_place().warm_up())
        context: Any = {"ti": self._ti, "dag_run": SimpleNamespace(start_date=None)}
        found = self._find_mine(context)
        if not can_be_taken_up:
            found = None
        job_run = JobRun(self, context)
        if found is None:
            job_run.begin()
        else:
            self.log.info("%s was submitted by this trigger before it was handed over: waiting for it.", found)
            job_run.resume(None, Deferral((found.id,), statement=(1, 1)))
        [job] = self.ended
        return job

    def leave_to_the_loop(self) -> None:
        """Have it found out in the event loop whether the task was killed, and the job cancelled then."""
        if self._is_left or self.current_job_id is None or self._loop is None:
            return
        self._is_left = True
        with suppress(RuntimeError):  # the triggerer ends: that is no kill
            self._loop.call_soon_threadsafe(self._decide, self.current_job_id)

    def _decide(self, job_id: str) -> None:
        from airflow_provider_dli.triggers.questions import in_background

        trigger = self._in_its_place(job_id)
        in_background(trigger.cancel_if_killed(told_of_a_kill=self.running.is_told_of_a_kill))

    def _in_its_place(self, *job_ids: str) -> DliJobTrigger:
        from airflow_provider_dli.triggers.dli import DliJobTrigger

        trigger = DliJobTrigger(
            job_ids=job_ids,
            kind=self.job_kind.name,
            dli_conn_id=self.dli_conn_id,
            region=self.region,
            project_id=self.project_id,
            cancel_on_kill=True,
        )
        trigger.task_instance = self.running.trigger.task_instance
        return trigger

    def _find_mine(self, context: Any) -> Job | None:
        """
        Return the job of this statement, when a triggerer that was lost has run it; cancel those of earlier tries.
        """
        client = self.client(self.switch.check)
        [this] = ThisTry.of(self, client, context, None)
        mine = this.mine
        found: list[Job] = []
        try:
            for job in client.jobs(self.job_kind, Query(tags=mine.sought)):
                attempt = identity.read_attempt(job.tags)
                if attempt is None or not job.is_proved:
                    continue
                if attempt.try_number < mine.try_number and job.state.is_active and self._is_ours(job):
                    self._cancel(client, job)
                elif (job.tags.get(identity.TI), job.tags.get(identity.ATTEMPT)) == (mine.ti, mine.attempt):
                    found.append(job)
        except DliPermissionError as error:
            self.log.warning("A job that was submitted before the trigger was handed over cannot be found: %s", error)
        return next((job for job in found if job.state.is_active or job.state.is_success), None)

    @staticmethod
    def _is_ours(job: Job) -> bool:
        deployment = compat.deployment()
        return deployment is not None and job.tags.get(identity.DEPLOYMENT) == identity.escape(deployment)

    def _cancel(self, client: DliClient, job: Job) -> None:
        name = str(job)
        self.log.info("%s of an earlier try still runs: cancelling it.", name)
        with suppress(DliNotFoundError):
            self.log.info("%s", story.cancelled(name, client.cancel(self.job_kind, job.id)))
