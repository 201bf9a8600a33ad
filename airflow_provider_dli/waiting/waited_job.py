"""A job that triggers wait for."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import sys
from typing import TYPE_CHECKING, Literal

from airflow_provider_dli import machine, story
from airflow_provider_dli.identity import DEPLOYMENT
from airflow_provider_dli.job import Goal
from airflow_provider_dli.waiting.watcher import WatchedJob

if TYPE_CHECKING:
    from airflow_provider_dli.client.client import Log
    from airflow_provider_dli.job import Job
    from airflow_provider_dli.story import Told


class WaitedJob(WatchedJob):
    """
    A job that triggers wait for.

    :param job_id: The job.
    :param log: Where to log what is new, for each of the triggers.
    :param poll_interval: Seconds between two looks, at most.
    :param goal: What it is waited for. Default: that it finishes.
    :param told: What was logged of it before. Default: nothing.
    """

    __slots__ = ("deployment", "goal", "is_missing", "is_young", "next_look", "queue_name", "seen_at", "waiting")

    def __init__(
        self,
        job_id: str,
        log: Log,
        *,
        poll_interval: float,
        goal: Goal = Goal.FINISHED,
        told: Told | None = None,
    ) -> None:
        super().__init__(job_id, log, poll_interval=poll_interval, told=told)
        self.goal = goal
        #: When DLI last said something of the job, or the first trigger came; and when to look at it next.
        self.seen_at = self.next_look = machine.monotonic()
        #: Whether it is looked at more often than every ``poll_interval``, because it has just begun.
        self.is_young = True
        #: Whether the list has not shown it.
        self.is_missing = False
        #: What DLI has said, by which the list can be narrowed; None before it has said anything.
        self.queue_name: str | None = None
        self.deployment: str | None = None
        # Each trigger has a log of its own, which Airflow finds by the context.
        self.waiting: dict[asyncio.Future[None], contextvars.Context] = {}

    def heard(self, job: Job) -> bool:
        """Note what DLI says of the job; return whether that is new."""
        if self.queue_name is None:
            # Of thousands of jobs, they are the same few names.
            self.queue_name = sys.intern(job.queue_name)
            self.deployment = sys.intern(job.tags.get(DEPLOYMENT, ""))
        self.seen_at = machine.monotonic()
        self.is_missing = False
        return super().heard(job)

    def wake(self, error: Exception | None = None) -> None:
        """Tell the triggers that the job is over, or why nobody can wait for it."""
        for future in self.waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                # Each raises its own: a traceback grows with every raise.
                future.set_exception(copy.copy(error))

    def _state(self, job: Job) -> str:
        if not self._told.status and job.state.is_active:
            self._told.note(job)
            return f"The triggerer waits for {job}, which is {job.status}."
        # The figures are told by the task, once it is resumed.
        return story.state(job, self._told, with_figures=False)

    def _say(self, level: Literal["info", "warning"], text: str, *values: object) -> None:
        for context in list(self.waiting.values()):
            context.copy().run(super()._say, level, text, *values)
