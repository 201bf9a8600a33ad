"""How Flink calls answer: flags are text by default, and a job is shown in a short and in a long form."""

from __future__ import annotations

from typing import Any

from fastapi import Response

from airflow_provider_dli.local.dli.bodies_flink import FlinkBody
from airflow_provider_dli.local.dli.jobs.flink_job import FlinkJob
from airflow_provider_dli.local.dli.responses import as_json
from airflow_provider_dli.local.dli.service import Service

# Of the body, what the configuration of a job shows under the same name.
CONFIG = (
    "checkpoint_enabled",
    "checkpoint_interval",
    "checkpoint_path",
    "cu_number",
    "dependency_files",
    "dependency_jars",
    "dirty_data_strategy",
    "entrypoint",
    "execution_agency_urn",
    "feature",
    "flink_version",
    "idle_state_retention",
    "image",
    "log_enabled",
    "manager_cu_number",
    "obs_bucket",
    "parallel_number",
    "restart_when_exception",
    "resume_checkpoint",
    "resume_max_num",
    "runtime_config",
    "smn_topic",
    "tm_cus",
    "tm_slot_num",
    "udf_jar_url",
    "resource_config_version",
)


def success(service: Service, message: str, **content: Any) -> Response:
    """200 with ``is_success``."""
    return as_json({"is_success": flag(service, True), "message": message, **content})


def flag(service: Service, value: bool) -> bool | str:
    """``is_success`` as text or as a boolean, as the settings say."""
    return value if service.settings.flink_flags == "bool" else str(value).lower()


def line(service: Service, job: FlinkJob) -> dict[str, Any]:
    """A job in the list."""
    return _both(job) | {"user_name": job.owner, "duration": job.running_ms}


def details(service: Service, job: FlinkJob) -> dict[str, Any]:
    """A job with all that is known of it, but for its tags, which no call shows."""
    body = job.body
    return _both(job) | {
        "start_time": None if job.started_at is None else job.shown_ms(job.started_at),
        "update_time": job.shown_ms(job.updated_at),
        "duration": job.running_ms,
        "user_id": service.identity.user,
        "queue_name": job.queue_name,
        "project_id": service.identity.project_id,
        "sql_body": getattr(body, "sql_body", ""),
        "savepoint_path": job.savepoints[-1] if job.savepoints else None,
        "run_mode": getattr(body, "run_mode", "exclusive_cluster"),
        "job_config": _config(body),
        "main_class": getattr(body, "main_class", None),
        "entrypoint_args": getattr(body, "entrypoint_args", None),
        "execution_graph": None,
        "edge_group_ids": None,
        "restart_times": job.restart_times,
    }


def _both(job: FlinkJob) -> dict[str, Any]:
    return {
        "job_id": job.number,
        "name": job.name,
        "desc": job.description,
        "job_type": job.job_type,
        "status": job.status,
        "status_desc": job.message,
        "create_time": job.start_ms,
        "root_id": -1,
        "graph_editor_enabled": False,
        "has_savepoint": bool(job.savepoints),
    }


def _config(body: FlinkBody) -> dict[str, Any]:
    nothing = dict.fromkeys(
        ("edge_group_ids", "executor_number", "executor_cu_number", "config_url", "operator_config"), None
    )
    return {
        **nothing,
        **{name: getattr(body, name, None) for name in CONFIG},
        "checkpoint_mode": body.checkpoint_mode_name,
        "graph_editor_data": "",
        "graph_editor_enabled": False,
        "real_cu_number": 0,
        "root_id": -1,
        # An object in the contract, and never null.
        **({"resource_config": body.resource_config.model_dump()} if body.resource_config else {}),
    }
