"""The operator of Spark batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_dli.api import checks
from airflow_provider_dli.api import spark as api
from airflow_provider_dli.operators.base import DliJobOperator

if TYPE_CHECKING:
    from airflow_provider_dli.client.connection import DliConnection
    from airflow_provider_dli.compat import Templated


class DliSubmitSparkJobOperator(DliJobOperator):
    """
    Submit a Spark batch to DLI and wait until it is done.

    When the task is killed, in whatever way, the batch is cancelled. When the answer to the submit is lost, the batch
    is looked up by its name instead of being submitted again. Returns the id of the batch, and pushes it as XCom
    ``job_id`` as soon as it is known. When the batch fails, the end of its driver log is shown in the log of the task.

    DLI has no time limit of Spark batches: ``execution_timeout`` is kept by Airflow alone.

    Follows the chapter "APIs Related to Spark Jobs" of the DLI API Reference.

    :param file: The program: a JAR or a ``.py`` file, as an ``obs://`` path or, before Spark 3.3, the name of a package
        in DLI, such as ``group/job.jar``. (templated)
    :param class_name: Main class of a JAR; left out for a ``.py`` file. (templated)
    :param args: Arguments of the program. (templated)
    :param spark_version: Version of Spark, such as ``3.3.1``. Required, unless ``feature="custom"``, where the image
        decides. (templated)
    :param queue_name: Queue of type ``general``; default is the connection's ``default_queue``. (templated)
    :param name: Beginning of the name of the batch; default are the ids of DAG and task. What the batch is found by is
        appended, and the whole is at most 128 characters long. (templated)
    :param conf: Settings of Spark; they win over the sizes below. One that is None is left out. (templated)
    :param jars: JARs that the program needs: ``obs://`` paths or packages. (templated)
    :param py_files: Python files that the program needs. (templated)
    :param files: Other files that the program needs. (templated)
    :param modules: System modules of DLI, such as ``sys.datasource.rds``; not with Spark 3.1.1. (templated)
    :param resources: Packages, each with ``name`` and ``type``; not from Spark 3.3 on. (templated)
    :param groups: Groups of packages, each with ``name`` and ``resources``; not from Spark 3.3 on. (templated)
    :param sc_type: Size: ``"A"`` (DLI's default: driver 2 cores and 7 GB, 6 executors of 1 core and 4 GB), ``"B"`` or
        ``"C"``. The sizes below win over it.
    :param driver_memory: Memory of the driver, with a unit, such as ``4G``. (templated)
    :param driver_cores: Cores of the driver. (templated)
    :param executor_memory: Memory of an executor, with a unit. (templated)
    :param executor_cores: Cores of an executor. (templated)
    :param num_executors: Number of executors. (templated)
    :param feature: Image: ``"basic"``, ``"ai"`` or ``"custom"``.
    :param image: With ``feature="custom"``: ``organization/image:version``. (templated)
    :param catalog_name: ``dli`` to reach the metadata of DLI. (templated)
    :param execution_agency_urn: Agency by which DLI reads the files. Spark 3.3.1 needs one, here or in ``conf`` as
        ``spark.dli.job.agency.name``. (templated)
    :param obs_bucket: Bucket in which DLI saves the job. (templated)
    :param auto_recovery: Whether DLI starts the batch again when it fails. Default False: Airflow's ``retries`` do
        that.
    :param max_retry_times: How often DLI does so, up to 100. DLI's default is 20.
    :param log_tail_lines: Lines of the driver log to show when the batch fails. Default 100; 0 for none.
    :param dli_conn_id: Airflow connection of type ``dli``. Default ``dli_default``. (templated)
    :param region: Takes the place of the connection's ``region``. (templated)
    :param project_id: Takes the place of the connection's ``project_id``. (templated)
    :param poll_interval: Seconds between two status calls, at most. Default 10.
    :param deferrable: Whether to wait in the triggerer, without a worker. Default: ``[operators] default_deferrable``.
    :param wait_for_completion: Whether to wait for the end of the batch. Default True; otherwise the task is done when
        DLI has the batch, and nothing cancels it afterwards.
    :param cancel_on_kill: Whether a killed or failing task cancels its batch. Default True.
    :param on_earlier_job: What a later try does with the batch of an earlier one: ``"reattach"`` (default),
        ``"cancel"`` or ``"ignore"``; see :class:`.DliSubmitSqlJobOperator`.
    :raises DliJobError: The batch ended ``dead``: it failed, was cancelled, or got no resources for about three hours.
    :raises DliError: DLI could not be reached or refused the batch.
    :raises AirflowFailException: What no retry mends, and no job is left: a wrong field, a certificate that does not
        verify, refused credentials, a missing right.
    """

    job_kind = api.KIND
    template_fields: Sequence[str] = (
        "file",
        "class_name",
        "args",
        "spark_version",
        "queue_name",
        "name",
        "conf",
        "jars",
        "py_files",
        "files",
        "modules",
        "package_resources",
        "groups",
        "driver_memory",
        "driver_cores",
        "executor_memory",
        "executor_cores",
        "num_executors",
        "image",
        "catalog_name",
        "execution_agency_urn",
        "obs_bucket",
        "dli_conn_id",
        "region",
        "project_id",
    )
    template_fields_renderers = {"args": "json", "conf": "json", "package_resources": "json", "groups": "json"}

    def __init__(
        self,
        *,
        file: Templated[str],
        class_name: Templated[str] | None = None,
        args: Templated[Sequence[str]] | None = None,
        spark_version: Templated[str] | None = None,
        queue_name: Templated[str] | None = None,
        name: Templated[str] | None = None,
        conf: Templated[Mapping[str, Any]] | None = None,
        jars: Templated[Sequence[str]] | None = None,
        py_files: Templated[Sequence[str]] | None = None,
        files: Templated[Sequence[str]] | None = None,
        modules: Templated[Sequence[str]] | None = None,
        resources: Templated[Sequence[Mapping[str, Any]]] | None = None,
        groups: Templated[Sequence[Mapping[str, Any]]] | None = None,
        sc_type: str | None = None,
        driver_memory: Templated[str] | None = None,
        driver_cores: Templated[int] | None = None,
        executor_memory: Templated[str] | None = None,
        executor_cores: Templated[int] | None = None,
        num_executors: Templated[int] | None = None,
        feature: str | None = None,
        image: Templated[str] | None = None,
        catalog_name: Templated[str] | None = None,
        execution_agency_urn: Templated[str] | None = None,
        obs_bucket: Templated[str] | None = None,
        auto_recovery: bool = False,
        max_retry_times: int | None = None,
        log_tail_lines: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.file: Any = file
        self.class_name: Any = class_name
        self.args: Any = args
        self.spark_version: Any = spark_version
        self.queue_name: Any = queue_name
        self.name: Any = name
        self.conf: Any = conf
        self.jars: Any = jars
        self.py_files: Any = py_files
        self.files: Any = files
        self.modules: Any = modules
        # `resources` of an operator is Airflow's: what a worker needs.
        self.package_resources: Any = resources
        self.groups: Any = groups
        self.sc_type = sc_type
        self.driver_memory: Any = driver_memory
        self.driver_cores: Any = driver_cores
        self.executor_memory: Any = executor_memory
        self.executor_cores: Any = executor_cores
        self.num_executors: Any = num_executors
        self.feature = feature
        self.image: Any = image
        self.catalog_name: Any = catalog_name
        self.execution_agency_urn: Any = execution_agency_urn
        self.obs_bucket: Any = obs_bucket
        self.auto_recovery = auto_recovery
        self.max_retry_times = max_retry_times
        self.log_tail_lines = log_tail_lines

    def work(self, connection: DliConnection) -> api.SparkWork:
        """Return the batch, with what the connection adds to it."""
        checks.whole_number("log_tail_lines", self.log_tail_lines)
        parameters = {name: getattr(self, name) for name in api.FIELDS if name != "resources"}
        parameters["queue_name"] = self.queue_name or connection.default_queue
        return api.SparkWork(**parameters, resources=self.package_resources)
