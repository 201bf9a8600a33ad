"""Results of SQL jobs: preview and export."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Response

from airflow_provider_dli.local.dli.bodies import ExportBody
from airflow_provider_dli.local.dli.chapters.sql_jobs import find, schema
from airflow_provider_dli.local.dli.engine.obs import ObsError, check_name
from airflow_provider_dli.local.dli.jobs.job import Stage
from airflow_provider_dli.local.dli.jobs.queue_book import DEFAULT
from airflow_provider_dli.local.dli.jobs.scripts import play
from airflow_provider_dli.local.dli.jobs.sql_job import SqlJob
from airflow_provider_dli.local.dli.jobs.threads import run_interruptibly
from airflow_provider_dli.local.dli.replies import RefusedError
from airflow_provider_dli.local.dli.responses import success
from airflow_provider_dli.local.dli.service import Service


async def preview(
    service: Service,
    job_id: str,
    size: Annotated[int, Query(alias="page-size", ge=1, le=1000)] = 1000,
    queue: Annotated[str | None, Query(alias="queue-name")] = None,
) -> Response:
    """
    :raises RefusedError: for a job that has no result.
    """
    if service.queue(queue or DEFAULT) == DEFAULT and service.settings.preview_on_default == "refused":
        raise RefusedError(400, "DLI.0007", "Do not support use default queue to getJobResult")
    job = find(service, job_id)
    if job.job_type not in ("QUERY", "DDL", "DCL"):
        raise RefusedError(400, "DLI.0007", f"A job of type {job.job_type} has no result to show.")
    if job.status != Stage.FINISHED:
        raise RefusedError(400, "DLI.0007", f"The job is {job.status}; only a FINISHED job has a result.")
    return success(
        service,
        job_id=job_id,
        job_type=job.job_type,
        row_count=job.result.count,
        input_size=job.result.input_size,
        schema=schema(service, job),
        rows=job.result.rows[:size],
    )


async def export(service: Service, job_id: str, body: ExportBody) -> Response:
    """
    Start an EXPORT job for the result of a QUERY job.

    :raises RefusedError: when there is none.
    """
    source = find(service, job_id)
    if source.job_type != "QUERY" or source.status != Stage.FINISHED:
        text = f"Only the result of a QUERY job that is FINISHED can be exported, not {source.job_type}"
        raise RefusedError(400, "DLI.0007", f"{text} that is {source.status}.")
    if source.result.file is None:
        raise RefusedError(400, "DLI.0100", "The result has expired: the rows of a scripted job are not stored.")
    try:
        check_name(body.data_path)
    except ObsError as error:
        raise RefusedError(400, "DLI.0001", f"The parameter data_path is not valid: {error}") from None
    job = SqlJob(
        statement=f"EXPORT RESULT OF {job_id} TO {body.data_path}",
        job_type="EXPORT",
        queue_name=service.queue(body.queue_name, "sql"),
        owner=service.identity.user,
        database=source.database,
        table=source.table,
        export=body.model_dump(),
    )

    script = service.scripts.take(job.statement)

    async def work() -> str:
        if script is not None:
            await play(job, script)
        job.result = await run_interruptibly(job, service.export(source.result, body, job.job_id))
        return job.result.message

    service.start(job, work, script.launching_for if script else 0)
    return success(service, job_id=job.job_id, job_mode=job.job_mode)
