"""The list of Flink jobs, with its filters."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import Query, Response

from airflow_provider_dli.local.dli.chapters.flink_answers import details, line, success
from airflow_provider_dli.local.dli.jobs.flink_job import FlinkJob
from airflow_provider_dli.local.dli.service import Service

JobType = Literal["flink_sql_job", "flink_opensource_sql_job", "flink_jar_job", "flink_sql_edge_job"]
Status = Literal[
    "job_init",
    "job_submitting",
    "job_submit_fail",
    "job_running",
    "job_running_exception",
    "job_downloading",
    "job_idle",
    "job_canceling",
    "job_cancel_success",
    "job_cancel_fail",
    "job_savepointing",
    "job_arrearage_stopped",
    "job_arrearage_recovering",
    "job_finish",
]


async def jobs(
    service: Service,
    job_type: JobType | None = None,
    status: Status | None = None,
    queue_name: str | None = None,
    order: Literal["asc", "desc"] = "desc",
    limit: Annotated[int, Query(ge=0, le=100)] = 10,
    name: Annotated[str | None, Query(max_length=57)] = None,
    offset: Annotated[int, Query(ge=0)] = 0,
    show_detail: bool = False,
    user_name: str | None = None,
    tags: str | None = None,
) -> Response:
    lag = service.settings.list_lag
    fuzzy = service.settings.flink_name_filter == "fuzzy"
    conditions: list[tuple[Any, Callable[[FlinkJob, Any], bool]]] = [
        (job_type, lambda job, wanted: job.job_type == wanted),
        (status, lambda job, wanted: job.status == wanted),
        (queue_name, lambda job, wanted: job.queue_name == wanted.lower()),
        (name, lambda job, wanted: wanted in job.name if fuzzy else wanted == job.name),
        (user_name, lambda job, wanted: job.owner == wanted),
        (tags or None, _has_tags),
        (time.time() - lag if lag else None, lambda job, moment: job.submitted_at <= moment),
    ]
    given = [(value, test) for value, test in conditions if value is not None]
    found = [
        job
        for job in service.jobs
        if isinstance(job, FlinkJob) and not job.deleted and all(test(job, value) for value, test in given)
    ]
    if order == "desc":
        found.reverse()
    show = details if show_detail else line
    shown = [show(service, job) for job in found[offset : offset + limit]]
    return success(service, "Jobs are successfully listed.", job_list={"total_count": len(found), "jobs": shown})


def _has_tags(job: FlinkJob, wanted: str) -> bool:
    """Whether the job has all of the tags in ``key=value,key=value``."""
    own = {f"{tag['key']}={tag['value']}" for tag in job.tags}
    return own.issuperset(wanted.split(","))
