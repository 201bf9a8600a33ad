"""
The open points: what DLI's documentation does not say, or says in two ways.

The package works with each answer. Which one a DLI gives is worth knowing all the same: it is what has not been tried.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """
    An open point.

    :param key: Its name, for programs.
    :param number: Its number in this project's notes on DLI's API; several questions may belong to one. None for one
        that came up later.
    :param question: What is not known.
    :param kind: The kind of job that it is about.
    :param otherwise: Why there may be no answer although jobs of this kind are looked at.
    """

    key: str
    number: int | None
    question: str
    kind: str = "sql"
    otherwise: str = "the probe did not get that far"


_COSTS = "not tried: it would cost more than a few cents"
_NO_FILE = "not tried: needs a batch, see --spark-file"
_NO_BATCH = "not tried: the project has no batch to look at, see --spark-file"

POINTS = [
    Point("cancel_ended", 1, "Cancel of a SQL job that has finished"),
    Point("cancel_again", 1, "Cancel of a SQL job that was just cancelled"),
    Point("spark_cancel_ended", 1, "Cancel of a batch that has ended", "spark", _NO_FILE),
    Point("flink_stop_draft", 1, "Stop of a Flink job that does not run", "flink"),
    Point(
        "finished_while_cancelled",
        2,
        "A job that finishes while it is being cancelled",
        otherwise="not seen: it is a matter of chance",
    ),
    Point("signature", 3, "Form of the signature"),
    Point("list_lag", 4, "How soon a new SQL job shows in the list"),
    Point("req_body", 5, "Whether a batch shows its request (req_body)", "spark", _NO_BATCH),
    Point("batch_name_filter", 6, "Filter job_name of the list of batches: equal or a piece", "spark", _NO_BATCH),
    Point("flink_name_filter", 6, "Filter name of the list of Flink jobs: equal or a piece", "flink"),
    Point("flink_name_taken", 7, "Create of a Flink job whose name is taken", "flink"),
    Point("soft_failures", 8, "Calls that answer a success status with is_success false"),
    Point("flags", 8, "How is_success is written in answers about SQL jobs"),
    Point("check_sql", 8, "Syntax check of a statement that does not parse"),
    Point("spark_is_success", 8, "is_success in answers about batches", "spark"),
    Point("ddl_mode", 9, "Mode of a DDL statement without dli.sql.sqlasync.enabled, and with false"),
    Point(
        "dcl_mode",
        9,
        "Mode of a DCL statement",
        otherwise="not tried: GRANT and REVOKE change rights",
    ),
    Point("sync_status", 9, "Status call for a statement that ran synchronously"),
    Point("spark_success", 10, "Spelling of the state of a batch that has succeeded", "spark", _NO_BATCH),
    Point(
        "dead_before_recovering",
        10,
        "Whether a batch shows dead before recovering",
        "spark",
        "not tried: needs a batch that fails and is started again",
    ),
    Point("flink_stop_failed", 11, "A Flink job whose stop fails", "flink", "not seen: no stop has failed"),
    Point("unknown_job", 12, "Status, then cancel, of a SQL job that does not exist"),
    Point("unknown_batch", 12, "Status, then cancel, of a batch that does not exist", "spark"),
    Point("time_limit", None, "Unit of the time limit of a SQL job (dli.sql.job.timeout)"),
    Point("records", 12, "How long DLI keeps the record of a job", otherwise="not tried: takes days"),
    Point("failure_reason", 13, "Where the reason of a failed SQL job stands"),
    Point("throttling", 14, "Throttling: rates, Retry-After", otherwise="not tried: it would disturb other users"),
    Point("tag_filter", 15, "Filter tags of the list: equal or a piece of the value"),
    Point("tag_count", 15, "Most tags of a SQL job", otherwise="not tried: a job gets nine at most"),
    Point("retry_fields", 16, "Spelling of the retry fields in req_body", "spark", _NO_FILE),
    Point("flink_flags", 17, "How is_success is written in answers about Flink jobs", "flink"),
    Point("flink_run_answer", 17, "What run and stop of a Flink job answer", "flink"),
    Point("flink_errors", 17, "Error body of a Flink call: an array or an object", "flink"),
    Point("unknown_flink_job", 17, "Detail of a Flink job that does not exist", "flink"),
    Point("flink_delete_running", 18, "Delete of a Flink job that runs", "flink", "not tried: it might run on, unseen"),
    Point("result_lifetime", 19, "How long a result can be fetched", otherwise="not tried: takes a day or more"),
    Point("values", 20, "Encoding of a decimal, a timestamp and an array in rows"),
    Point("columns", None, "How a column of a result is described"),
    Point("preview_on_default", 21, "Rows of a result, fetched by the queue default"),
    Point("preview_running", 21, "Rows of a job that still runs"),
    Point("job_id", 22, "Form of the id of a SQL job"),
    Point("region", 23, "Regions that have DLI"),
    Point("pool_field", 24, "Field for the pool of a new queue", otherwise=_COSTS),
    Point("list_window", 25, "Whether start and end of the list include the moment itself"),
    Point("spark_cancel", None, "Answer to the cancel of a batch that runs", "spark", _NO_FILE),
    Point("batch_log", None, "The deprecated log call of a batch", "spark", _NO_BATCH),
]
BY_KEY = {point.key: point for point in POINTS}
