"""TCP ports of the loopback interface."""

from __future__ import annotations

import contextlib
import socket


def hold_port(port: int = 0) -> socket.socket:
    """
    Reserve a port, by default a free one, for the server that will listen on it.

    It may take a server half a minute from its start to its port: long enough for another one to take it.

    :returns: A socket that reserves the port until it is closed.
    """
    holder = socket.socket()
    # As uvicorn does: two may have the same port as long as one does not listen.
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.suppress(OSError):  # the server will give a better message
        holder.bind(("127.0.0.1", port))
    return holder
