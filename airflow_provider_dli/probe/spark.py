"""Checks of Spark batches: what can be seen without one, and with one that is cancelled."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from airflow_provider_dli import machine
from airflow_provider_dli.api import spark
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.job import JobState
from airflow_provider_dli.probe.jobs import LISTED_WITHIN
from airflow_provider_dli.probe.probe import OVER_WITHIN, Check, NotAsExpectedError, Probe
from airflow_provider_dli.text import NAME_LIMIT, clean


def listed(probe: Probe) -> str:
    reply = probe.look("list of batches", spark.list_batches(size=20))
    if reply.refusal is not None:
        raise reply.refusal
    probe.learn("spark_is_success", reply.flag)
    batches = _batches(reply.body)
    for batch in batches:
        if str(batch.get("state")).lower() == "success":
            probe.learn("spark_success", clean(str(batch["state"]), NAME_LIMIT))
    if batches:
        _learn_of(probe, batches[0])
    return f"{reply.body.get('total')} batches in the project"


def unknown_batch(probe: Probe) -> str:
    nobody = str(uuid.uuid4())
    of_status = probe.look("status of an unknown batch", spark.status(nobody))
    of_cancel = probe.look("cancel of an unknown batch", spark.cancel(nobody))
    seen = f"status: {of_status}; cancel: {of_cancel}"
    probe.learn("unknown_batch", seen)
    if not of_status.is_unknown or _is_accepted(of_cancel.body, of_cancel.refusal):
        raise NotAsExpectedError(seen)
    return seen


def submit(probe: Probe) -> str:
    options = probe.options
    work = spark.SparkWork(
        file=options.spark_file or "",
        spark_version=options.spark_version,
        queue_name=options.general_queue,
        conf={"spark.dli.job.agency.name": options.agency} if options.agency else {},
        # To see how DLI spells it when it shows the request.
        auto_recovery=False,
    )
    name = f"airflow_probe_{probe.id}"
    job = probe.jobs.submit(spark.KIND, spark.create(work, name=name), "batch", Query(name=name))
    probe.keep("batch", job)
    return f"batch {job.id}"


def listed_by_name(probe: Probe) -> str:
    job, begun = probe.kept("batch"), machine.monotonic()
    while (batch := _find(probe, job.name, job.id)) is None:
        if machine.monotonic() - begun >= LISTED_WITHIN:
            raise NotAsExpectedError(f"not in the list after {LISTED_WITHIN:.0f} s")
        probe.client.pause(0.25)
    took = machine.monotonic() - begun
    _learn_of(probe, batch)
    request = _request(batch)
    spelled = [name for name in ("autoRecovery", "auto_recovery") if name in request]
    probe.learn("retry_fields", ", ".join(spelled) or "not shown")
    return "at once" if took < 0.25 else f"after {took:.1f} s"


def cancel_of_a_running_batch(probe: Probe) -> str:
    job = probe.kept("batch")
    job = probe.until(spark.KIND, job.id, lambda state: state is not JobState.LAUNCHING, None)
    if job.state is not JobState.RUNNING:
        raise NotAsExpectedError(f"{job.status} before it was cancelled: {job.message or 'no reason given'}")
    reply, cancelled_at = probe.look("cancel of a running batch", spark.cancel(job.id)), machine.monotonic()
    message = reply.body.get("msg")
    told = f'{{"msg": "{clean(message, NAME_LIMIT)}"}}' if isinstance(message, str) else reply.shape
    probe.learn("spark_cancel", told if reply.refusal is None else str(reply))
    if not _is_accepted(reply.body, reply.refusal):
        raise NotAsExpectedError(f"the cancel is refused: {reply}")
    ended = probe.over(spark.KIND, job.id)
    probe.keep("ended batch", ended)
    if ended.state is not JobState.FAILED:
        raise NotAsExpectedError(ended.status)
    return f"{ended.status} {machine.monotonic() - cancelled_at:.1f} s after the cancel"


def cancel_of_an_ended_batch(probe: Probe) -> str:
    job = probe.kept("ended batch")
    reply = probe.look("cancel of a batch that has ended", spark.cancel(job.id))
    probe.learn("spark_cancel_ended", str(reply))
    after = probe.client.job(spark.KIND, job.id)
    if after.state is not job.state:
        raise NotAsExpectedError(f"{reply}; the batch is {after.status} then")
    return f"{reply}; stays {after.status}"


CHECKS = [
    Check("Spark: list", "the user may list batches", listed, ("spark_is_success",)),
    Check(
        "Spark: unknown batch",
        "the status is refused as unknown, the cancel not accepted",
        unknown_batch,
        ("unknown_batch",),
    ),
]
CHECKS_WITH_A_BATCH = [
    *CHECKS,
    Check("Spark: submit", "a batch id", submit),
    Check("Spark: list by name", f"listed within {LISTED_WITHIN:.0f} s", listed_by_name, ("retry_fields",)),
    Check(
        "Spark: cancel of a running batch",
        f"dead within {OVER_WITHIN:.0f} s",
        cancel_of_a_running_batch,
        ("spark_cancel",),
    ),
    Check(
        "Spark: cancel of an ended batch", "any answer; stays dead", cancel_of_an_ended_batch, ("spark_cancel_ended",)
    ),
]


def _learn_of(probe: Probe, batch: Mapping[str, Any]) -> None:
    """Learn what one batch of the list tells: of the probe, or of somebody else."""
    shown = "shown" if _request(batch) else "shown, but not readable" if batch.get("req_body") else "not shown"
    probe.learn("req_body", shown)
    name, batch_id = batch.get("name"), batch.get("id")
    if isinstance(name, str) and len(name) > 1:
        is_found = _find(probe, name[:-1], batch_id) is not None
        probe.learn("batch_name_filter", "a piece of the name is enough" if is_found else "the whole name is needed")
    if isinstance(batch_id, str):
        probe.learn("batch_log", str(probe.look("log of a batch", spark.log(batch_id, 1))))


def _find(probe: Probe, name: str, batch_id: object) -> Mapping[str, Any] | None:
    reply = probe.look("list of batches", spark.list_batches(name=name))
    if reply.refusal is not None:
        raise reply.refusal
    return next((batch for batch in _batches(reply.body) if batch.get("id") == batch_id), None)


def _batches(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = body.get("sessions")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _request(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a batch was created with; empty where DLI does not show it in a form that can be read."""
    try:
        found = json.loads(batch.get("req_body") or "")
    except (TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_accepted(body: Mapping[str, Any], refusal: Exception | None) -> bool:
    """Whether a batch counts as cancelled: its flag alone says so where the message does not."""
    return refusal is None and (body.get("is_success") not in (False, "false") or body.get("msg") == "deleted")
