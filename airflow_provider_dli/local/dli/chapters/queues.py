"""Queues: the list, and one of them. All are SQL queues of the same size, without tags."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from fastapi import Query, Response

from airflow_provider_dli.local.dli.responses import success
from airflow_provider_dli.local.dli.service import Service


async def queues(
    service: Service,
    queue_type: Literal["sql", "general", "all"] = "sql",
    with_priv: Annotated[bool, Query(alias="with-priv")] = False,
    size: Annotated[int, Query(alias="page-size", ge=1)] = 2**31 - 1,
    page: Annotated[int, Query(alias="current-page", ge=1)] = 1,
    order: Literal["queue_name_asc", "queue_name_desc", "cu_asc", "cu_desc"] = "queue_name_asc",
    tags: str | None = None,
    with_charge_info: Annotated[bool, Query(alias="with-charge-info")] = False,
) -> Response:
    names = [] if queue_type == "general" or tags else sorted(service.settings.queues)
    if order.endswith("desc"):
        names.reverse()
    shown = names[(page - 1) * size : page * size]
    return success(service, queues=[_queue(service, name) for name in shown])


async def queue(service: Service, queue_name: str) -> Response:
    found = _queue(service, service.queue(queue_name))
    for old, new in [("queue_name", "queueName"), ("queue_type", "queueType"), ("cu_count", "cuCount")]:
        found[new] = found.pop(old)
    return success(service, **found)


def _queue(service: Service, name: str) -> dict[str, Any]:
    return {
        "queue_name": name,
        "description": f"runs {service.settings.queues[name]} jobs at a time",
        "owner": service.identity.user,
        "create_time": service.created_ms,
        "queue_type": "sql",
        "engine": "spark",
        "cu_count": 16,
        "resource_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
        "resource_mode": 0,
        "resource_type": "vm",
        "cu_spec": 16,
    }
