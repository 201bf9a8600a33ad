"""The service over HTTP: DLI's SQL and queue calls and two of IAM's, in their wire format.

The gateway in front of it has checked credentials, sizes and content types before a request comes here.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Annotated, Any, Literal, get_args

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from airflow_provider_dli.local import admin
from airflow_provider_dli.local.bodies import CheckBody, ExportBody, SubmitBody, TokenBody
from airflow_provider_dli.local.faults import Reply
from airflow_provider_dli.local.gateway import IAM_CALLS, error_reply
from airflow_provider_dli.local.security import RefusedError
from airflow_provider_dli.local.service import Service, SoftFailureError
from airflow_provider_dli.local.store import Column, Filter, Job

JobType = Literal[
    "DDL",
    "DCL",
    "IMPORT",
    "EXPORT",
    "QUERY",
    "INSERT",
    "DATA_MIGRATION",
    "UPDATE",
    "DELETE",
    "RESTART_QUEUE",
    "SCALE_QUEUE",
    "ALL",
]
JobStatus = Literal["LAUNCHING", "RUNNING", "SCALING", "FINISHED", "FAILED", "CANCELLED"]
Order = Literal["duration_desc", "duration_asc", "start_time_desc", "start_time_asc"]
Millis = Annotated[int | None, Query(ge=0, lt=2**63)]
Text = Annotated[str | None, Query()]

PREFIX = "/v1.0/{project_id}"


def create_service_app(service: Service, restart: admin.Restart) -> FastAPI:
    """All routes, on one service. :param restart: what a call to restart it does."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    _add_error_answers(app, service)
    _add_iam(app, service)
    _add_sql_jobs(app, service)
    _add_results(app, service)
    _add_queues(app, service)
    admin.add_routes(app, service, restart)
    return app


def _add_iam(app: FastAPI, service: Service) -> None:
    @app.post("/v3/auth/tokens")
    async def token(body: TokenBody, request: Request, nocatalog: str = "") -> Response:
        lifetime = service.settings.token_lifetime
        return _respond(service.iam.create_token(body, lifetime, _base_url(request), not nocatalog))

    @app.get("/v3/projects")
    async def projects(
        request: Request,
        name: Text = None,
        domain_id: Text = None,
        parent_id: Text = None,
        enabled: bool | None = None,
        is_domain: bool | None = None,
        page: Annotated[int | None, Query(ge=1)] = None,
        per_page: Annotated[int | None, Query(ge=1, le=5000)] = None,
    ) -> Response:
        wanted = {
            "name": name,
            "domain_id": domain_id,
            "parent_id": parent_id,
            "enabled": enabled,
            "is_domain": is_domain,
        }
        given = {key: value for key, value in wanted.items() if value is not None}
        content = service.iam.projects(given, _base_url(request))
        if page and page > 1:
            content["projects"] = []
        return _json(content)


def _add_sql_jobs(app: FastAPI, service: Service) -> None:
    @app.get(PREFIX + "/jobs/{job_id}/status")
    async def status(job_id: str) -> Response:
        return _success(service, **job_status(service.job(job_id)))

    @app.post(PREFIX + "/jobs/submit-job")
    async def submit(body: SubmitBody) -> Response:
        job = await service.submit(body)
        content: dict[str, Any] = {"job_id": job.job_id, "job_type": job.job_type, "job_mode": job.job_mode}
        if job.job_mode == "sync":
            content |= {"schema": _schema(job), "rows": job.result.rows}
        return _success(service, **content)

    @app.delete(PREFIX + "/jobs/{job_id}")
    async def cancel(job_id: str) -> Response:
        service.cancel(job_id)
        return _success(service)

    @app.get("/v1/{project_id}/jobs/{job_id}/progress")
    async def progress(job_id: str) -> Response:
        job = service.job(job_id)
        return _success(service, job_id=job_id, status=job.status, progress=1 if job.status == "FINISHED" else 0)

    @app.post(PREFIX + "/jobs/check-sql")
    async def check(body: CheckBody) -> Response:
        job_type = await service.check(body)
        return _success(service, message="the sql is ok", job_type=job_type)

    @app.get(PREFIX + "/jobs")
    async def jobs(
        size: Annotated[int, Query(alias="page-size", ge=1, le=100)] = 50,
        page: Annotated[int, Query(alias="current-page", ge=1, le=100)] = 1,
        start: Millis = None,
        end: Millis = None,
        job_type: Annotated[JobType | None, Query(alias="job-type")] = None,
        job_types: Text = None,
        status: Annotated[JobStatus | None, Query(alias="job-status")] = None,
        job_id: Annotated[str | None, Query(alias="job-id", max_length=64)] = None,
        queue_name: Text = None,
        sql_pattern: Text = None,
        order: Order = "start_time_desc",
        engine_type: Literal["spark"] | None = None,
        engine_type_as_before: Annotated[Literal["spark", "hetuEngine"] | None, Query(alias="engine-type")] = None,
        owner: Text = None,
        db_name: Text = None,
        table_name: Text = None,
        tags: Text = None,
    ) -> Response:
        lag = service.settings.list_lag
        wanted = Filter(
            job_types=_job_types(job_type, job_types),
            status=status,
            job_id=job_id,
            queue_name=queue_name,
            start=start,
            end=end,
            sql_pattern=sql_pattern,
            owner=owner,
            database=db_name,
            table=table_name,
            tags=tuple(tags.split(",")) if tags else (),
            order=order,
            submitted_before=time.time() - lag if lag else None,
        )
        count, found = service.jobs.page(wanted, page, size)
        if engine_type_as_before == "hetuEngine":
            count, found = 0, []
        return _success(service, job_count=count, jobs=[job_line(job) for job in found])


def _add_results(app: FastAPI, service: Service) -> None:
    @app.get(PREFIX + "/jobs/{job_id}/preview")
    async def preview(
        job_id: str,
        size: Annotated[int, Query(alias="page-size", ge=1, le=1000)] = 1000,
        queue: Annotated[str | None, Query(alias="queue-name")] = None,
    ) -> Response:
        if queue is not None:
            service.queue(queue)
        job = service.job(job_id)
        _check_has_result(job)
        return _success(
            service,
            job_id=job_id,
            job_type=job.job_type,
            row_count=job.result.count,
            input_size=job.result.input_size,
            schema=_schema(job),
            rows=job.result.rows[:size],
        )

    @app.post(PREFIX + "/jobs/{job_id}/export-result")
    async def export(job_id: str, body: ExportBody) -> Response:
        job = service.export(job_id, body)
        return _success(service, job_id=job.job_id, job_mode=job.job_mode)

    @app.get(PREFIX + "/jobs/{job_id}/detail")
    async def detail(job_id: str) -> Response:
        job = service.job(job_id)
        status = job_status(job)
        shown = ("job_id", "owner", "start_time", "duration", "database_name", "table_name", "tags")
        settings = (
            "data_path",
            "data_type",
            "compress",
            "export_mode",
            "with_column_header",
            "quote_char",
            "escape_char",
        )
        content = {name: status[name] for name in shown}
        return _success(service, **content, **{name: job.export[name] for name in settings if name in job.export})


def _add_queues(app: FastAPI, service: Service) -> None:
    @app.get(PREFIX + "/queues")
    async def queues(
        queue_type: Literal["sql", "general", "all"] = "sql",
        with_priv: Annotated[bool, Query(alias="with-priv")] = False,
        size: Annotated[int, Query(alias="page-size", ge=1)] = 2**31 - 1,
        page: Annotated[int, Query(alias="current-page", ge=1)] = 1,
        order: Literal["queue_name_asc", "queue_name_desc", "cu_asc", "cu_desc"] = "queue_name_asc",
        tags: Text = None,
        with_charge_info: Annotated[bool, Query(alias="with-charge-info")] = False,
    ) -> Response:
        # All queues here are sql queues of the same size, without tags.
        names = [] if queue_type == "general" or tags else sorted(service.settings.queues)
        if order.endswith("desc"):
            names.reverse()
        shown = names[(page - 1) * size : page * size]
        return _success(service, queues=[_queue(service, name) for name in shown])

    @app.get(PREFIX + "/queues/{queue_name}")
    async def queue(queue_name: str) -> Response:
        found = _queue(service, service.queue(queue_name))
        for old, new in [("queue_name", "queueName"), ("queue_type", "queueType"), ("cu_count", "cuCount")]:
            found[new] = found.pop(old)
        return _success(service, **found)


def job_status(job: Job) -> dict[str, Any]:
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
        "detail": _detail(job.result.columns),
        "statement": job.statement,
        "tags": job.tags,
        "user_conf": json.dumps(dict(_conf_pairs(job.conf))),
    }


def job_line(job: Job) -> dict[str, Any]:
    """A job as a line of the list."""
    line = job_status(job)
    del line["job_mode"], line["user_conf"]
    if job.ended_at is not None:
        line["end_time"] = int(job.ended_at * 1000)
    return line | {"engine_type": "spark", "with_column_header": bool(job.export.get("with_column_header"))}


def _add_error_answers(app: FastAPI, service: Service) -> None:
    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return _respond(error_reply(error, _iam_call(request)))

    @app.exception_handler(SoftFailureError)
    async def soft(request: Request, error: SoftFailureError) -> Response:
        return _json({"is_success": _flag(service, False), "message": str(error)})

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        code = "IAM.0011" if _iam_call(request) else "DLI.0001"
        return _respond(error_reply(RefusedError(400, code, _in_words(error)), _iam_call(request)))

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # a body that is not even JSON
            return _respond(error_reply(RefusedError(400, "DLI.0001", str(error.detail)), ""))
        text = "The API does not exist or has not been published in the environment."
        return _respond(error_reply(RefusedError(404, "APIG.0101", text), ""))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return _respond(error_reply(RefusedError(500, "DLI.0999", "Server-side errors occur."), ""))


def _in_words(error: RequestValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    return f"The parameter {where or 'body'} is not valid: {first['msg'].removeprefix('Value error, ')}"


def _iam_call(request: Request) -> str:
    return IAM_CALLS[0] if request.url.path.startswith("/v3/") else ""


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


def _check_has_result(job: Job) -> None:
    if job.job_type not in ("QUERY", "DDL", "DCL"):
        raise RefusedError(400, "DLI.0007", f"A job of type {job.job_type} has no result to show.")
    if job.status != "FINISHED":
        raise RefusedError(400, "DLI.0007", f"The job is {job.status}; only a FINISHED job has a result.")


def _schema(job: Job) -> list[dict[str, str]]:
    return [{column.name: column.type} for column in job.result.columns]


def _detail(columns: list[Column]) -> str:
    if not columns:
        return ""
    fields = [column.json_field for column in columns]
    return json.dumps({"type": "struct", "fields": fields})


def _conf_pairs(conf: list[str]) -> list[tuple[str, str]]:
    pairs = (entry.partition("=") for entry in conf)
    return [(key.strip(), value.strip()) for key, _, value in pairs]


def _queue(service: Service, name: str) -> dict[str, Any]:
    return {
        "queue_name": name,
        "description": f"runs {service.settings.queues[name]} jobs at a time",
        "owner": service.identity.user,
        "create_time": service.created_ms,
        "queue_type": "sql",
        "engine": "spark",
        "cu_count": 16,
        "resource_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
        "resource_mode": 0,
        "resource_type": "vm",
        "cu_spec": 16,
    }


def _success(service: Service, **content: Any) -> Response:
    return _json({"is_success": _flag(service, True), "message": "", **content})


def _flag(service: Service, value: bool) -> bool | str:
    return value if service.settings.flags == "bool" else str(value).lower()


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _json(content: dict[str, Any]) -> Response:
    return Response(json.dumps(content, allow_nan=False), media_type="application/json")


def _respond(reply: Reply) -> Response:
    return Response(reply.body, reply.status, dict(reply.headers), reply.content_type)
