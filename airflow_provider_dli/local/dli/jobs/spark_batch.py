"""A Spark batch: it starts, runs, and may be started again after a failure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from airflow_provider_dli.local.dli.bodies_spark import BatchBody
from airflow_provider_dli.local.dli.jobs.driver_log import DriverLog
from airflow_provider_dli.local.dli.jobs.job import Job, Stage


class BatchState(StrEnum):
    """The states of a batch. ``dead`` is the end of one that failed or was cancelled."""

    STARTING = "starting"
    RUNNING = "running"
    RECOVERING = "recovering"
    SUCCESS = "success"
    DEAD = "dead"


S = BatchState

#: What may follow a state.
NEXT_STATE: Mapping[BatchState, set[BatchState]] = {
    S.STARTING: {S.RUNNING, S.DEAD},
    S.RUNNING: {S.RECOVERING, S.SUCCESS, S.DEAD},
    S.RECOVERING: {S.RUNNING, S.DEAD},
    S.SUCCESS: set(),
    # Not the end of a batch that is started again; and such a batch can be cancelled.
    S.DEAD: {S.RECOVERING, S.DEAD},
}
_BY_STAGE = {
    Stage.RUNNING: S.RUNNING,
    Stage.FINISHED: S.SUCCESS,
    Stage.FAILED: S.DEAD,
    Stage.CANCELLED: S.DEAD,
}


@dataclass(eq=False, kw_only=True)
class SparkBatch(Job):
    """
    A Spark batch.

    :param body: What it was created with.
    :param batch_state: The state that it shows.
    :param logs: What its driver has printed, once for each time it was started.
    """

    kind = "spark"

    body: BatchBody
    batch_state: BatchState = S.STARTING
    updated_at: float = field(default_factory=time.time)
    logs: list[DriverLog] = field(default_factory=list)

    @property
    def status(self) -> str:
        return self.stuck_in or self.batch_state

    @property
    def state(self) -> str:
        waits_for_another_try = self.is_active and self.batch_state in (S.DEAD, S.RECOVERING)
        return Stage.LAUNCHING if waits_for_another_try else self.stage

    @property
    def may_recover(self) -> bool:
        """Whether DLI starts it again after a failure."""
        return self.body.auto_recovery and len(self.logs) <= self.body.max_retry_times

    @property
    def application(self) -> str:
        """YARN's id of the driver; empty before it is started."""
        return f"application_{self.start_ms}_{len(self.logs):04}" if self.logs else ""

    def note(self, line: str) -> None:
        """Add a line of YARN's to the log of the driver."""
        if self.logs:
            self.logs[-1].add(line)

    def log_lines(self, index: int = -1) -> list[str]:
        """
        :param index: Which start of the driver, 0 for the first; -1 for the last one.
        """
        try:
            return self.logs[index].lines()
        except IndexError:
            return []

    def show(self, state: BatchState) -> None:
        """
        Go on to this state.

        :raises ValueError: when it does not follow the present one.
        """
        if state not in NEXT_STATE[self.batch_state]:
            raise ValueError(f"a batch that is {self.batch_state} cannot be {state} next")
        self.batch_state, self.stuck_in, self.updated_at = state, None, time.time()

    def enter(self, stage: Stage, message: str = "") -> None:
        super().enter(stage, message)
        self.show(_BY_STAGE[stage])
