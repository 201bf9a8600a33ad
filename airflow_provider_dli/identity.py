"""
The identity that every job carries, so that it is found again after a crash or a lost answer.

A persisted contract: jobs tagged by one release are found by the next. Pure functions, no I/O.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_dli.exceptions import DliValueError
from airflow_provider_dli.text import parse_json

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_provider_dli.job import Job

FORMAT = "1"
MAX_KEY, MAX_VALUE = 128, 255
# Names of jobs hold so many digits of `airflow_ti`.
_TI_IN_NAME = 24
# What stands for "airflow_" in the settings of a Spark batch.
_SETTING = "spark.airflow."

TI, ATTEMPT, DEPLOYMENT = "airflow_ti", "airflow_attempt", "airflow_deployment"
DAG, RUN, TASK = "airflow_dag", "airflow_run", "airflow_task"
# Of the statements of a script: equal for all of one task instance.
SCRIPT = "airflow_script"
_RESERVED = (TI, ATTEMPT, DEPLOYMENT, DAG, RUN, TASK, SCRIPT)

_ALLOWED = re.compile(r"[A-Za-z0-9 _.:+-]")
_ESCAPE = re.compile(r"((?:@[0-9a-f]{2})+)")
_KEY = re.compile(r"(?! )(?!_sys_)[A-Za-z0-9 _.:+@-]*[A-Za-z0-9_.:+@-]")
_VALUE = re.compile(r"[A-Za-z0-9 _.:+@-]*")
# Never part of an escape, so a cut name cannot be taken for a whole one.
_CUT_MARK = "@-"
_NAME = re.compile(rf".*-([0-9a-f]{{{_TI_IN_NAME}}})-({FORMAT}:.*)")


@dataclass(frozen=True)
class Identity:
    """
    Who submitted a job.

    :param dag_id: Airflow's DAG id.
    :param run_id: Airflow's run id.
    :param task_id: Airflow's task id.
    :param map_index: Index of a mapped task, -1 when it is not mapped.
    :param statement_index: Index of the statement within the task, from 0.
    :param generation: The same for all automatic retries, another one after a clear; see :func:`generation`.
    :param try_number: Airflow's number of the try, from 1.
    :param owner: ``task`` when a task waits for the end of the job, else ``detached``.
    :param work: Digest of what is run; see :func:`digest`.
    :param deployment: The provider option ``[dli] deployment``, or None.
    :param of_script: Whether the task has several statements, each a job of its own.
    :param cleared_after: The try after which somebody has cleared the task, as far as more than the generation tells;
        0 when there is none. Not part of the tags.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    statement_index: int
    generation: str
    try_number: int
    owner: Literal["task", "detached"]
    work: str
    deployment: str | None = None
    of_script: bool = False
    cleared_after: int = 0

    @property
    def ti(self) -> str:
        """The value of ``airflow_ti``: equal for all tries of one statement of one task instance."""
        return _hash(self.dag_id, self.run_id, self.task_id, self.map_index, self.statement_index)

    @property
    def sought(self) -> dict[str, str]:
        """The tags by which the jobs of all tries of this task instance are found."""
        if not self.of_script:
            return {TI: self.ti}
        return {SCRIPT: _hash(self.dag_id, self.run_id, self.task_id, self.map_index)}

    @property
    def attempt(self) -> str:
        """The value of ``airflow_attempt``: unlike that of any other try."""
        parts = (
            FORMAT,
            self.generation,
            self.try_number,
            self.map_index,
            self.statement_index,
            self.owner,
            self.work,
        )
        return ":".join(str(part) for part in parts)

    def tags(self) -> dict[str, str]:
        """Return the tags of the job."""
        found = {
            TI: self.ti,
            ATTEMPT: self.attempt,
            DAG: escape(self.dag_id),
            RUN: escape(self.run_id),
            TASK: escape(self.task_id),
            **self.sought,
        }
        return {**found, DEPLOYMENT: escape(self.deployment)} if self.deployment else found


@dataclass(frozen=True)
class Attempt:
    """
    What ``airflow_attempt`` of a job says; the fields are those of :class:`Identity`.

    :param generation: See there.
    :param try_number: See there.
    :param map_index: See there.
    :param statement_index: See there.
    :param owner: See there.
    :param work: See there.
    """

    generation: str
    try_number: int
    map_index: int
    statement_index: int
    owner: str
    work: str

    @property
    def run_start(self) -> str:
        """The start of the DAG run, in microseconds since the epoch."""
        return run_start(self.generation)


def is_of_same_deployment(job: Job, mine: Identity) -> bool:
    """Whether a job says that it is of our deployment; a name that is cut in a tag may be that of another one."""
    if mine.deployment is None:
        return False
    name = escape(mine.deployment)
    return not is_cut(name) and job.tags.get(DEPLOYMENT) == name


def is_of_task_instance(job: Job, dag_id: str, run_id: str, task_id: str, map_index: int) -> bool:
    """Whether a job says that it is of a task instance, whichever its statement: by the hash, because names are cut."""
    attempt = read_attempt(job.tags)
    if attempt is None or attempt.map_index != map_index:
        return False
    return job.tags.get(TI) == _hash(dag_id, run_id, task_id, map_index, attempt.statement_index)


def _hash(*names: str | int) -> str:
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:40]


def read_attempt(tags: Mapping[str, str]) -> Attempt | None:
    """Read back who submitted a job; None when it has no such tag, or one of a format that we do not know."""
    parts = tags.get(ATTEMPT, "").split(":")
    try:
        format_version, generation, try_number, map_index, statement_index, owner, work = parts
        numbers = int(try_number), int(map_index), int(statement_index)
    except ValueError:
        return None
    if format_version != FORMAT:
        return None
    return Attempt(generation, *numbers, owner, work)


def is_of_newer_release(tags: Mapping[str, str]) -> bool:
    """Whether a job says who submitted it, in a format that came after ours."""
    version = tags.get(ATTEMPT, "").partition(":")[0]
    return version.isdecimal() and int(version[:9]) > int(FORMAT)


def is_same_generation(attempt: Attempt, mine: Identity) -> bool:
    """Whether Airflow has retried by itself since that attempt: nobody has cleared the task or its run."""
    return attempt.generation == mine.generation and attempt.try_number > mine.cleared_after


def run_start(generation: str) -> str:
    """Return the part of a generation that a clear of single tasks does not change."""
    return generation.partition(".")[0]


def generation(start_date: datetime | None, max_tries: int) -> str:
    """
    Tell an automatic retry, which keeps this value, from a clear, which changes it.

    It is ``<start of the run in microseconds>.<max_tries>``, compared for equality only.

    :param start_date: Start of the DAG run; None counts as 0.
    :param max_tries: Airflow's ``max_tries`` of the task instance.
    """
    # Whole seconds and microseconds apart: a float of both would lose the last digit.
    microseconds = int(start_date.timestamp()) * 1_000_000 + start_date.microsecond if start_date else 0
    return f"{microseconds}.{max_tries}"


def digest(work: list[Any]) -> str:
    """Return the first 16 hex digits of SHA-256 over what is run, as JSON."""
    return hashlib.sha256(json.dumps(work).encode()).hexdigest()[:16]


def merged_tags(user_tags: Mapping[str, Any], ours: Mapping[str, str]) -> dict[str, str]:
    """
    Return the user's tags, checked, followed by ours.

    :raises DliValueError: DLI would refuse a tag, or it has one of our names.
    """
    tags = {}
    for key, value in user_tags.items():
        value = str(value)
        if key in _RESERVED:
            raise DliValueError(
                f"tags: {key!r} is a tag by which this provider finds its jobs again; choose another name.",
                field="tags",
            )
        if not isinstance(key, str) or len(key) > MAX_KEY or not _KEY.fullmatch(key):
            raise DliValueError(
                f"tags: DLI does not take the key {key!r}: 1 to {MAX_KEY} letters, digits, blanks and _ . : + - @, "
                "no blank at either end, not starting with _sys_.",
                field="tags",
            )
        if len(value) > MAX_VALUE or not _VALUE.fullmatch(value):
            raise DliValueError(
                f"tags: DLI does not take the value {value[:60]!r} of {key!r}: at most {MAX_VALUE} letters, digits, "
                "blanks and _ . : + - @.",
                field="tags",
            )
        tags[key] = value
    return {**tags, **ours}


def settings(tags: Mapping[str, str]) -> dict[str, str]:
    """Write the tags of a job as settings of Spark, for a kind without tags."""
    return {f"{_SETTING}{key.removeprefix('airflow_')}": value for key, value in tags.items()}


def from_settings(conf: Mapping[str, Any]) -> dict[str, str]:
    """Read back what :func:`settings` wrote, among other settings."""
    return {
        f"airflow_{key.removeprefix(_SETTING)}": value
        for key, value in conf.items()
        if key.startswith(_SETTING) and isinstance(value, str)
    }


def description(tags: Mapping[str, str], limit: int) -> str:
    """Write the tags of a job as a description of at most so many characters; names that do not fit are cut."""
    found = dict(tags)
    names = [key for key in (TASK, RUN, DAG) if key in found]
    while len(text := json.dumps(found, separators=(",", ":"))) > limit:
        # A little at a time, so that something is left of each.
        longest = max(names, key=lambda key: len(found[key]))
        kept = found[longest].removesuffix(_CUT_MARK)[:-8]
        # Not in the middle of an escape.
        found[longest] = re.sub(r"@[0-9a-f]?$", "", kept) + _CUT_MARK
    return text


def from_description(text: str) -> dict[str, str]:
    """Read back what :func:`description` wrote; nothing, when it is somebody else's text."""
    try:
        found = parse_json(text)
    except (ValueError, RecursionError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in pairs if key in _RESERVED and isinstance(value, str)}


def readable_name(mine: Identity) -> str:
    """Return the beginning of a name that tells people whose job it is, of letters, digits, ``-`` and ``_``."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", f"{mine.dag_id}-{mine.task_id}")


def name(prefix: str, ending: str, limit: int) -> str:
    """Return the name of a job: readable, cut to the limit, with an ending by which it is found again."""
    return f"{prefix[: limit - len(ending) - 1]}-{ending}"


def long_ending(mine: Identity) -> str:
    """Return the ending of a name that may have any characters: it says what :func:`from_name` reads."""
    return f"{mine.ti[:_TI_IN_NAME]}-{mine.attempt}"


def short_ending(mine: Identity) -> str:
    """Return the ending of a name that has letters, digits, ``-`` and ``_`` only: another one for each try."""
    return f"{mine.ti[:_TI_IN_NAME]}-{hashlib.sha256(mine.attempt.encode()).hexdigest()[:8]}"


def from_name(name: str) -> dict[str, str]:
    """Read back from a name what :func:`long_ending` wrote; of the value of ``airflow_ti`` only the first digits."""
    found = _NAME.fullmatch(name)
    tags = {TI: found[1], ATTEMPT: found[2]} if found else {}
    return tags if read_attempt(tags) else {}


def fits(job: Job, wanted: Mapping[str, str]) -> bool:
    """
    Whether a job has these tags.

    Of a job that only its name tells of, what the name does not say counts as the same.
    """
    if job.is_proved:
        return wanted.items() <= job.tags.items()
    short = {**wanted, TI: wanted[TI][:_TI_IN_NAME]} if TI in wanted else wanted
    return bool(job.tags) and all(job.tags[key] == value for key, value in short.items() if key in job.tags)


def escape(name: str) -> str:
    """Write a name with the characters a tag may have; a name that gets too long is cut and marked."""
    pieces, length = [], 0
    for character in name:
        piece = character if _ALLOWED.fullmatch(character) else "".join(f"@{byte:02x}" for byte in character.encode())
        pieces.append(piece)
        length += len(piece)
    if length <= MAX_VALUE:
        return "".join(pieces)
    while length > MAX_VALUE - len(_CUT_MARK):
        length -= len(pieces.pop())
    return "".join(pieces) + _CUT_MARK


def is_cut(value: str) -> bool:
    """Whether a value of a tag is only the beginning of a name: others may begin alike."""
    return value.endswith(_CUT_MARK)


def unescape(value: str) -> str | None:
    """Read back what :func:`escape` wrote; None when it was cut or is no such value."""
    if is_cut(value):
        return None
    try:
        return _ESCAPE.sub(lambda found: bytes.fromhex(found[0].replace("@", "")).decode(), value)
    except UnicodeDecodeError:
        return None
