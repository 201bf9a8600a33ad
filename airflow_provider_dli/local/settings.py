"""What a local DLI knows about its one user, and the switches that change its answers while it runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_PORT = 18080


@dataclass(frozen=True)
class Identity:
    """The account, user, keys and project that a local DLI accepts. There is exactly one of each."""

    user: str = "dli"
    password: str = "dli-local"  # noqa: S105 - public on purpose, printed by `dli-local serve --help`
    domain: str = "local"
    access_key: str = "local-access-key"
    secret_key: str = "local-secret-key"  # noqa: S105
    security_token: str = "local-security-token"  # noqa: S105
    region: str = "eu-de"
    project_id: str = "48cc2c48765f481480c7db940d6409d1"
    project_name: str = "eu-de"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Identity:
        """The built-in identity, each field replaced by its variable (``DLI_LOCAL_USER``, ...) when set."""
        environ = os.environ if environ is None else environ
        names = [field.name for field in fields(cls)]
        return cls(**{name: environ[env_name(name)] for name in names if env_name(name) in environ})

    def to_env(self) -> dict[str, str]:
        """The same identity as environment variables, for a server in another process."""
        return {env_name(field.name): getattr(self, field.name) for field in fields(self)}


def env_name(field: str) -> str:
    """Name of the environment variable behind an identity field."""
    return f"DLI_LOCAL_{field.upper()}"


Seconds = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)]


class Settings(BaseModel):
    """Switches of a running local DLI, changed through ``POST /_local/settings``.

    Most of them choose one of two answers where the public sources about DLI disagree or are silent.
    """

    model_config = ConfigDict(extra="forbid", strict=False, validate_assignment=True)

    cancel_ended: Literal["error", "soft"] = Field(
        "error", description="Cancel of an ended job: 400 DLI.0007, or 200 with is_success false."
    )
    unknown_job: Literal["DLI.0002", "404"] = Field(
        "DLI.0002", description="Unknown job: 400 DLI.0002, or 404 DLI.0023."
    )
    flags: Literal["bool", "text"] = Field("bool", description="is_success as a boolean or as a string.")
    check_sql: Literal["error", "soft"] = Field(
        "error", description="check-sql of a bad statement: 400 DLI.0004, or 200 with is_success false."
    )
    dcl_mode: Literal["sync", "flag"] = Field(
        "sync", description="DCL is always synchronous, or follows dli.sql.sqlasync.enabled like DDL."
    )
    list_lag: Seconds = Field(0, description="Seconds until a new job shows up in the list.")
    launch_delay: Seconds = Field(0, description="Seconds that every job stays LAUNCHING at least.")
    sync_limit: Seconds = Field(120, description="Seconds after which a synchronous call is cut off.")
    token_lifetime: Seconds = Field(86400, description="Seconds that a token issued from now on is valid.")
    clock_skew: Annotated[float, Field(ge=-(10**9), le=10**9, allow_inf_nan=False)] = Field(
        0, description="Seconds that the server's clock is ahead (negative: behind)."
    )
    rotated_secret: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None,
        description="Password and secret key from now on, in place of those it was started with: those are refused, "
        "and tokens are void.",
    )
    lock_after: Annotated[int, Field(ge=1)] = Field(
        5, description="Wrong signatures in a row that lock the access key."
    )
    lock_seconds: Seconds = Field(300, description="How long the access key stays locked.")
    queues: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=lambda: {"default": 16},
        description="SQL queues: name to number of jobs that run at a time; the rest wait in LAUNCHING.",
    )
