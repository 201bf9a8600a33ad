"""
The connection of a client, which all copies of the client share: each request borrows it, with its version.

Many requests are under way when a key is rotated, and each of them is refused. So a refusal names the version that was
refused: who was refused with an older one takes the newer one, and only the newest one is asked for again.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_dli import machine
from airflow_provider_dli.text import NAME_LIMIT, clean

if TYPE_CHECKING:
    from airflow_provider_dli.client.client import DliClient, Log
    from airflow_provider_dli.client.connection import DliConnection

# For how long an HTTP connection that has answered is trusted with the first request of a cancel, in seconds.
_WARM_FOR = 5.0


class Lease(NamedTuple):
    """
    A connection, as one request uses it.

    :param version: Grows with each change of the connection, from 1 on.
    :param connection: The connection.
    """

    version: int
    connection: DliConnection


class Access:
    """
    The connection that a client and all its copies use: one that is read again reaches them all.

    :param read: Reads the connection.
    :param log: Where to say that it has changed.
    """

    def __init__(self, read: Callable[[], DliConnection], log: Log) -> None:
        self._read = read
        self._log = log
        self._lease: Lease | None = None
        # Reads are numbered: one that began earlier may end later, and must not bring the old connection back.
        self._reads = itertools.count(1)
        self._last_read = 0
        self._introduced: DliConnection | None = None
        #: What is said only once.
        self.said: set[str] = set()
        # What has just answered a cancel, and when.
        self._warm: deque[tuple[DliClient, float]] = deque()

    @property
    def version(self) -> int:
        """The version that is used now; 0 before the connection was read."""
        return self._lease.version if self._lease else 0

    def lease(self) -> Lease:
        """
        Return the connection with its version; read it, unless that was done.

        :raises DliValueError: A field is missing or contradicts another one.
        """
        if self._lease is not None:
            return self._lease
        read = self.begin_read()
        return self.use(self._read(), read)

    def connection(self) -> DliConnection:
        """
        Return the connection; read it, unless that was done.

        :raises DliValueError: A field is missing or contradicts another one.
        """
        return self.lease().connection

    def begin_read(self) -> int:
        """Return the number of a read that begins now, for :meth:`use`."""
        return next(self._reads)

    def use(self, connection: DliConnection, read: int) -> Lease:
        """
        Use this connection from now on, unless a read that began later has brought another one; return what is used.

        :param read: The number of the read that brought it.
        """
        was = self._lease
        if was is not None and (read < self._last_read or connection == was.connection):
            return was
        self._last_read = read
        self._lease = lease = Lease(was.version + 1 if was else 1, connection)
        if was is not None:
            self._log.info("Connection %r has changed and is used from now on.", connection.conn_id)
        return lease

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

    def reread(self, refused: int | None = None) -> bool:
        """
        Return whether there are other credentials than the refused ones; read the connection again to find out.

        A password may have been rotated, or temporary keys replaced. Never raises.

        :param refused: The version that was refused. Default: the one that is used now.
        """
        refused = self.version if refused is None else refused
        if self.version > refused:
            return True
        read = self.begin_read()
        try:
            return self.use(self._read(), read).version > refused
        except Exception as error:  # of another class in every Airflow; the refusal itself says enough
            conn_id = self._lease.connection.conn_id if self._lease else ""
            self._log.warning("Connection %r could not be read again: %s", conn_id, error)
            return False
