"""Elastic resource pools: create, list, delete."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

from fastapi import Query, Response
from pydantic import Field, model_validator

from airflow_provider_dli.local.dli.bodies import Body, QueueName, Tag
from airflow_provider_dli.local.dli.jobs.queue_book import Pool
from airflow_provider_dli.local.dli.responses import success
from airflow_provider_dli.local.dli.service import Service

Cus = Annotated[int, Field(ge=16, le=32_000)]
# CUs of the smallest standard pool; a smaller one is of the basic edition.
STANDARD = 64


class PoolBody(Body):
    elastic_resource_pool_name: QueueName
    min_cu: Cus
    max_cu: Cus
    description: Annotated[str, Field(max_length=256)] = ""
    cidr_in_vpc: str = "172.16.0.0/12"
    charging_mode: Literal[1, "1"] = 1
    enterprise_project_id: str = "0"
    tags: list[Tag] = []
    label: dict[str, str] = {}
    ipv6_enable: bool = False

    @model_validator(mode="after")
    def _sizes_fit(self) -> PoolBody:
        if self.min_cu > self.max_cu:
            raise ValueError(f"min_cu ({self.min_cu}) is greater than max_cu ({self.max_cu})")
        is_basic = self.label.get("spec") == "basic"
        if is_basic and self.max_cu > STANDARD:
            raise ValueError(f"a pool of the basic edition has at most {STANDARD} CUs")
        if not is_basic and self.min_cu < STANDARD:
            raise ValueError(f"a pool of the standard edition has at least {STANDARD} CUs")
        return self


async def pools(
    service: Service,
    limit: Annotated[int, Query(ge=1)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
    name: str = "",
    status: Literal["AVAILABLE", "SCALING", "CREATING", "FAILED"] | None = None,
    tags: str | None = None,
) -> Response:
    found = [pool for pool in service.book.pools() if name.lower() in pool.name and status in (None, pool.status)]
    if tags:
        wanted = dict(pair.partition("=")[::2] for pair in tags.split(","))
        found = [pool for pool in found if wanted.items() <= pool.tags.items()]
    shown = [_shown(service, pool) for pool in found[offset : offset + limit]]
    return success(service, count=len(found), elastic_resource_pools=shown)


async def create(service: Service, body: PoolBody) -> Response:
    """
    Create a pool, which is available a moment later.

    :raises RefusedError: for a name that is taken.
    """
    pool = service.book.add_pool(
        body.elastic_resource_pool_name,
        min_cu=body.min_cu,
        max_cu=body.max_cu,
        description=body.description,
        cidr_in_vpc=body.cidr_in_vpc,
        tags={tag.key: tag.value for tag in body.tags},
        label=body.label,
    )
    return success(service, elastic_resource_pool_name=pool.name)


async def delete(service: Service, elastic_resource_pool_name: str) -> Response:
    """
    :raises RefusedError: for a pool that is unknown, built in, or has queues.
    """
    service.book.remove_pool(elastic_resource_pool_name)
    return success(service)


def _shown(service: Service, pool: Pool) -> dict[str, Any]:
    return {
        "id": pool.number,
        "elastic_resource_pool_name": pool.name,
        "owner": service.identity.user,
        "description": pool.description,
        "min_cu": pool.min_cu,
        "max_cu": pool.max_cu,
        "actual_cu": pool.min_cu,
        "current_cu": pool.min_cu,
        "prepay_cu": 0,
        "cidr_in_vpc": pool.cidr_in_vpc,
        "create_time": int(pool.created_at * 1000),
        "status": pool.status,
        "resource_id": str(uuid.uuid5(uuid.NAMESPACE_DNS, pool.name)),
        "fail_reason": "",
        "enterprise_project_id": "0",
        "charging_mode": 1,
        "queues": service.book.queues_of(pool.name),
        "label": dict(pool.label),
    }
