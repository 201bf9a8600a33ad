"""Scripts: what happens to jobs instead of being run."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from airflow_provider_dli.local.dli.jobs.job import Job, JobFailedError, Stage, StoppedError
from airflow_provider_dli.local.dli.jobs.runner import wait_unless_stopped

CANCELLED_BY_USER = "The job has been cancelled by a user."


@dataclass
class Script:
    """
    What happens to the next ``times`` jobs whose statement contains ``matching``.

    :param kind: Kind of the jobs; None for every kind.
    :param run_for: Seconds in RUNNING.
    :param then: End state.
    :param message: Message of the end state.
    :param launching_for: Seconds in LAUNCHING before that.
    :param stuck_in: State, possibly one that DLI does not know, in which the job stays until it is cancelled.
    :param cancel_takes: Seconds from a cancel to CANCELLED.
    :param rows: Result rows, for a preview.
    :param log: Driver log of a Spark batch.
    """

    kind: str | None
    matching: str
    times: int
    run_for: float
    then: Stage
    message: str
    launching_for: float
    stuck_in: str | None
    cancel_takes: float
    rows: list[list[Any]]
    log: list[str]


class Scripts:
    """Scripts in the order in which they were given."""

    def __init__(self) -> None:
        self._scripts: list[Script] = []

    def add(self, script: Script) -> None:
        self._scripts.append(script)

    def clear(self) -> None:
        self._scripts.clear()

    def take(self, statement: str, kind: str = "sql") -> Script | None:
        """The script of this job, counted down."""
        for script in self._scripts:
            if script.kind in (None, kind) and script.matching in statement:
                script.times -= 1
                if script.times <= 0:
                    self._scripts.remove(script)
                return script
        return None


async def play(job: Job, script: Script) -> str:
    """
    Do as the script says.

    :returns: The message of a job that finishes.
    :raises JobFailedError: when that is the end.
    :raises StoppedError: when the job is cancelled, by a caller or by the script.
    """
    try:
        if script.stuck_in is not None:
            job.stuck_in = script.stuck_in
            await job.stop.wait()
        await wait_unless_stopped(job, script.run_for)
    except StoppedError:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(job.hurry.wait(), script.cancel_takes)
        raise
    if script.then == Stage.FAILED:
        raise JobFailedError(script.message or "DLI.0999: Server-side errors occur.")
    if script.then == Stage.CANCELLED:
        job.message = script.message or CANCELLED_BY_USER
        raise StoppedError
    return script.message
