"""IAM: tokens for name and password, and the list of projects. There is one account with one user and one project."""

from __future__ import annotations

import hashlib
import json
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request, Response

from airflow_provider_dli.local.dli.bodies import AgencyBody, NameOrId, TokenBody
from airflow_provider_dli.local.dli.replies import RefusedError
from airflow_provider_dli.local.dli.responses import as_json
from airflow_provider_dli.local.dli.service import Service


async def token(service: Service, body: TokenBody, request: Request, nocatalog: str = "") -> Response:
    """
    :raises RefusedError: for a wrong user, password, account or project.
    """
    identity, base_url = service.identity, _base_url(request)
    _check_user(service, body)
    project_id = _project_of(service, body)
    text, issued = service.tokens.issue(project_id, service.settings.token_lifetime)
    domain = _domain(service)
    described: dict[str, Any] = {
        "methods": ["password"],
        "issued_at": _iso(service.clock()),
        "expires_at": _iso(issued.expires_at),
        "user": {"id": _id(identity.user), "name": identity.user, "password_expires_at": "", "domain": domain},
        "roles": [{"id": "0", "name": "te_admin"}],
    }
    if project_id is None:
        described["domain"] = domain
    else:
        described["project"] = {"id": project_id, "name": identity.project_name, "domain": domain}
    if not nocatalog:
        described["catalog"] = _catalog(identity.region, base_url)
    content = json.dumps({"token": described})
    return Response(content, 201, {"X-Subject-Token": text}, "application/json")


async def projects(
    service: Service,
    request: Request,
    name: str | None = None,
    domain_id: str | None = None,
    parent_id: str | None = None,
    enabled: bool | None = None,
    is_domain: bool | None = None,
    page: Annotated[int | None, Query(ge=1)] = None,
    per_page: Annotated[int | None, Query(ge=1, le=5000)] = None,
) -> Response:
    """Projects that have all the wanted properties."""
    wanted = {"name": name, "domain_id": domain_id, "parent_id": parent_id, "enabled": enabled, "is_domain": is_domain}
    given = {key: value for key, value in wanted.items() if value is not None}
    url = f"{_base_url(request)}/v3/projects"
    domain, project_id = _domain(service), service.identity.project_id
    project = {
        "id": project_id,
        "name": service.identity.project_name,
        "domain_id": domain["id"],
        "parent_id": domain["id"],
        "description": "",
        "enabled": True,
        "is_domain": False,
        "links": {"self": f"{url}/{project_id}"},
    }
    is_shown = page in (None, 1) and all(project[key] == value for key, value in given.items())
    links = {"self": f"{url}?{urlencode(given)}" if given else url, "previous": None, "next": None}
    return as_json({"links": links, "projects": [project] if is_shown else []})


async def agency_keys(service: Service, body: AgencyBody) -> Response:
    """
    :raises RefusedError: for an unknown agency or account.
    """
    role = body.auth.identity.assume_role
    if (role.agency_name, role.domain_name) != (service.identity.agency, service.identity.domain):
        raise RefusedError(404, "IAM.0004", f"Could not find agency: {role.agency_name}.")
    return Response(json.dumps(_temporary_keys(service)), 201, media_type="application/json")


async def metadata_keys(service: Service) -> Response:
    """What the metadata service of a machine hands out, which has the same agency."""
    return as_json(_temporary_keys(service))


def _temporary_keys(service: Service) -> dict[str, Any]:
    keys = service.keys.issue(service.settings.keys_lifetime)
    return {
        "credential": {
            "access": keys.access_key,
            "secret": keys.secret_key,
            "securitytoken": keys.security_token,
            "expires_at": _iso(keys.expires_at),
        }
    }


def _domain(service: Service) -> dict[str, str]:
    return {"id": _id(service.identity.domain), "name": service.identity.domain}


def _check_user(service: Service, body: TokenBody) -> None:
    user, identity = body.auth.identity.password.user, service.identity
    password = service.settings.rotated_secret or identity.password
    if (user.name, user.password, user.domain.name) != (identity.user, password, identity.domain):
        raise RefusedError(401, "IAM.0101", "The username or password is wrong.")


def _project_of(service: Service, body: TokenBody) -> str | None:
    scope, identity = body.auth.scope, service.identity
    if scope is None:
        return None
    if scope.project is not None:
        if not _names(scope.project, identity.project_id, identity.project_name):
            raise RefusedError(404, "IAM.0004", f"Could not find project: {_shown(scope.project)}.")
        return identity.project_id
    if scope.domain is not None and not _names(scope.domain, _domain(service)["id"], identity.domain):
        raise RefusedError(404, "IAM.0004", f"Could not find domain: {_shown(scope.domain)}.")
    return None


def _catalog(region: str, base_url: str) -> list[dict[str, Any]]:
    endpoint = {"region": region, "region_id": region, "interface": "public"}
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


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")
