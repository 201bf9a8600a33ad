"""The operator of exports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_dli.api import export
from airflow_provider_dli.api import sql as api
from airflow_provider_dli.operators.base import DliJobOperator

if TYPE_CHECKING:
    from airflow_provider_dli.client.connection import DliConnection
    from airflow_provider_dli.compat import Templated


class DliExportResultOperator(DliJobOperator):
    """
    Export the result of a query to OBS, and wait until it is there.

    The export is a DLI job of its own. When the task is killed, in whatever way, it is cancelled; a part of the files
    may be left. Returns the id of the export's job, and pushes it as XCom ``job_id`` as soon as it is known.

    Exports have no tags: when the answer is lost, and after a lost worker, the job is found by its folder. So let no
    two tasks export to one folder at the same time. The sweep does not see exports; each ends by itself.

    Follows the API page "Exporting Query Results".

    :param job_id: The job of the query, finished. (templated)
    :param obs_path: Folder of OBS, such as ``obs://bucket/exports/{job_id}``; ``{job_id}`` is replaced by the id of the
        query's job, so that runs do not mix. (templated)
    :param data_type: ``"csv"`` (default) or ``"json"``: one object per line. (templated)
    :param compress: ``"none"``, ``"gzip"``, ``"bzip2"`` or ``"deflate"``. Default: DLI's, which is none.
    :param with_header: Whether files begin with the names of the columns. Default: DLI's, which is not.
    :param export_mode: ``"ErrorIfExists"`` or ``"Overwrite"``, which empties the folder. Default: DLI's, which is an
        error when the folder exists. (templated)
    :param queue_name: Queue that exports. Default: that of the query. (templated)
    :param dli_conn_id: Airflow connection of type ``dli``. Default ``dli_default``. (templated)
    :param region: Takes the place of the connection's ``region``. (templated)
    :param project_id: Takes the place of the connection's ``project_id``. (templated)
    :param poll_interval: Seconds between two status calls, at most. Default 10.
    :param deferrable: Whether to wait in the triggerer, without a worker. Default: ``[operators] default_deferrable``.
    :param wait_for_completion: Whether to wait for the end of the export. Default True.
    :param cancel_on_kill: Whether a killed or failing task cancels the export. Default True.
    :param on_earlier_job: See :class:`DliSubmitSqlJobOperator`. Default ``"reattach"``.
    :raises DliJobError: The export failed or was cancelled.
    :raises DliValueError: A parameter cannot be used, or the job has no result; nothing was exported.
    :raises DliError: DLI does not answer for long, or refuses the export.
    """

    job_kind = api.KIND
    template_fields: Sequence[str] = (
        "job_id",
        "obs_path",
        "data_type",
        "export_mode",
        "queue_name",
        "dli_conn_id",
        "region",
        "project_id",
    )

    def __init__(
        self,
        *,
        job_id: Templated[str],
        obs_path: Templated[str],
        data_type: Templated[str] = "csv",
        compress: str | None = None,
        with_header: bool | None = None,
        export_mode: Templated[str] | None = None,
        queue_name: Templated[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id: Any = job_id
        self.obs_path: Any = obs_path
        self.data_type: Any = data_type
        self.compress = compress
        self.with_header = with_header
        self.export_mode: Any = export_mode
        self.queue_name: Any = queue_name

    def work(self, connection: DliConnection) -> export.ExportWork:
        """Return what is exported, where to and how."""
        return export.ExportWork(
            export.folder("obs_path", self.obs_path),
            self.job_id,
            data_type=self.data_type,
            compress=self.compress,
            with_header=self.with_header,
            export_mode=self.export_mode,
            queue_name=self.queue_name,
        )
