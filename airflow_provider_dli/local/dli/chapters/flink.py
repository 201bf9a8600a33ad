"""Flink jobs: create, run, stop, show, delete."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Path, Response

from airflow_provider_dli.local.dli.bodies_flink import FlinkBody, JarJobBody, RunBody, SqlJobBody, StopBody
from airflow_provider_dli.local.dli.chapters import refusals
from airflow_provider_dli.local.dli.chapters.flink_answers import details, flag, success
from airflow_provider_dli.local.dli.jobs.flink_job import FlinkJob, FlinkStatus
from airflow_provider_dli.local.dli.jobs.job import JobFailedError, Stage, StoppedError
from airflow_provider_dli.local.dli.jobs.runner import Work, wait_unless_stopped
from airflow_provider_dli.local.dli.jobs.scripts import Script, play
from airflow_provider_dli.local.dli.jobs.threads import in_thread, run_interruptibly
from airflow_provider_dli.local.dli.replies import RefusedError
from airflow_provider_dli.local.dli.responses import as_json
from airflow_provider_dli.local.dli.service import Service

if TYPE_CHECKING:
    # Importing DuckDB and sqlglot takes longer than starting the server: done on first use.
    from airflow_provider_dli.local.dli.engine.flink_sql import FlinkScript

Number = Annotated[int, Path(ge=0, lt=2**63)]
NO_QUEUE = "No job-running queue selected. Please select a queue for your job."
# A job that fails at once does not restart without a pause.
SHORTEST_PAUSE = 0.05


async def create_sql(service: Service, body: SqlJobBody) -> Response:
    """Keep a SQL job as a draft. Its SQL is looked at when it is run."""
    return _create(service, body, body.job_type, body.sql_body, "A DLI job is created successfully.")


async def create_jar(service: Service, body: JarJobBody) -> Response:
    """Keep a JAR job as a draft."""
    statement = " ".join(part for part in (body.entrypoint, body.main_class, body.entrypoint_args) if part)
    return _create(service, body, "flink_jar_job", statement, "A Flink job is created successfully.")


async def run(service: Service, body: RunBody) -> Response:
    """Start jobs. Nothing is started when one of them cannot be, unless the settings let it fail softly."""

    def check(number: int) -> FlinkJob:
        job = find(service, number)
        if job.is_active:
            raise RefusedError(400, "DLI.0007", f"The job {number} is in {job.status} and cannot be started.")
        if not job.queue_name:
            raise RefusedError(400, "DLI.13024", NO_QUEUE)
        if body.resume_savepoint and not job.savepoints:
            raise RefusedError(400, "DLI.0007", f"The job {number} has no savepoint to start from.")
        return job

    answers = _for_each(service, body.job_ids, check, lambda job: _start(service, job))
    return _bulk_answer(service, answers, "The request for submitting DLI jobs is successfully delivered.")


async def stop(service: Service, body: StopBody) -> Response:
    """Ask running jobs to stop. Each is in job_cancel_success once it has really stopped."""

    def check(number: int) -> FlinkJob:
        job = find(service, number)
        if not job.may_be_stopped:
            raise refusals.ended(service, f"The job {number} is in {job.status} and cannot be stopped.")
        return job

    act = functools.partial(_stop, service, with_savepoint=body.trigger_savepoint)
    answers = _for_each(service, body.job_ids, check, act)
    return _bulk_answer(service, answers, "The request for stopping DLI jobs is successfully delivered.")


async def get(service: Service, job_id: Number) -> Response:
    job = find(service, job_id)
    return success(service, "Job detail query succeeds.", job_detail=details(service, job))


async def delete(service: Service, job_id: Number) -> Response:
    """Forget a job; one that runs is stopped, unless the settings refuse that."""
    job = find(service, job_id)
    if job.is_active:
        if service.settings.flink_delete_running == "refused":
            raise RefusedError(400, "DLI.0007", f"The job {job_id} is in {job.status} and cannot be deleted.")
        job.ask_to_stop("The job has been deleted.")
    job.deleted = True
    return success(service, "The job is successfully deleted.")


def find(service: Service, number: int) -> FlinkJob:
    """
    :raises RefusedError: for an unknown id.
    """
    job = service.jobs.get(str(number))
    if isinstance(job, FlinkJob) and not job.deleted:
        return job
    raise refusals.unknown(service, "Flink job", str(number))


def _create(service: Service, body: FlinkBody, job_type: str, statement: str, message: str) -> Response:
    """
    :raises RefusedError: for a name that is taken, or a queue that is not known.
    """
    if any(isinstance(job, FlinkJob) and not job.deleted and job.name == body.name for job in service.jobs):
        raise RefusedError(400, service.settings.flink_name_taken, f"The job name {body.name} already exists.")
    job = FlinkJob(
        job_id=str(next(service.flink_numbers)),
        body=body,
        name=body.name,
        description=body.desc,
        statement=statement,
        job_type=job_type,
        queue_name=service.queue(body.queue_name, "general") if body.queue_name else "",
        owner=service.identity.user,
        tags=[tag.model_dump() for tag in body.tags],
    )
    service.take_in(job)
    shown = {"job_id": job.number, "status_name": job.status, "status_desc": job.message}
    return success(service, message, job=shown)


Answer = FlinkJob | RefusedError


def _for_each(
    service: Service, numbers: list[int], check: Callable[[int], FlinkJob], act: Callable[[FlinkJob], None]
) -> list[Answer]:
    """
    Check every job, then act on those that passed.

    :raises RefusedError: when one did not, unless the settings let it fail softly.
    """
    answers: list[Answer] = []
    for number in dict.fromkeys(numbers):
        try:
            answers.append(check(number))
        except RefusedError as refusal:
            if not service.settings.flink_soft_failure:
                raise
            answers.append(refusal)
    for answer in answers:
        if isinstance(answer, FlinkJob):
            act(answer)
    return answers


def _bulk_answer(service: Service, answers: list[Answer], message: str) -> Response:
    """One element per job; in the old form, one object for all."""

    def element(answer: Answer) -> dict[str, Any]:
        if isinstance(answer, FlinkJob):
            return {"is_success": flag(service, True), "message": message}
        return {"is_success": flag(service, False), "message": f"{answer.code}: {answer.message}"}

    if service.settings.flink_run_answer == "object":
        refused = [answer for answer in answers if isinstance(answer, RefusedError)]
        return as_json(element((refused or answers)[0]))
    return as_json([element(answer) for answer in answers])


def _start(service: Service, job: FlinkJob) -> None:
    job.begin()
    job.in_background(_submit(service, job))


async def _submit(service: Service, job: FlinkJob) -> None:
    """Let the job run as soon as its queue has room. One whose SQL does not parse gets no further than this."""
    script = _take_script(service, job)
    delay = max(service.settings.flink_submit_delay, script.launching_for if script else 0)
    try:
        plan = None if script else await _parse(job)
    except JobFailedError as failure:
        try:
            await wait_unless_stopped(job, delay)
        except StoppedError:
            job.enter(Stage.CANCELLED, job.message)
        else:
            job.enter(Stage.FAILED, str(failure))
        return
    if job.stop.is_set():
        job.enter(Stage.CANCELLED, job.message)
    else:
        service.start(job, _attempts(service, job, script, plan), delay)


async def _parse(job: FlinkJob) -> FlinkScript | None:
    """
    The SQL of the job; None when it has none that can be run here: of a JAR, a template or the old dialect.

    :raises JobFailedError: when it does not parse.
    """
    from_template = isinstance(job.body, SqlJobBody) and job.body.template_id is not None and not job.statement
    if job.job_type != "flink_opensource_sql_job" or from_template:
        return None
    from airflow_provider_dli.local.dli.engine.flink_sql import parse_script
    from airflow_provider_dli.local.dli.engine.spark_sql import SqlSyntaxError

    try:
        return await in_thread(lambda: parse_script(job.statement))
    except SqlSyntaxError as error:
        raise JobFailedError(f"DLI.0004: ParseException: {error}") from None


def _attempts(service: Service, job: FlinkJob, script: Script | None, plan: FlinkScript | None) -> Work:
    """Run the job, and run it again after an error if it is to restart."""

    async def work() -> str:
        playing = script
        while True:
            try:
                return await (play(job, playing) if playing else _run_sql(service, job, plan))
            except JobFailedError as failure:
                if not job.may_restart:
                    raise
                await _restart(service, job, str(failure))
                playing = _take_script(service, job)

    return work


async def _run_sql(service: Service, job: FlinkJob, plan: FlinkScript | None) -> str:
    """Run bounded SQL to its end. Everything else runs, as far as callers can see, until it is stopped."""
    if plan is None or not plan.is_bounded:
        await job.stop.wait()
        raise StoppedError
    session = service.flink_session(plan)
    try:
        await in_thread(session.check)
        await wait_unless_stopped(job, plan.seconds)
        await run_interruptibly(job, session)
    finally:
        session.close()
    return ""


async def _restart(service: Service, job: FlinkJob, reason: str) -> None:
    job.restart_times += 1
    if job.flink_status == FlinkStatus.RUNNING:  # not while it is being stopped
        job.show(FlinkStatus.RUNNING_EXCEPTION, reason)
    await wait_unless_stopped(job, max(SHORTEST_PAUSE, service.settings.flink_restart_delay))
    if job.flink_status == FlinkStatus.RUNNING_EXCEPTION:
        job.show(FlinkStatus.RUNNING)


def _take_script(service: Service, job: FlinkJob) -> Script | None:
    return service.scripts.take(f"{job.name}\n{job.statement}", job.kind)


def _stop(service: Service, job: FlinkJob, with_savepoint: bool) -> None:
    job.cancel_requests.append(time.time())
    with_savepoint = with_savepoint and job.flink_status in (FlinkStatus.RUNNING, FlinkStatus.CANCEL_FAIL)
    job.show(FlinkStatus.SAVEPOINTING if with_savepoint else FlinkStatus.CANCELING)
    job.in_background(_stop_slowly(service, job))


async def _stop_slowly(service: Service, job: FlinkJob) -> None:
    """Make the savepoint, then stop the job. The job may end before that, by itself."""
    if job.flink_status == FlinkStatus.SAVEPOINTING:
        if await _ends_within(job, service.settings.flink_savepoint_delay):
            return
        bucket = job.body.obs_bucket or "dli-savepoints"
        job.savepoints.append(f"obs://{bucket}/flink/savepoints/{job.job_id}/savepoint-{uuid.uuid4().hex[:12]}")
        job.show(FlinkStatus.CANCELING)
    if await _ends_within(job, service.settings.flink_cancel_delay):
        return
    if service.settings.flink_stop == "fails":
        job.show(FlinkStatus.CANCEL_FAIL, "The job could not be stopped, and may still run.")
    else:
        job.is_reset_by_stop = service.settings.flink_stop == "resets"
        job.ask_to_stop("")


async def _ends_within(job: FlinkJob, seconds: float) -> bool:
    ended = job.ended
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(ended.wait(), seconds)
    return ended.is_set()
