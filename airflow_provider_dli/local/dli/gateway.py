"""
The gateway in front of the service: request log, limits, authentication, and faults on demand.

A plain ASGI application around the service, because a fault has to reach down to the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Protocol

from airflow_provider_dli.local.dli.account.signature import AccessKeys, Request
from airflow_provider_dli.local.dli.account.tokens import Tokens
from airflow_provider_dli.local.dli.actions import Action
from airflow_provider_dli.local.dli.admin.callers import check_caller, check_local_program
from airflow_provider_dli.local.dli.admin.views import LocalRequest
from airflow_provider_dli.local.dli.faults import Faults, play_fault
from airflow_provider_dli.local.dli.limits import check_head, read_body
from airflow_provider_dli.local.dli.replies import RefusedError, Reply, error_reply, is_iam, no_such_api
from airflow_provider_dli.local.dli.request_log import RequestLog
from airflow_provider_dli.local.dli.routes import Route, find

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
ASGIApp = Callable[[MutableMapping[str, Any], Callable[[], Any], Callable[[Message], Any]], Any]

ADMIN = "/_local/"
METADATA = "/openstack/latest/securitykey"


class Transport(Protocol):
    """What is used of an asyncio transport."""

    def write(self, data: bytes) -> None: ...
    def is_closing(self) -> bool: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def get_write_buffer_size(self) -> int: ...


class Gateway:
    """
    ASGI application.

    :param may: Whether the user has the right to an action.
    :param transport_of: Finds the connection of a client address.
    :param hosts: Names by which it may be called, beside those of this machine; lower case.
    :param open_keys: Whether other machines, too, get the keys that the metadata service hands out without credentials.
    """

    def __init__(
        self,
        service: ASGIApp,
        *,
        project_id: str,
        tokens: Tokens,
        keys: AccessKeys,
        may: Callable[[Action], bool],
        faults: Faults,
        log: RequestLog,
        transport_of: Callable[[tuple[str, int]], Transport],
        hosts: Collection[str] = (),
        open_keys: bool = False,
    ) -> None:
        self.service, self.project_id, self.tokens, self.keys = service, project_id, tokens, keys
        self.may, self.faults, self.log, self.transport_of = may, faults, log, transport_of
        self._hosts, self._open_keys = hosts, open_keys

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.service(scope, receive, send)
            return
        try:
            check_caller(scope, self._hosts)
            if scope["path"] == METADATA and not self._open_keys:
                check_local_program(scope, "The metadata service")
        except RefusedError as refusal:
            await _send(send, error_reply(refusal, is_iam(scope["path"])))
            return
        if scope["path"].startswith(ADMIN):
            await self._administer(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _administer(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            check_local_program(scope, "The admin API")
            check_head(scope)
            body = await read_body(receive)
        except RefusedError as refusal:
            await _send(send, error_reply(refusal))
        else:
            await self.service(scope, _replay(body), send)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        route, names = find(scope["method"], scope["path"])
        call = route.name if route else "unknown"
        line = self.log.open(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            call=call,
            connection="{}:{}".format(*scope["client"]),
            job_id=names.get("job_id") or names.get("batch_id"),
        )
        exchange = HttpExchange(self, scope, receive, send, route, names.get("project_id"), line)
        rule = self.faults.take(call, await exchange.text() if self.faults.read_requests(call) else "")
        line.fault = rule.fault if rule else None
        if rule is None:
            await exchange.send(await exchange.work())
        else:
            await play_fault(rule, exchange)


class HttpExchange:
    """One request through the gateway, see :class:`airflow_provider_dli.local.dli.faults.Exchange`."""

    def __init__(
        self,
        gateway: Gateway,
        scope: Any,
        receive: Any,
        send: Any,
        route: Route | None,
        project_id: str | None,
        line: LocalRequest,
    ) -> None:
        self._gateway, self._scope, self._receive, self._send = gateway, scope, receive, send
        self._route, self._project_id, self._line = route, project_id, line
        self._of_iam = route is not None and is_iam(route.path)
        self._headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        # Looked up now: once the client has gone, its connection is no longer known.
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
                self._reply = error_reply(refusal, self._of_iam)
            if self._route and self._route.new_job and self._reply.status == 200:
                self._line.job_id = _job_id(self._reply.body, self._route.new_job)
        return self._reply

    async def send(self, reply: Reply) -> None:
        self._line.status, self._line.answered_at = reply.status, time.time()
        await _send(self._send, reply)

    async def write(self, raw: bytes) -> bool:
        transport = self._transport
        transport.write(raw)
        # Only the protocol, which is uvicorn's, is told when the transport has room again.
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

    def revoke_token(self) -> None:
        self._gateway.tokens.revoke(self._headers.get("x-auth-token", ""))

    async def _admit(self) -> bytes:
        """
        Body of a request that may pass.

        :raises RefusedError: for every other one.
        """
        check_head(self._scope)
        body = await self._read_body()
        if self._route is None:
            raise no_such_api()
        if self._route.needs_credentials:
            self._authenticate(body)
        if self._route.action is not None and not self._gateway.may(self._route.action):
            raise RefusedError(403, "APIG.0302", "The IAM user is not authorized to access the API.")
        if self._scope["method"] == "POST" and not _is_json(self._headers.get("content-type", "")):
            text = "unsupported media Type: Content-Type must be application/json"
            raise RefusedError(self._route.wrong_content_type, "DLI.0001", text)
        return body

    async def _read_body(self) -> bytes:
        """
        Read once, however often it is asked for.

        :raises RefusedError: 413, again and again.
        """
        if self._body is None:
            try:
                self._body = await read_body(self._receive)
            except RefusedError as refusal:
                self._body = refusal
        if isinstance(self._body, RefusedError):
            raise self._body
        # At once: a fault may keep the request from its answer.
        if self._route and self._route.job_ids:
            self._line.job_id = _job_id(self._body, self._route.job_ids)
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
        if not self._of_iam and wanted != {allowed}:
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
        except Exception:  # the edge of a call: the reply is a 500, and the server lives on
            log.exception("%s %s", self._scope["method"], self._scope["path"])
        return reply


def _job_id(body: bytes, field: str) -> str | None:
    """
    The job, or the first of the jobs, that a field names.

    :param field: ``a.b`` is field b inside of a.
    """
    try:
        found = json.loads(body)
        for name in field.split("."):
            found = found[name]
        found = found[0] if isinstance(found, list) else found
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return str(found) if isinstance(found, int | str) else None


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _replay(body: bytes) -> Receive:
    """Deliver a body once more that was read already."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _send(send: Any, reply: Reply) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.all_headers()]
    headers.append((b"x-request-id", uuid.uuid4().hex.encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
