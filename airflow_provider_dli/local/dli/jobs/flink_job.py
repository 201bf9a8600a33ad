"""A Flink job: a draft that can be run, stopped and run again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from airflow_provider_dli.local.dli.bodies_flink import FlinkBody
from airflow_provider_dli.local.dli.jobs.job import Job, Stage


class FlinkStatus(StrEnum):
    """The states of a Flink job that it can reach by itself; a script can show the others."""

    INIT = "job_init"
    SUBMITTING = "job_submitting"
    SUBMIT_FAIL = "job_submit_fail"
    RUNNING = "job_running"
    RUNNING_EXCEPTION = "job_running_exception"
    SAVEPOINTING = "job_savepointing"
    CANCELING = "job_canceling"
    CANCEL_SUCCESS = "job_cancel_success"
    CANCEL_FAIL = "job_cancel_fail"
    FINISH = "job_finish"


S = FlinkStatus
_ENDS = {S.FINISH, S.RUNNING_EXCEPTION, S.CANCEL_SUCCESS}
_ENDS_WHILE_STOPPING = {S.SUBMIT_FAIL, *_ENDS}

#: What may follow a state. A job that is over can be run again.
NEXT_STATUS: Mapping[FlinkStatus, set[FlinkStatus]] = {
    S.INIT: {S.SUBMITTING},
    # CANCEL_SUCCESS without CANCELING: stopped by the server itself, as by a reset.
    S.SUBMITTING: {S.RUNNING, S.SUBMIT_FAIL, S.CANCELING, S.CANCEL_SUCCESS},
    S.SUBMIT_FAIL: {S.SUBMITTING},
    S.RUNNING: {S.SAVEPOINTING, S.CANCELING, *_ENDS},
    # RUNNING again: a job that restarts after an error.
    S.RUNNING_EXCEPTION: {S.SUBMITTING, S.RUNNING, S.SAVEPOINTING, S.CANCELING, *_ENDS},
    # A job may end by itself while it is being stopped.
    S.SAVEPOINTING: {S.CANCELING, *_ENDS},
    S.CANCELING: {S.INIT, S.CANCEL_FAIL, *_ENDS_WHILE_STOPPING},
    S.CANCEL_SUCCESS: {S.SUBMITTING},
    # The job still runs, and can be stopped again.
    S.CANCEL_FAIL: {S.SAVEPOINTING, S.CANCELING, *_ENDS_WHILE_STOPPING},
    S.FINISH: {S.SUBMITTING},
}
#: States with a word of their own; the stage tells the others.
_STATES = {
    S.INIT: "CREATED",
    S.SAVEPOINTING: "STOPPING",
    S.CANCELING: "STOPPING",
    S.CANCEL_FAIL: "STOP_FAILED",
}


@dataclass(eq=False, kw_only=True)
class FlinkJob(Job):
    """
    A Flink job.

    :param body: What it was created with.
    :param flink_status: The state that it shows.
    :param restart_times: How often DLI has restarted it after an error, since it was run.
    :param is_reset_by_stop: Whether it is a draft again once it has stopped.
    :param deleted: Whether it is gone for callers.
    :param background: What submits and stops it; kept here, because the event loop keeps no task.
    """

    kind = "flink"

    body: FlinkBody
    flink_status: FlinkStatus = S.INIT
    updated_at: float = field(default_factory=time.time)
    restart_times: int = 0
    is_reset_by_stop: bool = False
    deleted: bool = False
    background: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def number(self) -> int:
        """The id as callers know it."""
        return int(self.job_id)

    @property
    def status(self) -> str:
        return self.stuck_in or self.flink_status

    @property
    def state(self) -> str:
        return _STATES.get(self.flink_status, self.stage)

    @property
    def is_active(self) -> bool:
        return self.flink_status != S.INIT and super().is_active

    @property
    def may_be_stopped(self) -> bool:
        return self.is_active and self.flink_status not in (S.SAVEPOINTING, S.CANCELING)

    @property
    def may_restart(self) -> bool:
        """Whether DLI restarts it after an error."""
        limit = self.body.resume_max_num
        return self.body.restart_when_exception and (limit == -1 or self.restart_times < limit)

    @property
    def running_ms(self) -> int:
        """How long it has been running, or ran."""
        if self.started_at is None:
            return 0
        end = time.time() if self.ended_at is None else self.ended_at
        return max(0, int(end * 1000) - int(self.started_at * 1000))

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Let this run beside the job."""
        task = asyncio.get_running_loop().create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    def show(self, status: FlinkStatus, message: str = "") -> None:
        """
        Go on to this state.

        :raises ValueError: when it does not follow the present one.
        """
        if status not in NEXT_STATUS[self.flink_status]:
            raise ValueError(f"a job in {self.flink_status} cannot be {status} next")
        self.flink_status, self.stuck_in, self.message = status, None, message
        self.updated_at = time.time()

    def begin(self) -> None:
        """Start from the beginning: the job is being submitted, and its savepoints are used up."""
        self.show(S.SUBMITTING)
        self.stage, self.started_at, self.ended_at = Stage.LAUNCHING, None, None
        self.stop, self.ended = asyncio.Event(), asyncio.Event()
        self.restart_times = 0
        self.savepoints = []

    def enter(self, stage: Stage, message: str = "") -> None:
        before = self.stage
        super().enter(stage, message)
        match stage:
            case Stage.RUNNING:
                if self.flink_status == S.SUBMITTING:  # not when it is being stopped already
                    self.show(S.RUNNING)
            case Stage.FINISHED:
                self.show(S.FINISH, message)
            case Stage.FAILED:
                self.show(S.SUBMIT_FAIL if before == Stage.LAUNCHING else S.RUNNING_EXCEPTION, message)
            case Stage.CANCELLED:
                is_reset = self.is_reset_by_stop and self.flink_status == S.CANCELING
                self.show(S.INIT if is_reset else S.CANCEL_SUCCESS, message)
