"""The list of Spark batches, with its filters and orders."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import Query, Response

from airflow_provider_dli.local.dli.chapters.spark_answers import details, success
from airflow_provider_dli.local.dli.jobs.spark_batch import SparkBatch
from airflow_provider_dli.local.dli.service import Service

Order = Literal["DURATION_DESC", "DURATION_ASC", "CREATE_TIME_DESC", "CREATE_TIME_ASC"]
State = Literal["starting", "running", "recovering", "success", "dead"]
Millis = Annotated[int | None, Query(ge=0, lt=2**63)]
# More are not shown at a time.
PAGE = 100


async def batches(
    service: Service,
    job_name: str | None = None,
    job_id: Annotated[str | None, Query(alias="job-id")] = None,
    cluster_name: str | None = None,
    queue_name: str | None = None,
    first: Annotated[int, Query(alias="from", ge=0)] = 0,
    size: Annotated[int, Query(ge=1)] = PAGE,
    state: State | None = None,
    owner: str | None = None,
    start: Millis = None,
    end: Millis = None,
    order: Order = "CREATE_TIME_DESC",
) -> Response:
    lag = service.settings.list_lag
    fuzzy = service.settings.batch_name_filter == "fuzzy"
    conditions: list[tuple[Any, Callable[[SparkBatch, Any], bool]]] = [
        (job_name, lambda batch, wanted: wanted in batch.name if fuzzy else wanted == batch.name),
        (job_id, lambda batch, wanted: batch.job_id == wanted),
        (cluster_name, lambda batch, wanted: batch.queue_name == wanted.lower()),
        (queue_name, lambda batch, wanted: batch.queue_name == wanted.lower()),
        (state, lambda batch, wanted: batch.status == wanted),
        (owner, lambda batch, wanted: batch.owner == wanted),
        # Both ends count as inside: paging by the oldest time then loses nothing.
        (start, lambda batch, moment: batch.start_ms >= moment),
        (end, lambda batch, moment: batch.start_ms <= moment),
        (time.time() - lag if lag else None, lambda batch, moment: batch.submitted_at <= moment),
    ]
    given = [(value, test) for value, test in conditions if value is not None]
    found = [
        job for job in service.jobs if isinstance(job, SparkBatch) and all(test(job, value) for value, test in given)
    ]
    # Jobs are kept in the order of their submission.
    if order == "CREATE_TIME_DESC":
        found.reverse()
    elif order.startswith("DURATION"):
        found.sort(key=lambda batch: batch.duration_ms, reverse=order.endswith("DESC"))
    shown = [details(service, batch) for batch in found[first : first + min(size, PAGE)]]
    return success(service, **{"from": first, "total": len(found), "sessions": shown})
