"""The admin API under ``/_local``: look at the jobs and requests, script jobs, order faults, turn switches.

It needs no credentials and is taken from this machine only; the gateway sees to that.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from airflow_provider_dli.local.faults import Fault
from airflow_provider_dli.local.runner import Script
from airflow_provider_dli.local.service import Scripted, Service
from airflow_provider_dli.local.settings import Seconds, Settings
from airflow_provider_dli.local.store import Job, tags_as_dict

#: Restarts the API: seconds without it, and the address of the caller.
Restart = Callable[[float, tuple[str, int]], Awaitable[None]]


def _json_only(rows: list[list[Any]]) -> list[list[Any]]:
    try:
        json.dumps(rows, allow_nan=False)
    except (ValueError, RecursionError):
        raise ValueError('rows must be JSON, not too deep, with "NaN" and "Infinity" as text') from None
    return rows


class Will(BaseModel):
    """Body of ``POST /_local/will``: what becomes of the next matching jobs instead of running their SQL."""

    model_config = ConfigDict(extra="forbid")

    matching: str = Field("", description="Piece of the statement; empty matches every job.")
    times: int = Field(1, ge=1, description="Number of jobs.")
    launching_for: Seconds = Field(0, description="Seconds in LAUNCHING.")
    run_for: Seconds = Field(0, description="Seconds in RUNNING.")
    then: Literal["FINISHED", "FAILED", "CANCELLED"] = "FINISHED"
    message: str = Field("", description="Message of the end state, such as `DLI.0005: AnalysisException: ...`.")
    stuck_in: str | None = Field(None, description="A state, known or not, kept until the job is cancelled.")
    cancel_takes: Seconds = Field(0, description="Seconds from a cancel to CANCELLED.")
    rows: Annotated[list[list[Any]], AfterValidator(_json_only)] = Field([], description="Result rows.")

    def scripted(self) -> Scripted:
        values = self.model_dump(exclude={"matching", "times", "rows"})
        script = Script(**values, rows=tuple(tuple(row) for row in self.rows))
        return Scripted(script, self.matching, self.times)


class Down(BaseModel):
    """Body of ``POST /_local/restart``."""

    model_config = ConfigDict(extra="forbid")

    down_for: Annotated[float, Field(ge=0, le=600)] = Field(0, description="Seconds without an API.")


def add_routes(app: FastAPI, service: Service, restart: Restart) -> None:
    """All admin routes."""

    @app.get("/_local/jobs")
    async def jobs() -> Response:
        """All jobs, oldest first, with moments in seconds since the epoch."""
        return _json([_job(job) for job in service.jobs])

    @app.get("/_local/requests")
    async def requests(since: Annotated[int, Query(ge=0)] = 0) -> Response:
        """The last requests to DLI and IAM whose ``seq`` is greater than ``since``, oldest first."""
        return _json(service.log.since(since))

    @app.post("/_local/will")
    async def will(body: Will) -> Response:
        """Script the next matching jobs, see :class:`Will`."""
        service.script(body.scripted())
        return _json({"ok": True})

    @app.post("/_local/faults")
    async def add_fault(body: Fault) -> Response:
        """Add a rule, see :class:`airflow_provider_dli.local.faults.Fault`."""
        service.faults.add(body)
        return _json([rule.model_dump() for rule in service.faults.all()])

    @app.get("/_local/faults")
    async def faults() -> Response:
        """The rules in force, with what is left of their ``times``."""
        return _json([rule.model_dump() for rule in service.faults.all()])

    @app.delete("/_local/faults")
    async def clear_faults() -> Response:
        """Good weather again."""
        service.faults.clear()
        return _json([])

    @app.get("/_local/settings")
    async def settings() -> Response:
        """The switches as they stand, see :class:`airflow_provider_dli.local.settings.Settings`."""
        return _json(service.settings.model_dump())

    @app.post("/_local/settings")
    async def change_settings(body: Annotated[dict[str, Any], Body()]) -> Response:
        """Turn the switches that are named in the body; the others stay."""
        try:
            service.change_settings(Settings(**{**service.settings.model_dump(), **body}))
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None
        return _json(service.settings.model_dump())

    @app.post("/_local/restart")
    async def restart_api(body: Down, request: Request) -> Response:
        """Restart the API, see :class:`Down`, and answer once it is back. Jobs run on; tokens are no longer valid."""
        assert request.client is not None  # noqa: S101 - the gateway has let it in by its address
        await restart(body.down_for, (request.client.host, request.client.port))
        return _json({"ok": True})

    @app.post("/_local/reset")
    async def reset() -> Response:
        """Forget jobs (interrupting them), tables, faults, scripts, settings, requests and locks."""
        await service.reset()
        return _json({"ok": True})


def _job(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "status": job.status,
        "message": job.message,
        "statement": job.statement,
        "tags": tags_as_dict(job.tags),
        "conf": job.conf,
        "queue_name": job.queue_name,
        "database": job.database,
        "owner": job.owner,
        "job_type": job.job_type,
        "submitted_at": job.submitted_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "cancel_requests": job.cancel_requests,
    }


def _json(content: Any) -> Response:
    return Response(json.dumps(content, allow_nan=False), media_type="application/json")
