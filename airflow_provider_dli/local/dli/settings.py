"""Settings that change what a local DLI does while it runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)]


class Settings(BaseModel):
    """Settings of a running local DLI, changed through ``POST /_local/settings``.

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
