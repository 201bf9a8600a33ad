"""The button in Airflow's task view that opens the DLI console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

from airflow_provider_dli import compat
from airflow_provider_dli.xcoms import CONSOLE_URL

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey


class DliJobLink(BaseOperatorLink):
    """
    Opens the list of jobs in the cloud's console.

    The operator pushes the address as soon as it has a job, so the button works while the task runs: Airflow 3
    itself would push it only when the task ends. The cloud documents no address of a single job.
    """

    name = "DLI console"

    @property
    def xcom_key(self) -> str:
        """Where the address is kept; Airflow 3 looks here, Airflow 2 asks :meth:`get_link`."""
        return CONSOLE_URL

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address, or an empty text when the task has no job."""
        # Airflow 3 asks in the process of the task, when that ends. A task that has never had a job has no XCom: asking
        # for it would log an error.
        if (known := getattr(operator, "console_url", None)) is not None:
            return str(known)
        if compat.AIRFLOW >= (3, 0) and not getattr(operator, "is_resumed", True):
            return ""
        return str(XCom.get_value(ti_key=ti_key, key=self.xcom_key) or "")
