"""The connection that one call uses: how a call ends in time, also while the server sends a byte per second."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from airflow_provider_dli import machine


class Line:
    """
    The connection that one call uses, so that the call ends in time and another thread can end it.

    :param seconds: How long the call may take, whatever arrives meanwhile.
    """

    def __init__(self, seconds: float) -> None:
        self._end = machine.monotonic() + seconds
        self._socket: Any = None
        self._is_cut = False

    @property
    def left(self) -> float:
        """
        Seconds until the call must be over.

        :raises TimeoutError: There are none.
        """
        if (left := self._end - machine.monotonic()) <= 0:
            raise TimeoutError("timed out")
        return left

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the requests of this thread use this line."""
        token = current_line.set(self)
        try:
            yield
        finally:
            current_line.reset(token)
            self._socket = None

    def use(self, connection: Any) -> None:
        """Note the socket of the call; a call that was given up ends here."""
        # Of TLS in the TLS of a proxy, the socket is one layer below.
        self._socket = getattr(connection, "socket", connection)
        if self._is_cut:
            self.cut()

    def cut(self) -> None:
        """Give the call up: end its connection, so that its thread ends. Never waits. For any thread."""
        self._is_cut = True
        # A connection that is being made has its own limit.
        if (used := self._socket) is not None:
            # Not the method of a TLS socket: that forgets the state that the other thread reads with.
            with contextlib.suppress(OSError, TypeError):
                socket.socket.shutdown(used, socket.SHUT_RDWR)


#: The line of the call that this thread is at.
current_line: ContextVar[Line | None] = ContextVar("current_line", default=None)
