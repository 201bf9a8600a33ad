"""What lies between a task and its local DLI: a host name, connections, TLS. All of it can be made to fail."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tls import Authority, Server, read_message

from airflow_provider_dli.local.handle import LocalDli

HOST = "dli.test"


class Certificates:
    """
    What the servers show of themselves, and what verifies it.

    :param folder: Where the files go.
    """

    def __init__(self, folder: Path) -> None:
        ours, unknown = folder / "ours", folder / "unknown"
        for each in (ours, unknown):
            each.mkdir()
        authority = Authority(ours)
        self.verify = authority.path
        self.good = authority.server_context(HOST)
        self.bad = {
            "another host": authority.server_context("elsewhere.test"),
            "unknown authority": Authority(unknown).server_context(HOST),
            "expired": authority.server_context(HOST, ends_in=timedelta(hours=-1)),
        }


class Wire:
    """
    A server behind TLS that passes on to a local DLI what it is asked.

    :param dli: The local DLI.
    :param certificates: What the server shows.
    """

    def __init__(self, dli: LocalDli, certificates: Certificates) -> None:
        self._dli, self._verify = dli, str(certificates.verify)
        self._unknown: Iterator[bool] = iter(())
        self._server = Server(certificates.good, self._pass_on, others=certificates.bad)
        self.port = self._server.port

    def connection(self, **extra: Any) -> dict[str, Any]:
        """The connection of the local DLI, by this way; that to its IAM stays as it is."""
        return {**self._dli.connection(verify=self._verify, **extra), "host": f"https://{HOST}:{self.port}"}

    @contextmanager
    def broken(self, fault: str, times: int | None, *, cut: bool) -> Iterator[None]:
        """
        Have new connections fail.

        :param fault: ``unknown`` (the host name is not known), ``refused``, or a fault of the server.
        :param times: How many of them; None for all.
        :param cut: Whether to end those that there are, too.
        """
        if fault == "unknown":
            self._unknown = itertools.repeat(True) if times is None else iter([True] * times)
        elif fault == "refused":
            self._server.close()
        else:
            self._server.meet(itertools.repeat(fault) if times is None else [fault] * times)
        if cut:
            self._server.cut()
        try:
            yield
        finally:
            self._unknown = iter(())
            self._server.meet(())
            if fault == "refused":
                self._server.listen()

    def look_up(self) -> None:
        """
        Look up the host name.

        :raises socket.gaierror: It is not known.
        """
        if next(self._unknown, False):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def close(self) -> None:
        self._server.close()

    def _pass_on(self, request: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", urlsplit(self._dli.url).port)) as dli:
            dli.sendall(request)
            return read_message(dli)


@contextmanager
def resolving(wires: Sequence[Wire]) -> Iterator[None]:
    """Have the host name lead to these servers, each known by its port."""
    look_up, by_port = socket.getaddrinfo, {wire.port: wire for wire in wires}

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **named: Any) -> Any:
        if host != HOST:
            return look_up(host, port, *arguments, **named)
        by_port[port].look_up()
        return look_up("127.0.0.1", port, *arguments, **named)

    socket.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        socket.getaddrinfo = look_up
