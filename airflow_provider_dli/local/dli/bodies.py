"""What callers send: request bodies, checked as the contract says."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

TAG_KEY = re.compile(r"(?! )(?!_sys_)[A-Za-z0-9 _.:+@-]*[A-Za-z0-9_.:+@-]")
TAG_VALUE = re.compile(r"[A-Za-z0-9 _.:+@-]*")
IDENTIFIER = re.compile(r"(?!_)(?![0-9]+\Z)[A-Za-z0-9_]*")
MAX_SQL = 500_000
MAX_SQL_BYTES = 1024 * 1024
CONF = re.compile(r"\s*[^=\s]+\s*=.*")


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text has half of a surrogate pair") from None
    return text


def _matching(pattern: re.Pattern[str], what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(_encodable(text)):
            raise ValueError(f"{what} has characters that are not allowed: {text[:140]!r}")
        return text

    return AfterValidator(check)


def _statement(text: str) -> str:
    if not text.strip():
        raise ValueError("the statement is empty")
    if len(text) >= MAX_SQL or len(_encodable(text).encode()) >= MAX_SQL_BYTES:
        raise ValueError(f"a statement must have less than {MAX_SQL} characters and less than 1 MB")
    return text


def _flag(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(_encodable)]
Identifier = Annotated[str, Field(max_length=128), _matching(IDENTIFIER, "the name")]
QueueName = Annotated[Identifier, Field(min_length=1)]
Sql = Annotated[str, AfterValidator(_statement)]


class Body(BaseModel):
    """Types are not converted; fields that the contract does not name are ignored."""

    model_config = ConfigDict(strict=True)


class WithoutNulls(Body):
    """A field may be left out, not null: the contract has a type for each."""

    @model_validator(mode="before")
    @classmethod
    def _no_null(cls, given: Any) -> Any:
        names = given if isinstance(given, dict) else {}
        if nulls := [name for name in cls.model_fields if name in names and names[name] is None]:
            raise ValueError(f"{', '.join(nulls)} must not be null")
        return given


class Tag(Body):
    key: Annotated[str, Field(min_length=1, max_length=128), _matching(TAG_KEY, "the tag key")]
    value: Annotated[str, Field(max_length=255), _matching(TAG_VALUE, "the tag value")]


class SubmitBody(Body):
    sql: Sql
    currentdb: Identifier = ""
    queue_name: QueueName = "default"
    conf: list[Annotated[str, _matching(CONF, "the conf entry (key = value)")]] = []
    tags: list[Tag] = []
    engine_type: Literal["spark"] = "spark"
    current_catalog: Identifier = ""

    def settings(self) -> dict[str, str]:
        """``conf`` as a mapping; the last of several entries for a key counts."""
        pairs = (entry.partition("=") for entry in self.conf)
        return {key.strip(): value.strip() for key, _, value in pairs}


class CheckBody(Body):
    sql: Sql
    currentdb: str = ""


class ExportBody(Body):
    data_path: Annotated[str, _matching(re.compile(r"obs://[^,]+"), "data_path (obs://bucket/folder)")]
    data_type: Annotated[Literal["csv", "json"], BeforeValidator(lambda v: v.lower() if isinstance(v, str) else v)]
    compress: Literal["none", "gzip", "bzip2", "deflate"] = "none"
    queue_name: QueueName = "default"
    export_mode: Literal["ErrorIfExists", "Overwrite"] = "ErrorIfExists"
    with_column_header: Annotated[bool, BeforeValidator(_flag)] = False
    limit_num: Annotated[int, Field(ge=0)] = 0
    encoding_type: Literal["utf-8", "gb2312", "gbk"] = "utf-8"
    quote_char: Annotated[str, Field(max_length=1)] = '"'
    escape_char: Annotated[str, Field(max_length=1)] = "\\"


class NameOrId(Body):
    id: str | None = None
    name: str | None = None


class DomainName(Body):
    name: str


class User(Body):
    name: str
    password: str
    domain: DomainName


class Password(Body):
    user: User


class IamIdentity(Body):
    methods: Annotated[list[Literal["password"]], Field(min_length=1)]
    password: Password


class Scope(Body):
    project: NameOrId | None = None
    domain: NameOrId | None = None


class Auth(Body):
    identity: IamIdentity
    scope: Scope | None = None


class TokenBody(Body):
    auth: Auth


class AssumeRole(Body):
    agency_name: str
    domain_name: str
    duration_seconds: int = Field(900, ge=900, le=86400)


class AgencyIdentity(Body):
    methods: list[Literal["assume_role"]]
    assume_role: AssumeRole


class AgencyAuth(Body):
    identity: AgencyIdentity


class AgencyBody(Body):
    auth: AgencyAuth
