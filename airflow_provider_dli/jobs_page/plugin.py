"""What Airflow reads of the page. Every Airflow process imports it, so it imports next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.providers.common.compat.sdk import AirflowPlugin, conf

from airflow_provider_dli import compat

_IS_SHOWN = compat.HAS_EXTERNAL_VIEWS and conf.getboolean("dli", "jobs_page", fallback=True)


async def app(
    scope: MutableMapping[str, Any], receive: Callable[..., Any], send: Callable[..., Awaitable[None]]
) -> None:
    """Answer a request, and import what that takes at the first one."""
    # In a thread: the requests of others go on meanwhile.
    module = await asyncio.to_thread(_app_module)
    await module.app(scope, receive, send)


def _app_module() -> Any:
    from airflow_provider_dli.jobs_page import app

    return app


class DliJobsPlugin(AirflowPlugin):
    """Adds the page *DLI jobs* to the menu *Browse*; where Airflow cannot show it, nothing."""

    name = "dli_jobs"
    fastapi_apps = [{"name": "DLI jobs", "app": app, "url_prefix": "/dli"}] if _IS_SHOWN else []
    external_views = (
        [
            {
                "name": "DLI jobs",
                # Relative, for Airflow may be served below a path.
                "href": "dli/jobs",
                "destination": "nav",
                "category": "browse",
                "url_route": "dli-jobs",
            }
        ]
        if _IS_SHOWN
        else []
    )
