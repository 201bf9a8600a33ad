"""Every call that the local DLI serves: its name, method and path, and the chapter that answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from re import Pattern
from typing import Concatenate

from fastapi import Response
from starlette.routing import compile_path

from airflow_provider_dli.local.dli.actions import Action
from airflow_provider_dli.local.dli.chapters import (
    flink,
    flink_list,
    iam,
    pools,
    queues,
    spark,
    spark_list,
    sql_job_list,
    sql_jobs,
    sql_results,
)
from airflow_provider_dli.local.dli.service import Service

PROJECT = "/v1.0/{project_id}"
JOB = PROJECT + "/jobs/{job_id}"
QUEUE = PROJECT + "/queues/{queue_name}"
POOLS = "/v3/{project_id}/elastic-resource-pools"
FLINK = PROJECT + "/streaming"
BATCHES = "/v2.0/{project_id}/batches"
BATCH = BATCHES + "/{batch_id}"


@dataclass(frozen=True)
class Route:
    """
    A call.

    :param name: Its name in the request log and in the rules of faults.
    :param answer: Coroutine function; its parameters after the first are read from the request.
    :param action: The IAM action that it needs; None for one that needs none, or whose action no source names.
    :param needs_credentials: False for the call that gives them out.
    :param new_job: Field of the answer with the id of the job that the call starts; ``a.b`` is field b inside of a.
    :param job_ids: Field of the body with the ids of the jobs that the call is about.
    :param wrong_content_type: HTTP status for a body that is not JSON.
    """

    name: str
    method: str
    path: str
    answer: Callable[Concatenate[Service, ...], Awaitable[Response]]
    action: Action | None = None
    needs_credentials: bool = True
    new_job: str | None = None
    job_ids: str | None = None
    wrong_content_type: int = 400

    @cached_property
    def pattern(self) -> Pattern[str]:
        return compile_path(self.path)[0]


ROUTES = [
    Route("status", "GET", JOB + "/status", sql_jobs.status, Action.GET_JOB),
    Route(
        "submit",
        "POST",
        PROJECT + "/jobs/submit-job",
        sql_jobs.submit,
        Action.SUBMIT_JOB,
        new_job="job_id",
        wrong_content_type=415,
    ),
    Route("cancel", "DELETE", JOB, sql_jobs.cancel, Action.CANCEL_JOB),
    Route("list", "GET", PROJECT + "/jobs", sql_job_list.jobs, Action.LIST_JOBS),
    Route("progress", "GET", "/v1/{project_id}/jobs/{job_id}/progress", sql_jobs.progress, Action.GET_JOB),
    Route("preview", "GET", JOB + "/preview", sql_results.preview, Action.GET_JOB),
    Route("detail", "GET", JOB + "/detail", sql_jobs.detail, Action.GET_JOB),
    Route("export", "POST", JOB + "/export-result", sql_results.export, Action.SUBMIT_JOB),
    Route("check", "POST", PROJECT + "/jobs/check-sql", sql_jobs.check),
    Route("queues", "GET", PROJECT + "/queues", queues.queues, Action.LIST_QUEUES),
    Route("queue", "GET", QUEUE, queues.queue, Action.GET_QUEUE),
    Route("queue_create", "POST", PROJECT + "/queues", queues.create, Action.CREATE_QUEUE),
    Route("queue_delete", "DELETE", QUEUE, queues.delete, Action.DROP_QUEUE),
    Route("pools", "GET", POOLS, pools.pools),
    Route("pool_create", "POST", POOLS, pools.create, Action.CREATE_POOL),
    Route("pool_delete", "DELETE", POOLS + "/{elastic_resource_pool_name}", pools.delete, Action.DROP_POOL),
    Route(
        "flink_create_sql", "POST", FLINK + "/sql-jobs", flink.create_sql, Action.CREATE_FLINK_JOB, new_job="job.job_id"
    ),
    Route(
        "flink_create_jar",
        "POST",
        FLINK + "/flink-jobs",
        flink.create_jar,
        Action.CREATE_FLINK_JOB,
        new_job="job.job_id",
    ),
    Route("flink_list", "GET", FLINK + "/jobs", flink_list.jobs, Action.LIST_JOBS),
    Route("flink_run", "POST", FLINK + "/jobs/run", flink.run, Action.START_FLINK_JOB, job_ids="job_ids"),
    Route("flink_stop", "POST", FLINK + "/jobs/stop", flink.stop, Action.STOP_FLINK_JOB, job_ids="job_ids"),
    Route("flink_get", "GET", FLINK + "/jobs/{job_id}", flink.get, Action.GET_JOB),
    Route("flink_delete", "DELETE", FLINK + "/jobs/{job_id}", flink.delete, Action.DELETE_FLINK_JOB),
    Route("spark_create", "POST", BATCHES, spark.create, Action.SUBMIT_JOB, new_job="id"),
    Route("spark_list", "GET", BATCHES, spark_list.batches, Action.LIST_JOBS),
    Route("spark_get", "GET", BATCH, spark.get, Action.GET_JOB),
    Route("spark_state", "GET", BATCH + "/state", spark.state, Action.GET_JOB),
    Route("spark_log", "GET", BATCH + "/log", spark.log, Action.GET_JOB),
    Route("spark_cancel", "DELETE", BATCH, spark.cancel, Action.CANCEL_JOB),
    Route("token", "POST", "/v3/auth/tokens", iam.token, needs_credentials=False),
    Route("projects", "GET", "/v3/projects", iam.projects),
    Route("agency_keys", "POST", "/v3.0/OS-CREDENTIAL/securitytokens", iam.agency_keys),
    Route("metadata_keys", "GET", "/openstack/latest/securitykey", iam.metadata_keys, needs_credentials=False),
]


def find(method: str, path: str) -> tuple[Route | None, dict[str, str]]:
    """The route of a request, and the parameters in its path."""
    for route in ROUTES:
        if route.method == method and (match := route.pattern.fullmatch(path)):
            return route, match.groupdict()
    return None, {}
