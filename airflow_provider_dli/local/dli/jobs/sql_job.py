"""A SQL or export job, with what its statement left behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from airflow_provider_dli.local.dli.jobs.job import Job


@dataclass(frozen=True)
class Column:
    """
    A result column.

    :param type: Spark's SQL name of the type, such as ``array<int>``.
    :param json_type: The same in Spark's JSON form, for the StructType in ``detail``.
    """

    name: str
    type: str
    json_type: Any

    @property
    def json_field(self) -> dict[str, Any]:
        """The column as a field of a StructType."""
        return json_field(self.name, self.json_type)


def json_field(name: str, json_type: Any) -> dict[str, Any]:
    """One field of a StructType."""
    return {"name": name, "type": json_type, "nullable": True, "metadata": {}}


@dataclass
class Result:
    """
    What a statement left behind.

    :param rows: The first 1000 rows.
    :param count: Number of all rows.
    :param message: Message of the job.
    :param file: Parquet file with all rows, which an export reads.
    """

    columns: list[Column] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)
    count: int = 0
    message: str = ""
    file: str | None = None
    input_size: int = 0


@dataclass(eq=False)
class SqlJob(Job):
    """
    A SQL or export job.

    :param table: The table that it changes.
    :param job_mode: ``sync`` when the submit is answered only at the end of the job.
    :param export: Body of an export call.
    """

    kind = "sql"

    table: str = ""
    job_mode: str = "async"
    export: dict[str, Any] = field(default_factory=dict)
    result: Result = field(default_factory=Result)
