"""Every call that the local DLI serves: its name, method and path, and the chapter that answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from re import Pattern
from typing import Concatenate

from fastapi import Response
from starlette.routing import compile_path

from airflow_provider_dli.local.dli.chapters import iam, queues, sql_job_list, sql_jobs, sql_results
from airflow_provider_dli.local.dli.service import Service

UNKNOWN = "unknown"
PROJECT = "/v1.0/{project_id}"
JOB = PROJECT + "/jobs/{job_id}"


@dataclass(frozen=True)
class Route:
    """A call.

    :param name: In the request log and in the rules of faults.
    :param answer: Coroutine function; its parameters but the first are read out of the request.
    """

    name: str
    method: str
    path: str
    answer: Callable[Concatenate[Service, ...], Awaitable[Response]]

    @cached_property
    def pattern(self) -> Pattern[str]:
        return compile_path(self.path)[0]


ROUTES = [
    Route("status", "GET", JOB + "/status", sql_jobs.status),
    Route("submit", "POST", PROJECT + "/jobs/submit-job", sql_jobs.submit),
    Route("cancel", "DELETE", JOB, sql_jobs.cancel),
    Route("list", "GET", PROJECT + "/jobs", sql_job_list.jobs),
    Route("progress", "GET", "/v1/{project_id}/jobs/{job_id}/progress", sql_jobs.progress),
    Route("preview", "GET", JOB + "/preview", sql_results.preview),
    Route("detail", "GET", JOB + "/detail", sql_jobs.detail),
    Route("export", "POST", JOB + "/export-result", sql_results.export),
    Route("check", "POST", PROJECT + "/jobs/check-sql", sql_jobs.check),
    Route("queues", "GET", PROJECT + "/queues", queues.queues),
    Route("queue", "GET", PROJECT + "/queues/{queue_name}", queues.queue),
    Route("token", "POST", "/v3/auth/tokens", iam.token),
    Route("projects", "GET", "/v3/projects", iam.projects),
]


def find(method: str, path: str) -> tuple[str, dict[str, str]]:
    """Name of the call, ``unknown`` if there is none, and what its path says."""
    for route in ROUTES:
        if route.method == method and (match := route.pattern.fullmatch(path)):
            return route.name, match.groupdict()
    return UNKNOWN, {}
