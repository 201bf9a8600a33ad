"""What defines a Flink job that is created: the fields of both create calls, checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from airflow_provider_dli import identity
from airflow_provider_dli.api import checks

OPENSOURCE_SQL, JAR = "flink_opensource_sql_job", "flink_jar_job"
MAX_NAME, MAX_DESCRIPTION, MAX_TAGS = 57, 512, 20
# What the ending leaves of a name: 24 digits, 8 digits, and two hyphens.
MAX_READABLE_NAME = MAX_NAME - 34
_MAX_SQL = 1_048_576
_NAME = re.compile(r"[A-Za-z0-9_-]+")
# What only one of the two has.
_OF_SQL = ("sql_body", "run_mode")
_OF_JAR = ("entrypoint", "main_class", "args", "dependency_jars", "dependency_files", "checkpoint_path")


@dataclass(frozen=True)
class FlinkDefinition:
    """
    A Flink job that is created, with the defaults of the connection resolved. The fields are those of the operator.

    :raises DliValueError: A field cannot be used, is missing, or contradicts another one.
    """

    job_type: str
    name: str | None = None
    sql_body: str | None = None
    entrypoint: str | None = None
    main_class: str | None = None
    args: Sequence[str] | None = None
    dependency_jars: Sequence[str] | None = None
    dependency_files: Sequence[str] | None = None
    queue_name: str | None = None
    run_mode: str | None = None
    flink_version: str | None = None
    cu_number: int | None = None
    manager_cu_number: int | None = None
    parallel_number: int | None = None
    tm_cus: int | None = None
    tm_slot_num: int | None = None
    resource_config_version: str | None = None
    resource_config: Mapping[str, Any] | None = None
    checkpoint_enabled: bool | None = None
    checkpoint_mode: int | None = None
    checkpoint_interval: int | None = None
    checkpoint_path: str | None = None
    resume_checkpoint: bool | None = None
    resume_max_num: int | None = None
    restart_when_exception: bool | None = None
    obs_bucket: str | None = None
    log_enabled: bool | None = None
    runtime_config: Mapping[str, Any] | None = None
    execution_agency_urn: str | None = None
    smn_topic: str | None = None
    tags: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.job_type not in (OPENSOURCE_SQL, JAR):
            raise checks.refuse("job_type", f"must be {OPENSOURCE_SQL!r} or {JAR!r}, not {self.job_type!r}.")
        for each in fields(self):
            if (check := _CHECKS.get(each.name)) is not None:
                object.__setattr__(self, each.name, check(each.name, getattr(self, each.name)))
        for name in _OF_JAR if self.is_sql else _OF_SQL:
            if getattr(self, name):
                raise checks.refuse(name, f"cannot go with job_type={self.job_type!r}.")
        if self.queue_name is None:
            raise checks.refuse(
                "queue_name",
                "is missing: DLI starts no Flink job without a queue. Name one of type general, here or as "
                "default_queue of the connection.",
            )
        if self.is_sql:
            self._check_sql()
        else:
            self._check_jar()
        self._check_recovery()

    @property
    def is_sql(self) -> bool:
        """Whether it is an OpenSource SQL job; else it is a JAR job."""
        return self.job_type == OPENSOURCE_SQL

    @property
    def body(self) -> dict[str, Any]:
        """What is sent, without what tells who submits it."""
        body = {each.name: getattr(self, each.name) for each in fields(self)}
        body.update(name=None, args=None, entrypoint_args=" ".join(self.args) if self.args else None)
        if self.is_sql:
            body["run_mode"] = self.run_mode or "exclusive_cluster"
        else:
            body["job_type"] = None
        if self.runtime_config:
            pairs = [{"key": str(key), "value": _setting(value)} for key, value in self.runtime_config.items()]
            body["runtime_config"] = json.dumps(pairs)
        if self.tags:
            checked = identity.merged_tags(self.tags, {})
            body["tags"] = [{"key": key, "value": value} for key, value in checked.items()]
        return {name: value for name, value in body.items() if value is not None and value != {}}

    def _check_sql(self) -> None:
        if not isinstance(self.sql_body, str) or not self.sql_body.strip():
            raise checks.refuse("sql_body", f"is missing: job_type={OPENSOURCE_SQL!r} needs it.")
        if len(self.sql_body.encode()) > _MAX_SQL:
            raise checks.refuse("sql_body", f"is longer than the {_MAX_SQL:,} bytes that DLI takes.")
        if self.run_mode not in (None, "exclusive_cluster"):
            raise checks.refuse("run_mode", f"must be 'exclusive_cluster' for a job on a queue, not {self.run_mode!r}.")
        if (self.checkpoint_enabled or self.log_enabled) and self.obs_bucket is None:
            raise checks.refuse("obs_bucket", "is missing: checkpoint_enabled and log_enabled need it.")

    def _check_jar(self) -> None:
        if self.entrypoint is None:
            raise checks.refuse("entrypoint", f"is missing: job_type={JAR!r} needs the path of the JAR.")
        is_new = checks.version(self.flink_version or "") >= (1, 15)
        checks.package("entrypoint", self.entrypoint, only_obs=f"Flink {self.flink_version}" if is_new else "")
        if self.log_enabled and self.obs_bucket is None:
            raise checks.refuse("obs_bucket", "is missing: log_enabled needs it.")
        if self.checkpoint_path is not None and self.checkpoint_enabled:
            raise checks.refuse("checkpoint_path", "cannot go with checkpoint_enabled: DLI chooses the path then.")
        if self.resume_checkpoint and not self.checkpoint_enabled and self.checkpoint_path is None:
            raise checks.refuse(
                "checkpoint_path", "is missing: resume_checkpoint needs it, or checkpoint_enabled=True."
            )

    def _check_recovery(self) -> None:
        if self.resume_max_num == 0:
            raise checks.refuse("resume_max_num", "must be -1 (no limit) or at least 1, not 0.")
        if self.resource_config:
            if self.resource_config_version != "v2":
                raise checks.refuse("resource_config", "is used with resource_config_version='v2' only.")
            for name in ("jobmanager_resource_spec", "taskmanager_resource_spec"):
                field = f"resource_config[{name!r}]"
                spec = checks.mapping(field, self.resource_config.get(name))
                checks.memory(f"{field}['memory']", spec.get("memory"))
        if len(self.tags or {}) > MAX_TAGS:
            raise checks.refuse("tags", f"are {len(self.tags or {})}: a Flink job has at most {MAX_TAGS}.")


#: The names of what a job consists of.
FIELDS = tuple(each.name for each in fields(FlinkDefinition))


def _setting(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _name(field: str, value: object) -> str | None:
    found = checks.text(field, value)
    if found is not None and not _NAME.fullmatch(found):
        raise checks.refuse(field, f"must be letters, digits, - and _, not {value!r}.")
    if found is not None and len(found) > MAX_READABLE_NAME:
        raise checks.refuse(
            field,
            f"{found!r} is too long: {len(found)} characters, of which {MAX_READABLE_NAME} fit. DLI takes {MAX_NAME}, "
            "and the provider adds what the job is found by.",
        )
    return found


def _at_least(least: int) -> Any:
    return lambda field, value: checks.whole_number(field, value, least)


def _one_of(*choices: Any) -> Any:
    return lambda field, value: checks.choice(field, value, choices)


_CHECKS: dict[str, Any] = {
    **dict.fromkeys(
        ["entrypoint", "main_class", "flink_version", "obs_bucket", "execution_agency_urn", "smn_topic"], checks.text
    ),
    **dict.fromkeys(["checkpoint_enabled", "resume_checkpoint", "restart_when_exception", "log_enabled"], checks.flag),
    **dict.fromkeys(["resource_config", "runtime_config", "tags"], checks.mapping),
    **dict.fromkeys(["dependency_jars", "dependency_files"], checks.packages),
    **dict.fromkeys(["manager_cu_number", "parallel_number", "tm_cus", "tm_slot_num"], _at_least(1)),
    "name": _name,
    "args": checks.texts,
    "queue_name": checks.name,
    "run_mode": _one_of("exclusive_cluster", "shared_cluster", "edge_node"),
    "cu_number": _at_least(2),
    "resource_config_version": _one_of("v1", "v2"),
    "checkpoint_mode": _one_of(1, 2),
    "checkpoint_interval": _at_least(0),
    "checkpoint_path": lambda field, value: value and checks.package(field, value, only_obs="checkpoints"),
    "resume_max_num": _at_least(-1),
}
