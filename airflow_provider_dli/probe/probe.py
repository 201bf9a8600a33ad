"""A probe: runs its checks one after the other, and notes what was seen and what was learned."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import machine
from airflow_provider_dli.client.patience import Patience
from airflow_provider_dli.exceptions import DliError
from airflow_provider_dli.probe.jobs import StartedJobs
from airflow_provider_dli.probe.points import BY_KEY, POINTS, Point
from airflow_provider_dli.probe.replies import Reply, look
from airflow_provider_dli.probe.stop import Stop, Stopped

if TYPE_CHECKING:
    from airflow_provider_dli.api.call import Call
    from airflow_provider_dli.api.job_kind import JobKind
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.job import Job, JobState

# For how long a call is repeated that DLI does not answer, in seconds.
_GIVE_UP_AFTER = 30.0
#: How long a job that was cancelled may take until it is over, in seconds.
OVER_WITHIN = 60.0


@dataclass(frozen=True)
class Options:
    """
    What the user has asked for.

    :param conn_id: Airflow connection.
    :param queue: Queue of the SQL jobs; None for DLI's own, ``default``.
    :param timeout: Seconds that the probe may take.
    :param kinds: Kinds of job to look at.
    :param general_queue: Queue of type general, for Spark and Flink; None where none is needed.
    :param spark_file: OBS path of a batch that runs for some minutes, or None.
    :param spark_version: Version of Spark for it.
    :param agency: Agency for Spark and Flink, or None.
    """

    conn_id: str
    queue: str | None
    timeout: float
    kinds: Sequence[str] = ("sql",)
    general_queue: str | None = None
    spark_file: str | None = None
    spark_version: str | None = None
    agency: str | None = None


class NotAsExpectedError(Exception):
    """A check has seen something else than what the package relies on. The text is for people."""


class NotTriedError(Exception):
    """A check cannot be done, because of another one. The text is for people."""


@dataclass(frozen=True)
class Check:
    """
    One look at DLI.

    :param name: Its name.
    :param expected: What the package relies on; empty where it takes whatever comes, so that only open points are at
        stake.
    :param run: Does it; returns what was seen.
    :param points: Keys of the open points that it answers.
    """

    name: str
    expected: str
    run: Callable[[Probe], str]
    points: tuple[str, ...] = ()

    @property
    def is_of_contract(self) -> bool:
        """Whether the package relies on it."""
        return bool(self.expected)


@dataclass(frozen=True)
class Row:
    """
    What became of a check.

    :param check: The check.
    :param seen: What was seen.
    :param held: Whether that is as expected; None when it was not tried.
    :param seconds: How long it took.
    """

    check: Check
    seen: str
    held: bool | None
    seconds: float


@dataclass
class Probe:
    """
    What checks work with.

    :param options: What the user has asked for.
    :param stop: What ends the probe early.
    :param client: Talks to DLI; its waits end with the probe.
    """

    options: Options
    stop: Stop
    client: DliClient
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    rows: list[Row] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    #: How many units of DLI's time limit of a SQL job make a second.
    units_per_second: int = 1

    def __post_init__(self) -> None:
        self.jobs = StartedJobs(self.client.patient(Patience(give_up_after=_GIVE_UP_AFTER)), self.stop)
        self.client = self.client.patient(Patience(watch=self.stop.check, give_up_after=_GIVE_UP_AFTER))
        self._jobs: dict[str, Job] = {}
        self._refused: list[tuple[str, Reply]] = []

    def check(self, check: Check, report: Callable[[Row], None]) -> bool:
        """
        Do a check, and note what became of it; return whether it held.

        :param report: Is told, as soon as it is done.
        :raises Stopped: The probe ends early.
        """
        begun = machine.monotonic()
        seen = ""
        held: bool | None = False
        try:
            self.stop.check()
            seen, held = check.run(self), True
        except NotTriedError as reason:
            seen, held = f"not tried: {reason}", None
        except (NotAsExpectedError, DliError) as problem:
            seen = str(problem)
        except Stopped as reason:
            seen = f"ended: {reason}"
            raise
        except Exception as error:  # a mistake of the probe must not keep it from ending what it has started
            seen = f"the probe itself failed: {type(error).__name__}: {error}"
        finally:
            self.rows.append(Row(check, seen, held, machine.monotonic() - begun))
            self.reasons.update({key: seen for key in check.points if not held})
            report(self.rows[-1])
        return bool(held)

    def look(self, what: str, call: Call[Any]) -> Reply:
        """
        Return what DLI answers to a call.

        :param what: The call, for people, such as ``cancel of a finished job``.
        """
        reply = look(self.client, call)
        if reply.refusal is not None:
            self._refused.append((what, reply))
            soft = [each for each, refused in self._refused if refused.is_soft]
            self.learn(
                "soft_failures",
                ", ".join(dict.fromkeys(soft)) or f"none of {len(self._refused)} calls that were refused",
            )
        return reply

    def learn(self, key: str, answer: str) -> None:
        """Note the answer to an open point."""
        self.answers[BY_KEY[key].key] = answer

    def keep(self, name: str, job: Job) -> Job:
        """Keep a job for the checks that follow."""
        self._jobs[name] = job
        return job

    def kept(self, name: str) -> Job:
        """
        Return a job that an earlier check has kept.

        :raises NotTriedError: It has not.
        """
        if name not in self._jobs:
            raise NotTriedError(f"it needs the {name} job")
        return self._jobs[name]

    def until(self, kind: JobKind[Any], job_id: str, done: Callable[[JobState], bool], within: float | None) -> Job:
        """
        Wait until the state of a job is what is waited for, and return the job.

        :param done: Whether it is.
        :param within: Seconds; None for as long as the probe may take.
        :raises NotAsExpectedError: The time was over.
        """
        begun, pause = machine.monotonic(), 0.1
        while not done((job := self.client.job(kind, job_id)).state):
            if within is not None and machine.monotonic() - begun >= within:
                raise NotAsExpectedError(f"{job.status}, still, after {within:.0f} s")
            self.client.pause(pause)
            pause = min(pause * 1.5, 5.0)
        return job

    def over(self, kind: JobKind[Any], job_id: str, within: float | None = OVER_WITHIN) -> Job:
        """
        Wait until a job is over, and return it.

        :param within: Seconds; None for as long as the probe may take.
        :raises NotAsExpectedError: The time was over.
        """
        return self.until(kind, job_id, lambda state: not state.is_active, within)

    def open_points(self) -> list[tuple[Point, str | None, str | None]]:
        """Return each open point with its answer, or the reason why there is none."""
        found = []
        for point in POINTS:
            answer = self.answers.get(point.key)
            reason = self.reasons.get(point.key, point.otherwise)
            if point.kind not in self.options.kinds:
                reason = f"not tried: see --kinds {point.kind}"
            found.append((point, answer, None if answer else reason))
        return found
