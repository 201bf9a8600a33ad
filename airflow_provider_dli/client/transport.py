"""
The connections of the HTTP client: they tell a connection that was never made from one that broke, skip interim
answers, and end when the time of their call is over or another thread gives the call up.

Imported when a session is made, for it imports the HTTP client.
"""

from __future__ import annotations

import io
import re
from http.client import HTTPException, HTTPResponse, parse_headers
from ssl import SSLCertVerificationError
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError

from airflow_provider_dli.client.line import Line, current_line

# The most interim answers (HTTP 1xx) to one request.
_MAX_INTERIM = 20


class TlsConnectionError(NewConnectionError):
    """
    The server, or a proxy before it, was reached, but no TLS connection was made: nothing was sent.

    :param connection: The connection.
    :param error: What happened instead.
    """

    def __init__(self, connection: HTTPSConnection, error: BaseException) -> None:
        self.problem = without_source(str(error)) or type(error).__name__
        super().__init__(connection, self.problem)


class Transport(HTTPAdapter):
    """
    Sends requests, as :class:`requests.adapters.HTTPAdapter` does.

    Where that reports a fault of the handshake like one of an answer, this reports :class:`TlsConnectionError`, unless
    the certificate did not verify.
    """

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Return the pools of the connections through a proxy."""
        manager = super().proxy_manager_for(proxy, **options)
        # A SOCKS proxy has connections of its own. A fault of their handshake counts as a lost answer.
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager


class _Stream(io.RawIOBase):
    """What arrives on a socket, until the time of the call is over: each piece has the timeout of the socket."""

    def __init__(self, source: Any, line: Line) -> None:
        self._source = source
        self._line = line
        self._timeout = source.gettimeout()
        self._raw = source.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._line.left
        self._source.settimeout(left if self._timeout is None else min(left, self._timeout))
        found: int | None = self._raw.readinto(buffer)
        return found

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """An answer: its final one, after any interim ones such as 103 (Early Hints)."""

    def __init__(self, source: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(source, *arguments, **options)
        if (line := current_line.get()) is not None:
            line.use(source)
            self.fp.close()
            self.fp = io.BufferedReader(_Stream(source, line))

    # Of the standard library, which skips 100 only. Also read by it is what a proxy answers to CONNECT.
    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MAX_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            # After 101 comes another protocol, which nobody has asked for.
            if not 100 <= status < 200 or status == 101:
                return version, status, reason
            parse_headers(self.fp)
        raise HTTPException(f"more than {_MAX_INTERIM} interim answers")


class _PlainConnection(HTTPConnection):
    response_class = _Response

    def connect(self) -> None:
        super().connect()
        _use(self.sock)


class _Connection(HTTPSConnection):
    response_class = _Response

    def connect(self) -> None:
        try:
            super().connect()
        except SSLCertVerificationError:
            raise
        # Resets, ends, timeouts and alerts, and what a proxy answers to CONNECT. All that urllib3 itself raises here,
        # such as a name that is not known, is no OSError.
        except (OSError, HTTPException) as error:
            raise TlsConnectionError(self, error) from error
        _use(self.sock)


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _Pool(HTTPSConnectionPool):
    ConnectionCls = _Connection


def without_source(text: str) -> str:
    """Return an error's text without the line of OpenSSL's binding that it came from."""
    return re.sub(r"\(?_ssl\.c:\d+(\)|: )", "", text).strip("()'\" ")


def _use(connection: Any) -> None:
    if (line := current_line.get()) is not None:
        line.use(connection)


_POOLS: dict[str, type[HTTPConnectionPool]] = {"http": _PlainPool, "https": _Pool}
