"""
The admin API under ``/_local``: look at the jobs and requests, script jobs, order faults, change settings.

It needs no credentials. The gateway lets only callers on this machine in.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from airflow_provider_dli.local.dli.admin.views import LocalJob
from airflow_provider_dli.local.dli.faults import Fault
from airflow_provider_dli.local.dli.jobs.job import Job, Stage
from airflow_provider_dli.local.dli.jobs.scripts import Script
from airflow_provider_dli.local.dli.responses import as_json
from airflow_provider_dli.local.dli.service import Service
from airflow_provider_dli.local.dli.settings import Seconds, Settings

#: Restarts the API: seconds without it, and the address of the caller.
Restart = Callable[[float, tuple[str, int]], Awaitable[None]]


def _json_only(rows: list[list[Any]]) -> list[list[Any]]:
    try:
        json.dumps(rows, allow_nan=False)
    except (ValueError, RecursionError):
        raise ValueError('rows must be JSON, not too deep, with "NaN" and "Infinity" as text') from None
    return rows


class Will(BaseModel):
    """Body of ``POST /_local/will``: what happens to the next matching jobs instead of running them."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["sql", "spark", "flink"] | None = Field(None, description="Kind of the jobs; null: every kind.")
    matching: str = Field("", description="Piece of the statement or file, or of the name; empty: every job.")
    times: int = Field(1, ge=1, description="Number of jobs.")
    launching_for: Seconds = Field(0, description="Seconds in LAUNCHING.")
    run_for: Seconds = Field(0, description="Seconds in RUNNING.")
    then: Literal["FINISHED", "FAILED", "CANCELLED"] = "FINISHED"
    message: str = Field("", description="Message of the end state, such as `DLI.0005: AnalysisException: ...`.")
    stuck_in: str | None = Field(None, description="A state, known or not, kept until the job is cancelled.")
    cancel_takes: Seconds = Field(0, description="Seconds from a cancel to CANCELLED.")
    rows: Annotated[list[list[Any]], AfterValidator(_json_only)] = Field([], description="Result rows.")
    log: list[str] = Field([], description="Driver log of a Spark batch.")

    def script(self) -> Script:
        return Script(**{**self.model_dump(), "then": Stage(self.then)})


class Down(BaseModel):
    """Body of ``POST /_local/restart``."""

    model_config = ConfigDict(extra="forbid")

    down_for: Annotated[float, Field(ge=0, le=600)] = Field(0, description="Seconds without an API.")


def add_routes(app: FastAPI, service: Service, restart: Restart) -> None:
    """All admin routes."""

    @app.get("/_local/jobs")
    async def jobs() -> Response:
        """All jobs, oldest first, with moments in seconds since the epoch."""
        return as_json([asdict(_view(job)) for job in service.jobs])

    @app.get("/_local/requests")
    async def requests(since: Annotated[int, Query(ge=0)] = 0) -> Response:
        """The last requests to DLI and IAM whose ``seq`` is greater than ``since``, oldest first."""
        return as_json(service.log.since(since))

    @app.post("/_local/will")
    async def will(body: Will) -> Response:
        """Script the next matching jobs, see :class:`Will`."""
        service.scripts.add(body.script())
        return as_json({"ok": True})

    @app.post("/_local/faults")
    async def add_fault(body: Fault) -> Response:
        """Add a rule, see :class:`airflow_provider_dli.local.dli.faults.Fault`."""
        service.faults.add(body)
        return as_json([rule.model_dump() for rule in service.faults.all()])

    @app.get("/_local/faults")
    async def faults() -> Response:
        """The rules in force, with what is left of their ``times``."""
        return as_json([rule.model_dump() for rule in service.faults.all()])

    @app.delete("/_local/faults")
    async def clear_faults() -> Response:
        """Remove all rules."""
        service.faults.clear()
        return as_json([])

    @app.get("/_local/settings")
    async def settings() -> Response:
        """The present settings, see :class:`airflow_provider_dli.local.dli.settings.Settings`."""
        return as_json(service.settings.model_dump())

    @app.post("/_local/settings")
    async def change_settings(body: Annotated[dict[str, Any], Body()]) -> Response:
        """Change the settings named in the body; the others stay."""
        try:
            service.change_settings(Settings(**{**service.settings.model_dump(), **body}))
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None
        return as_json(service.settings.model_dump())

    @app.post("/_local/restart")
    async def restart_api(body: Down, request: Request) -> Response:
        """Restart the API, see :class:`Down`, and answer once it is back. Jobs run on; tokens are no longer valid."""
        assert request.client is not None  # noqa: S101 - the gateway has let it in by its address
        await restart(body.down_for, (request.client.host, request.client.port))
        return as_json({"ok": True})

    @app.post("/_local/reset")
    async def reset() -> Response:
        """Forget jobs (interrupting them), tables, faults, scripts, settings, requests and locks."""
        await service.reset()
        return as_json({"ok": True})


def _view(job: Job) -> LocalJob:
    shown = {field.name: getattr(job, field.name) for field in fields(LocalJob)}
    return LocalJob(**shown | {"tags": {tag["key"]: tag["value"] for tag in job.tags}})
