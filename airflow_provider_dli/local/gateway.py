"""The gateway in front of the service: request log, limits, authentication, and faults on demand.

A plain ASGI application around the service, because a fault has to reach down to the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import re
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

from airflow_provider_dli.local.faults import Faults, Reply, phrase_of, play_fault
from airflow_provider_dli.local.security import AccessKeys, RefusedError, Request, Tokens

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
ASGIApp = Callable[[MutableMapping[str, Any], Callable[[], Any], Callable[[Message], Any]], Any]

# Bytes. The limits of body and URI are DLI's; nobody says how much is too much for its headers.
MAX_BODY = 12 * 1024 * 1024
MAX_URI = 32 * 1024
MAX_HEADERS = 64 * 1024
MAX_HEADER_COUNT = 100
ADMIN = "/_local/"
JOB = r"/jobs/(?P<job_id>[^/]+)"
ROUTES = [
    (call, method, re.compile(path))
    for call, method, path in [
        ("status", "GET", rf"/v1\.0/(?P<project>[^/]+){JOB}/status"),
        ("submit", "POST", r"/v1\.0/(?P<project>[^/]+)/jobs/submit-job"),
        ("cancel", "DELETE", rf"/v1\.0/(?P<project>[^/]+){JOB}"),
        ("list", "GET", r"/v1\.0/(?P<project>[^/]+)/jobs"),
        ("progress", "GET", rf"/v1/(?P<project>[^/]+){JOB}/progress"),
        ("preview", "GET", rf"/v1\.0/(?P<project>[^/]+){JOB}/preview"),
        ("detail", "GET", rf"/v1\.0/(?P<project>[^/]+){JOB}/detail"),
        ("export", "POST", rf"/v1\.0/(?P<project>[^/]+){JOB}/export-result"),
        ("check", "POST", r"/v1\.0/(?P<project>[^/]+)/jobs/check-sql"),
        ("queues", "GET", r"/v1\.0/(?P<project>[^/]+)/queues"),
        ("queue", "GET", r"/v1\.0/(?P<project>[^/]+)/queues/(?P<queue>[^/]+)"),
        ("token", "POST", r"/v3/auth/tokens"),
        ("projects", "GET", r"/v3/projects"),
    ]
]
IAM_CALLS = ("token", "projects")


class Transport(Protocol):
    """What is used of an asyncio transport."""

    def write(self, data: bytes) -> None: ...
    def is_closing(self) -> bool: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...


@dataclass
class LoggedRequest:
    """A line of the request log. :param status: None while, or when, there is no whole answer."""

    seq: int
    at: float
    method: str
    path: str
    query: str
    call: str
    connection: str
    job_id: str | None = None
    status: int | None = None
    answered_at: float | None = None
    fault: str | None = None


class RequestLog:
    """The last requests, oldest first."""

    def __init__(self, limit: int = 20_000) -> None:
        self._seq = 0
        self._lines: deque[LoggedRequest] = deque(maxlen=limit)

    def open(self, **what: Any) -> LoggedRequest:
        self._seq += 1
        line = LoggedRequest(seq=self._seq, at=time.time(), **what)
        self._lines.append(line)
        return line

    def since(self, seq: int) -> list[dict[str, Any]]:
        return [asdict(line) for line in self._lines if line.seq > seq]

    def clear(self) -> None:
        """Forget the lines; the numbers go on."""
        self._lines.clear()


class Gateway:
    """ASGI application. :param transport_of: finds the connection of a client address."""

    def __init__(
        self,
        service: ASGIApp,
        *,
        project_id: str,
        tokens: Tokens,
        keys: AccessKeys,
        faults: Faults,
        log: RequestLog,
        transport_of: Callable[[tuple[str, int]], Transport],
    ) -> None:
        self.service, self.project_id, self.tokens, self.keys = service, project_id, tokens, keys
        self.faults, self.log, self.transport_of = faults, log, transport_of

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.service(scope, receive, send)
        elif scope["path"].startswith(ADMIN):
            await self._administer(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _administer(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            _check_admin(scope)
            _check_head(scope)
            body = await _read_body(receive)
        except RefusedError as refusal:
            await _send(send, error_reply(refusal, "admin"))
        else:
            await self.service(scope, _replay(body), send)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        call, names = _call_of(scope)
        line = self.log.open(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            call=call,
            connection="{}:{}".format(*scope["client"]),
            job_id=names.get("job_id"),
        )
        exchange = HttpExchange(self, scope, receive, send, call, names.get("project"), line)
        rule = self.faults.take(call, await exchange.text() if self.faults.read_requests(call) else "")
        line.fault = rule.fault if rule else None
        if rule is None:
            await exchange.send(await exchange.work())
        else:
            await play_fault(rule, exchange)


class HttpExchange:
    """One request through the gateway, see :class:`airflow_provider_dli.local.faults.Exchange`."""

    def __init__(
        self,
        gateway: Gateway,
        scope: Any,
        receive: Any,
        send: Any,
        call: str,
        project_id: str | None,
        line: LoggedRequest,
    ) -> None:
        self._gateway, self._scope, self._receive, self._send = gateway, scope, receive, send
        self._call, self._project_id, self._line = call, project_id, line
        self._headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        # Asked for now: once the client has gone nobody knows its connection any more.
        self._transport = gateway.transport_of(tuple(scope["client"]))
        self._reply: Reply | None = None
        self._body: bytes | RefusedError | None = None

    async def text(self) -> str:
        """Path and body, for rules that concern certain requests only."""
        body = b""
        with contextlib.suppress(RefusedError):
            body = await self._read_body()
        return f"{self._scope['path']}\n{body.decode(errors='replace')}"

    async def work(self) -> Reply:
        if self._reply is None:
            try:
                self._reply = await self._pass_on(await self._admit())
            except RefusedError as refusal:
                self._reply = error_reply(refusal, self._call)
            self._line.job_id = self._line.job_id or _job_id(self._reply, self._call)
        return self._reply

    async def send(self, reply: Reply) -> None:
        self._line.status, self._line.answered_at = reply.status, time.time()
        await _send(self._send, reply)

    async def write(self, raw: bytes) -> bool:
        transport = self._transport
        transport.write(raw)
        # The transport tells only its protocol when it has room again, and that is uvicorn's.
        while transport.get_write_buffer_size() > 1 << 20 and not transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return not transport.is_closing()

    async def hang_up(self, abruptly: bool = True) -> None:
        if abruptly:
            self._transport.abort()
        else:
            self._transport.close()
        await self.client_gone(5)

    async def client_gone(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return False
        return True

    def void_token(self) -> None:
        self._gateway.tokens.void(self._headers.get("x-auth-token", ""))

    async def _admit(self) -> bytes:
        """Body of a request that may pass. :raises RefusedError: for every other one."""
        _check_head(self._scope)
        body = await self._read_body()
        if self._call == "unknown":
            text = "The API does not exist or has not been published in the environment."
            raise RefusedError(404, "APIG.0101", text)
        if self._call != "token":
            self._authenticate(body)
        if self._scope["method"] == "POST" and not _is_json(self._headers.get("content-type", "")):
            # The contract knows 415 for submit only.
            status = 415 if self._call == "submit" else 400
            raise RefusedError(status, "DLI.0001", "unsupported media Type: Content-Type must be application/json")
        return body

    async def _read_body(self) -> bytes:
        """Read once, however often it is asked for. :raises RefusedError: 413, again and again."""
        if self._body is None:
            try:
                self._body = await _read_body(self._receive)
            except RefusedError as refusal:
                self._body = refusal
        if isinstance(self._body, RefusedError):
            raise self._body
        return self._body

    def _authenticate(self, body: bytes) -> None:
        token = self._headers.get("x-auth-token")
        if token is not None:
            allowed = self._gateway.tokens.check(token).project_id
        elif "authorization" in self._headers:
            self._gateway.keys.check(self._as_signed(body))
            allowed = self._gateway.project_id
        else:
            text = "X-Auth-Token is not defined in request. It is mandatory. Please define and send the request."
            raise RefusedError(401, "DLI.0013", text)
        wanted = {self._project_id, self._headers.get("x-project-id") or None} - {None}
        if self._call not in IAM_CALLS and wanted != {allowed}:
            raise RefusedError(403, "APIG.0310", "The project is not the one that the credentials are for.")

    def _as_signed(self, body: bytes) -> Request:
        scope = self._scope
        return Request(scope["method"], scope["raw_path"], scope["query_string"], self._headers, body)

    async def _pass_on(self, body: bytes) -> Reply:
        """Hand the request to the service and collect what it answers."""
        reply = Reply(500, content_type=None)

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                reply.headers = [
                    (name.decode("latin-1"), value.decode("latin-1"))
                    for name, value in message["headers"]
                    if name != b"content-length"
                ]
            else:
                reply.body += message.get("body", b"")

        try:
            await self._gateway.service(self._scope, _replay(body), collect)
        except Exception:  # the edge of a call: whatever breaks breaks this call only, and its 500 is in the reply
            log.exception("%s %s", self._scope["method"], self._scope["path"])
        return reply


def error_reply(refusal: RefusedError, call: str) -> Reply:
    """The body that DLI, its gateway or IAM gives to a refusal."""
    if call in IAM_CALLS and refusal.status != 400:
        text = {"code": refusal.status, "message": refusal.message, "title": phrase_of(refusal.status)}
        content: dict[str, Any] = {"error": text}
    else:
        content = {"error_code": refusal.code, "error_msg": refusal.message}
        if refusal.code.startswith("APIG"):
            content["request_id"] = uuid.uuid4().hex
    return Reply(refusal.status, json.dumps(content).encode())


def _call_of(scope: Any) -> tuple[str, dict[str, str]]:
    for call, method, path in ROUTES:
        if method == scope["method"] and (match := path.fullmatch(scope["path"])):
            return call, match.groupdict()
    return "unknown", {}


def _job_id(reply: Reply, call: str) -> str | None:
    """Id of the job that this answer is the first to name."""
    if call not in ("submit", "export") or reply.status != 200:
        return None
    return cast(str | None, json.loads(reply.body).get("job_id"))


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _check_admin(scope: Any) -> None:
    """:raises RefusedError: 403 unless a program on this machine, or a page of this server itself, is calling."""
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get(b"host", "")
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    if not _is_loopback(scope["client"][0]):
        raise _not_for_you("this machine only")
    # Somebody else's name may have been pointed at us.
    if name != "localhost" and not _is_loopback(name.strip("[]")):
        raise _not_for_you(f"this machine only, not through the name {name[:100]!r}")
    # Browsers say where a call comes from; "none" is the user, at the address bar. A link that the user follows in
    # another page, such as Airflow's, may show something: it changes nothing, and the other page cannot read it.
    origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site", "none")
    follows_a_link = (
        scope["method"] == "GET"
        and headers.get(b"sec-fetch-mode") == "navigate"
        and headers.get(b"sec-fetch-dest") == "document"
    )
    if site not in ("none", "same-origin") and not follows_a_link:
        raise _not_for_you(f"programs, not from web pages (Sec-Fetch-Site: {site[:100]})")
    if origin not in (None, f"http://{host}"):
        raise _not_for_you(f"programs, not from web pages (Origin: {origin[:100]})")


def _not_for_you(callers: str) -> RefusedError:
    return RefusedError(403, "APIG.0302", f"Admin calls are taken from {callers}.")


def _check_head(scope: Any) -> None:
    """:raises RefusedError: for a URI, headers or an announced body beyond the limits."""
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_URI:
        raise RefusedError(414, "APIG.0201", f"The request URI is longer than {MAX_URI} bytes.")
    headers = scope["headers"]
    if len(headers) > MAX_HEADER_COUNT or sum(len(name) + len(value) for name, value in headers) > MAX_HEADERS:
        raise headers_too_large()
    # One digit more than the limit has is too many, however large the number is.
    announced = dict(headers).get(b"content-length", b"0")
    if len(announced) > len(str(MAX_BODY)) or int(announced) > MAX_BODY:
        raise _body_too_large()


def headers_too_large() -> RefusedError:
    """494, a status that only gateways like DLI's know."""
    text = f"The request has more than {MAX_HEADER_COUNT} headers, or more than {MAX_HEADERS} bytes of them."
    return RefusedError(494, "APIG.0201", text)


def _body_too_large() -> RefusedError:
    return RefusedError(413, "APIG.0201", f"The request body is larger than {MAX_BODY} bytes.")


async def _read_body(receive: Receive) -> bytes:
    """:raises RefusedError: 413, as soon as more has come than is allowed."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            raise _body_too_large()
    return bytes(body)


def _replay(body: bytes) -> Receive:
    """A body that was read already, for whoever reads it next."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


async def _send(send: Any, reply: Reply) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.all_headers()]
    headers.append((b"x-request-id", uuid.uuid4().hex.encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
