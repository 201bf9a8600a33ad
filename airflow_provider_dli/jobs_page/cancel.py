"""Cancels a job for a user who may do that, and writes down who it was."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_dli import compat
from airflow_provider_dli.api.kinds import kind_of
from airflow_provider_dli.exceptions import DliError
from airflow_provider_dli.jobs_page.access import Rights
from airflow_provider_dli.jobs_page.lists import client_of
from airflow_provider_dli.sweep.verdict import submitter
from airflow_provider_dli.text import clean

if TYPE_CHECKING:
    from airflow_provider_dli.api.call import Call
    from airflow_provider_dli.job import Job

log = logging.getLogger(__name__)

# Its name in Airflow's audit log.
_EVENT = "dli_cancel_job"


def question(kind_name: str, job_id: str) -> Call[Job]:
    """
    Return the call that asks DLI for a job, with all that tells whose it is.

    :raises DliValueError: There is no such kind, or no job can have this id.
    """
    kind = kind_of(kind_name)
    # Of some kinds, the status is no more than a word.
    return (kind.detail or kind.status)(job_id)


def cancel(rights: Rights, conn_id: str, job: Job, *, is_ours: bool) -> str:
    """
    Cancel a job, and return what became of it, in words; in a thread.

    As the cancel operator does: repeated for a few seconds, whatever DLI said; a job that is over is no error.

    :param rights: Of the user, who may cancel it.
    :param conn_id: The connection.
    :param job: The job.
    :param is_ours: Whether it belongs to a DAG of this Airflow.
    :raises DliError: It is still active, as far as is known.
    """
    outcome = "an error of the provider, see the log"
    try:
        client = client_of(conn_id)
        # A user waits for it.
        urgent = client.patient(replace(client.patience, is_urgent=True))
        outcome = str(urgent.cancel(kind_of(job.kind), job.id))
    except DliError as error:
        log.warning("%s", error)
        # Not with DLI's words: users read it who may not read the connection.
        outcome = "failed, the api-server's log says why"
        raise
    finally:
        _write_down(rights, conn_id, job, outcome, is_ours)
    return outcome


def _write_down(rights: Rights, conn_id: str, job: Job, outcome: str, is_ours: bool) -> None:
    user = rights.user.get_name()
    log.info("User %s cancels %s with connection %r: %s", clean(user), job, conn_id, outcome)
    extra = {"conn_id": conn_id, "kind": job.kind, "job_id": job.id, "outcome": outcome}
    try:
        compat.write_audit_log(_EVENT, user, json.dumps(extra), submitter(job).task_instance if is_ours else None)
    except Exception:  # of another class with every database; the cancel counts all the same
        log.exception("The cancel of %s could not be written into Airflow's audit log.", job)
