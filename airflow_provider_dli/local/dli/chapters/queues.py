"""Queues: create, list, show, delete."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import Query, Response
from pydantic import Field, model_validator

from airflow_provider_dli.local.dli.bodies import Body, QueueName
from airflow_provider_dli.local.dli.jobs.queue_book import Queue, QueueType
from airflow_provider_dli.local.dli.responses import success
from airflow_provider_dli.local.dli.service import Service

DETAIL_NAMES = {"queue_name": "queueName", "queue_type": "queueType", "cu_count": "cuCount"}

# Larger numbers would not fit into the list's answer of a typed client.
CuCount = Annotated[int, Field(ge=1, le=2**31 - 1)]


class QueueTag(Body):
    """A tag. Its table spells the key with a capital letter, all other tables do not."""

    key: Annotated[str, Field(max_length=128)] = ""
    Key: Annotated[str, Field(max_length=128)] = ""
    value: Annotated[str, Field(max_length=255)]

    @model_validator(mode="after")
    def _has_a_key(self) -> QueueTag:
        if not (self.key or self.Key):
            raise ValueError("a tag needs a key")
        return self


class QueueBody(Body):
    queue_name: QueueName
    cu_count: CuCount
    queue_type: QueueType = "sql"
    description: str = ""
    enterprise_project_id: str = "0"
    platform: Literal["x86_64"] = "x86_64"
    resource_mode: Literal[0, 1] = 0
    labels: list[str] = []
    tags: list[QueueTag] = []
    engine: Literal["spark"] = "spark"
    elastic_resource_pool_name: str = ""
    charging_mode: Literal[1] = 1
    feature: Literal["basic", "ai"] = "basic"


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
    found = [queue for queue in service.book.queues() if queue_type in ("all", queue.type)]
    if tags:
        wanted = dict(pair.partition("=")[::2] for pair in tags.split(","))
        found = [queue for queue in found if wanted.items() <= queue.tags.items()]
    found.sort(key=lambda queue: queue.name)
    if order.startswith("cu"):
        found.sort(key=lambda queue: queue.cu_count)
    if order.endswith("desc"):
        found.reverse()
    return success(service, queues=[_shown(service, queue) for queue in found[(page - 1) * size : page * size]])


async def queue(service: Service, queue_name: str) -> Response:
    shown = _shown(service, service.book.queue(queue_name))
    return success(service, **{DETAIL_NAMES.get(name, name): value for name, value in shown.items()})


async def create(service: Service, body: QueueBody) -> Response:
    """
    :raises RefusedError: for a name that is taken, a size that is too small, or an unknown pool.
    """
    queue = Queue(
        body.queue_name.lower(),
        body.queue_type,
        body.cu_count,
        capacity=body.cu_count,
        created_at=time.time(),
        description=body.description,
        pool=body.elastic_resource_pool_name.lower(),
        tags={tag.key or tag.Key: tag.value for tag in body.tags},
        resource_mode=body.resource_mode,
    )
    service.book.add_queue(queue)
    return success(service, queue_name=queue.name)


async def delete(service: Service, queue_name: str) -> Response:
    """
    :raises RefusedError: for a queue that is unknown, built in, or has active jobs.
    """
    service.book.remove_queue(queue_name, service.has_active_jobs)
    return success(service)


def _shown(service: Service, queue: Queue) -> dict[str, Any]:
    shown = {
        "queue_name": queue.name,
        "description": queue.description,
        "owner": service.identity.user,
        "create_time": int(queue.created_at * 1000),
        "queue_type": queue.type,
        "engine": "spark",
        "cu_count": queue.cu_count,
        "resource_id": queue.resource_id,
        "resource_mode": queue.resource_mode,
        "resource_type": "vm",
        "cu_spec": queue.cu_count,
    }
    return shown | ({"elastic_resource_pool_name": queue.pool} if queue.pool else {})
