"""Faults on demand: rules that say which calls go wrong, and how each fault looks on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from airflow_provider_dli.local.dli.replies import Reply, phrase_of
from airflow_provider_dli.local.dli.settings import Seconds

FOREVER = 3600.0
#: Fields of answers that tell the state of a job.
STATES = ("status", "status_name", "state")

HeaderValue = Annotated[str, Field(pattern=r"^(?:[!-~](?:[ -~]*[!-~])?)?$", max_length=8000)]


class Exchange(Protocol):
    """A request that waits for its answer, and the connection that it came on."""

    async def work(self) -> Reply:
        """Let the service answer the request."""

    async def send(self, reply: Reply) -> None:
        """Answer with well-formed HTTP."""

    async def write(self, raw: bytes) -> bool:
        """
        Write bytes to the connection as they are.

        :returns: False once the client has gone.
        """

    async def hang_up(self, abruptly: bool = True) -> None:
        """Close the connection."""

    async def client_gone(self, seconds: float) -> bool:
        """Wait until the client closes the connection, ``seconds`` at most."""

    def revoke_token(self) -> None:
        """End the token that the request carries."""


class Fault(BaseModel):
    """
    A rule: the next ``times`` calls named ``call`` go wrong in this way. Newer rules come last.

    Which fields matter depends on ``fault``; see :data:`KINDS`.
    """

    model_config = ConfigDict(extra="forbid")

    call: str = Field("*", description="Name of a call as in the request log, or * for every call.")
    matching: str = Field("", description="Piece of the path or of the body, such as a job id; empty: every request.")
    fault: str
    times: int | None = Field(1, ge=1, description="Number of calls; null for all that follow.")
    skip: int = Field(0, ge=0, description="Calls that go well before the first one that does not.")
    work_done: bool = Field(False, description="Let the service do the work first; only its answer is lost.")
    seconds: Seconds | None = Field(None, description="Length of a latency, a hang, a pause in a drip.")
    status: int = Field(500, ge=200, le=599)
    error_code: str | None = None
    error_msg: str | None = None
    retry_after: HeaderValue | int | None = Field(None, description="Value of the header Retry-After.")
    body: str | None = Field(None, description="Raw body instead of DLI's error body.")
    size: int = Field(50_000_000, ge=0, le=10_000_000_000, description="Bytes of a huge body, or of an unpacked bomb.")
    field: str = Field("*", description="Field of the answer, at any depth, that gets another value; * for all.")
    value: Any = Field(None, description="The value that it gets.")
    location: HeaderValue = "http://127.0.0.1:9/elsewhere"
    state: str = Field("PONDERING", description="What unknown_state writes into status fields.")
    message: str = "The queue is not available."

    @model_validator(mode="after")
    def _known(self) -> Fault:
        if self.fault not in KINDS:
            raise ValueError(f"fault must be one of {', '.join(sorted(KINDS))}")
        return self

    def concerns(self, call: str, text: str = "") -> bool:
        return self.call in ("*", call) and self.matching in text


class Faults:
    """The rules in force, oldest first. Each call meets at most one of them."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []

    def add(self, rule: Fault) -> None:
        self._rules.append(rule)

    def all(self) -> list[Fault]:
        return list(self._rules)

    def clear(self) -> None:
        self._rules = []

    def read_requests(self, call: str) -> bool:
        """Whether a rule for this call depends on what the request says."""
        return any(rule.matching and rule.call in ("*", call) for rule in self._rules)

    def take(self, call: str, text: str = "") -> Fault | None:
        """
        The fault that this call meets, counted down.

        :param text: Path and body of the request.
        """
        for rule in self._rules:
            if not rule.concerns(call, text):
                continue
            if rule.skip:
                rule.skip -= 1
                return None
            if rule.times is not None:
                rule.times -= 1
                if rule.times == 0:
                    self._rules.remove(rule)
            return rule
        return None


async def play_fault(rule: Fault, exchange: Exchange) -> None:
    """Answer, or do not answer, as the rule says."""
    if rule.work_done:
        await exchange.work()
    await KINDS[rule.fault](rule, exchange)


async def _latency(rule: Fault, exchange: Exchange) -> None:
    await asyncio.sleep(1 if rule.seconds is None else rule.seconds)
    await exchange.send(await exchange.work())


async def _status(rule: Fault, exchange: Exchange) -> None:
    code = rule.error_code or {401: "APIG.0307", 403: "APIG.0302", 404: "APIG.0101", 429: "APIG.0308"}.get(
        rule.status, "DLI.0999" if rule.status < 502 else "APIG.0601"
    )
    text = rule.error_msg or phrase_of(rule.status)
    body = json.dumps({"error_code": code, "error_msg": text}) if rule.body is None else rule.body
    headers = [] if rule.retry_after is None else [("retry-after", str(rule.retry_after))]
    kind = "application/json" if body[:1] in ("{", "[", "") else "text/html"
    await exchange.send(Reply(rule.status, body.encode(), headers, kind))


async def _drop_before(rule: Fault, exchange: Exchange) -> None:
    await exchange.hang_up()


async def _drop_after(rule: Fault, exchange: Exchange) -> None:
    await exchange.work()
    await exchange.hang_up()


async def _hang(rule: Fault, exchange: Exchange) -> None:
    await exchange.client_gone(FOREVER if rule.seconds is None else rule.seconds)
    await exchange.hang_up()


async def _hang_after(rule: Fault, exchange: Exchange) -> None:
    await exchange.work()
    await _hang(rule, exchange)


async def _drip(rule: Fault, exchange: Exchange) -> None:
    reply = await exchange.work()
    pause = 1 if rule.seconds is None else rule.seconds
    for byte in reply.to_bytes():
        if not await exchange.write(bytes([byte])) or await exchange.client_gone(pause):
            break
    await exchange.hang_up(abruptly=False)


async def _truncate(rule: Fault, exchange: Exchange) -> None:
    reply = await exchange.work()
    whole = reply.to_bytes()
    await exchange.write(whole[: len(whole) - (len(reply.body) + 1) // 2])
    await exchange.hang_up(abruptly=False)


async def _empty(rule: Fault, exchange: Exchange) -> None:
    await exchange.send(Reply(200))


async def _html(rule: Fault, exchange: Exchange) -> None:
    page = "<html><head><title>Sign in</title></head><body>Please sign in to the proxy.</body></html>"
    await exchange.send(Reply(200, page.encode(), content_type="text/html"))


async def _huge(rule: Fault, exchange: Exchange) -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {rule.size}\r\n\r\n"
    await exchange.write(head.encode())
    start, end = b'{"is_success": true, "message": "', b'"}'
    await exchange.write(start)
    left = rule.size - len(start) - len(end)
    while left > 0 and await exchange.write(b"x" * min(left, 1 << 20)):
        left -= 1 << 20
    await exchange.write(end)
    await exchange.hang_up(abruptly=False)


async def _bomb(rule: Fault, exchange: Exchange) -> None:
    packed = await asyncio.to_thread(_packed, rule.size)
    await exchange.send(Reply(200, packed, headers=[("content-encoding", "gzip")]))


def _packed(size: int) -> bytes:
    """So many bytes of JSON, or a few more, in a few KB for each GB."""
    piece = b" " * (1 << 24)
    # What is packed in pieces is unpacked as one text.
    return gzip.compress(b"{") + gzip.compress(piece) * (size // len(piece) + 1) + gzip.compress(b"}")


async def _redirect(rule: Fault, exchange: Exchange) -> None:
    await exchange.send(Reply(302, headers=[("location", rule.location)], content_type=None))


async def _expired_token(rule: Fault, exchange: Exchange) -> None:
    exchange.revoke_token()
    await exchange.send(await exchange.work())


async def _unknown_state(rule: Fault, exchange: Exchange) -> None:
    reply = await exchange.work()
    with contextlib.suppress(ValueError):
        reply.body = json.dumps(_with_state(json.loads(reply.body), rule.state)).encode()
    await exchange.send(reply)


def _with_state(content: Any, state: str) -> Any:
    """The same answer with another state of its job, or of each of its jobs."""
    if isinstance(content, list):
        return [_with_state(part, state) for part in content]
    if isinstance(content, dict):
        return {name: state if name in STATES else _with_state(part, state) for name, part in content.items()}
    return content


async def _field(rule: Fault, exchange: Exchange) -> None:
    reply = await exchange.work()
    with contextlib.suppress(ValueError):
        reply.body = json.dumps(_with_value(json.loads(reply.body), rule.field, rule.value)).encode()
    await exchange.send(reply)


def _with_value(content: Any, field: str, value: Any) -> Any:
    """The same answer with another value in each field of this name."""
    if isinstance(content, list):
        return [_with_value(part, field, value) for part in content]
    if isinstance(content, dict):
        return {
            name: value if field in ("*", name) else _with_value(part, field, value) for name, part in content.items()
        }
    return content


async def _soft_failure(rule: Fault, exchange: Exchange) -> None:
    await exchange.send(Reply(200, json.dumps({"is_success": False, "message": rule.message}).encode()))


KINDS: dict[str, Callable[[Fault, Exchange], Awaitable[None]]] = {
    "latency": _latency,  # answered `seconds` later (1)
    "status": _status,  # `status` with `error_code`, `error_msg`, `retry_after`, or a raw `body`
    "drop_before": _drop_before,  # connection closed without an answer, work not done
    "drop_after": _drop_after,  # work done, connection closed without an answer
    "hang": _hang,  # never answered, closed after `seconds` (an hour)
    "hang_after": _hang_after,  # work done, then like hang
    "drip": _drip,  # one byte every `seconds` (1), headers included
    "truncate": _truncate,  # half of the body is missing
    "empty": _empty,  # 200 without a body
    "html": _html,  # 200 with a page, as of a proxy
    "huge": _huge,  # 200 with `size` bytes of JSON (50 MB)
    "bomb": _bomb,  # 200 with a few KB that unpack to `size` bytes of JSON
    "redirect": _redirect,  # 302 to `location`
    "expired_token": _expired_token,  # the token of the call is revoked first
    "unknown_state": _unknown_state,  # `state` in every status field
    "field": _field,  # `value` in each field named `field`
    "soft_failure": _soft_failure,  # 200 with is_success false and `message`, work not done
}
