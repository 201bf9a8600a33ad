"""Flink jobs: the chapter "APIs Related to Flink Jobs" of the DLI API Reference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_dli import identity
from airflow_provider_dli.api import answers, checks, shown
from airflow_provider_dli.api.call import MAX_LONG_ANSWER, Answer, Call
from airflow_provider_dli.api.flink_definition import MAX_DESCRIPTION, MAX_NAME, MAX_READABLE_NAME, FlinkDefinition
from airflow_provider_dli.api.job_kind import JobKind, JobPage, Query, Work
from airflow_provider_dli.exceptions import DliTemporaryError, DliValueError
from airflow_provider_dli.job import Job, JobState
from airflow_provider_dli.text import NAME_LIMIT

# The most that DLI puts on one page.
PAGE_SIZE = 100
_TITLE = "Flink job"
_JOBS = "/v1.0/{project_id}/streaming/jobs"
_STATES = {
    "job_init": JobState.CREATED,
    "job_submitting": JobState.LAUNCHING,
    "job_downloading": JobState.LAUNCHING,
    "job_idle": JobState.LAUNCHING,
    "job_arrearage_recovering": JobState.LAUNCHING,
    "job_running": JobState.RUNNING,
    "job_savepointing": JobState.STOPPING,
    "job_canceling": JobState.STOPPING,
    "job_cancel_fail": JobState.STOP_FAILED,
    "job_cancel_success": JobState.CANCELLED,
    "job_submit_fail": JobState.FAILED,
    "job_running_exception": JobState.FAILED,
    "job_arrearage_stopped": JobState.FAILED,
    "job_finish": JobState.FINISHED,
}
# Where DLI gives none itself.
_REASONS = {"job_arrearage_stopped": "The account is in arrears"}
# What tells one JAR job from another.
_OF_JAR = ("entrypoint", "main_class", "entrypoint_args", "dependency_jars", "dependency_files")
# What to do about a refusal that names one of these.
_ADVICE = {
    "savepoint": "Without a savepoint, the job can be started with resume_savepoint=False only.",
    "agency": "Name an agency as execution_agency_urn; Flink 1.15 and later need one.",
    "queue": "Check queue_name: it must be a queue of type general.",
    "obs": "Check obs_bucket and the paths, and that the agency may use them.",
}


@dataclass(frozen=True)
class FlinkWork(Work):
    """
    A Flink job to start: one that exists, or one that is created for it.

    :param definition: What is created; None where ``existing`` is given.
    :param existing: The job that exists.
    :param resume_savepoint: Whether to start from its latest savepoint.
    """

    definition: FlinkDefinition | None = None
    existing: str | None = None
    resume_savepoint: bool = False

    @property
    def is_tagged(self) -> bool:
        """A job that exists is not changed."""
        return self.definition is not None

    @property
    def existing_job_id(self) -> str | None:
        """The job that exists."""
        return self.existing

    @property
    def digest(self) -> str:
        """Identify the work. A persisted contract: it stays the same in every release."""
        body = self.definition.body if self.definition else {}
        return identity.digest([json.dumps(body, sort_keys=True), self.existing_job_id, self.resume_savepoint])

    def shown_by(self, job: Job, digest: str) -> bool | None:
        """See :meth:`.Work.shown_by`."""
        was, sent = job.runs, self.definition.body if self.definition else {}
        sql, of_jar = was.get("sql_body"), {name: was[name] for name in _OF_JAR if was.get(name)}
        if digest != self.digest or not (sql or of_jar):
            return None
        return (
            (not sql or shown.same_text(str(sql), str(sent.get("sql_body", ""))))
            and shown.same_fields(of_jar, sent, _OF_JAR)
            and shown.same_name(job.queue_name, sent.get("queue_name"))
        )

    def differences(self, job: Job) -> str:
        """Name what a job ran differently, as far as DLI shows it."""
        was, now = job.queue_name, (self.definition.queue_name if self.definition else None) or ""
        if was and now and was.lower() != now.lower():
            return f"queue_name ({was} then, {now} now)"
        return "its definition"


def create(definition: FlinkDefinition, *, name: str, description: str = "") -> Call[Job]:
    """
    Create a job, without starting it (API pages "Creating a SQL Job" and "Creating a Flink Jar Job").

    :param definition: What it runs.
    :param name: Its name, up to 57 letters, digits, ``-`` and ``_``; DLI refuses one that is taken.
    :param description: Up to 512 characters.
    """

    def read(answer: Answer) -> Job:
        created = answer.body.get("job")
        found = created if isinstance(created, dict) else {}
        return Job(
            id=_number(found.get("job_id"), f"DLI created the {_TITLE} but gave no usable id"),
            kind="flink",
            title=_TITLE,
            state=JobState.CREATED,
            status="created",
            queue_name=definition.queue_name or "",
            name=name,
            tags=identity.from_description(description),
        )

    path = "/v1.0/{project_id}/streaming/" + ("sql-jobs" if definition.is_sql else "flink-jobs")
    return Call(
        f"create of the {_TITLE}",
        "POST",
        path,
        read,
        body={**definition.body, "name": name, "desc": description},
        iam_action="dli:jobs:create",
        advice=_ADVICE,
    )


def run(job_id: str | int, *, resume_savepoint: bool = False) -> Call[None]:
    """
    Start a job that does not run (API page "Batch Running Jobs"). Accepted does not yet mean running.

    :param job_id: The job.
    :param resume_savepoint: Whether to start from its latest savepoint.
    """
    return _order(job_id, "start", "run", resume_savepoint=resume_savepoint)


def stop(job_id: str | int, *, trigger_savepoint: bool = False) -> Call[None]:
    """
    Stop a job that runs (API page "Batch Stopping Jobs"). Accepted does not yet mean stopped.

    :param job_id: The job.
    :param trigger_savepoint: Whether to make a savepoint first; it is kept until the job is started again.
    """
    return _order(job_id, "stop", "stop", trigger_savepoint=trigger_savepoint)


def status(job_id: str | int) -> Call[Job]:
    """Ask for the state and the details of a job (API page "Querying Job Details")."""
    what = f"status of {_TITLE} {job_id}"

    def read(answer: Answer) -> Job:
        found = answer.body.get("job_detail")
        if not isinstance(found, dict) or not answers.is_text(found.get("status")):
            raise DliTemporaryError(f"{what}: DLI's answer holds no status")
        answers.check_job(what, found.get("job_id"), str(job_id))
        return _read_job(answer, found, str(job_id))

    return Call(what, "GET", _path(job_id), read, repeatable=True, iam_action="dli:jobs:get", about_job=True)


def delete(job_id: str | int) -> Call[None]:
    """Delete a job that does not run (API page "Deleting a Job")."""
    return Call(
        f"deletion of {_TITLE} {job_id}", "DELETE", _path(job_id), lambda answer: None, iam_action="dli:jobs:delete"
    )


def list_jobs(
    *,
    offset: int = 0,
    limit: int = PAGE_SIZE,
    status: str | None = None,
    queue_name: str | None = None,
    name: str | None = None,
) -> Call[JobPage]:
    """
    List one page of the Flink jobs of the project, newest first (API page "Listing Jobs").

    :param offset: Number of jobs to skip.
    :param limit: Jobs per page, 1 to 100.
    :param status: Only jobs in this state.
    :param queue_name: Only jobs of this queue.
    :param name: Only jobs of this name. Whether DLI takes a similar one too is not documented: compare again.
    """
    what = "list of Flink jobs"

    def read(answer: Answer) -> JobPage:
        listed = answer.body.get("job_list")
        listed = listed if isinstance(listed, dict) else {}
        found = answers.jobs_of(what, listed, "jobs", "total_count")
        problem = f"{what}: DLI's answer holds a job without a usable id"
        return answers.page_of(
            found,
            lambda job: _number(job.get("job_id"), problem),
            lambda job, job_id: _read_job(answer, job, job_id),
            listed.get("total_count"),
        )

    return Call(
        what,
        "GET",
        _JOBS,
        read,
        query={
            "offset": offset,
            "limit": limit,
            "status": status,
            "queue_name": queue_name,
            "name": name,
            "order": "desc",
        },
        repeatable=True,
        max_bytes=MAX_LONG_ANSWER,
        iam_action="dli:jobs:listAll",
    )


def _order(job_id: str | int, verb: str, path: str, **options: bool) -> Call[None]:
    return Call(
        f"{verb} of {_TITLE} {job_id}",
        "POST",
        f"{_JOBS}/{path}",
        lambda answer: None,
        body={"job_ids": [checks.job_number(job_id)], **options},
        iam_action=f"dli:jobs:{verb}",
        # One element per job; in older editions, an object.
        answers_loosely=True,
        advice=_ADVICE,
        about_job=verb == "stop",
    )


def _path(job_id: str | int) -> str:
    return f"{_JOBS}/{checks.job_number(job_id)}"


def _number(value: object, problem: str) -> str:
    try:
        return str(checks.job_number(value))
    except DliValueError:
        # Temporary, so that the caller looks for the job: it was created.
        raise DliTemporaryError(problem) from None


def _read_job(answer: Answer, body: Mapping[str, Any], job_id: str) -> Job:
    """Read all that DLI says of a job. Only its id has to be right; what cannot be read of the rest is left out."""
    status = answer.text(body.get("status"), NAME_LIMIT)
    state = _STATES.get(status.lower(), JobState.UNKNOWN)
    config, description = body.get("job_config"), body.get("desc")
    restarts = config.get("restart_when_exception") if isinstance(config, dict) else None
    name = body.get("name")
    return Job(
        id=job_id,
        kind="flink",
        title=_TITLE,
        state=state,
        status=status or "without a status",
        message=answers.advised(answer.text(body.get("status_desc")) or _REASONS.get(status.lower(), "")),
        job_type=answer.text(body.get("job_type"), NAME_LIMIT),
        queue_name=answer.text(body.get("queue_name"), NAME_LIMIT),
        name=name if isinstance(name, str) else "",
        owner=answer.text(body.get("user_name") or body.get("username"), NAME_LIMIT),
        runs={**(config if isinstance(config, dict) else {}), **body},
        statement=answer.masked(body.get("sql_body")),
        start_time=answers.moment(body.get("create_time")),
        # 0 of a job that was never started.
        launched_at=answers.moment(body.get("start_time") or None),
        duration=answers.duration(body.get("duration")),
        tags=identity.from_description(description) if isinstance(description, str) else {},
        may_recover=status == "job_running_exception" and str(restarts).lower() == "true",
    )


def _name(work: FlinkWork, mine: identity.Identity) -> str:
    readable = work.definition.name if work.definition else None
    prefix = readable or identity.readable_name(mine)[:MAX_READABLE_NAME]
    return identity.name(prefix, identity.short_ending(mine), MAX_NAME)


def _create(work: FlinkWork, mine: identity.Identity) -> Call[Job]:
    if work.definition is None:
        raise ValueError("a job that exists is not created")
    return create(
        work.definition, name=_name(work, mine), description=identity.description(mine.tags(), MAX_DESCRIPTION)
    )


def _page(query: Query) -> Call[JobPage]:
    return list_jobs(
        offset=query.jobs_before(PAGE_SIZE), status=query.status, queue_name=query.queue_name, name=query.name
    )


KIND: JobKind[FlinkWork] = JobKind(
    name="flink",
    title=_TITLE,
    create=_create,
    launch=lambda job_id, work: run(job_id, resume_savepoint=work.resume_savepoint),
    status=status,
    stop=stop,
    stop_with_savepoint=lambda job_id: stop(job_id, trigger_savepoint=True),
    discard=delete,
    page=_page,
    page_size=PAGE_SIZE,
    # Far more than there can be.
    most_pages=10_000,
    # Drafts too: a task that is killed may leave one. Those that are being stopped end by themselves.
    active=("job_init", "job_submitting", "job_running", "job_cancel_fail"),
    name_of=_name,
    names_are_unique=True,
)
