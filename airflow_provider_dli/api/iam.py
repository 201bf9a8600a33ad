"""The part of the Identity and Access Management (IAM) API that DLI needs: tokens, temporary keys and projects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_dli.api.call import Answer, Call
from airflow_provider_dli.exceptions import DliError, DliTemporaryError
from airflow_provider_dli.text import NAME_LIMIT

if TYPE_CHECKING:
    from pendulum import DateTime


@dataclass(frozen=True)
class Token:
    """
    An IAM token.

    :param value: What goes into ``X-Auth-Token``; a secret, not shown in the repr.
    :param renew_at: When to get a new one: 30 minutes before it expires, or after half its life when that
        is shorter.
    :param project_id: Project it is good for; None when IAM does not say.
    :param project_name: Name of that project; None when IAM does not say.
    """

    value: str = field(repr=False)
    renew_at: DateTime
    project_id: str | None
    project_name: str | None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown."""
        return (self.value,)


@dataclass(frozen=True)
class TemporaryKeys:
    """
    An access key pair that ends.

    :param access_key: The access key.
    :param secret_key: The secret key; not shown in the repr.
    :param security_token: What belongs to it; not shown in the repr.
    :param renew_at: When to get another one; see :class:`Token`.
    """

    access_key: str
    secret_key: str = field(repr=False)
    security_token: str = field(repr=False)
    renew_at: DateTime

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown."""
        return (self.secret_key, self.security_token)


def create_token(
    *, user: str, password: str, domain_name: str, project_id: str | None, project_name: str | None
) -> Call[Token]:
    """Obtain a user token by password, for one project (IAM API Reference, "Obtaining a User Token")."""
    project = {"id": project_id} if project_id else {"name": project_name}
    identity = {"user": {"name": user, "password": password, "domain": {"name": domain_name}}}
    return Call(
        f"getting an IAM token for user {user!r} of account {domain_name!r}",
        "POST",
        "/v3/auth/tokens",
        _read_token,
        query={"nocatalog": "true"},
        body={
            "auth": {
                "identity": {"methods": ["password"], "password": identity},
                "scope": {"project": project},
            }
        },
        service="iam",
        anonymous=True,
        repeatable=True,
    )


def assume_agency(agency_name: str, domain_name: str, *, seconds: int = 3600) -> Call[TemporaryKeys]:
    """
    Obtain temporary keys of an agency (IAM API Reference, "Obtaining a Temporary AK/SK and Security Token").

    :param agency_name: The agency.
    :param domain_name: The account that has it.
    :param seconds: How long the keys are to last, 900 to 86,400. Default an hour.
    """
    role = {"agency_name": agency_name, "domain_name": domain_name, "duration_seconds": seconds}
    return Call(
        f"getting keys of agency {agency_name!r} of account {domain_name!r}",
        "POST",
        "/v3.0/OS-CREDENTIAL/securitytokens",
        lambda answer: temporary_keys(answer, "IAM"),
        body={"auth": {"identity": {"methods": ["assume_role"], "assume_role": role}}},
        service="iam",
        repeatable=True,
        iam_action="iam:tokens:assume (the role Agent Operator)",
    )


def temporary_keys(answer: Answer, source: str) -> TemporaryKeys:
    """
    Read temporary keys.

    :param answer: The answer.
    :param source: Who has sent it, for messages.
    :raises DliTemporaryError: It holds none.
    """
    found = answer.body.get("credential")
    names = ("access", "secret", "securitytoken", "expires_at")
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) and found[name] for name in names):
        raise DliTemporaryError(f"{source} has answered without temporary keys.")
    if not all(_fits_a_header(found[name]) for name in names):
        raise DliTemporaryError(f"The temporary keys of {source} have characters that no header may have.")
    return TemporaryKeys(found["access"], found["secret"], found["securitytoken"], _renew_at(found["expires_at"]))


def find_project(name: str) -> Call[str]:
    """Find the id of a project by its name (IAM API Reference, "Querying Project Information")."""

    def read(answer: Answer) -> str:
        projects = answer.body.get("projects")
        if not isinstance(projects, list):
            raise DliTemporaryError(f"looking up project {name!r}: IAM's answer holds no list of projects")
        found = [project for project in projects if project.get("name") == name]
        if len(found) != 1:
            raise DliError(
                f"IAM knows {len(found)} projects named {name!r} for this user. Set the extra field "
                "`project_id` of the connection instead of `project_name`."
            )
        return _project_id(found[0]["id"])

    return Call(
        f"looking up project {name!r}",
        "GET",
        "/v3/projects",
        read,
        query={"name": name},
        service="iam",
        repeatable=True,
    )


def _read_token(answer: Answer) -> Token:
    value, token = answer.headers.get("X-Subject-Token"), answer.body.get("token")
    if not value or not isinstance(token, dict) or not token.get("expires_at"):
        raise DliTemporaryError(
            "The IAM endpoint answered without a token: is `iam_endpoint` of the connection really IAM?"
        )
    if not _fits_a_header(value):
        raise DliTemporaryError("The token of the IAM endpoint has characters that no header may have.")
    project = token.get("project") or {}
    return Token(
        value=value,
        renew_at=_renew_at(token["expires_at"]),
        project_id=None if project.get("id") is None else _project_id(project["id"]),
        project_name=None if project.get("name") is None else _project_name(answer, project["name"]),
    )


def _renew_at(expires_at: str) -> DateTime:
    import pendulum

    try:
        end = pendulum.parse(expires_at)
    except ValueError:
        end = None
    if not isinstance(end, pendulum.DateTime):
        # Not the text itself, which stands beside secrets.
        raise TypeError("expires_at is no date with a time")
    half_life = (end - pendulum.now("UTC")) / 2
    return end - min(half_life, pendulum.duration(minutes=30))


def _project_name(answer: Answer, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("the name of the project is no text")
    return answer.text(value, NAME_LIMIT)


def _project_id(value: Any) -> str:
    """Return what becomes part of paths and headers."""
    if not isinstance(value, str) or not 0 < len(value) <= NAME_LIMIT or not _fits_a_header(value):
        raise TypeError("the id of the project is no text of printable characters")
    return value


def _fits_a_header(value: str) -> bool:
    return value.isascii() and value.isprintable()
