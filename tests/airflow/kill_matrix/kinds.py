"""Kinds of jobs, as the local DLI shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from airflow_provider_dli import identity
from airflow_provider_dli.local.dli.admin.views import LocalJob


@dataclass(frozen=True)
class Kind:
    """
    A kind of job.

    :param name: Its name; DAGs of all but SQL jobs begin with it.
    :param calls: The names that the local DLI has for the calls ``submit``, ``launch``, ``status`` and ``cancel``.
    :param is_scripted: Whether its jobs do nothing unless a script says so; else they are done at once.
    :param of: The kind that they are of for DLI; default is the name.
    """

    name: str
    calls: Mapping[str, str] = field(hash=False)
    is_scripted: bool = False
    of: str = ""

    @property
    def is_launched(self) -> bool:
        """Whether a job is created first, and started then."""
        return "launch" in self.calls


SQL = Kind("sql", {"submit": "submit", "status": "status", "cancel": "cancel"})
SPARK = Kind("spark", {"submit": "spark_create", "status": "spark_state", "cancel": "spark_cancel"}, is_scripted=True)
FLINK = Kind(
    "flink",
    {"submit": "flink_create_sql", "launch": "flink_run", "status": "flink_get", "cancel": "flink_stop"},
)
# An operator of Airflow that knows nothing of DLI, with our hook: only its operator knows what it makes of the rows, so a
# next try runs its own job in any case.
STOCK = Kind("stock", SQL.calls, of="sql")
KINDS = (SQL, SPARK, FLINK)


def tags_of(job: LocalJob) -> Mapping[str, str]:
    """Return what a job says of its task, wherever it says so."""
    settings = dict(setting.split("=", 1) for setting in job.conf if setting.startswith("spark.airflow."))
    return job.tags or identity.from_settings(settings) or identity.from_description(job.description)


def run_of(job: LocalJob) -> str:
    """Return the id of the DAG run of a job."""
    return identity.unescape(tags_of(job).get(identity.RUN, "")) or ""
