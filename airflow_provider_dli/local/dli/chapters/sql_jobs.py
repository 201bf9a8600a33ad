"""SQL jobs: submit, check, status, progress, detail, cancel."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from fastapi import Response

from airflow_provider_dli.local.dli.bodies import CheckBody, SubmitBody
from airflow_provider_dli.local.dli.chapters import refusals
from airflow_provider_dli.local.dli.jobs.job import JobFailedError, Stage
from airflow_provider_dli.local.dli.jobs.runner import Work
from airflow_provider_dli.local.dli.jobs.scripts import CANCELLED_BY_USER, Script, play
from airflow_provider_dli.local.dli.jobs.sql_job import Column, Result, SqlJob
from airflow_provider_dli.local.dli.jobs.substitution import substituted
from airflow_provider_dli.local.dli.jobs.threads import in_thread, run_interruptibly
from airflow_provider_dli.local.dli.replies import RefusedError, SoftFailureError
from airflow_provider_dli.local.dli.responses import success
from airflow_provider_dli.local.dli.service import Service

if TYPE_CHECKING:
    # Importing DuckDB and sqlglot takes longer than starting the server: done on first use.
    from airflow_provider_dli.local.dli.engine.spark_sql import Statement

DETAIL = ("job_id", "owner", "start_time", "duration", "database_name", "table_name", "tags")
EXPORT_DETAIL = (
    "data_path",
    "data_type",
    "compress",
    "export_mode",
    "with_column_header",
    "quote_char",
    "escape_char",
)


async def submit(service: Service, body: SubmitBody) -> Response:
    """
    Start a job; in synchronous mode, answer when it is over.

    :raises RefusedError: when the statement does not parse, or names an unknown queue or bad settings.
    """
    conf = body.settings()
    script = service.scripts.take(body.sql)
    statement = await _parse(substituted(body.sql, conf), forgiving=script is not None)
    job_type = statement.job_type if statement else "QUERY"
    job = SqlJob(
        statement=body.sql,
        job_type=job_type,
        job_mode=_mode(service, job_type, conf),
        queue_name=service.queue(body.queue_name, "sql"),
        owner=service.identity.user,
        database=body.currentdb or "default",
        table=statement.table if statement else "",
        tags=[tag.model_dump() for tag in body.tags],
        conf=body.conf,
        timeout=_timeout(conf, service.settings.timeout_unit),
    )
    if script is not None:
        service.start(job, _played(job, script), script.launching_for)
    elif statement is not None:
        service.start(job, _run(service, job, statement))
    content: dict[str, Any] = {"job_id": job.job_id, "job_type": job.job_type, "job_mode": job.job_mode}
    if job.job_mode == "sync":
        await _wait_for(service, job)
        content |= {"schema": schema(service, job), "rows": job.result.rows}
    return success(service, **content)


async def check(service: Service, body: CheckBody) -> Response:
    """
    Tell the job type of a statement that would run.

    :raises RefusedError: when it would not run.
    :raises SoftFailureError: instead of that, if the settings say so.
    """
    try:
        statement = await _parse(substituted(body.sql, {}))
        assert statement is not None  # noqa: S101 - only a script forgives
        await in_thread(service.session(statement, body.currentdb or "default", "check").check)
    except (RefusedError, JobFailedError) as error:
        refusal = error if isinstance(error, RefusedError) else _as_refusal(str(error))
        if service.settings.check_sql == "soft":
            raise SoftFailureError(f"{refusal.code}: {refusal.message}") from None
        raise refusal from None
    return success(service, message="the sql is ok", job_type=statement.job_type)


async def status(service: Service, job_id: str) -> Response:
    return success(service, **job_status(find(service, job_id)))


async def progress(service: Service, job_id: str) -> Response:
    job = find(service, job_id)
    return success(service, job_id=job_id, status=job.status, progress=1 if job.status == Stage.FINISHED else 0)


async def detail(service: Service, job_id: str) -> Response:
    job = find(service, job_id)
    shown = job_status(job)
    export = {name: job.export[name] for name in EXPORT_DETAIL if name in job.export}
    return success(service, **{name: shown[name] for name in DETAIL}, **export)


async def cancel(service: Service, job_id: str) -> Response:
    """
    Ask the job to stop. It is CANCELLED once it has really stopped.

    :raises RefusedError: when the job has ended.
    :raises SoftFailureError: instead of that, if the settings say so.
    """
    job = find(service, job_id)
    job.cancel_requests.append(time.time())
    if job.is_active:
        job.ask_to_stop(CANCELLED_BY_USER)
        return success(service)
    raise refusals.ended(service, f"The job has ended ({job.status}) and cannot be canceled.")


def find(service: Service, job_id: str) -> SqlJob:
    """
    :raises RefusedError: for an unknown id, in the way that the settings say.
    """
    job = service.jobs.get(job_id)
    if isinstance(job, SqlJob):
        return job
    raise refusals.unknown(service, "job", job_id)


def job_status(job: SqlJob) -> dict[str, Any]:
    """A job as the status call shows it."""
    return {
        "job_id": job.job_id,
        "job_type": job.job_type,
        "job_mode": job.job_mode,
        "queue_name": job.queue_name,
        "owner": job.owner,
        "start_time": job.start_ms,
        "duration": job.duration_ms,
        "status": job.status,
        "message": job.message,
        "input_size": job.result.input_size,
        "result_count": job.result.count,
        "database_name": job.database,
        "table_name": job.table,
        "detail": _struct_type(job.result.columns),
        "statement": job.statement,
        "tags": job.tags,
        "user_conf": json.dumps(dict(_conf_pairs(job.conf))),
    }


def schema(service: Service, job: SqlJob) -> list[dict[str, str]]:
    """The result's columns as preview and submit show them."""
    if service.settings.columns == "fields":
        return [{"name": column.name, "type": column.type} for column in job.result.columns]
    return [{column.name: column.type} for column in job.result.columns]


def _played(job: SqlJob, script: Script) -> Work:
    async def work() -> str:
        message = await play(job, script)
        job.result = Result(columns=_columns_of(script.rows), rows=script.rows, count=len(script.rows))
        return message

    return work


def _columns_of(rows: list[list[Any]]) -> list[Column]:
    """Columns for the rows of a script, which says nothing of them: ``c1``, ``c2`` and so on."""
    kinds = {bool: ("boolean", "boolean"), int: ("bigint", "long"), float: ("double", "double")}
    return [
        Column(f"c{number}", *kinds.get(type(value), ("string", "string")))
        for number, value in enumerate(rows[0] if rows else [], 1)
    ]


def _run(service: Service, job: SqlJob, statement: Statement) -> Work:
    async def work() -> str:
        session = service.session(statement, job.database, job.job_id)
        job.result = await run_interruptibly(job, session)
        return job.result.message

    return work


async def _parse(sql: str, forgiving: bool = False) -> Statement | None:
    """The parsed statement; None for one that does not parse, if it is not to run anyway."""
    from airflow_provider_dli.local.dli.engine.spark_sql import SqlSyntaxError, parse

    try:
        return await in_thread(lambda: parse(sql))
    except SqlSyntaxError as error:
        if forgiving:
            return None
        raise RefusedError(400, "DLI.0004", f"ParseException: {error}") from None


async def _wait_for(service: Service, job: SqlJob) -> None:
    """
    :raises RefusedError: when the job failed or took longer than a synchronous call may.
    """
    try:
        await asyncio.wait_for(job.ended.wait(), service.settings.sync_limit)
    except TimeoutError:
        raise RefusedError(400, "DLI.0019", "The synchronous call took too long and was cut off.") from None
    if job.status != Stage.FINISHED:
        raise _as_refusal(job.message)


def _mode(service: Service, job_type: str, conf: dict[str, str]) -> str:
    asynchronous = conf.get("dli.sql.sqlasync.enabled", "true").lower() != "false"
    if job_type == "DCL" and service.settings.dcl_mode == "sync":
        return "sync"
    return "sync" if job_type in ("DDL", "DCL") and not asynchronous else "async"


def _timeout(conf: dict[str, str], unit: str) -> float | None:
    text = conf.get("dli.sql.job.timeout")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) < 10**9):
        raise RefusedError(400, "DLI.0001", f"dli.sql.job.timeout must be a number of {unit}, not {text[:40]!r}")
    return int(text) / {"seconds": 1, "milliseconds": 1000}[unit]


def _as_refusal(message: str) -> RefusedError:
    """A job's message as the answer of a call."""
    code, colon, text = message.partition(": ")
    return RefusedError(400, *((code, text) if colon and code.startswith("DLI.") else ("DLI.0999", message)))


def _struct_type(columns: list[Column]) -> str:
    if not columns:
        return ""
    return json.dumps({"type": "struct", "fields": [column.json_field for column in columns]})


def _conf_pairs(conf: list[str]) -> list[tuple[str, str]]:
    pairs = (entry.partition("=") for entry in conf)
    return [(key.strip(), value.strip()) for key, _, value in pairs]
