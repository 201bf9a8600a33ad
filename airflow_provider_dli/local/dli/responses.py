"""How the chapters answer: DLI's success bodies as responses of the web framework."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Response

from airflow_provider_dli.local.dli.replies import Reply
from airflow_provider_dli.local.dli.service import Service


def success(service: Service, **content: Any) -> Response:
    """200 with ``is_success`` and an empty message, unless the content has one."""
    return as_json({"is_success": is_success(service, True), "message": "", **content})


def is_success(service: Service, value: bool) -> bool | str:
    """The flag as a boolean or as text, as the settings say."""
    return value if service.settings.flags == "bool" else str(value).lower()


def as_json(content: Any) -> Response:
    return Response(json.dumps(content, allow_nan=False), media_type="application/json")


def as_response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, dict(reply.headers), reply.content_type)
