"""
A job of any kind: the stages of its life, and which may follow which.

Everything here is touched by the event loop only: no lock is needed, and no request waits for a running job.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar


class Stage(StrEnum):
    """Where a job is in its life. A SQL job shows these names as its state."""

    LAUNCHING = "LAUNCHING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


#: What may follow a stage. One that nothing follows is an end.
NEXT: Mapping[Stage, frozenset[Stage]] = {
    Stage.LAUNCHING: frozenset({Stage.RUNNING, Stage.FAILED, Stage.CANCELLED}),
    Stage.RUNNING: frozenset({Stage.FINISHED, Stage.FAILED, Stage.CANCELLED}),
    Stage.FINISHED: frozenset(),
    Stage.FAILED: frozenset(),
    Stage.CANCELLED: frozenset(),
}


class JobFailedError(Exception):
    """The job ends FAILED. The text starts with a DLI code."""


class StoppedError(Exception):
    """The job was stopped before it was done."""


@dataclass(eq=False)
class Job:
    """
    A job from submit to its end. Moments are seconds since the epoch.

    :param statement: What it runs, in one text.
    :param name: Given by its owner, where jobs of its kind have one, as well as the description.
    :param savepoints: Paths of its savepoints, the last one being the latest.
    :param clock_skew: Seconds that the clock is ahead by which its moments are shown.
    :param timeout: Seconds after which it is cancelled.
    :param stuck_in: State that it shows instead of the one of its stage, possibly one that DLI does not know.
    :param stop: Set when the job is to stop.
    :param ended: Set when it is over.
    """

    kind: ClassVar[str]

    statement: str
    job_type: str
    queue_name: str
    owner: str
    database: str = "default"
    tags: list[dict[str, str]] = field(default_factory=list)
    conf: list[str] = field(default_factory=list)
    timeout: float | None = None
    clock_skew: float = 0.0
    name: str = ""
    description: str = ""
    savepoints: list[str] = field(default_factory=list)

    job_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    stage: Stage = Stage.LAUNCHING
    stuck_in: str | None = None
    message: str = ""
    submitted_at: float = field(default_factory=time.time)
    started_at: float | None = None
    ended_at: float | None = None
    cancel_requests: list[float] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set at the end of the service: nothing plays for time any more.
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def status(self) -> str:
        """The state that DLI shows."""
        return self.stuck_in or self.stage

    @property
    def state(self) -> str:
        """Where it really is, in words that are the same for every kind."""
        return self.stage

    @property
    def is_active(self) -> bool:
        return bool(NEXT[self.stage])

    @property
    def start_ms(self) -> int:
        return self.shown_ms(self.submitted_at)

    def shown_ms(self, moment: float) -> int:
        """A moment as DLI shows it, by its own clock."""
        return int((moment + self.clock_skew) * 1000)

    @property
    def duration_ms(self) -> int:
        end = time.time() if self.ended_at is None else self.ended_at
        return max(0, int(end * 1000) - int(self.submitted_at * 1000))

    def enter(self, stage: Stage, message: str = "") -> None:
        """
        Go on to this stage.

        :raises ValueError: when it does not follow the present one.
        """
        if stage not in NEXT[self.stage]:
            raise ValueError(f"a job that is {self.stage} cannot become {stage}")
        self.stage, self.stuck_in = stage, None
        if self.is_active:
            self.started_at = time.time()
        else:
            self.message, self.ended_at = message, time.time()
            self.ended.set()

    def ask_to_stop(self, message: str) -> None:
        """Whoever runs the job sees this and stops; only then is the job CANCELLED."""
        if not self.stop.is_set():
            self.message = message
            self.stop.set()

    def end(self, message: str) -> None:
        """Have it stop at once, whatever its script says."""
        self.ask_to_stop(message)
        self.hurry.set()
