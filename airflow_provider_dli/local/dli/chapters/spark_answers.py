"""How calls about Spark batches answer."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Response

from airflow_provider_dli.local.dli.jobs.spark_batch import BatchState, SparkBatch
from airflow_provider_dli.local.dli.responses import as_json
from airflow_provider_dli.local.dli.service import Service

LAST_LINES = 10


def success(service: Service, **content: Any) -> Response:
    """200, without ``is_success``, or with one that is false all the same."""
    return as_json(({"is_success": False} if service.settings.spark_is_success == "false" else {}) | content)


def state(service: Service, batch: SparkBatch) -> str:
    """The state as it is spelled here."""
    return service.settings.spark_success if batch.status == BatchState.SUCCESS else batch.status


def short(service: Service, batch: SparkBatch) -> dict[str, Any]:
    """A batch in the answer to its creation."""
    body = batch.body
    optional = {"image": body.image, "feature": body.feature, "spark_version": body.spark_version}
    return {
        "id": batch.job_id,
        "appId": batch.application,
        "name": batch.name,
        "owner": batch.owner,
        "proxyUser": "",
        "state": state(service, batch),
        "kind": "",
        "log": batch.log_lines()[-LAST_LINES:],
        "sc_type": body.size,
        "cluster_name": batch.queue_name,
        "queue": batch.queue_name,
        "create_time": batch.start_ms,
        "update_time": batch.shown_ms(batch.updated_at),
        **{name: value for name, value in optional.items() if value is not None},
    }


def details(service: Service, batch: SparkBatch) -> dict[str, Any]:
    """A batch in the list, and in its own detail."""
    return short(service, batch) | {"duration": batch.duration_ms} | _request(service, batch)


def _request(service: Service, batch: SparkBatch) -> dict[str, str]:
    if service.settings.req_body == "absent":
        return {}
    text = json.dumps(batch.body.as_kept(batch.queue_name))
    return {"req_body": text if service.settings.req_body == "shown" else text[: len(text) // 2]}
