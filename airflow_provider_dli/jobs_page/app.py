"""The page over HTTP: its files, the jobs, and the cancel. Below ``/dli`` of Airflow's api-server."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict

from airflow_provider_dli import DEFAULT_CONN_ID
from airflow_provider_dli.api.kinds import KINDS, kind_of
from airflow_provider_dli.exceptions import DliError, DliNotFoundError, DliValueError
from airflow_provider_dli.job import Job
from airflow_provider_dli.jobs_page import cancel
from airflow_provider_dli.jobs_page.access import Rights, foreign
from airflow_provider_dli.jobs_page.lists import (
    Places,
    Purpose,
    Reading,
    Shared,
    Turn,
    beginning,
    client_of,
    in_time,
    places_in_text,
    places_of_text,
)
from airflow_provider_dli.jobs_page.rows import Deployment, Row, View

log = logging.getLogger(__name__)

# How many jobs one answer holds, at most.
_JOBS = 50
# Nothing but our own files, and no page of another origin around it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)
_FILES = Path(__file__).parent / "static"
_PAGE = "/jobs"

app = FastAPI(title="DLI jobs", docs_url=None, redoc_url=None, openapi_url=None)
app.mount("/static", StaticFiles(directory=_FILES))
_shared = Shared()

ConnId = Annotated[str, Query(alias="connection", max_length=250)]


class Which(BaseModel):
    """Body of a cancel: the job."""

    model_config = ConfigDict(extra="forbid")

    connection: str
    kind: str
    job: str


def _require_our_page(request: Request) -> None:
    if why := foreign(request.headers):
        raise HTTPException(403, f"Nothing was cancelled, for the request does not come from the page DLI jobs: {why}.")


@app.middleware("http")
async def _with_headers(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    answer = await go_on(request)
    answer.headers["Content-Security-Policy"] = _POLICY
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Referrer-Policy"] = "same-origin"
    # A file may be kept, but is asked for anew: a newer release may have another one.
    answer.headers["Cache-Control"] = "no-cache" if "etag" in answer.headers else "no-store"
    return answer


@app.exception_handler(HTTPException)
async def _or_log_in(request: Request, error: HTTPException) -> Response:
    """Answer with the error; who opens the page without having logged in does that first."""
    mounted_at = str(request.scope.get("root_path", ""))
    if error.status_code == 401 and request.url.path == f"{mounted_at}{_PAGE}":
        login = f"{mounted_at.rpartition('/')[0]}/api/v2/auth/login"
        return RedirectResponse(f"{login}?{urlencode({'next': request.url})}")
    return await http_exception_handler(request, error)


@app.exception_handler(DliError)
async def _sentence(request: Request, error: DliError) -> Response:
    """Answer with what the hook says."""
    statuses = {DliNotFoundError: 404, DliValueError: 400}
    return JSONResponse({"detail": str(error)}, statuses.get(type(error), 502))


@app.get(_PAGE)
async def page(user: GetUserDep) -> Response:
    """Return the page; what is on it comes from the calls below."""
    return FileResponse(_FILES / "page.html")


@app.get("/api/choices")
def choices(user: GetUserDep) -> dict[str, Any]:
    """Return what there is to choose from: connections and kinds."""
    return {"connections": Rights(user).connections(), "kinds": list(KINDS)}


@app.get("/api/jobs")
async def jobs(
    user: GetUserDep,
    conn_id: ConnId = DEFAULT_CONN_ID,
    show: Literal["all", "active", "orphans"] = "all",
    kind: str | None = None,
    others: bool = False,
    places: Annotated[str | None, Query(max_length=2000)] = None,
) -> dict[str, Any]:
    """Return a page of jobs, newest first; ``places`` is ``next`` of the answer with the jobs before."""
    kinds = [kind_of(kind).name] if kind else list(KINDS)
    try:
        begin = places_of_text(places) if places else beginning(kinds, active=show != "all")
    except (ValueError, TypeError, RecursionError) as error:
        raise HTTPException(400, f"places: {error}") from None
    turn = Turn(Rights(user).user_id, conn_id)
    deployment = Deployment.here()
    view = await run_in_threadpool(View, Rights(user), conn_id, deployment)
    found: dict[str, Any] = {"rows": [], "next": None, "problems": [], "console": None}
    try:
        if view.may_ask:
            found = await in_time(_jobs(view, turn, deployment, show, others, begin))
    except Exception as error:  # whatever it is, it tells something of the connection
        if view.may_see_others:
            raise
        log.debug("Not shown to a user who may not read connection %r: %s", conn_id, error)
    if not view.may_see_others:
        found |= {"problems": _hidden(bool(found["rows"]), bool(found["problems"])), "console": None}
    return {**found, "without_orphans": deployment.without_orphans, "may_see_others": view.may_see_others}


def _hidden(has_rows: bool, has_problems: bool) -> list[str]:
    """Return what a user hears of problems who may not read the connection: that must not tell whether there is one."""
    if not has_rows:
        return ["Jobs may be missing. Only users who may read the connection see whether it exists and works."]
    return ["Some jobs could not be read. Users who may read the connection see why."] if has_problems else []


async def _jobs(
    view: View, turn: Turn, deployment: Deployment, show: str, others: bool, begin: Places
) -> dict[str, Any]:
    others = others and view.may_see_others
    reading = Reading(_shared, turn, {} if others else deployment.tags, begin)
    rows: list[Row] = []
    if begin and not (show == "orphans" and deployment.without_orphans):
        await reading.begin()
        while len(rows) < _JOBS:
            found = await reading.next(wanted := _JOBS - len(rows))
            rows += await run_in_threadpool(view.rows, found, others=others, only_orphans=show == "orphans")
            if len(found) < wanted:
                break
    return {
        "rows": rows,
        "next": places_in_text(reading.places),
        "problems": list(dict.fromkeys(map(str, reading.problems.values()))),
        "console": await _shared.get(
            (turn.conn_id, "console"), lambda: client_of(turn.conn_id).access.connection().console_url, turn
        ),
    }


@app.get("/api/job")
async def job(user: GetUserDep, conn_id: ConnId, kind: str, job: str) -> Row:
    """Return one job, such as one that was cancelled a moment ago."""
    rights = Rights(user)
    _, row, _ = await _look(rights, Turn(rights.user_id, conn_id), kind, job)
    return row


@app.post("/api/cancel", dependencies=[Depends(_require_our_page)])
async def cancel_job(user: GetUserDep, body: Which) -> dict[str, str]:
    """Cancel a job, and say what became of it."""
    rights = Rights(user)
    turn = Turn(rights.user_id, body.connection, Purpose.CANCEL)
    found, row, view = await _look(rights, turn, body.kind, body.job)
    if found.state.is_active:
        if not row["may_cancel"]:
            raise HTTPException(403, f"You may not cancel {found}: {_NEEDED[row['note'] is None]}")
        stop = partial(cancel.cancel, rights, body.connection, found, is_ours=row["note"] is None)
        try:
            outcome = await in_time(_shared.do(stop, turn))
        except DliError as error:
            if view.may_see_others:
                raise
            raise HTTPException(502, _FAILED.format(found)) from error
        finally:
            _shared.forget(body.connection)
    else:
        outcome = f"it was over before ({found.state})"
    return {"outcome": f"{found}: {outcome}."}


_NEEDED = {
    True: "that takes the right to edit the runs of its DAG.",
    False: "it belongs to no DAG of this Airflow, and that takes the right to edit the connection.",
}


_FAILED = (
    "{} may still run: the cancel failed. The api-server's log says why, and so does this page to users who may read "
    "the connection."
)


async def _look(rights: Rights, turn: Turn, kind: str, job_id: str) -> tuple[Job, Row, View]:
    conn_id, question = turn.conn_id, cancel.question(kind, job_id)
    view = await run_in_threadpool(View, rights, conn_id, Deployment.here())
    key = (conn_id, "job", kind, job_id)
    rows: list[Row] = []
    try:
        if view.may_ask:
            found = await in_time(_shared.get(key, lambda: client_of(conn_id).send(question), turn))
            rows = await run_in_threadpool(view.rows, [found])
    except Exception as error:  # see above
        if view.may_see_others:
            raise
        log.debug("Not shown to a user who may not read connection %r: %s", conn_id, error)
    if not rows:
        # The same, whatever the reason, for users who may not read the connection.
        raise HTTPException(403, "You may not see this job, or it cannot be read.")
    return found, rows[0], view
