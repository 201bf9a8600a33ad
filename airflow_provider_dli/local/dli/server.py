"""The server process: sockets, start, signals, end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

import h11
import uvicorn
from pydantic import ValidationError
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_provider_dli.local.dli.account.identity import Identity
from airflow_provider_dli.local.dli.admin.callers import is_loopback_only
from airflow_provider_dli.local.dli.app import create_app
from airflow_provider_dli.local.dli.gateway import Gateway, Transport
from airflow_provider_dli.local.dli.limits import MAX_BODY, MAX_HEADERS, MAX_URI, headers_too_large
from airflow_provider_dli.local.dli.replies import RefusedError, error_reply
from airflow_provider_dli.local.dli.service import Service
from airflow_provider_dli.local.dli.settings import Settings

# Longer than most clients pause between two calls, so that they keep their connection.
KEEP_ALIVE = 75
# Room for a request that the gateway refuses with DLI's own error; a larger one is not even read.
MAX_HEAD = 2 * (MAX_URI + MAX_HEADERS)


def serve(
    identity: Identity,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    obs: Path | None = None,
    settings: dict[str, Any] | None = None,
    until_stdin_closes: bool = False,
    allow_hosts: Sequence[str] = (),
    allow_published_keys: bool = False,
) -> int:
    """
    Serve until a signal, or until standard input ends.

    :param allow_hosts: Names by which it may be called, beside those of the loopback interface, ``host``, and the
        addresses of the machine.
    :param allow_published_keys: Whether other machines may use the built-in password and secret key.
    :returns: The exit code.
    """
    try:
        chosen = Settings(**(settings or {}))
        listener = _listen(host, port)
    except ValidationError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"cannot listen on {host}, port {port}: {error.strerror}")
    if not is_loopback_only(listener.getsockname()[0]):
        danger = (
            f"on {host or 'all addresses'}, it runs programs for everyone in the network who has its password or keys"
        )
        if identity.is_published and not allow_published_keys:
            listener.close()
            return _refuse(
                f"{danger}, and the built-in ones are published. Set your own --password and --secret-key (or "
                "DLI_LOCAL_PASSWORD and DLI_LOCAL_SECRET_KEY), or accept that with --allow-published-keys."
            )
        print(f"dli-local: Warning: {danger}.", file=sys.stderr)
    _prepare_interpreter()
    hosts = {each.lower() for each in (host, *allow_hosts)} - {""}
    server = LocalServer(Service(identity, chosen, obs), listener, hosts, open_keys=allow_published_keys)
    if until_stdin_closes:
        threading.Thread(target=server.stop_at_end_of_stdin, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return 0


def _prepare_interpreter() -> None:
    """Settings of the whole process."""
    # Threads that translate long statements give way to requests 10 times sooner than by default.
    sys.setswitchinterval(0.0005)
    # Room for statements that are nested 50 deep, which takes sqlglot over 20 calls a level.
    sys.setrecursionlimit(2000)
    # A closed terminal ends the server in order; under nohup it does not end it.
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


def _refuse(reason: str) -> int:
    print(f"dli-local: {reason}", file=sys.stderr)
    return 2


class LocalServer(uvicorn.Server):
    """A uvicorn server that prints its address and knows its connections."""

    def __init__(
        self, service: Service, listener: socket.socket, hosts: Collection[str] = (), *, open_keys: bool = False
    ) -> None:
        self._service, self._listener = service, listener
        self._hosts, self._open_keys = hosts, open_keys
        self._connections: dict[tuple[str, int], Transport] = {}
        self._restarting = asyncio.Lock()
        super().__init__(
            uvicorn.Config(
                self._application(),
                # It limits what it buffers of a request. By default, uvicorn takes httptools where that is installed.
                http=self._protocol(),
                h11_max_incomplete_event_size=MAX_HEAD,
                # A caller's address is that of its connection, whatever its headers say.
                proxy_headers=False,
                ws="none",
                lifespan="on",
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=1,
                backlog=2048,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        host, port = self._listener.getsockname()[:2]
        print(f"Local DLI listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        # Only now: loading DuckDB and sqlglot takes as long as everything before.
        threading.Thread(target=self._service.warm_up, daemon=True).start()

    async def restart(self, down_for: float, caller: tuple[str, int]) -> None:
        """
        Cut all connections but the caller's, refuse new ones for so many seconds, and forget all tokens.

        The jobs run on, as DLI's do: what restarts in a cloud is the API in front of them.
        """
        async with self._restarting:
            host, port = self._listener.getsockname()[:2]
            for server in self.servers:
                server.close()
            for address, transport in list(self._connections.items()):
                if address != caller:
                    transport.abort()
            self._service.tokens.revoke_all()
            await asyncio.sleep(down_for)
            self._listener = _listen(host, port)
            loop = asyncio.get_running_loop()
            self.servers = [await loop.create_server(self._connection, sock=self._listener)]

    def _connection(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def stop_at_end_of_stdin(self) -> None:
        """Blocks; to be run in a thread."""
        with contextlib.suppress(OSError, ValueError):
            while os.read(0, 4096):
                pass
        self.should_exit = True

    def _application(self) -> Gateway:
        app = create_app(self._service, self.restart)
        app.router.lifespan_context = self._lifespan
        return Gateway(
            app,
            project_id=self._service.identity.project_id,
            tokens=self._service.tokens,
            keys=self._service.keys,
            may=self._service.may,
            faults=self._service.faults,
            log=self._service.log,
            transport_of=self._connections.__getitem__,
            hosts=self._hosts,
            open_keys=self._open_keys,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self._service.close()

    def _protocol(self) -> type[asyncio.Protocol]:
        connections = self._connections

        class KnownConnection(H11Protocol):
            """Keeps the transport, which a fault needs to break the connection, and limits what comes in."""

            _unread = 0

            def connection_made(self, transport: Any) -> None:
                self._address = tuple(transport.get_extra_info("peername")[:2])
                connections[self._address] = transport
                super().connection_made(transport)

            def connection_lost(self, error: Exception | None) -> None:
                connections.pop(self._address, None)
                super().connection_lost(error)

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                # A client may finish what it was sending before it reads that it was refused, but not for ever.
                answered = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
                self._unread = self._unread + len(data) if answered else 0
                if self._unread > MAX_BODY:
                    self.transport.abort()

            def send_400_response(self, msg: str) -> None:
                """Answer a request that is not HTTP, or too large to be read, and close the connection."""
                if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    too_large = len(self.conn.trailing_data[0]) > MAX_HEAD
                    refusal = headers_too_large() if too_large else RefusedError(400, "APIG.0201", msg)
                    reply = error_reply(refusal)
                    reply.headers.append(("connection", "close"))
                    self.transport.write(reply.to_bytes())
                self.transport.close()

        return KnownConnection


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(2048)
    return listener
