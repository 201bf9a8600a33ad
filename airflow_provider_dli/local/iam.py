"""IAM: tokens for name and password, and the list of projects."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from airflow_provider_dli.local.bodies import NameOrId, TokenBody
from airflow_provider_dli.local.faults import Reply
from airflow_provider_dli.local.security import Clock, RefusedError, Tokens
from airflow_provider_dli.local.settings import Identity, Settings


class Iam:
    """One account with one user and one project."""

    def __init__(self, identity: Identity, settings: Callable[[], Settings], tokens: Tokens, clock: Clock) -> None:
        self._identity, self._settings, self._tokens, self._clock = identity, settings, tokens, clock

    def create_token(self, body: TokenBody, lifetime: float, base_url: str, with_catalog: bool) -> Reply:
        """:raises RefusedError: for a wrong user, password, account or project."""
        self._check_user(body)
        project_id = self._project_of(body)
        text, token = self._tokens.issue(project_id, lifetime)
        described: dict[str, Any] = {
            "methods": ["password"],
            "issued_at": _iso(self._clock()),
            "expires_at": _iso(token.expires_at),
            "user": {
                "id": _id(self._identity.user),
                "name": self._identity.user,
                "password_expires_at": "",
                "domain": self._domain,
            },
            "roles": [{"id": "0", "name": "te_admin"}],
        }
        if project_id is None:
            described["domain"] = self._domain
        else:
            project = {"id": project_id, "name": self._identity.project_name, "domain": self._domain}
            described["project"] = project
        if with_catalog:
            described["catalog"] = self._catalog(base_url)
        return Reply(201, json.dumps({"token": described}).encode(), [("X-Subject-Token", text)])

    def projects(self, wanted: dict[str, Any], base_url: str) -> dict[str, Any]:
        """Projects that have all the wanted properties."""
        name, project_id = self._identity.project_name, self._identity.project_id
        project = {
            "id": project_id,
            "name": name,
            "domain_id": self._domain["id"],
            "parent_id": self._domain["id"],
            "description": "",
            "enabled": True,
            "is_domain": False,
            "links": {"self": f"{base_url}/v3/projects/{project_id}"},
        }
        matches = all(project[key] == value for key, value in wanted.items())
        query = f"?{urlencode(wanted)}" if wanted else ""
        links = {"self": f"{base_url}/v3/projects{query}", "previous": None, "next": None}
        return {"links": links, "projects": [project] if matches else []}

    @property
    def _domain(self) -> dict[str, str]:
        return {"id": _id(self._identity.domain), "name": self._identity.domain}

    def _check_user(self, body: TokenBody) -> None:
        user = body.auth.identity.password.user
        given = (user.name, user.password, user.domain.name)
        password = self._settings().rotated_secret or self._identity.password
        if given != (self._identity.user, password, self._identity.domain):
            raise RefusedError(401, "IAM.0101", "The username or password is wrong.")

    def _project_of(self, body: TokenBody) -> str | None:
        scope = body.auth.scope
        if scope is None:
            return None
        if scope.project is not None:
            if not _names(scope.project, self._identity.project_id, self._identity.project_name):
                raise RefusedError(404, "IAM.0004", f"Could not find project: {_shown(scope.project)}.")
            return self._identity.project_id
        if scope.domain is not None and not _names(scope.domain, self._domain["id"], self._identity.domain):
            raise RefusedError(404, "IAM.0004", f"Could not find domain: {_shown(scope.domain)}.")
        return None

    def _catalog(self, base_url: str) -> list[dict[str, Any]]:
        endpoint = {"region": self._identity.region, "region_id": self._identity.region, "interface": "public"}
        return [
            {
                "id": _id(name),
                "name": name,
                "type": kind,
                "endpoints": [{**endpoint, "id": _id(kind), "url": base_url + path}],
            }
            for name, kind, path in [("iam", "identity", "/v3"), ("dli", "dli", "")]
        ]


def _names(given: NameOrId, known_id: str, known_name: str) -> bool:
    if given.id is None and given.name is None:
        raise RefusedError(400, "IAM.0011", "Request body is invalid: a scope needs an id or a name.")
    return given.id in (None, known_id) and given.name in (None, known_name)


def _shown(given: NameOrId) -> str:
    return str(given.id if given.id is not None else given.name)[:64]


def _id(name: str) -> str:
    return uuid.UUID(bytes=hashlib.sha256(name.encode()).digest()[:16]).hex


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
