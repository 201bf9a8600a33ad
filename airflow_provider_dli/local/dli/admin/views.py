"""What the admin API shows. The server writes it, the test handle reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LocalJob:
    """
    A job as it was at one moment. Moments are seconds since the epoch, None when not reached.

    :param status: Its state in DLI's words, which differ between the kinds of jobs.
    :param state: Its state in words that are the same for every kind: CREATED, LAUNCHING, RUNNING, FINISHED, FAILED,
        CANCELLED, STOPPING, STOP_FAILED. A cancelled Spark batch is CANCELLED, where DLI says ``dead``.
    """

    job_id: str
    status: str
    message: str
    statement: str
    tags: Mapping[str, str]
    conf: tuple[str, ...]
    queue_name: str
    database: str
    owner: str
    job_type: str
    submitted_at: float
    started_at: float | None
    ended_at: float | None
    cancel_requests: tuple[float, ...]
    kind: str = "sql"
    state: str = ""
    name: str = ""
    description: str = ""
    savepoints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("conf", "cancel_requests", "savepoints"):  # lists, in JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def is_active(self) -> bool:
        """Whether the job has not ended, in whatever state it is; a Flink job that was never run is a draft."""
        return self.ended_at is None and self.status != "job_init"


@dataclass
class LocalRequest:
    """
    A request to DLI or IAM that the server has seen.

    :param at: Moment of arrival.
    :param call: Name of the call in the table of routes, or ``unknown``.
    :param connection: ``ip:port`` of the client, the same for all requests of one connection.
    :param job_id: Job in the path, or the one that the call has started.
    :param status: None while, or when, there is no whole answer.
    :param answered_at: None while, or when, there is no whole answer.
    :param fault: Kind of the fault that the call met.
    """

    seq: int
    at: float
    method: str
    path: str
    query: str
    call: str
    connection: str
    job_id: str | None = None
    status: int | None = None
    answered_at: float | None = None
    fault: str | None = None
