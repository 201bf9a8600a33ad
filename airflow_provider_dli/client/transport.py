"""
The connections of the HTTP client, which tell a connection that was never made from one that broke.

Imported when a session is made, for it imports the HTTP client.
"""

from __future__ import annotations

import re
from http.client import HTTPException
from ssl import SSLCertVerificationError
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import NewConnectionError


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


class _Connection(HTTPSConnection):
    def connect(self) -> None:
        try:
            super().connect()
        except SSLCertVerificationError:
            raise
        # Resets, ends, timeouts and alerts, and what a proxy answers to CONNECT. All that urllib3 itself raises here,
        # such as a name that is not known, is no OSError.
        except (OSError, HTTPException) as error:
            raise TlsConnectionError(self, error) from error


class _Pool(HTTPSConnectionPool):
    ConnectionCls = _Connection


def without_source(text: str) -> str:
    """Return an error's text without the line of OpenSSL's binding that it came from."""
    return re.sub(r"\(?_ssl\.c:\d+(\)|: )", "", text).strip("()'\" ")


_POOLS: dict[str, type[HTTPConnectionPool]] = {"http": HTTPConnectionPool, "https": _Pool}
