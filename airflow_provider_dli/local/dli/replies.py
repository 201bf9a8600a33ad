"""HTTP answers before they are sent, and the error bodies of DLI, its gateway and IAM."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

NO_BODY = (204, 304)
FLINK_PATH = re.compile(r"/v1\.0/[^/]+/streaming/")


class RefusedError(Exception):
    """
    The call is refused.

    :param status: HTTP status.
    :param code: Error code of DLI, its gateway or IAM.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class SoftFailureError(Exception):
    """The call is answered with 200 and ``is_success`` false."""


@dataclass
class Reply:
    """A whole HTTP answer. HTTP has no body for some statuses; the one given is dropped then."""

    status: int
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    content_type: str | None = "application/json"

    def __post_init__(self) -> None:
        if self.status in NO_BODY:
            self.body, self.content_type = b"", None

    def all_headers(self) -> list[tuple[str, str]]:
        if self.status in NO_BODY:
            return self.headers
        kind = [("content-type", self.content_type)] if self.content_type else []
        return [*kind, ("content-length", str(len(self.body))), *self.headers]

    def to_bytes(self) -> bytes:
        """The answer as it goes over the wire."""
        lines = [f"HTTP/1.1 {self.status} {phrase_of(self.status)}"]
        lines += [f"{name}: {value}" for name, value in self.all_headers()]
        return ("\r\n".join([*lines, "", ""])).encode("latin-1") + self.body


def error_reply(refusal: RefusedError, of_iam: bool = False) -> Reply:
    """The error body of DLI or its gateway, or of IAM."""
    if of_iam and refusal.status != 400:
        text = {"code": refusal.status, "message": refusal.message, "title": phrase_of(refusal.status)}
        content: dict[str, Any] = {"error": text}
    else:
        content = {"error_code": refusal.code, "error_msg": refusal.message}
        if refusal.code.startswith("APIG"):
            content["request_id"] = uuid.uuid4().hex
    return Reply(refusal.status, json.dumps(content).encode())


def is_flink(path: str) -> bool:
    """Whether a path belongs to Flink jobs, whose error bodies may be arrays."""
    return FLINK_PATH.match(path) is not None


def in_array(reply: Reply) -> Reply:
    """The same error as the only element of an array."""
    return replace(reply, body=b"[" + reply.body + b"]")


def is_iam(path: str) -> bool:
    """Whether a path belongs to IAM, whose error bodies differ from DLI's."""
    return path.startswith(("/v3/auth/", "/v3/projects", "/v3.0/OS-CREDENTIAL/"))


def no_such_api() -> RefusedError:
    return RefusedError(404, "APIG.0101", "The API does not exist or has not been published in the environment.")


def phrase_of(status: int) -> str:
    """HTTP's reason phrase for a status; empty if it has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
