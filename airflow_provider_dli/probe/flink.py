"""Checks of Flink jobs: one is created, started, stopped at once, and deleted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import machine
from airflow_provider_dli.api import flink
from airflow_provider_dli.api.flink_definition import OPENSOURCE_SQL, FlinkDefinition
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.job import JobState
from airflow_provider_dli.probe.jobs import LISTED_WITHIN
from airflow_provider_dli.probe.probe import OVER_WITHIN, Check, NotAsExpectedError, Probe
from airflow_provider_dli.probe.replies import Reply

if TYPE_CHECKING:
    from airflow_provider_dli.api.call import Answer, Call
    from airflow_provider_dli.job import Job

# Ends by itself after ten minutes, and writes nothing but a log.
_SQL = """
CREATE TABLE numbers (id INT) WITH ('connector' = 'datagen', 'number-of-rows' = '600', 'rows-per-second' = '1');
CREATE TABLE sink (id INT) WITH ('connector' = 'print');
INSERT INTO sink SELECT id FROM numbers
"""
# No DLI has come so far.
_UNKNOWN = 2**62


def create(probe: Probe) -> str:
    call = _call(probe)

    def read(answer: Answer) -> Job:
        probe.learn("flink_flags", Reply(answer.body).flag)
        return call.read(answer)

    sought = Query(name=f"airflow_probe_{probe.id}")
    job = probe.keep("Flink", probe.jobs.submit(flink.KIND, replace(call, read=read), "Flink draft", sought))
    return f"job {job.id}"


def create_with_a_taken_name(probe: Probe) -> str:
    job = probe.kept("Flink")
    second = probe.jobs.expect(flink.KIND, "second Flink draft", Query(name=job.name))
    reply = probe.look("create of a Flink job whose name is taken", _call(probe))
    probe.learn("flink_name_taken", str(reply))
    if reply.refusal is None:
        created = reply.body.get("job")
        second.job_id = str(created.get("job_id")) if isinstance(created, dict) else None
        raise NotAsExpectedError(f"accepted: job {second.job_id} has the same name")
    probe.jobs.forget(second)
    return str(reply)


def listed(probe: Probe) -> str:
    job, begun = probe.kept("Flink"), machine.monotonic()
    while not _is_listed(probe, job, job.name):
        if machine.monotonic() - begun >= LISTED_WITHIN:
            raise NotAsExpectedError(f"not in the list after {LISTED_WITHIN:.0f} s")
        probe.client.pause(0.25)
    took = machine.monotonic() - begun
    of_piece = _is_listed(probe, job, job.name[:-4])
    probe.learn("flink_name_filter", "a piece of the name is enough" if of_piece else "the whole name is needed")
    return "at once" if took < 0.25 else f"after {took:.1f} s"


def unknown_job(probe: Probe) -> str:
    reply = probe.look("detail of an unknown Flink job", flink.status(_UNKNOWN))
    probe.learn("unknown_flink_job", str(reply))
    if reply.refusal is not None and not reply.is_soft:
        probe.learn("flink_errors", reply.shape)
    if not reply.is_unknown:
        raise NotAsExpectedError(str(reply))
    return str(reply)


def stop_of_a_draft(probe: Probe) -> str:
    job = probe.kept("Flink")
    reply = probe.look("stop of a Flink job that does not run", flink.stop(job.id))
    probe.learn("flink_stop_draft", str(reply))
    after = probe.client.job(flink.KIND, job.id)
    if after.state is not JobState.CREATED:
        raise NotAsExpectedError(f"{reply}; the job is {after.status} then")
    return f"{reply}; stays {after.status}"


def run_and_stop(probe: Probe) -> str:
    job = probe.kept("Flink")
    run = probe.look("run of a Flink job", flink.run(job.id))
    if run.refusal is not None:
        raise run.refusal
    stop = probe.look("stop of a Flink job", flink.stop(job.id))
    if stop.refusal is not None:
        # Some may not be stopped while they start.
        probe.until(flink.KIND, job.id, lambda state: state is not JobState.LAUNCHING, None)
        stop = probe.look("stop of a Flink job", flink.stop(job.id))
    probe.learn("flink_run_answer", f"run: {run.shape}; stop: {stop.shape}")
    stopped_at = machine.monotonic()
    ended = probe.until(
        flink.KIND, job.id, lambda state: not state.is_active or state is JobState.STOP_FAILED, OVER_WITHIN
    )
    if ended.state is JobState.STOP_FAILED:
        probe.learn("flink_stop_failed", f"{ended.status}: {ended.message}")
    if ended.state is not JobState.CANCELLED:
        raise NotAsExpectedError(f"{ended.status}: {ended.message or 'no reason given'}")
    return f"{ended.status} {machine.monotonic() - stopped_at:.1f} s after the stop"


def delete(probe: Probe) -> str:
    job = probe.kept("Flink")
    state = probe.client.job(flink.KIND, job.id).state
    if not state.is_at_rest:
        raise NotAsExpectedError(f"the job cannot be deleted: it is {state}")
    probe.client.send(flink.delete(job.id))
    reply = probe.look("detail of a deleted Flink job", flink.status(job.id))
    if not reply.is_unknown:
        raise NotAsExpectedError(f"its detail: {reply}")
    return f"its detail: {reply}"


CHECKS = [
    Check("Flink: create", "a job id", create, ("flink_flags",)),
    Check("Flink: a name that is taken", "refused", create_with_a_taken_name, ("flink_name_taken",)),
    Check("Flink: list", f"listed by its name within {LISTED_WITHIN:.0f} s", listed, ("flink_name_filter",)),
    Check("Flink: unknown job", "refused as unknown", unknown_job, ("unknown_flink_job", "flink_errors")),
    Check("Flink: stop of a draft", "any answer; stays a draft", stop_of_a_draft, ("flink_stop_draft",)),
    Check(
        "Flink: run and stop",
        f"cancelled within {OVER_WITHIN:.0f} s",
        run_and_stop,
        ("flink_run_answer",),
    ),
    Check("Flink: delete", "gone", delete),
]


def _call(probe: Probe) -> Call[Job]:
    agency = probe.options.agency
    definition = FlinkDefinition(
        job_type=OPENSOURCE_SQL,
        sql_body=_SQL,
        queue_name=probe.options.general_queue,
        runtime_config={"flink.dli.job.agency.name": agency} if agency else None,
    )
    return flink.create(definition, name=f"airflow_probe_{probe.id}", description="By dli-local probe. Can be deleted.")


def _is_listed(probe: Probe, job: Job, name: str) -> bool:
    found: Any = probe.client.send(flink.list_jobs(name=name))
    return any(each.id == job.id for each in found.jobs)
