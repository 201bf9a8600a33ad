"""The Airflow connection of type ``dli``: its fields, checked and made ready to use."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from airflow_provider_dli import machine
from airflow_provider_dli.api.metadata import ENDPOINT
from airflow_provider_dli.exceptions import DliValueError
from airflow_provider_dli.text import has_control_characters

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

_log = logging.getLogger(__name__)
# What was said, by process and connection.
_warned: set[tuple[int, str, str]] = set()

CONN_TYPE = "dli"
DEFAULT_TIMEOUT = 60.0

# Open Telekom Cloud lists DLI for eu-de; the name for eu-nl follows the pattern of its other services.
_OTC_REGIONS = ("eu-de", "eu-nl")
_HUAWEI_REGIONS = [
    "ae-ad-1",
    "af-north-1",
    "af-south-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "cn-east-2",
    "cn-east-3",
    "cn-east-4",
    "cn-east-5",
    "cn-north-1",
    "cn-north-2",
    "cn-north-4",
    "cn-north-9",
    "cn-south-1",
    "cn-southwest-2",
    "eu-west-0",
    "la-north-2",
    "la-south-2",
    "me-east-1",
    "my-kualalumpur-1",
    "na-mexico-1",
    "ru-moscow-1",
    "ru-northwest-2",
    "sa-brazil-1",
    "tr-west-1",
]
# The official SDK has no regional IAM host for these.
_HUAWEI_GLOBAL_IAM = ("af-north-1", "ru-northwest-2", "eu-west-101")


@dataclass(frozen=True)
class DliConnection:
    """
    A connection whose fields have been checked. Secrets are not in its repr.

    :param conn_id: Airflow's id of the connection, for messages.
    :param auth_type: How requests are authenticated: ``password`` (a token of IAM), ``ak_sk`` (signed with this key
        pair), ``agency`` or ``metadata`` (signed with temporary keys, which are fetched).
    :param user: IAM user name, or access key.
    :param secret: Password, or secret key.
    :param endpoint: Base URL of DLI, without a slash at the end.
    :param iam_endpoint: Base URL of IAM, without ``/v3``.
    :param project_id: Project id, or None when only its name is known.
    :param project_name: Project name, or None.
    :param domain_name: Account that the IAM user belongs to; None with ``ak_sk``.
    :param security_token: Security token of a temporary key pair, or None.
    :param region: Region id, or None.
    :param default_queue: Queue of operators that name none, or None.
    :param default_database: Database of operators that name none, or None.
    :param agency_name: Agency whose keys are fetched, or None.
    :param agency_domain_name: The account that has it, or None.
    :param source: What fetches them, or None.
    :param metadata_endpoint: Base URL of the metadata service.
    :param verify: Whether to verify TLS certificates, or the path of a CA bundle.
    :param timeout: Seconds to wait for the next piece of an answer. Default 60.
    """

    conn_id: str
    auth_type: Literal["password", "ak_sk", "agency", "metadata"]
    user: str
    secret: str = field(repr=False)
    endpoint: str
    iam_endpoint: str
    project_id: str | None
    project_name: str | None
    domain_name: str | None
    security_token: str | None = field(repr=False)
    region: str | None
    default_queue: str | None
    default_database: str | None
    verify: bool | str
    timeout: float
    agency_name: str | None = None
    agency_domain_name: str | None = None
    source: DliConnection | None = None
    metadata_endpoint: str = ENDPOINT

    @property
    def user_names(self) -> frozenset[str]:
        """Names under which DLI may show the user of this connection; empty when a key pair does not tell."""
        names = (self.user, self.domain_name) if self.auth_type == "password" else ()
        return frozenset(name for name in names if name)

    @classmethod
    def from_airflow(
        cls, connection: Connection, *, region: str | None = None, project_id: str | None = None
    ) -> DliConnection:
        """
        Check an Airflow connection.

        :param connection: The connection.
        :param region: Takes the place of the extra field ``region``.
        :param project_id: Takes the place of the extra fields ``project_id`` and ``project_name``.
        :raises DliValueError: A field is missing, cannot be used or contradicts another one; names it. The file or
            directory of ``verify`` is looked at too.
        """
        fields = _Fields(connection)
        auth_type = fields.choice("auth_type", "password", AUTH_TYPES)
        region = region or fields.text("region")
        given = cls._authentication(fields, auth_type)
        of_environment = given.pop("project_id", None)
        project_name = None if project_id else fields.text("project_name")
        found = cls(
            conn_id=fields.conn_id,
            endpoint=fields.host() or fields.region_endpoint("host", "dli", region),
            iam_endpoint=fields.url("iam_endpoint") or fields.region_endpoint("iam_endpoint", "iam", region),
            project_id=project_id or fields.text("project_id") or of_environment,
            project_name=project_name,
            domain_name=fields.text("domain_name"),
            region=region,
            default_queue=fields.text("default_queue"),
            default_database=fields.text("default_database"),
            verify=fields.verify(),
            timeout=fields.seconds("timeout", DEFAULT_TIMEOUT),
            metadata_endpoint=fields.url("metadata_endpoint") or ENDPOINT,
            **given,
        )
        if auth_type == "agency":
            source = cls._authentication(fields, fields.choice("agency_source", "ak_sk", _SOURCES))
            source.pop("project_id", None)
            found = replace(
                found,
                agency_name=fields.required("agency_name", fields.text("agency_name"), "the agency to assume"),
                agency_domain_name=fields.required(
                    "agency_domain_name", fields.text("agency_domain_name"), "the account that has the agency"
                ),
                source=replace(found, **source),
            )
            found.source._check(fields)  # type: ignore[union-attr]
        found._check(fields)
        found._warn()
        return found

    @staticmethod
    def _authentication(fields: _Fields, auth_type: str) -> dict[str, Any]:
        """Return the fields that a kind of credentials consists of."""
        if auth_type == "environment":
            return fields.from_environment()
        if auth_type in ("metadata", "agency"):
            user = "the machine's agency" if auth_type == "metadata" else f"agency {fields.text('agency_name')}"
            return {"auth_type": auth_type, "user": user, "secret": "", "security_token": None}
        user_word, secret_word = _WORDS[auth_type]
        return {
            "auth_type": auth_type,
            "user": fields.login(user_word),
            "secret": fields.password(secret_word),
            "security_token": fields.text("security_token"),
        }

    def _check(self, fields: _Fields) -> None:
        # What becomes part of a header.
        for name, value in [("project_id", self.project_id), ("security_token", self.security_token)]:
            fields.check_header(name, value)
        if self.auth_type == "ak_sk":
            fields.check_header("login", self.user)
        if not self.project_id and not self.project_name:
            raise fields.error("project_id", "is missing. Set it, or `project_name` (of a main project, the region id)")
        if self.auth_type == "password" and not self.domain_name:
            raise fields.error("domain_name", "is missing: the account that the IAM user belongs to")
        if self.auth_type == "password" and self.security_token:
            raise fields.error(
                "security_token", 'contradicts `auth_type` "password": it belongs to "ak_sk". Remove one'
            )

    def _warn(self) -> None:
        """Say, once in a process, what lets others read or change what is sent, and what to do about it."""
        found = [
            f"{field} is {url}: anyone on the way can read the credentials and change the answers. Use https."
            for field, url in [("Field `host`", self.endpoint), ("Extra field `iam_endpoint`", self.iam_endpoint)]
            if url.startswith("http:") and not _is_loopback(url)
        ]
        if self.verify is False:
            found.append(
                "Extra field `verify` is false: anyone on the way can pretend to be DLI and read the credentials. Set "
                "it to true, or to the path of your CA's bundle."
            )
        warning = (machine.process_id(), self.conn_id, " ".join(found))
        if found and warning not in _warned:
            _warned.add(warning)
            _log.warning("Connection %r is not safe. %s", *warning[1:])

    @property
    def is_issued(self) -> bool:
        """Whether a token or temporary keys have to be fetched; else the connection holds its own keys."""
        return self.auth_type != "ak_sk"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown, should a server repeat it."""
        of_source = self.source.secrets if self.source else ()
        return (*filter(None, (self.secret, self.security_token)), *of_source)

    @property
    def who(self) -> str:
        """As whom DLI is called, for people: a user, an access key or an agency. No secret."""
        word = {"password": "user", "ak_sk": "access key"}.get(self.auth_type)
        return f"{word} {self.user!r}" if word else self.user

    @property
    def console_url(self) -> str | None:
        """
        Address of the jobs in the cloud's console; None when the region has none that is known.

        For a DLI on this machine, its list of jobs.
        """
        if _is_loopback(self.endpoint):
            return f"{self.endpoint}/_local/jobs"
        if self.region in _OTC_REGIONS:
            return f"https://console.otc.t-systems.com/dli/?region={self.region}#/main/jobs"
        if self.region in _HUAWEI_REGIONS:
            return f"https://console.huaweicloud.com/dli/?region={self.region}#/main/jobs"
        return None


AUTH_TYPES = ("password", "ak_sk", "agency", "metadata", "environment")
# What can assume an agency.
_SOURCES = ("ak_sk", "password", "metadata", "environment")
# Variables of the official SDK.
_ENVIRONMENT = "HUAWEICLOUD_SDK_"

_WORDS: dict[str, tuple[str, str]] = {
    "password": ("the IAM user name", "the IAM user's password"),
    "ak_sk": ("the access key (AK)", "the secret key (SK)"),
}


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host) is not None


def _is_host_name(name: str) -> bool:
    """Tell whether the name can be looked up: no part of it is empty or longer than 63 characters."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


class _Fields:
    """The fields of one connection, read with errors that name the connection and the field."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.conn_id = connection.conn_id
        try:
            extra = connection.extra_dejson
        except ValueError:
            extra = None
        if not isinstance(extra, dict):
            raise self.error("extra", "must be a JSON object")
        self._extra: dict[str, Any] = extra

    def error(self, name: str, problem: str) -> DliValueError:
        where = "" if name in ("login", "password", "host", "port", "extra") else "extra "
        return DliValueError(f"Connection {self.conn_id!r}: {where}field `{name}` {problem}.", field=name)

    def text(self, name: str) -> str | None:
        value = self._extra.get(name)
        if value is not None and not isinstance(value, str):
            raise self.error(name, f"must be text, not {type(value).__name__}")
        return self._without_control_characters(name, (value or "").strip()) or None

    def required(self, name: str, value: str | None, meaning: str) -> str:
        if not value:
            raise self.error(name, f"is missing: {meaning}")
        return self._without_control_characters(name, value)

    def login(self, meaning: str) -> str:
        return self.required("login", self._connection.login, meaning)

    def password(self, meaning: str) -> str:
        return self.required("password", self._connection.password, meaning)

    def from_environment(self) -> dict[str, Any]:
        """Return the access key that the environment of this process holds."""
        import os

        names = {"user": "AK", "secret": "SK", "security_token": "SECURITY_TOKEN", "project_id": "PROJECT_ID"}
        found = {name: (os.environ.get(_ENVIRONMENT + ending) or "").strip() or None for name, ending in names.items()}
        for name in ("user", "secret"):
            if not found[name]:
                raise self.error(
                    "auth_type", f'is "environment", and {_ENVIRONMENT}{names[name]} is not set on this machine'
                )
        for name, value in found.items():
            if value and not (value.isascii() and value.isprintable()):
                raise self.error(
                    "auth_type",
                    f'is "environment", and {_ENVIRONMENT}{names[name]} has characters that no HTTP header may have',
                )
        return {"auth_type": "ak_sk", **found}

    def check_header(self, name: str, value: str | None) -> None:
        if value and not (value.isascii() and value.isprintable()):
            raise self.error(name, "has characters that no HTTP header may have: only printable ASCII characters may")

    def _without_control_characters(self, name: str, value: str) -> str:
        # The value is not shown: it may be a secret.
        if has_control_characters(value):
            raise self.error(
                name, "has a line break or another control character, perhaps from copying it: enter it anew"
            )
        return value

    def choice(self, name: str, default: Any, choices: tuple[str, ...]) -> Any:
        value = self.text(name) or default
        if value not in choices:
            raise self.error(name, f"must be one of {', '.join(choices)}, not {value!r}")
        return value

    def seconds(self, name: str, default: float) -> float:
        value = self._extra.get(name)
        try:
            seconds = default if value in (None, "") else float(value)
        except (TypeError, ValueError):
            seconds = 0
        # Written so that "nan" is refused too.
        if not 0 < seconds < float("inf"):
            raise self.error(name, f"must be a number of seconds above 0, not {value!r}")
        return seconds

    def verify(self) -> bool | str:
        value = self._extra.get("verify")
        if value in (None, ""):
            return True
        if isinstance(value, bool):
            return value
        if not isinstance(value, str):
            raise self.error("verify", "must be true, false or the path of a CA bundle")
        text = self.text("verify") or "true"
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        self._check_certificates(text)
        return text

    def _check_certificates(self, path: str) -> None:
        import os
        import ssl

        advice = "Give the path, on this machine, of a file of CA certificates in PEM format, or true or false"
        # A directory holds certificates under the hashes of their names; OpenSSL looks them up when it needs one.
        if os.path.isdir(path):
            return
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except ssl.SSLError:
            raise self.error("verify", f"is {path!r}, which is no file of certificates. {advice}") from None
        except OSError as error:
            raise self.error("verify", f"is {path!r}, which cannot be read: {error.strerror}. {advice}") from None

    def host(self) -> str | None:
        """Return the base URL in the host and port fields, or None when they are empty."""
        host, port = (self._connection.host or "").strip(), self._connection.port
        if not host:
            if port:
                raise self.error("port", "is set without `host`: set the host too, or clear it")
            return None
        # A connection given as a URI has the scheme in a field of its own.
        schema = self._connection.schema
        scheme = schema if schema in ("http", "https") else "https"
        url = self._checked_url("host", host if "://" in host else f"{scheme}://{host}")
        in_host = urlsplit(url).port
        if port and in_host and port != in_host:
            raise self.error("port", f"is {port} but `host` says {in_host}: set one of them")
        return f"{url}:{port}" if port and not in_host else url

    def url(self, name: str) -> str | None:
        value = self.text(name)
        if not value:
            return None
        url = value if "://" in value else f"https://{value}"
        return self._checked_url(name, url.rstrip("/").removesuffix("/v3"))

    def _checked_url(self, name: str, url: str) -> str:
        url = url.rstrip("/")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if (
            not usable
            or parts.path
            or parts.query
            or parts.fragment
            or "@" in parts.netloc
            or set(url) & set(" \\")
            or has_control_characters(url)
            or not _is_host_name(parts.hostname or "")
        ):
            raise self.error(
                name,
                "must be a host name or base URL such as https://dli.eu-de.otc.t-systems.com, without a path",
            )
        return url

    def region_endpoint(self, name: str, service: str, region: str | None) -> str:
        if not region:
            raise self.error("region", f"is missing: set it, such as eu-de, or set `{name}`")
        if region in _OTC_REGIONS:
            return f"https://{service}.{region}.otc.t-systems.com"
        if service == "iam" and region in _HUAWEI_GLOBAL_IAM:
            return "https://iam.myhuaweicloud.com"
        if region == "eu-west-101":
            return f"https://{service}.{region}.myhuaweicloud.eu"
        if region in _HUAWEI_REGIONS:
            return f"https://{service}.{region}.myhuaweicloud.com"
        known = ", ".join([*_OTC_REGIONS, *_HUAWEI_REGIONS, "eu-west-101"])
        raise self.error(
            "region",
            f"{region!r} is not known. Known: {known}. For another one set `host` and `iam_endpoint`",
        )
