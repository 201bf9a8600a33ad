"""
Exports of results to OBS.

Follows the API page "Exporting Query Results". An export is a job of its own, of the type ``EXPORT``. It carries
neither tags nor a name: only the folder that it writes to tells whose it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_dli import identity
from airflow_provider_dli.api import checks
from airflow_provider_dli.api.job_kind import Work
from airflow_provider_dli.exceptions import DliError
from airflow_provider_dli.job import JobState

if TYPE_CHECKING:
    from airflow_provider_dli.job import Job

DATA_TYPES = ("csv", "json")
COMPRESSIONS = ("none", "gzip", "bzip2", "deflate")
MODES = ("ErrorIfExists", "Overwrite")

_FOLDER = re.compile(r'obs://[^/\s\\:*?"<>|,]+(/[^/\\:*?"<>|,]+)+/?')
_EXISTS = re.compile(r"exist", re.IGNORECASE)


@dataclass(frozen=True)
class ExportWork(Work):
    """
    An export. The fields are those of the operator, checked.

    :param source_job_id: The QUERY job whose result is exported; None while it has not run yet.
    :param source_began: When DLI says that this job was submitted, in milliseconds since the epoch.
    :raises DliValueError: A field cannot be used.
    """

    obs_path: str
    source_job_id: str | None = None
    data_type: str = "csv"
    compress: str | None = None
    with_header: bool | None = None
    export_mode: str | None = None
    queue_name: str | None = None
    source_began: int | None = None

    def __post_init__(self) -> None:
        checks.choice("data_type", self.data_type, DATA_TYPES)
        checks.choice("compress", self.compress, COMPRESSIONS)
        checks.choice("export_mode", self.export_mode, MODES)
        checks.flag("with_header", self.with_header)
        checks.name("queue_name", self.queue_name)
        if self.source_job_id is not None:
            checks.job_id(self.source_job_id)

    @property
    def begins_after(self) -> str | None:
        """The job whose result is exported."""
        return self.source_job_id

    @property
    def is_tagged(self) -> bool:
        """An export carries nothing."""
        return False

    @property
    def not_before(self) -> int | None:
        """When the query was submitted."""
        return self.source_began

    @property
    def target(self) -> str:
        """The folder that it writes to."""
        return self.obs_path.replace("{job_id}", self._source)

    @property
    def digest(self) -> str:
        """Identify the work. A persisted contract: it stays the same in every release."""
        options = [self.data_type, self.compress, self.with_header, self.export_mode, self.queue_name]
        return identity.digest([self.source_job_id, self.obs_path, *options])

    def after(self, job: Job) -> Self:
        """
        Return the export of this job's result, by the queue that it ran on unless another one is named.

        :raises DliValueError: It has no result that can be exported.
        """
        if (job.job_type or "QUERY").upper() != "QUERY":
            raise checks.refuse("job_id", f"{job} is of type {job.job_type}: only a query has a result to export.")
        if job.state is not JobState.FINISHED:
            raise checks.refuse("job_id", f"{job} is {job.status}: only a finished query can be exported.")
        began = None if job.start_time is None else int(job.start_time.timestamp() * 1000)
        queue_name = self.queue_name or job.queue_name or None
        return replace(self, source_job_id=job.id, queue_name=queue_name, source_began=began)

    def differences(self, job: Job) -> str:
        """Name what a job did differently."""
        return "the options of the export"

    @property
    def options(self) -> dict[str, Any]:
        """What is sent beside the job and the folder."""
        return {
            "data_type": self.data_type,
            "compress": self.compress,
            "queue_name": self.queue_name,
            "export_mode": self.export_mode,
            "with_column_header": self.with_header,
        }

    @property
    def _source(self) -> str:
        if self.source_job_id is None:
            raise DliError(
                "Which job's result was exported is not known any more, after a deferral in which the export was "
                "cancelled. Clear the task."
            )
        return self.source_job_id


def folder(field: str, value: object) -> str:
    """
    Check a folder of OBS that an export writes to.

    :raises DliValueError: DLI would refuse it.
    """
    if not isinstance(value, str) or not _FOLDER.fullmatch(value):
        raise checks.refuse(
            field,
            f"must be a folder of OBS such as 'obs://bucket/exports/{{job_id}}', without commas or any of "
            f'\\ : * ? " < > | in its names, not {value!r}.',
        )
    bucket, *names = value.removeprefix("obs://").rstrip("/").split("/")
    if any(name.strip(".") != name for name in names):
        raise checks.refuse(field, f"must not have a folder whose name begins or ends with a dot: {value!r}.")
    if bucket.rpartition(".")[2][:1].isdigit() and "." in bucket:
        raise checks.refuse(field, f"names a bucket whose last part begins with a digit, which DLI refuses: {value!r}.")
    return value


def explained(message: str) -> str:
    """Add what to do to the reason for which an export has failed."""
    if not _EXISTS.search(message):
        return message
    return (
        f'{message} (Where the folder exists: put {{job_id}} into the path, or set export_mode="Overwrite", which '
        "empties the folder.)"
    )
