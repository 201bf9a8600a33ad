"""What callers send about Spark batches, checked as the contract says."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from airflow_provider_dli.local.dli.bodies import QueueName, Text, WithoutNulls, _matching

AGENCY = "spark.dli.job.agency.name"
MEMORY = re.compile(r"\d{1,9}[kKmMgGtT][bB]?")
OBS = "obs://"
SIZES = ("driverMemory", "driverCores", "executorMemory", "executorCores", "numExecutors")

Count = Annotated[int, Field(ge=0, lt=2**31)]
Memory = Annotated[str, _matching(MEMORY, "the memory (a number with a unit, such as 2G)")]


def _is_json(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        raise ValueError("a setting must be JSON, not too deep") from None
    return value


class Resource(WithoutNulls):
    name: Text | None = None
    type: Text | None = None


class Group(WithoutNulls):
    name: Text | None = None
    resources: list[Resource] = []


class BatchBody(WithoutNulls):
    """A field that was left out is None where it has no default."""

    file: Annotated[Text, Field(min_length=1)]
    className: Text | None = None
    queue: QueueName | None = None
    cluster_name: QueueName | None = None
    args: list[Text] = []
    sc_type: Literal["A", "B", "C"] | None = None
    jars: list[Text] = []
    pyFiles: list[Text] = []
    files: list[Text] = []
    modules: list[Text] = []
    resources: list[Resource] = []
    groups: list[Group] = []
    conf: dict[Text, Annotated[Any, AfterValidator(_is_json)]] = {}
    name: Annotated[Text, Field(max_length=128)] = ""
    driverMemory: Memory | None = None
    driverCores: Count | None = None
    executorMemory: Memory | None = None
    executorCores: Count | None = None
    numExecutors: Count | None = None
    obs_bucket: Text | None = None
    auto_recovery: bool = False
    max_retry_times: Annotated[int, Field(ge=0, le=100)] = 20
    execution_agency_urn: Text | None = None
    catalog_name: Text | None = None
    feature: Literal["basic", "custom", "ai"] | None = None
    spark_version: Text | None = None
    image: Text | None = None

    @model_validator(mode="after")
    def _check_version(self) -> Self:
        if self.feature == "custom" and not self.image:
            raise ValueError("feature custom needs an image")
        if self.version == (3, 1, 1) and self.modules:
            raise ValueError("modules must be left out with Spark 3.1.1")
        if self.is_new and not self.file.startswith(OBS):
            raise ValueError(f"file must be a path in OBS ({OBS}...) from Spark 3.3 on")
        if self.is_new and (self.resources or self.groups):
            raise ValueError("resources and groups must be left out from Spark 3.3 on")
        return self

    @property
    def version(self) -> tuple[int, ...]:
        """Numbers of the Spark version; empty when it is left to DLI or to the image."""
        found = re.match(r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?", self.spark_version or "")
        return tuple(int(number or 0) for number in found.groups()) if found else ()

    @property
    def is_new(self) -> bool:
        """Whether the version takes files from OBS only, for which it needs an agency."""
        return self.version >= (3, 3)

    @property
    def has_agency(self) -> bool:
        return bool(self.execution_agency_urn or self.conf.get(AGENCY))

    @property
    def size(self) -> str:
        """``sc_type`` as answers have it."""
        overridden = any(getattr(self, name) is not None for name in SIZES)
        return "CUSTOMIZED" if overridden else self.sc_type or "A"

    def settings(self) -> dict[str, str]:
        """``conf`` as text."""
        return {
            key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for key, value in self.conf.items()
        }

    def as_kept(self, queue: str) -> dict[str, Any]:
        """The request as DLI shows it later: with defaults, and other names for the retries."""
        given = self.model_dump(
            exclude_unset=True, exclude={"queue", "cluster_name", "auto_recovery", "max_retry_times"}
        )
        retries = {
            "autoRecovery": self.auto_recovery,
            "minRecoveryDelayTime": 10_000,
            "maxRetryTimes": self.max_retry_times,
        }
        shown = {"queue": queue, "name": self.name, "conf": {}, "file": self.file, "args": []}
        return shown | given | retries | {"feature": self.feature or "basic"}
