"""The trigger behind every deferred task: waits for jobs in the triggerer, and cancels them when nobody wants them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from functools import partial
from typing import Any, cast

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_dli import compat, identity
from airflow_provider_dli.exceptions import DliError, DliTemporaryError
from airflow_provider_dli.hooks.dli import OUTAGE_BUDGET, DliHook, JobWatcher
from airflow_provider_dli.threads import run_in_thread

#: What an event says under ``outcome``: all jobs are over; the deadline has passed; the trigger cannot go on.
OVER, TIMEOUT, ERROR = "over", "timeout", "error"

# How long Airflow may take to tell a trigger its connection, in seconds.
_CONNECTION_WITHIN = 20.0
# How long Airflow may take to tell whether a task was killed, in seconds.
_STATE_WITHIN = 10.0
# How long the end of a killed trigger may take, in seconds; Airflow 3.3 allows 30.
_END_WITHIN = 28.0
# The longest pause before the connection is asked for again, in seconds.
_LONGEST_PAUSE = 30.0

# asyncio itself keeps only weak references to tasks.
_background: set[asyncio.Task[None]] = set()
# Whether this process has asked Airflow for the state of a task.
_is_warm = False


class DliJobTrigger(BaseTrigger):
    """
    Waits until all of these jobs are over, and fires one event then; it says nothing about how they ended.

    Fires also when the deadline passes or when it cannot go on (a connection that is gone, a job that DLI does not
    know, an outage of more than 30 minutes); no exception ends it. When a user kills the deferred task, and before it
    fires such an event, it cancels the jobs, if they are the task's own (``cancel_on_kill``). A restart of the
    triggerer, or the hand-over to another one, leaves them alone.

    :param job_ids: The jobs.
    :param kind: Their family: ``"sql"``.
    :param dli_conn_id: Airflow connection of type ``dli``.
    :param region: Takes the place of the connection's ``region``.
    :param project_id: Takes the place of the connection's ``project_id``.
    :param poll_interval: Seconds between two status calls, at most. Default 10.
    :param deadline: Seconds since the epoch after which nobody waits any more. Default: none.
    :param cancel_on_kill: Whether to cancel the jobs when nobody waits for them any more. Default False.
    """

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
        self._hook: DliHook | None = None

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
        }
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire one event: ``{"outcome": "over" | "timeout" | "error", "message": ..., "job_ids": [...]}``."""
        self._warm_up()
        try:
            outcome, message = await self._wait()
        except asyncio.CancelledError:
            if not compat.TRIGGERS_ARE_TOLD_OF_KILLS:
                # A shutdown looks the same here. Not knowing, leave the jobs alone.
                await _undisturbed_by_cancels(self._cancel_if_killed(when_unknown=False))
            raise
        payload = {"outcome": outcome, "message": message, "job_ids": self.job_ids}
        yield TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Cancel the jobs, if the task was really killed. Called by Airflow 3.3 and later."""
        # It is called on a hand-over, too, when a triggerer that stood still wakes up; but then Airflow answers.
        await _undisturbed_by_cancels(self._cancel_if_killed(when_unknown=True))

    async def _wait(self) -> tuple[str, str]:
        try:
            async with asyncio.timeout(None if self.deadline is None else self.deadline - time.time()) as timer:
                for job_id in self.job_ids:
                    await self._wait_for(job_id)
            return OVER, ""
        except Exception as error:  # an exception that leaves a trigger ends it, with its jobs still running
            if isinstance(error, TimeoutError) and timer.expired():
                outcome, message = TIMEOUT, "The task's time is over."
            else:
                outcome, message = ERROR, str(error) or type(error).__name__
                if not isinstance(error, DliError):
                    self.log.exception("The trigger cannot go on.")
        if self.cancel_on_kill:
            # Before the task is told: it may take long until a worker has room for it, or its DAG is unpaused.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._cancel(), _END_WITHIN)
        return outcome, message

    def _warm_up(self) -> None:
        """Ask Airflow once in each triggerer: its first answer takes many seconds, which a kill does not have."""
        global _is_warm
        if self.cancel_on_kill and not _is_warm:
            _is_warm = True
            _in_background(self._ask_for_nothing())

    async def _ask_for_nothing(self) -> None:
        with contextlib.suppress(Exception):
            await compat.ask_airflow(self._was_killed, _CONNECTION_WITHIN)

    async def _wait_for(self, job_id: str) -> None:
        hook = await self._connected_hook()
        watcher = JobWatcher(hook, job_id, self.kind, poll_interval=self.poll_interval)
        while True:
            job = await run_in_thread(watcher.look)
            if job is not None and not job.state.is_active:
                return
            await asyncio.sleep(watcher.interval)

    async def _connected_hook(self) -> DliHook:
        """Return a hook whose calls block, for threads; ask for its connection again while Airflow is away."""
        if self._hook is None:
            hook = DliHook(self.dli_conn_id, region=self.region, project_id=self.project_id)
            pause, give_up_at = 1.0, time.monotonic() + OUTAGE_BUDGET
            while self._hook is None:
                try:
                    await compat.ask_airflow(hook.read_connection, _CONNECTION_WITHIN)
                    self._hook = await run_in_thread(hook.for_thread)
                except Exception as error:
                    is_outage = not isinstance(error, DliError) or isinstance(error, DliTemporaryError)
                    # (Of Airflow, an API server that is away looks like a connection that does not exist.)
                    if not is_outage or time.monotonic() > give_up_at:
                        raise
                    self.log.warning("Connection %r cannot be used yet: %s", self.dli_conn_id, error)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
        return self._hook

    async def _cancel_if_killed(self, *, when_unknown: bool) -> None:
        if not self.cancel_on_kill:
            return
        try:
            killed = await compat.ask_airflow(self._was_killed, _STATE_WITHIN)
        except Exception as error:
            killed = when_unknown
            self.log.warning(
                "Airflow does not tell whether the task was killed (%s): its jobs are %s.",
                str(error) or type(error).__name__,
                "cancelled" if killed else "left alone",
            )
        if killed:
            await self._cancel()

    def _was_killed(self) -> bool:
        """Ask Airflow whether the task waits for other jobs by now, or for none. Blocks."""
        ti = self.task_instance
        if ti is None:
            raise LookupError("the trigger has no task instance")
        states = compat.task_states(ti.dag_id, [ti.run_id], ti.task_id)
        if states.get((ti.run_id, identity.map_index_of(ti))) != "deferred":
            return True
        # After a clear, the next try may be deferred already.
        job_id = pushed_job_id(ti)
        return job_id is not None and job_id not in self.job_ids

    async def _cancel(self) -> None:
        try:
            hook = await self._connected_hook()
        except Exception as error:
            self.log.error("DLI jobs %s could NOT be cancelled and may still run: %s", self.job_ids, error)
            return
        await asyncio.gather(*(run_in_thread(partial(self._cancel_one, hook, job_id)) for job_id in self.job_ids))

    def _cancel_one(self, hook: DliHook, job_id: str) -> None:
        try:
            cancellation = hook.for_thread(urgent=True).cancel_job(job_id, self.kind)
            self.log.info("Cancel of DLI job %s: %s.", job_id, cancellation)
        except Exception as error:  # nothing may end the trigger before the task is told
            self.log.error("DLI job %s could NOT be cancelled and may still run: %s", job_id, error)


def pushed_job_id(ti: Any) -> str | None:
    """Return the id of the job that a task instance has announced, in its current try; None when there is none yet."""
    from airflow.providers.common.compat.sdk import XCom

    where = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": identity.map_index_of(ti)}
    return cast("str | None", XCom.get_one(key="job_id", **where))


async def _undisturbed_by_cancels(work: Coroutine[Any, Any, None]) -> None:
    """
    Await this to its end, but for at most 28 s, however often the caller is cancelled meanwhile.

    Airflow cancels a killed trigger again every second until it is gone.
    """
    task = _in_background(work)
    end = time.monotonic() + _END_WITHIN
    while not task.done() and (left := end - time.monotonic()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task}, timeout=left)


def _in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task
