"""The list of SQL jobs, with its filters and orders."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from fastapi import Query, Response

from airflow_provider_dli.local.dli.chapters.sql_jobs import job_status
from airflow_provider_dli.local.dli.jobs.sql_job import SqlJob
from airflow_provider_dli.local.dli.replies import RefusedError
from airflow_provider_dli.local.dli.responses import success
from airflow_provider_dli.local.dli.service import Service

SqlType = Literal["DDL", "DCL", "QUERY", "INSERT", "UPDATE", "DELETE"]
JobType = Literal[SqlType, "IMPORT", "EXPORT", "DATA_MIGRATION", "RESTART_QUEUE", "SCALE_QUEUE", "ALL"]
JobStatus = Literal["LAUNCHING", "RUNNING", "SCALING", "FINISHED", "FAILED", "CANCELLED"]
Order = Literal["duration_desc", "duration_asc", "start_time_desc", "start_time_asc"]
Millis = Annotated[int | None, Query(ge=0, lt=2**63)]


async def jobs(
    service: Service,
    size: Annotated[int, Query(alias="page-size", ge=1, le=100)] = 50,
    page: Annotated[int, Query(alias="current-page", ge=1, le=100)] = 1,
    start: Millis = None,
    end: Millis = None,
    job_type: Annotated[JobType | None, Query(alias="job-type")] = None,
    job_types: str | None = None,
    status: Annotated[JobStatus | None, Query(alias="job-status")] = None,
    job_id: Annotated[str | None, Query(alias="job-id", max_length=64)] = None,
    queue_name: str | None = None,
    sql_pattern: str | None = None,
    order: Order = "start_time_desc",
    engine_type: Literal["spark"] | None = None,
    engine_type_as_before: Annotated[Literal["spark", "hetuEngine"] | None, Query(alias="engine-type")] = None,
    owner: str | None = None,
    db_name: str | None = None,
    table_name: str | None = None,
    tags: str | None = None,
) -> Response:
    lag = service.settings.list_lag
    conditions: list[tuple[Any, Callable[[SqlJob, Any], bool]]] = [
        (_job_types(job_type, job_types), lambda job, types: job.job_type in types),
        (status, lambda job, wanted: job.status == wanted),
        (job_id, lambda job, wanted: job.job_id == wanted),
        (queue_name, lambda job, wanted: job.queue_name == wanted.lower()),
        # Both ends count as inside: paging by the oldest start time then loses nothing.
        (start, lambda job, first: job.start_ms >= first),
        (end, lambda job, last: job.start_ms <= last),
        (sql_pattern, lambda job, piece: piece.lower() in job.statement.lower()),
        (owner, lambda job, wanted: job.owner == wanted),
        (db_name, lambda job, wanted: job.database.lower() == wanted.lower()),
        (table_name, lambda job, wanted: job.table.lower() == wanted.lower()),
        (time.time() - lag if lag else None, lambda job, moment: job.submitted_at <= moment),
        (tags or None, lambda job, wanted: all(_has_tag(job, tag) for tag in wanted.split(","))),
    ]
    given = [(value, test) for value, test in conditions if value is not None]
    found = [job for job in service.jobs if isinstance(job, SqlJob) and all(test(job, value) for value, test in given)]
    if engine_type_as_before == "hetuEngine":
        found = []
    # Jobs are kept in the order of their submission.
    if order == "start_time_desc":
        found.reverse()
    elif order.startswith("duration"):
        found.sort(key=lambda job: job.duration_ms, reverse=order.endswith("desc"))
    shown = found[(page - 1) * size : page * size]
    return success(service, job_count=len(found), jobs=[_line(job) for job in shown])


def _line(job: SqlJob) -> dict[str, Any]:
    line = job_status(job)
    del line["job_mode"], line["user_conf"]
    if job.ended_at is not None:
        line["end_time"] = job.shown_ms(job.ended_at)
    return line | {"engine_type": "spark", "with_column_header": bool(job.export.get("with_column_header"))}


def _job_types(one: str | None, several: str | None) -> frozenset[str] | None:
    """The intersection of both parameters; None when neither narrows the list."""
    wanted: frozenset[str] | None = None
    if several is not None:
        wanted = frozenset(several.split(","))
        if not wanted <= set(get_args(JobType)):
            raise RefusedError(400, "DLI.0001", "The parameter job_types has a value that is not a job type.")
        wanted = None if "ALL" in wanted else wanted
    if one in (None, "ALL"):
        return wanted
    return frozenset({one} if wanted is None or one in wanted else ())


def _has_tag(job: SqlJob, wanted: str) -> bool:
    """DLI's tag filter is fuzzy: here, pieces of the key and of the value are enough."""
    key, equals, value = wanted.partition("=")
    if not equals:
        return any(wanted in f"{tag['key']}={tag['value']}" for tag in job.tags)
    return any(key in tag["key"] and value in tag["value"] for tag in job.tags)
