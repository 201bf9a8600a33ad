"""The service over HTTP. The gateway in front of it has checked credentials, sizes and content types."""

from __future__ import annotations

from types import MethodType

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from airflow_provider_dli.local.dli.admin import api
from airflow_provider_dli.local.dli.replies import (
    RefusedError,
    SoftFailureError,
    error_reply,
    in_array,
    is_flink,
    is_iam,
    no_such_api,
)
from airflow_provider_dli.local.dli.responses import as_json, as_response, is_success
from airflow_provider_dli.local.dli.routes import ROUTES
from airflow_provider_dli.local.dli.service import Service


def create_app(service: Service, restart: api.Restart) -> FastAPI:
    """
    All routes, on one service.

    :param restart: What the admin call of this name does.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    _add_error_answers(app, service)
    for route in ROUTES:
        app.add_api_route(route.path, MethodType(route.answer, service), methods=[route.method])
    api.add_routes(app, service, restart)
    return app


def _add_error_answers(app: FastAPI, service: Service) -> None:
    def refusal(request: Request, error: RefusedError) -> Response:
        path = request.url.path
        reply = error_reply(error, is_iam(path))
        as_array = error.status == 400 and is_flink(path) and service.settings.flink_errors == "array"
        return as_response(in_array(reply) if as_array else reply)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return refusal(request, error)

    @app.exception_handler(SoftFailureError)
    async def soft(request: Request, error: SoftFailureError) -> Response:
        return as_json({"is_success": is_success(service, False), "message": str(error)})

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        code = "IAM.0011" if is_iam(request.url.path) else "DLI.0001"
        return refusal(request, RefusedError(400, code, _explain(error)))

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # a body that is not even JSON
            return refusal(request, RefusedError(400, "DLI.0001", str(error.detail)))
        return as_response(error_reply(no_such_api()))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return as_response(error_reply(RefusedError(500, "DLI.0999", "Server-side errors occur.")))


def _explain(error: RequestValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    return f"The parameter {where or 'body'} is not valid: {first['msg'].removeprefix('Value error, ')}"
