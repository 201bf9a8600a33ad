"""How calls about a job are refused where the public sources about DLI disagree or are silent: as the settings say."""

from __future__ import annotations

from airflow_provider_dli.local.dli.replies import RefusedError, SoftFailureError
from airflow_provider_dli.local.dli.service import Service


def ended(service: Service, text: str) -> Exception:
    """
    Return the refusal to cancel a job that is over.

    :param text: What it says.
    """
    how, _, code = service.settings.cancel_ended.rpartition(" ")
    if how == "soft":
        return SoftFailureError(f"{code}: {text}")
    if code == "soft":
        return SoftFailureError(text)
    return RefusedError(int(how or 400), "DLI.0007" if code == "error" else code, text)


def unknown(service: Service, what: str, job_id: str) -> RefusedError:
    """
    Return the refusal of a call about a job that DLI does not know.

    :param what: What is not known, such as ``batch``.
    """
    if service.settings.unknown_job == "404":
        return RefusedError(404, "DLI.0023", "No related resources were found.")
    if service.settings.unknown_job == "DLI.0001":
        return RefusedError(400, "DLI.0001", f"The {what} {job_id[:64]} is not exist.")
    if what == "Flink job":
        return RefusedError(400, "DLI.16001", f"The job {job_id} does not exist.")
    return RefusedError(400, "DLI.0002", f"There is no {what} with the id {job_id[:64]}")
