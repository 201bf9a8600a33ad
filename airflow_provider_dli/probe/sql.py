"""Checks of SQL jobs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import compat, machine
from airflow_provider_dli.api import sql
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.exceptions import DliError, DliTemporaryError
from airflow_provider_dli.job import JobState
from airflow_provider_dli.probe.jobs import LISTED_WITHIN
from airflow_provider_dli.probe.probe import OVER_WITHIN, Check, NotAsExpectedError, Probe
from airflow_provider_dli.text import NAME_LIMIT, in_words

if TYPE_CHECKING:
    from airflow_provider_dli.api.call import Answer, Call
    from airflow_provider_dli.job import Job

#: A trillion pairs out of nothing: runs for long, reads no data, writes none.
LONG = "SELECT count(*) AS pairs FROM range(1000000) AS a CROSS JOIN range(1000000) AS b WHERE (a.id + b.id) % 7 = 3"
_SHORT = (
    "SELECT CAST(1.10 AS DECIMAL(10, 2)) AS amount, TIMESTAMP '2026-01-15 08:30:00' AS moment, ARRAY(1, 2) AS numbers"
)
_FAILING = "SELECT * FROM airflow_probe_no_such_table"
_DDL = "SHOW DATABASES"
_BROKEN = "SELEC 1"
_TIMEOUT = "dli.sql.job.timeout"
# The limit of the job that shows the unit, and how long a job may run on until there is none, in seconds.
_LIMIT, _NO_LIMIT_AFTER = 3, 12.0

#: Tags of the jobs of a probe: which probe, and which of its jobs.
PROBE_TAG, JOB_TAG = "airflow_probe", "airflow_probe_job"


def tags(probe: Probe, what: str) -> dict[str, str]:
    """Return the tags by which a job of the probe is found: those of no other job."""
    return {PROBE_TAG: probe.id, JOB_TAG: what}


def bound(probe: Probe) -> dict[str, Any]:
    """Return the setting by which DLI itself ends a job, should nobody be left to cancel it."""
    return {_TIMEOUT: (int(probe.options.timeout) + 120) * probe.units_per_second}


def credentials(probe: Probe) -> str:
    connection = probe.client.connect()
    if connection.auth_type == "password":
        probe.learn("signature", "not asked: this connection uses a token")
        seen = f"token of {connection.iam_endpoint}"
    else:
        seen = f"keys ({connection.auth_type})"
    where = f"DLI at {connection.endpoint}"
    probe.learn("region", f"{connection.region or 'no region given'}: {where}")
    return f"{seen}, {where}"


def listed(probe: Probe) -> str:
    reply = probe.look("list", sql.list_jobs(page_size=1))
    if reply.refusal is not None:
        raise reply.refusal
    probe.learn("flags", reply.flag)
    if probe.client.access.connection().auth_type != "password":
        probe.learn("signature", "SDK-HMAC-SHA256 Access=... is accepted; the older form was not tried")
    return f"{reply.body.get('job_count')} jobs in the project"


def submit(probe: Probe) -> str:
    job, mode = _submit(probe, _SHORT, "first", {})
    probe.keep("first", job)
    probe.learn("job_id", _form(job.id))
    return f"job {job.id}, mode {mode or 'not told'}"


def list_lag(probe: Probe) -> str:
    job, begun = probe.kept("first"), machine.monotonic()
    while not _listed(probe, {"tags": tags(probe, "first")}, job.id):
        if machine.monotonic() - begun >= 2 * LISTED_WITHIN:
            raise NotAsExpectedError(f"not in the list after {2 * LISTED_WITHIN:.0f} s")
        probe.client.pause(0.25)
    took = machine.monotonic() - begun
    seen = "at once" if took < 0.25 else f"after {took:.1f} s"
    probe.learn("list_lag", seen)
    if took > LISTED_WITHIN:
        raise NotAsExpectedError(f"{seen}: a submit whose answer is lost is looked up for {LISTED_WITHIN:.0f} s only")
    return seen


def tags_read_back(probe: Probe) -> str:
    job, sent = probe.kept("first"), tags(probe, "first")
    shown = {each.id: each.tags for each in probe.client.send(sql.list_jobs(tags=sent)).jobs}.get(job.id)
    piece = {PROBE_TAG: probe.id[: len(probe.id) // 2]}
    of_piece = _listed(probe, {"tags": piece}, job.id)
    probe.learn("tag_filter", "a piece of the value is enough" if of_piece else "the whole value is needed")
    if shown != sent:
        raise NotAsExpectedError(f"sent {sent}, read {'no such job' if shown is None else shown}")
    return f"{len(sent)} tags, as sent"


def first_job_ends(probe: Probe) -> str:
    job = probe.over(sql.KIND, probe.kept("first").id, None)
    if job.state is not JobState.FINISHED:
        raise NotAsExpectedError(f"{job.status}: {job.message or 'no reason given'}")
    probe.keep("finished", job)
    return job.status + (f", ran {in_words(job.duration.total_seconds())}" if job.duration else "")


def list_window(probe: Probe) -> str:
    job = probe.kept("finished")
    if job.start_time is None:
        raise NotAsExpectedError("DLI does not show when the job started")
    at, only = round(job.start_time.timestamp() * 1000), {"tags": tags(probe, "first")}
    from_there, until_there = (_listed(probe, {**only, edge: at}, job.id) for edge in ("start", "end"))
    seen = f"start {'includes' if from_there else 'excludes'} it, end {'includes' if until_there else 'excludes'} it"
    probe.learn("list_window", seen)
    return seen


def rows(probe: Probe) -> str:
    job = probe.kept("finished")
    by_default = probe.look("preview by default", sql.preview(job.id, rows=1, queue_name="default"))
    probe.learn("preview_on_default", "works" if by_default.refusal is None else str(by_default))
    reply = by_default
    if (probe.options.queue or sql.DEFAULT_QUEUE) != sql.DEFAULT_QUEUE:
        reply = probe.look("preview", sql.preview(job.id, rows=1, queue_name=probe.options.queue))
    if reply.refusal is not None:
        refused = f"no rows to look at: {reply}"
        probe.reasons.update(columns=refused, values=refused)
        return refused
    row = (reply.body.get("rows") or [[]])[0]
    # A Decimal is a bare number of JSON.
    values = [str(value) if isinstance(value, Decimal) else repr(value) for value in row]
    probe.learn("values", ", ".join(values)[:NAME_LIMIT])
    _learn_columns(probe, reply.body)
    return str(reply)


def cancel_of_a_finished_job(probe: Probe) -> str:
    job = probe.kept("finished")
    reply = probe.look("cancel of a finished job", sql.cancel(job.id))
    probe.learn("cancel_ended", str(reply))
    after = probe.client.job(sql.KIND, job.id)
    if after.state is not JobState.FINISHED:
        raise NotAsExpectedError(f"{reply}; the job is {after.status} then")
    return f"{reply}; stays {after.status}"


def unknown_job(probe: Probe) -> str:
    nobody = str(uuid.uuid4())
    of_status = probe.look("status of an unknown job", sql.status(nobody))
    of_cancel = probe.look("cancel of an unknown job", sql.cancel(nobody))
    seen = f"status: {of_status}; cancel: {of_cancel}"
    probe.learn("unknown_job", seen)
    if not of_status.is_unknown or of_cancel.refusal is None:
        raise NotAsExpectedError(seen)
    return seen


def failed_job(probe: Probe) -> str:
    try:
        submitted, _ = _submit(probe, _FAILING, "failing", {})
    except DliTemporaryError:
        raise
    except DliError as refusal:
        probe.learn("failure_reason", f"refused at submit: HTTP {refusal.status} {refusal.code or ''}".rstrip())
        return f"refused at submit: {refusal}"
    job = probe.over(sql.KIND, submitted.id)
    in_list = [each for each in probe.client.send(sql.list_jobs(tags=submitted.tags)).jobs if each.id == job.id]
    places = {"status": job.message, "list": in_list[0].message if in_list else ""}
    told = [place for place, message in places.items() if message]
    probe.learn("failure_reason", "message of " + " and ".join(told) if told else "nowhere")
    if job.state is not JobState.FAILED or not told:
        raise NotAsExpectedError(f"{job.status}: {job.message or 'no reason given'}")
    return f"{job.status}: {job.message or places['list']}"


def check_sql(probe: Probe) -> str:
    reply = probe.look("syntax check", sql.check_sql(_BROKEN))
    probe.learn("check_sql", str(reply))
    return str(reply)


def ddl(probe: Probe) -> str:
    _, unset = _submit(probe, _DDL, "ddl", {})
    bodies: list[Mapping[str, Any]] = []
    job, off = _submit(probe, _DDL, "sync-ddl", {"dli.sql.sqlasync.enabled": False}, bodies)
    seen = f"without: {unset or 'not told'}; with false: {off or 'not told'}"
    probe.learn("ddl_mode", seen)
    if off == "sync":
        reply = probe.look("status of a synchronous job", sql.status(job.id))
        probe.learn("sync_status", f"works: {reply.body.get('status')}" if reply.refusal is None else str(reply))
    else:
        probe.reasons["sync_status"] = f"no statement ran synchronously ({seen})"
    for body in bodies:
        _learn_columns(probe, body)
    return seen


def time_limit(probe: Probe) -> str:
    job, _ = _submit(probe, LONG, "limited", {_TIMEOUT: _LIMIT})
    job = probe.until(sql.KIND, job.id, lambda state: state is not JobState.LAUNCHING, None)
    begun = machine.monotonic()
    while job.state.is_active and machine.monotonic() - begun < _NO_LIMIT_AFTER:
        probe.client.pause(0.25)
        job = probe.client.job(sql.KIND, job.id)
    ran = job.duration.total_seconds() if job.duration else machine.monotonic() - begun
    if job.state.is_active:
        probe.look("cancel of a job with a limit", sql.cancel(job.id))
        probe.over(sql.KIND, job.id)
        unit, seen = None, f"none: a job with the limit {_LIMIT} still ran after {ran:.1f} s"
    else:
        unit = "milliseconds" if ran < _LIMIT / 2 else "seconds"
        seen = f"{unit}: a job with the limit {_LIMIT} was {job.status} after {ran:.1f} s"
    if unit == "milliseconds":
        probe.units_per_second = 1000
    probe.learn("time_limit", seen)
    if unit and compat.server_bound() not in (unit, "off"):
        raise NotAsExpectedError(f"{seen}; set server_bound = {unit} in section [dli] of Airflow's configuration")
    return seen


def cancel_of_a_running_job(probe: Probe) -> str:
    job, _ = _submit(probe, LONG, "long", {})
    job = probe.until(sql.KIND, job.id, lambda state: state is not JobState.LAUNCHING, None)
    if job.state is not JobState.RUNNING:
        raise NotAsExpectedError(f"{job.status} before it was cancelled: {job.message or 'no reason given'}")
    queue = probe.options.queue or sql.DEFAULT_QUEUE
    preview = probe.look("preview of a running job", sql.preview(job.id, rows=1, queue_name=queue))
    probe.learn("preview_running", str(preview))
    reply, cancelled_at = probe.look("cancel of a running job", sql.cancel(job.id)), machine.monotonic()
    if reply.refusal is not None:
        raise NotAsExpectedError(f"the cancel is refused: {reply}")
    again = probe.look("second cancel", sql.cancel(job.id))
    then = probe.client.job(sql.KIND, job.id)
    probe.learn("cancel_again", f"{again}; {then.status} then")
    ended = probe.over(sql.KIND, job.id)
    if ended.state is JobState.FINISHED:
        probe.learn("finished_while_cancelled", "FINISHED")
    if ended.state is not JobState.CANCELLED:
        raise NotAsExpectedError(f"{ended.status}: {ended.message or 'no reason given'}")
    return f"{ended.status} {machine.monotonic() - cancelled_at:.1f} s after the cancel"


#: What comes before anything is started: without it, nothing is.
FIRST_OF_ALL = [
    Check("credentials", "accepted", credentials, ("signature", "region")),
    Check("list", "the user may list jobs", listed, ("flags", "signature")),
]
BEFORE_THE_KILL = [
    Check("submit", "a job id", submit, ("job_id",)),
    Check("list lag", f"listed by its tags within {LISTED_WITHIN:.0f} s", list_lag, ("list_lag",)),
    Check("tags read back", "as sent", tags_read_back, ("tag_filter",)),
    Check("end of the first job", "FINISHED", first_job_ends),
    Check("window of the list", "", list_window, ("list_window",)),
    Check("rows", "", rows, ("preview_on_default", "columns", "values")),
    Check("cancel of a finished job", "any answer; stays FINISHED", cancel_of_a_finished_job, ("cancel_ended",)),
    Check("unknown job", "the status is refused as unknown, the cancel refused", unknown_job, ("unknown_job",)),
    Check("failed job", "FAILED, or refused at submit, with a reason", failed_job, ("failure_reason",)),
    Check("syntax check", "", check_sql, ("check_sql",)),
    Check("DDL", "", ddl, ("ddl_mode", "sync_status")),
    Check("time limit", "as [dli] server_bound says", time_limit, ("time_limit",)),
    Check(
        "cancel of a running job",
        f"CANCELLED within {OVER_WITHIN:.0f} s",
        cancel_of_a_running_job,
        ("cancel_again", "preview_running"),
    ),
]


def _submit(
    probe: Probe, statement: str, what: str, conf: Mapping[str, Any], bodies: list[Mapping[str, Any]] | None = None
) -> tuple[Job, str]:
    """Submit a statement; return its job, and the mode that DLI tells. Its answer is added to ``bodies``."""
    own = tags(probe, what)
    call = sql.submit(statement, queue_name=probe.options.queue, conf={**bound(probe), **conf}, tags=own)
    answers: list[Answer] = []

    def read(answer: Answer) -> Job:
        answers.append(answer)
        return call.read(answer)

    job = probe.jobs.submit(sql.KIND, replace(call, read=read), what, Query(tags=own))
    if bodies is not None:
        bodies += [answer.body for answer in answers]
    return job, answers[0].text(answers[0].body.get("job_mode"), NAME_LIMIT) if answers else ""


def _listed(probe: Probe, narrowed: Mapping[str, Any], job_id: str) -> bool:
    call: Call[Any] = sql.list_jobs(**narrowed)
    return any(job.id == job_id for job in probe.client.send(call).jobs)


def _learn_columns(probe: Probe, body: Mapping[str, Any]) -> None:
    columns = body.get("schema")
    if not isinstance(columns, list) or not columns or not isinstance(columns[0], dict):
        return
    by_name = {"name", "type"} <= columns[0].keys()
    probe.learn("columns", "an object with the fields name and type" if by_name else "{name: type}")


def _form(job_id: str) -> str:
    try:
        uuid.UUID(job_id)
    except ValueError:
        return f"{len(job_id)} characters, no UUID"
    return "a UUID with hyphens" if "-" in job_id else "a UUID without hyphens"
