"""Settings that change what a local DLI does while it runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from airflow_provider_dli.local.dli.actions import Action

Seconds = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)]


class Settings(BaseModel):
    """
    Settings of a running local DLI, changed through ``POST /_local/settings``.

    Most of them choose one of two answers where the public sources about DLI disagree or are silent.
    """

    model_config = ConfigDict(extra="forbid", strict=False, validate_assignment=True)

    cancel_ended: Annotated[str, Field(pattern=r"^(error|soft|((400|500|soft) )?DLI\.[0-9]{4,5})$")] = Field(
        "error",
        description="Cancel of an ended job: 400 DLI.0007; 200 with is_success false (soft); or another code, such as "
        "DLI.0999 (400), 500 DLI.0999, or soft DLI.0999, where the code stands in the message.",
    )
    unknown_job: Literal["DLI.0002", "DLI.0001", "404"] = Field(
        "DLI.0002", description="Unknown job: 400 DLI.0002, 400 DLI.0001 that says so, or 404 DLI.0023."
    )
    flags: Literal["bool", "text"] = Field("bool", description="is_success as a boolean or as a string.")
    check_sql: Literal["error", "soft"] = Field(
        "error", description="check-sql of a bad statement: 400 DLI.0004, or 200 with is_success false."
    )
    timeout_unit: Literal["seconds", "milliseconds"] = Field(
        "seconds", description="What dli.sql.job.timeout counts in."
    )
    dcl_mode: Literal["sync", "flag"] = Field(
        "sync", description="DCL is always synchronous, or follows dli.sql.sqlasync.enabled like DDL."
    )
    preview_on_default: Literal["refused", "works"] = Field(
        "refused", description="Preview of a result by the queue default, or by none: 400 DLI.0007, or the rows."
    )
    columns: Literal["map", "fields"] = Field(
        "map", description="A column of a result as {name: type}, or as an object with the fields name and type."
    )
    list_lag: Seconds = Field(0, description="Seconds until a new job shows up in the list.")
    launch_delay: Seconds = Field(0, description="Seconds that every job stays LAUNCHING at least.")
    sync_limit: Seconds = Field(120, description="Seconds after which a synchronous call is cut off.")
    flink_errors: Literal["array", "object"] = Field(
        "array", description="400 of a Flink call: an array with the error object in it, or the object."
    )
    flink_flags: Literal["text", "bool"] = Field(
        "text", description="is_success of Flink calls as a string or as a boolean."
    )
    flink_run_answer: Literal["array", "object"] = Field(
        "array", description="Run and stop answer an element for each job, or one object."
    )
    flink_soft_failure: bool = Field(
        False, description="Run and stop that are refused: 200 with is_success false in place of 400."
    )
    flink_name_filter: Literal["equal", "fuzzy"] = Field(
        "equal", description="The name in the Flink list has to be equal, or contains what is asked for."
    )
    flink_name_taken: Annotated[str, Field(min_length=1, max_length=40)] = Field(
        "DLI.0006", description="Error code of a Flink create whose name is taken."
    )
    flink_submit_delay: Seconds = Field(0, description="Seconds that every Flink job stays job_submitting at least.")
    flink_savepoint_delay: Seconds = Field(0, description="Seconds in job_savepointing.")
    flink_cancel_delay: Seconds = Field(0, description="Seconds in job_canceling at least.")
    flink_restart_delay: Seconds = Field(
        0.5, description="Seconds until a Flink job with restart_when_exception restarts after an error."
    )
    flink_stop: Literal["works", "fails", "resets"] = Field(
        "works",
        description="A stop ends in job_cancel_success, in job_cancel_fail while the job still runs, or in job_init.",
    )
    flink_delete_running: Literal["stops", "refused"] = Field(
        "stops", description="Delete of a running Flink job: stops it, or 400 DLI.0007."
    )
    spark_is_success: Literal["absent", "false"] = Field(
        "absent", description="is_success in answers about Spark batches: left out, or false even after a success."
    )
    spark_success: Literal["success", "Success"] = Field(
        "success", description="How the state of a Spark batch that succeeded is spelled."
    )
    spark_cancel_answer: Literal["message", "empty"] = Field(
        "message", description='Cancel of a Spark batch: {"msg": "deleted"}, or no body.'
    )
    spark_recovery_delay: Seconds = Field(
        0.5, description="Seconds in recovering, until a Spark batch with auto_recovery is started again."
    )
    dead_before_recovering: Seconds = Field(
        0, description="Seconds in dead before that, after the failure of a Spark batch that is started again."
    )
    req_body: Literal["shown", "absent", "unreadable"] = Field(
        "shown", description="req_body of a Spark batch: the request as JSON text, left out, or half of the text."
    )
    batch_name_filter: Literal["equal", "fuzzy"] = Field(
        "equal", description="job_name in the list of Spark batches has to be equal, or is a piece of the name."
    )
    batch_log_call: Literal["served", "gone"] = Field(
        "served", description="The log call of Spark batches, which is deprecated: served, or 404 APIG.0101."
    )
    token_lifetime: Seconds = Field(86400, description="Seconds that a token issued from now on is valid.")
    keys_lifetime: Seconds = Field(3600, description="Seconds that temporary keys issued from now on are valid.")
    clock_skew: Annotated[float, Field(ge=-(10**9), le=10**9, allow_inf_nan=False)] = Field(
        0,
        description="Seconds that the server's clock is ahead (negative: behind), in signatures and in the times of "
        "jobs submitted from now on.",
    )
    rotated_secret: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None,
        description="Password and secret key from now on, in place of those it was started with: those are refused, "
        "and tokens are void.",
    )
    rights: list[Action] | None = Field(
        None, description="IAM actions that the user has: calls that need another one are refused. None: all."
    )
    lock_after: Annotated[int, Field(ge=1)] = Field(
        5, description="Wrong signatures in a row that lock the access key."
    )
    lock_seconds: Seconds = Field(300, description="How long the access key stays locked.")
    queues: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=lambda: {"default": 16},
        description="SQL queues: name to number of jobs that run at a time; the rest wait in LAUNCHING. Beside them "
        "there are always `default`, which takes every kind of job, and `general`.",
    )
    queue_usable_after: Seconds = Field(
        0, description="Seconds until a new queue takes jobs; before, they are refused with DLI.0012."
    )
    queue_busy: Annotated[str, Field(min_length=1, max_length=32)] = Field(
        "DLI.0007", description="Error code for the deletion of a queue that has active jobs."
    )
    pool_available_after: Seconds = Field(0, description="Seconds that a new elastic resource pool is CREATING.")
