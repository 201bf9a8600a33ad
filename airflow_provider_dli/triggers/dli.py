"""The trigger behind every deferred task: waits for jobs in the triggerer, and cancels them when the task is killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, ClassVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_dli import compat, machine, story
from airflow_provider_dli.api.kinds import KINDS, kind_of
from airflow_provider_dli.exceptions import DliError, DliNotFoundError
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.job import Goal, goal_of
from airflow_provider_dli.story import Told
from airflow_provider_dli.task_instances import TaskInstanceKey
from airflow_provider_dli.text import NAME_LIMIT, clean, in_seconds
from airflow_provider_dli.triggers.questions import ConnectionKey, in_background
from airflow_provider_dli.triggers.shared import SharedClient, shared
from airflow_provider_dli.waiting.watcher import OUTAGE_BUDGET

#: What an event says under ``outcome``: all jobs are over (or what they are waited for); the deadline has passed; a job
#: has not started in time; the trigger had to give up.
OVER, TIMEOUT, LATE, ERROR = "over", "timeout", "late", "error"

# How long the end of a killed trigger may take, in seconds; Airflow 3.3 allows 30.
_END_WITHIN = 28.0
# How long a trigger that has to end asks again whether its task was killed, while Airflow answers with errors, in
# seconds: when Airflow has told it of a kill, and when it was just stopped, as in a shutdown, when nobody answers.
_REFUSED_FOR, _REFUSED_FOR_WHEN_STOPPED = 20.0, 3.0
# How long a job may be looked at whose time to start is over, in seconds.
_LOOKS_WITHIN = 30.0
# How long before Airflow ends a deferral an event is fired at the latest, in seconds.
_BEFORE_TIMEOUT = 3.0
# The pause before Airflow is asked again, in seconds.
_ASK_AGAIN_AFTER = 1.0


class _LateError(Exception):
    """A job has not started in time."""


class DliJobTrigger(BaseTrigger):
    """
    Waits until all of these jobs are over, and fires one event then; it says nothing about how they ended.

    Fires 8 seconds after it began at the earliest: a scheduler that is slow would take the end of the worker that has
    deferred the task for the end of the resumed one. Fires also when the deadline passes or when it has to give up (a
    connection that is gone, a job that DLI does not know, an outage of more than 30 minutes); no exception ends it.

    When a user kills the deferred task, and before it fires such an event, it cancels the jobs, if they are the task's
    own (``cancel_on_kill``). So it does on Ctrl-C in ``dag.test()`` and ``airflow tasks test``. A restart of the
    triggerer, or the hand-over to another one, leaves them alone.

    :param job_ids: The jobs.
    :param kind: Their kind: ``"sql"``, ``"spark"`` or ``"flink"``.
    :param dli_conn_id: Airflow connection of type ``dli``.
    :param region: Takes the place of the connection's ``region``.
    :param project_id: Takes the place of the connection's ``project_id``.
    :param poll_interval: Seconds between two status calls, at most. Default 10.
    :param deadline: Seconds since the epoch after which it stops waiting. Default: none.
    :param cancel_on_kill: Whether to cancel the jobs when the task is killed or gives up. Default False.
    :param stop_with_savepoint: Whether to save their state then, where jobs of this kind have savepoints. Default
        False.
    :param goal: What to wait for: ``"finished"`` (default), ``"running"``, or ``"stopped"``, of jobs that were told to
        stop.
    :param start_by: Seconds since the epoch after which a job that has not started is given up. Default: none.
    """

    #: How long a deferral lasts at least, in seconds. No part of what Airflow stores.
    fires_after: ClassVar[float] = 8.0

    def __init__(
        self,
        *,
        job_ids: Sequence[str],
        kind: str = "sql",
        dli_conn_id: str = DliHook.default_conn_name,
        region: str | None = None,
        project_id: str | None = None,
        poll_interval: float = 10.0,
        deadline: float | None = None,
        cancel_on_kill: bool = False,
        stop_with_savepoint: bool = False,
        goal: str = Goal.FINISHED,
        start_by: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_ids = list(job_ids)
        self.kind = kind
        self.dli_conn_id = dli_conn_id
        self.region = region
        self.project_id = project_id
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.cancel_on_kill = cancel_on_kill
        self.stop_with_savepoint = stop_with_savepoint
        self.goal = goal
        self.start_by = start_by
        self._began_at: float | None = None
        self._told: dict[str, Told] = {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what Airflow stores, as JSON: the class, and the arguments to make it again. No secrets."""
        arguments = {
            "job_ids": self.job_ids,
            "kind": self.kind,
            "dli_conn_id": self.dli_conn_id,
            "region": self.region,
            "project_id": self.project_id,
            "poll_interval": self.poll_interval,
            "deadline": self.deadline,
            "cancel_on_kill": self.cancel_on_kill,
            "stop_with_savepoint": self.stop_with_savepoint,
            "goal": str(self.goal),
            "start_by": self.start_by,
        }
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire one event: ``{"outcome": "over" or another, "message": ..., "job_ids": [...]}``."""
        self._began_at = machine.monotonic()
        self.warm_up()
        try:
            outcome, message = await self._wait()
            await self._outlast_the_scheduler()
        except asyncio.CancelledError:
            if self._is_inline:
                # Ctrl-C, and this process is about to end: nobody calls `on_kill`, and no other triggerer takes over.
                await _undisturbed_by_cancels(self._cancel_if_own("The run was interrupted"))
            elif not compat.TRIGGERS_ARE_TOLD_OF_KILLS:
                # A shutdown looks the same here. Not knowing, leave the jobs alone.
                await _undisturbed_by_cancels(self._cancel_if_killed(told_of_a_kill=False))
            raise
        payload = {"outcome": outcome, "message": message, "job_ids": self.job_ids}
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Cancel the jobs, if the task was really killed. Called by Airflow 3.3 and later."""
        # It is called on a hand-over, too, when a triggerer that stood still wakes up; but then Airflow answers.
        await _undisturbed_by_cancels(self._cancel_if_killed(told_of_a_kill=True))

    @property
    def _is_inline(self) -> bool:
        """Whether no triggerer runs this, but ``dag.test()`` or ``airflow tasks test``, in the process of the task."""
        return self.trigger_id is None and self.task_instance is None

    async def cancel_if_killed(self, *, told_of_a_kill: bool) -> None:
        """Cancel the jobs, if the task was killed; of a trigger that stands for one that is not ours."""
        self._began_at = machine.monotonic()
        await self._cancel_if_killed(told_of_a_kill=told_of_a_kill)

    async def _wait(self) -> tuple[str, str]:
        try:
            async with asyncio.timeout(None if self.deadline is None else self.deadline - machine.time()) as timer:
                await self._until_over()
            return OVER, ""
        except Exception as error:  # an exception that leaves a trigger ends it, with its jobs still running
            if isinstance(error, TimeoutError) and timer.expired():
                outcome, message = TIMEOUT, "The task's time is over."
            elif isinstance(error, _LateError):
                outcome, message = LATE, str(error)
            else:
                outcome, message = ERROR, str(error) or type(error).__name__
                if not isinstance(error, DliError):
                    self.log.exception("The trigger gives up.")
        if self.cancel_on_kill:
            # Before the event: it may take long until a worker has room for the task, or its DAG is unpaused.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._cancel(clean(message).rstrip(".")), _END_WITHIN)
        return outcome, message

    async def _outlast_the_scheduler(self) -> None:
        """
        Wait until the deferral has lasted as long as a loop of the scheduler may take.

        One that sees the end of the worker that has deferred and the queued task in the same loop takes that end for
        the end of the resumed task, and fails it.
        """
        if self._is_inline or self._began_at is None:
            return
        left = self._began_at + self.fires_after - machine.monotonic()
        timeout = getattr(self, "timeout_after", None)
        if timeout is not None:
            # Airflow is about to end the deferral: later would be too late.
            left = min(left, timeout.timestamp() - machine.time() - _BEFORE_TIMEOUT)
        await asyncio.sleep(max(left, 0))

    def warm_up(self) -> None:
        """Ask Airflow once in each triggerer: its first answer takes many seconds, which a kill does not have."""
        if self.cancel_on_kill and self.task_instance is not None and not shared().channel.is_warm:
            shared().channel.is_warm = True
            in_background(self._ask_for_nothing())

    async def _ask_for_nothing(self) -> None:
        with contextlib.suppress(Exception):
            await shared().channel.states.answer(TaskInstanceKey.of(self.task_instance))

    async def _until_over(self) -> None:
        goal = Goal.STOPPED if self.goal == Goal.STOPPED else goal_of(self.goal)
        if self.start_by is not None:
            # A trigger that comes later, because it was handed over, gets a look all the same.
            within = max(self.start_by - machine.time(), _LOOKS_WITHIN)
            try:
                async with asyncio.timeout(within) as timer:
                    await self._until(Goal.RUNNING)
            except TimeoutError:
                if not timer.expired():
                    raise
                raise _LateError("The job has not started within start_timeout.") from None
        if self.start_by is None or goal is not Goal.RUNNING:
            await self._until(goal)

    async def _until(self, goal: Goal) -> None:
        poller = self._shared_client().poller(kind_of(self.kind))
        waiting = []
        try:
            for job_id in self.job_ids:
                told = self._told.setdefault(job_id, Told())
                waiting.append((job_id, poller.add(job_id, self.poll_interval, goal, told)))
            for _, over in waiting:
                await over
        finally:
            for job_id, over in waiting:
                poller.remove(job_id, over, goal)

    def _shared_client(self) -> SharedClient:
        return shared().client(ConnectionKey(self.dli_conn_id, self.region, self.project_id))

    async def _cancel_if_killed(self, *, told_of_a_kill: bool) -> None:
        """Find out whether the task was killed, and cancel its jobs then. That there is no answer yet is no kill."""
        if not self.cancel_on_kill:
            return
        try:
            ti = TaskInstanceKey.of(self.task_instance)
            state = await self._state(ti, _REFUSED_FOR if told_of_a_kill else _REFUSED_FOR_WHEN_STOPPED)
        except TimeoutError:
            left_alone = "Airflow has not answered for %s: %s left alone."
            self.log.error(left_alone, in_seconds(OUTAGE_BUDGET), self._names())
        except Exception as error:  # of another kind in every Airflow
            problem = f"Airflow does not tell whether the task was killed ({str(error) or type(error).__name__})"
            if told_of_a_kill:
                await self._cancel(problem)
            else:
                self.log.warning("%s: %s left alone.", problem, self._names())
        else:
            if state == "running" and await self._is_taken_over(ti):
                self.log.info("The next try waits for %s: left alone.", self._names())
            elif state != "deferred":
                await self._cancel(f"The deferred task was ended ({story.in_airflow(state)})")
            else:
                # After a clear, the next try may be deferred already. It has cancelled this job itself, as a rule, so
                # nothing has to wait for this: of hundreds of triggers that are handed over, each asks.
                in_background(self._cancel_if_superseded(ti))

    async def _state(self, ti: TaskInstanceKey, refused_for: float) -> str | None:
        """
        Return Airflow's state of the task instance, for however long that takes.

        :param refused_for: Seconds for which to ask again while Airflow answers with errors.
        :raises TimeoutError: Airflow has not answered at all for 30 minutes.
        :raises Exception: Airflow answers with errors.
        """
        give_up_at = machine.monotonic() + OUTAGE_BUDGET
        refused_since: float | None = None
        while True:
            try:
                return await shared().channel.states.answer(ti, since=self._began_at)
            except TimeoutError:
                refused_since = None
                if machine.monotonic() > give_up_at:
                    raise
            except Exception:
                now = machine.monotonic()
                refused_since = refused_since or now
                if now - refused_since >= refused_for:
                    raise
            await asyncio.sleep(_ASK_AGAIN_AFTER)

    async def _is_taken_over(self, ti: TaskInstanceKey) -> bool:
        """Whether the next try waits for the job, as it does when it takes a clear for a retry."""
        try:
            return await shared().channel.taken_over.answer(ti) in self.job_ids
        except Exception as error:  # not knowing, cancel: the next try submits another job then
            self.log.info("Airflow does not tell whether the next try has taken the job over: %s", error)
            return False

    async def _cancel_if_superseded(self, ti: TaskInstanceKey) -> None:
        try:
            job_id = await shared().channel.job_ids.answer(ti)
        except Exception as error:
            self.log.info("Airflow does not tell which job the task waits for by now: %s", error)
            return
        if job_id is not None and job_id not in self.job_ids:
            await self._cancel(f"The task waits for {self._named(clean(job_id, NAME_LIMIT))} by now")

    async def _cancel_if_own(self, why: str) -> None:
        if self.cancel_on_kill:
            await self._cancel(why)

    async def _cancel(self, why: str) -> None:
        self.log.warning("%s: cancelling %s.", why, self._names())
        await asyncio.gather(*(self._cancel_one(job_id) for job_id in self.job_ids))

    async def _cancel_one(self, job_id: str) -> None:
        name = self._named(job_id)
        try:
            cancellation = await self._shared_client().cancel(
                kind_of(self.kind), job_id, with_savepoint=self.stop_with_savepoint
            )
            self.log.info("%s", story.cancelled(name, cancellation))
        except DliNotFoundError:
            self.log.info("%s", story.unknown(name))
        except asyncio.CancelledError:  # its time is over
            self.log.error("%s", story.not_confirmed(name))
            raise
        except Exception as error:  # nothing may end the trigger before it has fired
            self.log.error("%s", story.not_cancelled(name, error))

    def _names(self) -> str:
        return ", ".join(map(self._named, self.job_ids))

    def _named(self, job_id: str) -> str:
        # An argument that cannot be used is no reason to leave a job running.
        kind = KINDS.get(self.kind)
        return f"DLI job {job_id}" if kind is None else kind.named(job_id)


async def _undisturbed_by_cancels(work: Coroutine[Any, Any, None]) -> None:
    """
    Await this for at most 28 s, however often the caller is cancelled meanwhile. The work continues after that.

    Airflow cancels a killed trigger again every second until it is gone.
    """
    task = in_background(work)
    end = machine.monotonic() + _END_WITHIN
    while not task.done() and (left := end - machine.monotonic()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=left)
