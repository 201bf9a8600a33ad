"""How DLI describes SQL jobs and their rows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_dli.api import answers
from airflow_provider_dli.job import Job, JobState
from airflow_provider_dli.text import NAME_LIMIT, parse_json

if TYPE_CHECKING:
    from airflow_provider_dli.api.call import Answer
    from airflow_provider_dli.api.rows import Rows

#: What people call a job of this kind.
TITLE = "SQL job"
#: DLI's type of the job that exports a result.
EXPORT = "EXPORT"


def read_job(answer: Answer, body: Mapping[str, Any], job_id: str) -> Job:
    """Read all that DLI says of a job. Only its id has to be right; what cannot be read of the rest is left out."""
    status = answer.text(body.get("status"), NAME_LIMIT)
    return Job(
        id=job_id,
        kind="sql",
        title=TITLE,
        state=_state(status),
        status=status or "without a status",
        message=_message(answer, body),
        job_type=answer.text(body.get("job_type"), NAME_LIMIT),
        queue_name=answer.text(body.get("queue_name"), NAME_LIMIT),
        database=answer.text(body.get("database_name"), NAME_LIMIT),
        owner=answer.text(body.get("owner"), NAME_LIMIT),
        statement=answer.masked(body.get("statement")),
        runs={"statement": body.get("statement")},
        start_time=answers.moment(body.get("start_time")),
        duration=answers.duration(body.get("duration")),
        result_count=answers.count(body.get("result_count")),
        input_count=answers.count(body.get("input_row_count")),
        input_size=answers.count(body.get("input_size")),
        bad_count=answers.count(body.get("bad_row_count")),
        columns=_columns(body.get("detail")),
        tags=answers.tags(body.get("tags")),
    )


def rows_of_submit(body: Mapping[str, Any]) -> Rows | None:
    """Return the rows that come with the answer to a submit; None when there are none, or none that can be read."""
    # What the rows are like says nothing about the job, which runs or has run.
    with suppress(TypeError, ValueError, KeyError, AttributeError):
        return read_rows(body) if body.get("schema") else None
    return None


def read_rows(body: Mapping[str, Any]) -> Rows:
    """
    Read the rows of a result.

    :raises TypeError: They are no arrays.
    :raises ValueError: A row does not fit the columns.
    """
    from airflow_provider_dli.api.rows import Rows, column

    columns = [column(shown) for shown in body.get("schema") or []]
    rows = body.get("rows") or []
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise TypeError("the rows are no arrays")
    if any(len(row) != len(columns) for row in rows):
        raise ValueError("a row has more or fewer values than there are columns")
    return Rows(columns, rows)


def _columns(detail: object) -> tuple[tuple[str, str], ...]:
    """Read Spark's description of a result, which is JSON in a text."""
    if not isinstance(detail, str) or not detail:
        return ()
    try:
        fields = parse_json(detail)["fields"]
        found = [
            (field["name"], field["type"] if isinstance(field["type"], str) else field["type"]["type"])
            for field in fields
        ]
        return tuple(found) if all(isinstance(text, str) for pair in found for text in pair) else ()
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()


def _message(answer: Answer, body: Mapping[str, Any]) -> str:
    message = answer.text(body.get("message"))
    if not message or body.get("job_type") != EXPORT:
        return answers.advised(message) if body.get("status") == "FAILED" else message
    from airflow_provider_dli.api.export import explained

    return explained(message)


def _state(status: str) -> JobState:
    # A comment of the official SDK says FINISH where every page says FINISHED.
    name = {"FINISH": "FINISHED"}.get(status.upper(), status.upper())
    return JobState[name] if name in JobState.__members__ else JobState.UNKNOWN
