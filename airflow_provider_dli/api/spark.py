"""Spark batches: the chapter "APIs Related to Spark Jobs" of the DLI API Reference."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from airflow_provider_dli import identity
from airflow_provider_dli.api import answers, checks, shown
from airflow_provider_dli.api.call import MAX_LONG_ANSWER, Answer, Call, escape
from airflow_provider_dli.api.job_kind import JobKind, JobPage, Query, Work
from airflow_provider_dli.api.sql import conf_text
from airflow_provider_dli.exceptions import DliTemporaryError
from airflow_provider_dli.job import Job, JobState
from airflow_provider_dli.text import NAME_LIMIT, parse_json

# The most that DLI puts on one page.
PAGE_SIZE = 100
MAX_NAME = 128
_TITLE = "Spark batch"
_BATCHES = "/v2.0/{project_id}/batches"
_STATES = {
    "starting": JobState.LAUNCHING,
    "running": JobState.RUNNING,
    "recovering": JobState.LAUNCHING,
    "success": JobState.FINISHED,
    # Failed, cancelled, or without resources for about three hours: DLI does not tell which.
    "dead": JobState.FAILED,
}
# What to do about a refusal that names one of these.
_ADVICE = {
    "agency": "Name an agency that may read the files as execution_agency_urn, or in conf as "
    "spark.dli.job.agency.name; Spark 3.3.1 needs one.",
    "obs": "Check the paths of file, jars, py_files and files, and that the agency may read them.",
    "package": "Upload the package to DLI, or name it by its OBS path: see file, jars, py_files, files and modules.",
    "resource": "Upload the package to DLI, or name it by its OBS path: see file, jars, py_files, files and modules.",
}


@dataclass(frozen=True)
class SparkWork(Work):
    """
    One batch, with the defaults of the connection resolved. The fields are those of the operator, checked.

    :raises DliValueError: A field cannot be used, or contradicts another one.
    """

    file: str
    class_name: str | None = None
    args: Sequence[str] | None = None
    spark_version: str | None = None
    queue_name: str | None = None
    name: str | None = None
    conf: Mapping[str, Any] = field(default_factory=dict)
    jars: Sequence[str] | None = None
    py_files: Sequence[str] | None = None
    files: Sequence[str] | None = None
    modules: Sequence[str] | None = None
    resources: Sequence[Mapping[str, Any]] | None = None
    groups: Sequence[Mapping[str, Any]] | None = None
    sc_type: str | None = None
    driver_memory: str | None = None
    driver_cores: int | None = None
    executor_memory: str | None = None
    executor_cores: int | None = None
    num_executors: int | None = None
    feature: str | None = None
    image: str | None = None
    catalog_name: str | None = None
    execution_agency_urn: str | None = None
    obs_bucket: str | None = None
    auto_recovery: bool | None = None
    max_retry_times: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            if (check := _CHECKS.get(each.name)) is not None:
                object.__setattr__(self, each.name, check(each.name, getattr(self, each.name)))
        self._check_version()
        self._check_sizes()

    @property
    def settings(self) -> dict[str, str]:
        """The author's settings; one that is None is left out."""
        return {str(name): conf_text(value) for name, value in self.conf.items() if value is not None}

    @property
    def body(self) -> dict[str, Any]:
        """What is sent, without what tells who submits it."""
        values = {_API_NAMES.get(each.name, each.name): getattr(self, each.name) for each in fields(self)}
        values.update(name=None, conf=self.settings or None)
        return {name: value for name, value in values.items() if value is not None}

    @property
    def digest(self) -> str:
        """Identify the work. A persisted contract: it stays the same in every release."""
        return _digest(self.body)

    def shown_by(self, job: Job, digest: str) -> bool | None:
        """See :meth:`.Work.shown_by`."""
        was = job.runs
        if not answers.is_text(was.get("file")):
            return None
        conf = was.get("conf")
        settings = {key: conf_text(value) for key, value in conf.items()} if isinstance(conf, dict) else {}
        if digest != self.digest:
            # What DLI does not show may have been another one then.
            theirs = {name: was[name] for name in _TELLING if was.get(name)}
            kept = {name: value for name, value in self.body.items() if name not in _TELLING or name not in was}
            return _digest({**kept, **theirs}) == digest or None
        return (
            shown.same_fields(was, self.body, _TELLING)
            and shown.same_name(job.queue_name, self.queue_name)
            and all(settings.get(name, value) == value for name, value in self.settings.items())
        )

    def differences(self, job: Job) -> str:
        """Name what a job ran differently, as far as DLI shows it."""
        names = ["file"] if job.statement and job.statement != self.file else []
        if job.queue_name and job.queue_name.lower() != (self.queue_name or "").lower():
            names.append(f"queue_name ({job.queue_name} then, {self.queue_name} now)")
        return ", ".join(names) or "arguments, settings or sizes"

    def _check_version(self) -> None:
        if self.feature == "custom":
            if self.image is None:
                raise checks.refuse("image", "is missing: feature='custom' needs it, as 'organization/image:version'.")
            if self.spark_version is not None:
                raise checks.refuse("spark_version", "cannot go with feature='custom': the image decides.")
        elif self.image is not None:
            raise checks.refuse("image", "is used with feature='custom' only.")
        elif self.spark_version is None:
            raise checks.refuse(
                "spark_version", "is missing: give one, such as '3.3.1'; DLI would take 2.3.2, which is out of service."
            )
        version = checks.version(self.spark_version or "")
        is_new = version >= (3, 3)
        spark = f"Spark {self.spark_version}"
        object.__setattr__(self, "file", checks.package("file", self.file, only_obs=spark if is_new else ""))
        for name in ("resources", "groups"):
            if is_new and getattr(self, name):
                raise checks.refuse(name, f"cannot go with {spark}: name the files by their OBS paths in jars, "
                                          "py_files and files.")  # fmt: skip
        if version == (3, 1, 1) and self.modules:
            raise checks.refuse("modules", f"cannot go with {spark}.")

    def _check_sizes(self) -> None:
        if self.max_retry_times is not None and not self.auto_recovery:
            raise checks.refuse("max_retry_times", "is used with auto_recovery=True only.")
        if taken := [name for name in map(str, self.conf) if name.startswith("spark.airflow.")]:
            raise checks.refuse(
                "conf", f"{taken[0]!r} is a setting by which this provider finds its jobs again; choose another name."
            )


def _digest(body: Mapping[str, Any]) -> str:
    return identity.digest([json.dumps(body, sort_keys=True)])


#: The names of what a batch consists of.
FIELDS = tuple(each.name for each in fields(SparkWork))

_API_NAMES = {
    "class_name": "className",
    "queue_name": "queue",
    "py_files": "pyFiles",
    "driver_memory": "driverMemory",
    "driver_cores": "driverCores",
    "executor_memory": "executorMemory",
    "executor_cores": "executorCores",
    "num_executors": "numExecutors",
}
# What tells one batch from another, as DLI names it. (Of sizes, it may show its own.)
_TELLING = ("file", "className", "args", "jars", "pyFiles", "files", "modules", "resources", "groups", "image")
_CHECKS: dict[str, Any] = {
    **dict.fromkeys(
        ["class_name", "spark_version", "name", "image", "catalog_name", "execution_agency_urn", "obs_bucket"],
        checks.text,
    ),
    **dict.fromkeys(["args", "modules"], checks.texts),
    **dict.fromkeys(["jars", "py_files", "files"], checks.packages),
    **dict.fromkeys(["resources", "groups"], checks.objects),
    **dict.fromkeys(["driver_memory", "executor_memory"], checks.memory),
    **dict.fromkeys(["driver_cores", "executor_cores", "num_executors"], checks.whole_number),
    "queue_name": checks.name,
    "conf": checks.mapping,
    "sc_type": lambda name, value: checks.choice(name, value, ("A", "B", "C")),
    "feature": lambda name, value: checks.choice(name, value, ("basic", "ai", "custom")),
    "auto_recovery": checks.flag,
    "max_retry_times": lambda name, value: checks.whole_number(name, value, 0, 100),
}


def create(work: SparkWork, *, name: str, tags: Mapping[str, str] | None = None) -> Call[Job]:
    """
    Start a batch (API page "Creating a Batch Processing Job").

    :param work: What it runs.
    :param name: Its name, up to 128 characters.
    :param tags: Labels for look-ups, which become settings: a batch has no tags.
    """
    body = {**work.body, "name": name}
    if conf := {**work.settings, **identity.settings(tags or {})}:
        body["conf"] = conf

    def read(answer: Answer) -> Job:
        return Job(
            id=answers.job_id(answer.body.get("id"), f"DLI accepted the {_TITLE} but gave no usable id"),
            kind="spark",
            title=_TITLE,
            state=JobState.LAUNCHING,
            status="submitted",
            queue_name=work.queue_name or "",
            name=name,
            statement=work.file,
            tags=dict(tags or {}),
        )

    return _call(
        f"create of the {_TITLE}",
        "POST",
        _BATCHES,
        read,
        body=body,
        iam_action="dli:queue:submitJob",
        advice=_ADVICE,
    )


def status(job_id: str) -> Call[Job]:
    """Ask for the state of a batch (API page "Querying a Batch Processing Job Status")."""
    return _look(f"status of {_TITLE} {job_id}", f"{_path(job_id)}/state", job_id)


def detail(job_id: str) -> Call[Job]:
    """Ask for all that DLI knows of a batch (API page "Querying Batch Processing Job Details")."""
    return _look(f"detail of {_TITLE} {job_id}", _path(job_id), job_id)


def log(job_id: str, lines: int = 100) -> Call[list[str]]:
    """
    Read the last lines of the driver log (API page "Querying Batch Job Logs", deprecated by DLI).

    :param job_id: The batch.
    :param lines: Number of lines, at most. Default 100.
    """

    def read(answer: Answer) -> list[str]:
        answers.check_job(f"log of {_TITLE} {job_id}", answer.body.get("id"), job_id)
        return _lines(answer, answer.body.get("log"))[-lines:]

    return _call(
        f"log of {_TITLE} {job_id}",
        "GET",
        f"{_path(job_id)}/log",
        read,
        query={"type": "driver", "size": lines},
        repeatable=True,
        iam_action="dli:jobs:get",
    )


def list_batches(
    *,
    offset: int = 0,
    size: int = PAGE_SIZE,
    state: str | None = None,
    queue_name: str | None = None,
    name: str | None = None,
    end: int | None = None,
) -> Call[JobPage]:
    """
    List one page of the batches of the project (API page "Listing Batch Processing Jobs").

    :param offset: Number of batches to skip.
    :param size: Batches per page, 1 to 100.
    :param state: Only batches in this state.
    :param queue_name: Only batches of this queue.
    :param name: Only batches of this name. Whether DLI takes a similar one too is not documented: compare again.
    :param end: Only batches that started before this moment, in milliseconds since the epoch.
    """
    what = "list of Spark batches"

    def read(answer: Answer) -> JobPage:
        found = answers.jobs_of(what, answer.body, "sessions", "total")
        problem = f"{what}: DLI's answer holds a batch without a usable id"
        return answers.page_of(
            found,
            lambda job: answers.job_id(job.get("id"), problem),
            lambda job, job_id: _read_job(answer, job, job_id),
            answer.body.get("total"),
        )

    return _call(
        what,
        "GET",
        _BATCHES,
        read,
        query={"from": offset, "size": size, "state": state, "queue_name": queue_name, "job_name": name, "end": end},
        repeatable=True,
        max_bytes=MAX_LONG_ANSWER,
        iam_action="dli:jobs:listAll",
    )


def cancel(job_id: str) -> Call[None]:
    """Cancel a batch that is not over (API page "Canceling a Batch Processing Job"). It ends ``dead`` then."""
    what = f"cancel of {_TITLE} {job_id}"

    def read(answer: Answer) -> None:
        # Here the flag counts: a cancel that is repeated for nothing does no harm, one that is taken for accepted does.
        if answers.says_failed(answer.body) and answer.body.get("msg") != "deleted":
            raise answers.error_of(what, 200, answer.body, about_job=True, secrets=answer.secrets)

    return _call(
        what,
        "DELETE",
        _path(job_id),
        read,
        repeatable=True,
        iam_action="dli:queue:cancelJob",
        answers_loosely=True,
        about_job=True,
    )


def _call(what: str, method: str, path: str, read: Any, **more: Any) -> Call[Any]:
    # `is_success` was seen false after a success.
    return Call(what, method, path, read, tells_success=False, **more)


def _path(job_id: str) -> str:
    return f"{_BATCHES}/{escape(checks.job_id(job_id))}"


def _look(what: str, path: str, job_id: str) -> Call[Job]:
    def read(answer: Answer) -> Job:
        if not answers.is_text(answer.body.get("state")):
            raise DliTemporaryError(f"{what}: DLI's answer holds no state")
        answers.check_job(what, answer.body.get("id"), job_id)
        return _read_job(answer, answer.body, job_id)

    return _call(what, "GET", path, read, repeatable=True, iam_action="dli:jobs:get", about_job=True)


def _read_job(answer: Answer, body: Mapping[str, Any], job_id: str) -> Job:
    """Read all that DLI says of a batch. Only its id has to be right; what cannot be read of the rest is left out."""
    status = answer.text(body.get("state"), NAME_LIMIT)
    state = _STATES.get(status.lower(), JobState.UNKNOWN)
    request = _request(body.get("req_body"))
    name = str(next((each for each in (body.get("name"), request.get("name")) if answers.is_text(each)), ""))
    conf = request.get("conf")
    tags = identity.from_settings(conf) if isinstance(conf, dict) else {}
    log = tuple(_lines(answer, body.get("log")))
    return Job(
        id=job_id,
        kind="spark",
        title=_TITLE,
        state=state,
        status=status or "without a state",
        message=answers.advised(_reason(log)) if state is JobState.FAILED else "",
        queue_name=answer.text(body.get("queue") or body.get("cluster_name"), NAME_LIMIT),
        name=name,
        owner=answer.text(body.get("owner"), NAME_LIMIT),
        statement=answer.masked(request.get("file")),
        runs=request,
        start_time=answers.moment(body.get("create_time")),
        duration=answers.duration(body.get("duration")),
        tags=tags or identity.from_name(name),
        is_proved=bool(tags) or not identity.from_name(name),
        # What DLI does not show may be so.
        may_recover=state is JobState.FAILED and request.get("autoRecovery", request.get("auto_recovery")) is not False,
        log=log,
    )


def _reason(log: Sequence[str]) -> str:
    """Return the last line of a log that says something: it may end with empty headers."""
    lines = (_HEADER.sub("", line).strip() for line in reversed(log))
    return next(filter(None, lines), "")


# At the end of a line, for one element of the log may have held several.
_HEADER = re.compile(r"(?:^|(?<=\s))(?:(?:stdout|stderr|YARN Diagnostics)\s*:\s*)+$", re.IGNORECASE)


def _lines(answer: Answer, log: object) -> list[str]:
    return [answer.text(line) for line in log if isinstance(line, str)] if isinstance(log, list) else []


def _request(text: object) -> Mapping[str, Any]:
    """Return what a batch was created with, where DLI shows it."""
    try:
        found = parse_json(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _name(work: SparkWork, mine: identity.Identity) -> str:
    return identity.name(work.name or identity.readable_name(mine), identity.long_ending(mine), MAX_NAME)


def _page(query: Query) -> Call[JobPage]:
    return list_batches(
        offset=query.jobs_before(PAGE_SIZE),
        state=query.status,
        queue_name=query.queue_name,
        name=query.name,
        end=query.before,
    )


KIND: JobKind[SparkWork] = JobKind(
    name="spark",
    title=_TITLE,
    create=lambda work, mine: create(work, name=_name(work, mine), tags=mine.tags()),
    status=status,
    detail=detail,
    log=log,
    stop=cancel,
    page=_page,
    page_size=PAGE_SIZE,
    # Far more than there can be.
    most_pages=10_000,
    active=("starting", "running", "recovering"),
    name_of=_name,
    tells_cancelled=False,
)
