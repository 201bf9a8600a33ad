"""The connection of a client, which all copies of the client share."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from airflow_provider_dli import machine
from airflow_provider_dli.text import NAME_LIMIT, clean

if TYPE_CHECKING:
    from airflow_provider_dli.client.client import DliClient, Log
    from airflow_provider_dli.client.connection import DliConnection

# For how long an HTTP connection that has answered is trusted with the first request of a cancel, in seconds.
_WARM_FOR = 5.0


class Access:
    """
    The connection that a client and all its copies use: one that is read again reaches them all.

    :param read: Reads the connection.
    :param log: Where to say that it has changed.
    """

    def __init__(self, read: Callable[[], DliConnection], log: Log) -> None:
        self._read = read
        self._log = log
        self._connection: DliConnection | None = None
        self._introduced: DliConnection | None = None
        # What has just answered a cancel, and when.
        self._warm: deque[tuple[DliClient, float]] = deque()

    def connection(self) -> DliConnection:
        """
        Return the connection; read it, unless that was done.

        :raises DliValueError: A field is missing or contradicts another one.
        """
        if self._connection is None:
            self.use(self._read())
        return cast("DliConnection", self._connection)

    def use(self, connection: DliConnection) -> bool:
        """Use this connection from now on; return whether it is another than before."""
        was, self._connection = self._connection, connection
        if was is not None and connection != was:
            self._log.info("Connection %r has changed and is used from now on.", connection.conn_id)
        return connection != was

    def introduce(self, project_id: str) -> None:
        """
        Say in the log which DLI is called and as whom, unless that was said of this connection.

        :param project_id: Id of its project.
        """
        connection = self.connection()
        if connection == self._introduced:
            return
        self._introduced = connection
        region = f", region {clean(connection.region, NAME_LIMIT)}" if connection.region else ""
        console = f" Console: {connection.console_url}" if connection.console_url else ""
        who = clean(connection.who, NAME_LIMIT)
        values = (connection.endpoint, region, project_id, who, connection.conn_id, console)
        # A task whose supervisor was killed has no log any more. It still has to look for the job of an earlier try.
        with contextlib.suppress(OSError):
            self._log.info("Using DLI at %s%s, project %s, as %s of connection %r.%s", *values)

    def warm(self) -> DliClient | None:
        """Take a client whose HTTP connection has answered a moment ago; None when there is none. For any thread."""
        with contextlib.suppress(IndexError):
            while True:
                client, answered_at = self._warm.pop()
                if machine.monotonic() - answered_at < _WARM_FOR:
                    return client
        return None

    def keep_warm(self, client: DliClient) -> None:
        """Give back a client that has just had an answer."""
        self._warm.append((client, machine.monotonic()))

    def cool_down(self) -> None:
        """Close the connections that were kept."""
        self._warm.clear()

    def reread(self) -> bool:
        """
        Read the connection again, because its credentials are refused; return whether it has changed.

        A password may have been rotated, or temporary keys replaced. Never raises.
        """
        try:
            return self.use(self._read())
        except Exception as error:  # of another class in every Airflow; the refusal itself says enough
            conn_id = self._connection.conn_id if self._connection else ""
            self._log.warning("Connection %r could not be read again: %s", conn_id, error)
            return False
