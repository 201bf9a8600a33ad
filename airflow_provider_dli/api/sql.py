"""
SQL jobs.

Follows the chapter "APIs Related to SQL Jobs" of the DLI API Reference. SQL jobs are submitted to queues of
type ``sql``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_dli import identity
from airflow_provider_dli.api import answers, checks, shown
from airflow_provider_dli.api.call import MAX_LONG_ANSWER, Answer, Call, escape
from airflow_provider_dli.api.job_kind import JobKind, JobPage, Query, Work
from airflow_provider_dli.api.sql_answers import EXPORT, TITLE, read_job, read_rows, rows_of_submit
from airflow_provider_dli.exceptions import DliTemporaryError, DliValueError
from airflow_provider_dli.job import Job, JobState
from airflow_provider_dli.text import NAME_LIMIT

if TYPE_CHECKING:
    from airflow_provider_dli.api.export import ExportWork
    from airflow_provider_dli.api.rows import Rows

# The service cuts a synchronous statement after two minutes; a submit must outwait that.
_SUBMIT_TIMEOUT = 150.0

# The most that DLI puts on one page.
PAGE_SIZE = 100

#: The queue that DLI takes when none is named.
DEFAULT_QUEUE = "default"

# The setting after which DLI cancels a job by itself: in seconds, as OTC documents it; older pages of Huawei Cloud say
# milliseconds.
_JOB_TIMEOUT = "dli.sql.job.timeout"


@dataclass(frozen=True)
class SqlWork(Work):
    """
    One statement, with the defaults of the connection resolved.

    :param sql: One statement.
    :param database: Database of unqualified names, or None.
    :param queue_name: Queue of type ``sql``; None for DLI's own, ``default``.
    :param conf: The author's settings; one that is None is left out.
    :param tags: The author's tags.
    :param bound: After how long DLI cancels the job by itself, unless ``conf`` says so; in DLI's unit.
    """

    sql: str
    database: str | None = None
    queue_name: str | None = None
    conf: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, Any] = field(default_factory=dict)
    bound: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The author's settings, without the bound."""
        return {name: value for name, value in self.conf.items() if value is not None}

    @property
    def digest(self) -> str:
        """Identify the work. A persisted contract: it stays the same in every release."""
        settings = sorted([str(key), conf_text(value)] for key, value in self.settings.items())
        return identity.digest([self.sql, self.database, self.queue_name, settings])

    def bounded(self, limit: int) -> Self:
        """Return the same work, which DLI cancels by itself after so long, in its unit."""
        return self if _JOB_TIMEOUT in self.conf else replace(self, bound=limit)

    def shown_by(self, job: Job, digest: str) -> bool | None:
        """See :meth:`.Work.shown_by`."""
        sql = job.runs.get("statement")
        if not isinstance(sql, str) or not sql.strip():
            return None
        if digest != self.digest:
            # What DLI does not show, such as conf, may have been another one then.
            return replace(self, sql=sql).digest == digest or None
        names = ((job.queue_name, self.queue_name), (job.database, self.database))
        return shown.same_text(sql, self.sql) and all(shown.same_name(*pair) for pair in names)

    def differences(self, job: Job) -> str:
        """Name what a job ran differently, as far as DLI shows it."""
        names = [] if job.statement.strip() == self.sql.strip() else ["the statement"]
        then, now = job.queue_name or "default", self.queue_name or "default"
        if then.lower() != now.lower():
            names.append(f"queue_name ({then} then, {now} now)")
        return ", ".join(names) or "database or conf"


def submit(
    statement: str,
    *,
    database: str | None = None,
    queue_name: str | None = None,
    conf: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Call[Job]:
    """
    Submit one statement (API page "Submitting a SQL Job").

    :param statement: The statement.
    :param database: Database of unqualified names; leave it out for ``CREATE DATABASE``.
    :param queue_name: Queue of type ``sql``.
    :param conf: Settings, such as ``{"spark.sql.shuffle.partitions": 200}``.
    :param tags: Labels for look-ups.
    :raises DliValueError: The statement is empty, or a name has characters that DLI refuses.
    """
    if not isinstance(statement, str):
        problem = f"not a {type(statement).__name__}: DLI runs one statement per job."
        raise DliValueError(f"sql must be one SQL statement as text, {problem}", field="sql")
    if not statement.strip():
        raise DliValueError("sql is empty: give one SQL statement as text.", field="sql")
    checks.name("database", database)
    checks.name("queue_name", queue_name)
    body: dict[str, Any] = {"sql": statement}
    if database:
        body["currentdb"] = database
    if queue_name:
        body["queue_name"] = queue_name
    if conf:
        body["conf"] = [f"{key} = {conf_text(value)}" for key, value in conf.items()]
    if tags:
        body["tags"] = [{"key": key, "value": value} for key, value in tags.items()]

    def read(answer: Answer) -> Job:
        # A synchronous statement is over when the answer arrives, but only a status call says how it ended.
        return Job(
            id=answers.job_id(answer.body.get("job_id"), "DLI accepted the SQL job but gave no usable job id"),
            kind="sql",
            title=TITLE,
            state=JobState.LAUNCHING,
            status="submitted",
            job_type=answer.text(answer.body.get("job_type"), NAME_LIMIT),
            queue_name=queue_name or "",
            database=database or "",
            statement=statement,
            tags=dict(tags or {}),
            rows=rows_of_submit(answer.body),
        )

    return Call(
        "submit of the SQL job",
        "POST",
        "/v1.0/{project_id}/jobs/submit-job",
        read,
        body=body,
        timeout=_SUBMIT_TIMEOUT,
        # It may hold the rows.
        max_bytes=MAX_LONG_ANSWER,
        keeps_digits=True,
        iam_action="dli:queue:submitJob",
    )


def status(job_id: str) -> Call[Job]:
    """Ask for the state of a job (API page "Querying Job Status")."""

    def read(answer: Answer) -> Job:
        if not answers.is_text(answer.body.get("status")):
            raise DliTemporaryError(f"status of SQL job {job_id}: DLI's answer holds no status")
        answers.check_job(f"status of SQL job {job_id}", answer.body.get("job_id"), job_id)
        return read_job(answer, answer.body, job_id)

    return Call(
        f"status of SQL job {job_id}",
        "GET",
        f"{_path(job_id)}/status",
        read,
        repeatable=True,
        iam_action="dli:jobs:get",
        about_job=True,
    )


def detail(job_id: str) -> Call[Mapping[str, Any]]:
    """Ask for the import or export settings of a job (API page "Querying Job Details")."""

    def read(answer: Answer) -> Mapping[str, Any]:
        answers.check_job(f"detail of SQL job {job_id}", answer.body.get("job_id"), job_id)
        return answer.body

    return Call(
        f"detail of SQL job {job_id}",
        "GET",
        f"{_path(job_id)}/detail",
        read,
        repeatable=True,
        iam_action="dli:jobs:get",
    )


def progress(job_id: str) -> Call[float | None]:
    """
    Ask how far a running job is, 0 to 1, or None (API page "Querying the Job Execution Progress").

    DLI estimates it for the current sub-job, so the figure can go down.
    """

    def read(answer: Answer) -> float | None:
        return answers.number(answer.body.get("progress"), 1)

    return Call(
        f"progress of SQL job {job_id}",
        "GET",
        f"{_path(job_id, 'v1')}/progress",
        read,
        repeatable=True,
        iam_action="dli:jobs:get",
    )


def preview(job_id: str, *, rows: int | None = None, queue_name: str | None = None) -> Call[Rows]:
    """
    Read the first rows of a QUERY job (API page "Previewing SQL Job Query Results").

    :param job_id: The job.
    :param rows: Number of rows, 1 to 1000; DLI's default is 1000.
    :param queue_name: Queue that fetches the rows: that of the job.
    """

    def read(answer: Answer) -> Rows:
        answers.check_job(f"preview of SQL job {job_id}", answer.body.get("job_id"), job_id)
        return read_rows(answer.body)

    return Call(
        f"preview of SQL job {job_id}",
        "GET",
        f"{_path(job_id)}/preview",
        read,
        query={"page-size": rows, "queue-name": queue_name},
        repeatable=True,
        max_bytes=MAX_LONG_ANSWER,
        reads_rows=True,
        keeps_digits=True,
        iam_action="dli:jobs:get",
    )


def export_result(
    job_id: str,
    data_path: str,
    *,
    data_type: str = "csv",
    compress: str | None = None,
    queue_name: str | None = None,
    export_mode: str | None = None,
    with_column_header: bool | None = None,
    limit_num: int | None = None,
) -> Call[Job]:
    """
    Write the result of a QUERY job to OBS, by a new job (API page "Exporting Query Results").

    :param job_id: The QUERY job.
    :param data_path: Target folder, such as ``obs://bucket/folder``.
    :param data_type: ``csv`` or ``json``.
    :param compress: ``none`` (DLI's default), ``gzip``, ``bzip2`` or ``deflate``.
    :param queue_name: Queue that runs the export; DLI's default is ``default``.
    :param export_mode: ``ErrorIfExists`` (DLI's default) or ``Overwrite``.
    :param with_column_header: Whether to write column names; DLI's default is not to.
    :param limit_num: Number of rows; DLI's default is all.
    """
    body = {
        "data_path": data_path,
        "data_type": data_type,
        "compress": compress,
        "queue_name": queue_name,
        "export_mode": export_mode,
        "with_column_header": with_column_header,
        "limit_num": limit_num,
    }

    def read(answer: Answer) -> Job:
        problem = f"DLI accepted the export of SQL job {job_id} but gave no usable job id"
        return Job(
            id=answers.job_id(answer.body.get("job_id"), problem),
            kind="sql",
            title=TITLE,
            state=JobState.LAUNCHING,
            status="submitted",
            job_type=EXPORT,
            queue_name=queue_name or "",
        )

    return Call(
        f"export of SQL job {job_id}",
        "POST",
        f"{_path(job_id)}/export-result",
        read,
        body={name: value for name, value in body.items() if value is not None},
        # No source names one; it starts a job on a queue.
        iam_action="dli:queue:submitJob",
    )


def check_sql(statement: str, *, database: str | None = None) -> Call[str]:
    """Check a statement without running it; returns its job type (API page "Checking SQL Syntax")."""
    return Call(
        "check of the SQL statement",
        "POST",
        "/v1.0/{project_id}/jobs/check-sql",
        lambda answer: answer.text(answer.body.get("job_type"), NAME_LIMIT),
        body={"sql": statement, **({"currentdb": database} if database else {})},
        repeatable=True,
    )


def list_jobs(
    *,
    page: int = 1,
    page_size: int = PAGE_SIZE,
    status: str | None = None,
    queue_name: str | None = None,
    tags: Mapping[str, str] | None = None,
    start: int | None = None,
    end: int | None = None,
    order: str | None = None,
    job_type: str | None = None,
) -> Call[JobPage]:
    """
    List one page of the jobs of the project (API page "Querying All Jobs").

    :param page: Page, 1 to 100.
    :param page_size: Jobs per page, 1 to 100.
    :param status: Only jobs in this state.
    :param queue_name: Only jobs of this queue.
    :param tags: Only jobs with these tags. DLI's match is fuzzy: compare again.
    :param start: Only jobs submitted after this moment, in milliseconds since the epoch.
    :param end: Only jobs submitted before this moment, in milliseconds since the epoch.
    :param order: ``start_time_desc`` (DLI's default), ``start_time_asc``, ``duration_desc`` or
        ``duration_asc``.
    :param job_type: Only jobs of this type, such as ``EXPORT``.
    """

    def read(answer: Answer) -> JobPage:
        jobs = answers.jobs_of("list of SQL jobs", answer.body, "jobs", "job_count")
        problem = "list of SQL jobs: DLI's answer holds a job without a usable id"
        return answers.page_of(
            jobs,
            lambda job: answers.job_id(job.get("job_id"), problem),
            lambda job, job_id: read_job(answer, job, job_id),
            answer.body.get("job_count"),
        )

    return Call(
        "list of SQL jobs",
        "GET",
        "/v1.0/{project_id}/jobs",
        read,
        query={
            "page-size": page_size,
            "current-page": page,
            "job-status": status,
            "queue_name": queue_name,
            "tags": ",".join(f"{key}={value}" for key, value in tags.items()) if tags else None,
            "start": start,
            "end": end,
            "order": order,
            "job-type": job_type,
        },
        repeatable=True,
        max_bytes=MAX_LONG_ANSWER,
        iam_action="dli:jobs:listAll",
    )


def cancel(job_id: str) -> Call[None]:
    """Cancel a job that is not over (API page "Canceling a Job"). Accepted does not yet mean over."""
    return Call(
        f"cancel of SQL job {job_id}",
        "DELETE",
        _path(job_id),
        lambda answer: None,
        repeatable=True,
        iam_action="dli:queue:cancelJob",
        about_job=True,
    )


def conf_text(value: Any) -> str:
    """Write a setting as Spark does: true and false in lower case, the rest as text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _path(job_id: str, version: str = "v1.0") -> str:
    return f"/{version}/{{project_id}}/jobs/{escape(checks.job_id(job_id))}"


def _create(work: SqlWork | ExportWork, mine: identity.Identity) -> Call[Job]:
    if not isinstance(work, SqlWork):
        return export_result(checks.job_id(work.source_job_id), work.target, **work.options)
    bound = {} if work.bound is None else {_JOB_TIMEOUT: work.bound}
    return submit(
        work.sql,
        database=work.database,
        queue_name=work.queue_name,
        conf={**work.settings, **bound},
        tags=identity.merged_tags(work.tags, mine.tags()),
    )


def _page(query: Query) -> Call[JobPage]:
    return list_jobs(
        page=query.page,
        status=query.status,
        queue_name=query.queue_name,
        # Exports carry none.
        tags=query.tags if query.target is None else None,
        end=query.before,
        job_type=None if query.target is None else EXPORT,
    )


def _target_of(job_id: str) -> Call[str]:
    call: Call[Any] = detail(job_id)
    return replace(call, read=lambda answer: str(call.read(answer).get("data_path")))


KIND: JobKind[Any] = JobKind(
    name="sql",
    title=TITLE,
    create=_create,
    status=status,
    stop=cancel,
    page=_page,
    page_size=PAGE_SIZE,
    # SCALING jobs are the queue's own; an unknown state cannot be asked for.
    active=("LAUNCHING", "RUNNING"),
    target_of=_target_of,
    progress=progress,
)
