"""How DLI speaks of each kind of job: its paths, bodies and states. What a job does is the same for all."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from airflow_provider_dli import identity
from airflow_provider_dli.operators.dli import (
    DliStartFlinkJobOperator,
    DliSubmitSparkJobOperator,
    DliSubmitSqlJobOperator,
)

STATEMENT = "insert into t select 1"
# Of a script.
STATEMENTS = 3


class Sql:
    """SQL jobs: tags, one call that submits and starts."""

    kind = "sql"
    prefix = "/v1.0/p/jobs"
    is_launched = False
    states = {"RUNNING": "RUNNING", "FINISHED": "FINISHED", "FAILED": "FAILED", "CANCELLED": "CANCELLED"}
    no_jobs: dict[str, Any] = {"is_success": True, "jobs": [], "job_count": 0}

    def operator(self, suffix: str, **arguments: Any) -> Any:
        return DliSubmitSqlJobOperator(sql=STATEMENT + suffix, **arguments)

    def call_of(self, method: str, path: str) -> str:
        """Return the general name of a call."""
        last = path.rsplit("/", 1)[1]
        if method == "DELETE":
            return "cancel"
        return {"submit-job": "submit", "jobs": "list"}.get(last, last)

    def job_id(self, path: str, body: Any) -> str:
        return unquote(path.split("/")[4])

    def new_id(self, number: int) -> str:
        return f"job-{number}"

    def identity_of(self, body: Any) -> tuple[str, dict[str, str]]:
        """Return name and tags of what is submitted."""
        return "", {tag["key"]: tag["value"] for tag in body["tags"]}

    def submitted(self, job: Any) -> Any:
        return {"is_success": True, "job_id": job.id, "job_type": "INSERT"}

    def accepted(self) -> Any:
        return {"is_success": True, "message": ""}

    def refused(self, code: str, text: str) -> Any:
        return {"error_code": code, "error_msg": text}

    def is_wanted(self, job: Any, query: dict[str, list[str]]) -> bool:
        pairs = query["tags"][0].split(",") if "tags" in query else []
        return all(job.tags.get(key) == value for key, value in (pair.split("=", 1) for pair in pairs))

    def state_in(self, query: dict[str, list[str]]) -> str | None:
        return query.get("job-status", [None])[0]

    def listed(self, jobs: list[Any]) -> Any:
        return {"is_success": True, "jobs": jobs, "job_count": len(jobs)}

    def described(self, job: Any, status: str) -> Any:
        return {
            "is_success": True,
            "job_id": job.id,
            "status": self.states[status],
            "start_time": int(job.submitted * 1000),
            "statement": STATEMENT,
            "tags": [{"key": key, "value": value} for key, value in job.tags.items()],
        }

    def shown(self, job: Any) -> Any:
        """Answer a status call."""
        return self.described(job, job.status)


class Script(Sql):
    """Three SQL statements, one after the other."""

    kind = "script"

    def operator(self, suffix: str, **arguments: Any) -> Any:
        return DliSubmitSqlJobOperator(sql=[STATEMENT + suffix] * STATEMENTS, **arguments)


class Spark(Sql):
    """Spark batches: the identity is in name and settings; one word for failed and cancelled."""

    kind = "spark"
    prefix = "/v2.0/p/batches"
    states = {"RUNNING": "running", "FINISHED": "success", "FAILED": "dead", "CANCELLED": "dead"}
    no_jobs = {"from": 0, "total": 0, "sessions": []}

    def operator(self, suffix: str, **arguments: Any) -> Any:
        return DliSubmitSparkJobOperator(
            file="group/job.jar", args=[suffix], spark_version="2.4.5", queue_name="general", **arguments
        )

    def call_of(self, method: str, path: str) -> str:
        if method == "DELETE":
            return "cancel"
        last = path.rsplit("/", 1)[1]
        if last == "batches":
            return "submit" if method == "POST" else "list"
        return {"state": "status", "log": "log"}.get(last, "detail")

    def identity_of(self, body: Any) -> tuple[str, dict[str, str]]:
        return body["name"], identity.from_settings(body["conf"])

    def submitted(self, job: Any) -> Any:
        return {"id": job.id, "state": "starting"}

    def accepted(self) -> Any:
        return {"msg": "deleted"}

    def is_wanted(self, job: Any, query: dict[str, list[str]]) -> bool:
        return "job_name" not in query or query["job_name"][0] == job.name

    def state_in(self, query: dict[str, list[str]]) -> str | None:
        return query.get("state", [None])[0]

    def listed(self, jobs: list[Any]) -> Any:
        return {"from": 0, "total": len(jobs), "sessions": jobs}

    def described(self, job: Any, status: str) -> Any:
        request = {"name": job.name, "conf": identity.settings(job.tags), "autoRecovery": False}
        return {
            "id": job.id,
            "name": job.name,
            "state": self.states[status],
            "create_time": int(job.submitted * 1000),
            "log": ["Application application_1_0001 was killed by user dli."] if status == "CANCELLED" else [],
            "req_body": json.dumps(request),
        }

    def shown(self, job: Any) -> Any:
        return {"id": job.id, "state": self.states[job.status]}


class Flink(Sql):
    """Flink jobs: created first and started then; the identity is in a unique name and the description."""

    kind = "flink"
    prefix = "/v1.0/p/streaming"
    is_launched = True
    states = {
        "CREATED": "job_init",
        "RUNNING": "job_running",
        "FINISHED": "job_finish",
        "FAILED": "job_running_exception",
        "CANCELLED": "job_cancel_success",
    }
    no_jobs = {"is_success": "true", "job_list": {"total_count": 0, "jobs": []}}

    def operator(self, suffix: str, **arguments: Any) -> Any:
        return DliStartFlinkJobOperator(
            job_type="flink_jar_job",
            entrypoint="group/job.jar",
            args=[suffix],
            queue_name="general",
            wait_for="finished",
            **arguments,
        )

    def call_of(self, method: str, path: str) -> str:
        last = path.rsplit("/", 1)[1]
        if method == "POST":
            return {"run": "launch", "stop": "cancel"}.get(last, "submit")
        if method == "DELETE":
            return "discard"
        return "list" if last == "jobs" else "status"

    def job_id(self, path: str, body: Any) -> str:
        return str(body["job_ids"][0]) if body else path.rsplit("/", 1)[1]

    def new_id(self, number: int) -> str:
        return str(number)

    def identity_of(self, body: Any) -> tuple[str, dict[str, str]]:
        return body["name"], json.loads(body["desc"])

    def submitted(self, job: Any) -> Any:
        return {"is_success": "true", "job": {"job_id": int(job.id), "status_name": "job_init"}}

    def accepted(self) -> Any:
        return [{"is_success": "true", "message": ""}]

    def refused(self, code: str, text: str) -> Any:
        return [{"error_code": code, "error_msg": text}]

    def is_wanted(self, job: Any, query: dict[str, list[str]]) -> bool:
        return "name" not in query or query["name"][0] == job.name

    def state_in(self, query: dict[str, list[str]]) -> str | None:
        return query.get("status", [None])[0]

    def listed(self, jobs: list[Any]) -> Any:
        return {"is_success": "true", "job_list": {"total_count": len(jobs), "jobs": jobs}}

    def described(self, job: Any, status: str) -> Any:
        return {
            "job_id": int(job.id),
            "name": job.name,
            "desc": json.dumps(job.tags),
            "status": self.states[status],
            "status_desc": "",
            "create_time": int(job.submitted * 1000),
            "start_time": int(job.launched * 1000) if job.launched else None,
        }

    def shown(self, job: Any) -> Any:
        return {"is_success": "true", "job_detail": self.described(job, job.status)}


DIALECTS: dict[str, Sql] = {dialect.kind: dialect for dialect in (Sql(), Script(), Spark(), Flink())}
