"""Spark batches: create, show, log, cancel."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from fastapi import Query, Response

from airflow_provider_dli.local.dli.bodies_spark import BatchBody
from airflow_provider_dli.local.dli.chapters import refusals, spark_answers
from airflow_provider_dli.local.dli.chapters.spark_answers import success
from airflow_provider_dli.local.dli.jobs.driver_log import DriverLog
from airflow_provider_dli.local.dli.jobs.job import JobFailedError, StoppedError
from airflow_provider_dli.local.dli.jobs.runner import Work, wait_unless_stopped
from airflow_provider_dli.local.dli.jobs.scripts import CANCELLED_BY_USER, Script, play
from airflow_provider_dli.local.dli.jobs.spark_batch import BatchState, SparkBatch
from airflow_provider_dli.local.dli.jobs.threads import run_interruptibly
from airflow_provider_dli.local.dli.replies import RefusedError, no_such_api
from airflow_provider_dli.local.dli.service import Service

LOG_LINES = 100

Index = Annotated[int | None, Query(ge=0)]


async def create(service: Service, body: BatchBody) -> Response:
    """
    Start a batch.

    :raises RefusedError: for a queue that does not take it, or when an agency is missing.
    """
    queue = service.queue(body.queue or body.cluster_name or "default", "general")
    if body.is_new and not body.has_agency:
        raise RefusedError(400, "DLI.0001", f"Cannot download obs object {body.file[:200]}: please set agency.")
    batch = SparkBatch(
        body=body,
        statement=body.file,
        job_type="spark_batch",
        name=body.name,
        queue_name=queue,
        owner=service.identity.user,
        conf=[f"{key}={value}" for key, value in body.settings().items()],
    )
    script = _take_script(service, batch)
    service.start(batch, _attempts(service, batch, script), script.launching_for if script else 0)
    return success(service, **spark_answers.short(service, batch))


async def get(service: Service, batch_id: str) -> Response:
    return success(service, **spark_answers.details(service, find(service, batch_id)))


async def state(service: Service, batch_id: str) -> Response:
    batch = find(service, batch_id)
    return success(service, id=batch_id, state=spark_answers.state(service, batch))


async def log(
    service: Service,
    batch_id: str,
    first: Annotated[Index, Query(alias="from")] = None,
    size: Index = None,
    type: Literal["driver"] | None = None,  # noqa: A002
    index: Index = None,
) -> Response:
    """Lines of the driver log: of the last start of the driver, or of the one that the caller names."""
    if service.settings.batch_log_call == "gone":
        raise no_such_api()
    batch = find(service, batch_id)
    of_one_start = type is not None or index is not None
    lines = batch.log_lines(min(index or 0, 1000) if of_one_start else -1)
    size = LOG_LINES if size is None else size
    begin = max(0, len(lines) - size) if first is None else first
    return success(service, **{"id": batch_id, "from": begin, "total": len(lines), "log": lines[begin : begin + size]})


async def cancel(service: Service, batch_id: str) -> Response:
    """
    Ask the batch to stop. It is dead once it has really stopped.

    :raises RefusedError: when the batch has ended.
    :raises SoftFailureError: instead of that, if the settings say so.
    """
    batch = find(service, batch_id)
    batch.cancel_requests.append(time.time())
    if batch.is_active:
        batch.ask_to_stop(CANCELLED_BY_USER)
        batch.note(f"Application {batch.application} was killed by user {batch.owner}.")
        return Response() if service.settings.spark_cancel_answer == "empty" else success(service, msg="deleted")
    raise refusals.ended(service, f"The batch has ended ({batch.status}) and cannot be canceled.")


def find(service: Service, batch_id: str) -> SparkBatch:
    """
    :raises RefusedError: for an unknown id, in the way that the settings say.
    """
    job = service.jobs.get(batch_id)
    if isinstance(job, SparkBatch):
        return job
    raise refusals.unknown(service, "batch", batch_id)


def _take_script(service: Service, batch: SparkBatch) -> Script | None:
    return service.scripts.take(f"{batch.name}\n{batch.statement}", batch.kind)


def _attempts(service: Service, batch: SparkBatch, script: Script | None) -> Work:
    """Run the batch, and run it again after a failure if it is to recover."""

    async def work() -> str:
        playing = script
        while True:
            batch.logs.append(DriverLog())
            try:
                return await (_play(batch, playing) if playing else _run(service, batch))
            except JobFailedError:
                if not batch.may_recover:
                    raise
            playing = await _recover(service, batch)

    return work


async def _play(batch: SparkBatch, script: Script) -> str:
    """Do as the script says. A failed batch has no message in DLI: what it says is in the log."""
    batch.logs[-1].add(*script.log)
    try:
        return await play(batch, script)
    except JobFailedError:
        batch.logs[-1].add(*script.message.splitlines())
        raise


async def _run(service: Service, batch: SparkBatch) -> str:
    driver = service.driver(batch)
    await run_interruptibly(batch, driver)
    if not driver.can_run:
        await batch.stop.wait()
        raise StoppedError
    return ""


async def _recover(service: Service, batch: SparkBatch) -> Script | None:
    """Wait until the driver is started again. Each start takes a script of its own."""
    if service.settings.dead_before_recovering:
        batch.show(BatchState.DEAD)
        await wait_unless_stopped(batch, service.settings.dead_before_recovering)
    batch.show(BatchState.RECOVERING)
    script = _take_script(service, batch)
    await wait_unless_stopped(batch, max(service.settings.spark_recovery_delay, script.launching_for if script else 0))
    batch.show(BatchState.RUNNING)
    return script
