"""What callers send about Flink jobs, checked as the contract says."""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from airflow_provider_dli.local.dli.bodies import Body, QueueName, Tag, Text, WithoutNulls, _matching

NAME = re.compile(r"[A-Za-z0-9_-]+")
AGENCY = "flink.dli.job.agency.name"
MAX_TAGS = 20
CHECKPOINT_MODES = {1: "exactly_once", 2: "at_least_once"}

JobId = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Natural = Annotated[int, Field(ge=0, lt=2**31)]


class KeyValue(Body):
    key: str
    value: str


class NodeSpec(Body):
    cpu: Annotated[float, Field(ge=0.5, allow_inf_nan=False)] = 1.0
    memory: Text = "4G"


class ResourceConfig(Body):
    max_slot: Count = 1
    parallel_number: Count = 1
    jobmanager_resource_spec: NodeSpec = NodeSpec()
    taskmanager_resource_spec: NodeSpec = NodeSpec()


class FlinkBody(WithoutNulls):
    """What both kinds of a Flink job have. A field that was left out is None where it has no default."""

    name: Annotated[str, Field(min_length=1, max_length=57), _matching(NAME, "the name")]
    desc: Annotated[Text, Field(max_length=512)] = ""
    queue_name: QueueName | None = None
    # The page says at most 400, the console 10000.
    cu_number: Annotated[int, Field(ge=2, le=10_000)] = 2
    manager_cu_number: Count = 1
    parallel_number: Annotated[int, Field(ge=1, le=2000)] = 1
    tm_cus: Count = 1
    tm_slot_num: Count | None = None
    checkpoint_enabled: bool = False
    checkpoint_mode: Literal[1, 2, "exactly_once", "at_least_once"] = 1
    checkpoint_interval: Natural = 10
    obs_bucket: Text | None = None
    log_enabled: bool = False
    smn_topic: Text | None = None
    restart_when_exception: bool = False
    resume_checkpoint: bool | None = None
    resume_max_num: Annotated[int, Field(ge=-1, lt=2**31)] = -1
    tags: Annotated[list[Tag], Field(max_length=MAX_TAGS)] = []
    runtime_config: Text | None = None
    flink_version: Text | None = None
    execution_agency_urn: Text | None = None
    resource_config_version: Literal["v1", "v2"] = "v1"
    resource_config: ResourceConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.resume_max_num == 0:
            raise ValueError("resume_max_num must be -1 or at least 1")
        if (self.checkpoint_enabled or self.log_enabled) and not self.obs_bucket:
            raise ValueError("checkpoint_enabled and log_enabled need an obs_bucket")
        keys = {entry.key for entry in _entries(self.runtime_config)}
        if _needs_agency(self.flink_version) and not self.execution_agency_urn and AGENCY not in keys:
            raise ValueError(f"Flink 1.15 and later need execution_agency_urn, or {AGENCY} in runtime_config")
        return self

    @property
    def checkpoint_mode_name(self) -> str:
        """The mode in words, as answers have it."""
        mode = self.checkpoint_mode
        return CHECKPOINT_MODES[mode] if isinstance(mode, int) else mode


class SqlJobBody(FlinkBody):
    template_id: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    sql_body: Annotated[Text, Field(max_length=1024 * 1024)] = ""
    run_mode: Literal["shared_cluster", "exclusive_cluster", "edge_node"] = "shared_cluster"
    job_type: Literal["flink_sql_job", "flink_opensource_sql_job", "flink_sql_edge_job"] = "flink_opensource_sql_job"
    idle_state_retention: Natural = 3600
    dirty_data_strategy: Text = "0"
    udf_jar_url: Text | None = None

    @model_validator(mode="after")
    def _check_mode(self) -> Self:
        if self.queue_name is not None and self.run_mode != "exclusive_cluster":
            raise ValueError("a SQL job with a queue needs the run_mode exclusive_cluster")
        # Left out, the two defaults exclude each other; a draft without a queue may have them.
        chosen = "run_mode" in self.model_fields_set and self.run_mode == "shared_cluster"
        if chosen and self.job_type != "flink_sql_job":
            raise ValueError("the run_mode shared_cluster is for the job_type flink_sql_job only")
        return self


class JarJobBody(FlinkBody):
    entrypoint: Text | None = None
    main_class: Text | None = None
    entrypoint_args: Text | None = None
    dependency_jars: list[Text] = []
    dependency_files: list[Text] = []
    checkpoint_path: Text | None = None
    feature: Literal["basic", "custom"] | None = None
    image: Text | None = None

    @model_validator(mode="after")
    def _check_checkpoints(self) -> Self:
        if self.checkpoint_enabled and self.checkpoint_path:
            raise ValueError("checkpoint_path must be left out when checkpoint_enabled is true")
        if self.resume_checkpoint and not self.checkpoint_enabled and not self.checkpoint_path:
            raise ValueError("resume_checkpoint without checkpoint_enabled needs a checkpoint_path")
        return self


class RunBody(Body):
    job_ids: Annotated[list[JobId], Field(min_length=1)]
    resume_savepoint: bool = False


class StopBody(Body):
    job_ids: Annotated[list[JobId], Field(min_length=1)]
    trigger_savepoint: bool = False


def _entries(runtime_config: str | None) -> list[KeyValue]:
    """
    :raises ValueError: unless it is a JSON list of keys and values.
    """
    if runtime_config is None:
        return []
    try:
        return TypeAdapter(list[KeyValue]).validate_python(json.loads(runtime_config))
    except (ValueError, RecursionError, ValidationError):
        raise ValueError('runtime_config must be the text of a JSON list, [{"key": ..., "value": ...}]') from None


def _needs_agency(flink_version: str | None) -> bool:
    found = re.match(r"(\d{1,9})\.(\d{1,9})", flink_version or "")
    return found is not None and (int(found[1]), int(found[2])) >= (1, 15)
