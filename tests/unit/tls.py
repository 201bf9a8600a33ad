"""A server behind TLS that breaks off where it is told to, and an authority that signs its certificate."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: Faults of :class:`Server` before there is a TLS connection.
IN_THE_HANDSHAKE = [
    "end before the handshake",
    "end in the handshake",
    "reset in the handshake",
    "half a handshake",
    "garbage",
    "silence",
]
#: Faults of :class:`Server` after the request has arrived; in all but the first, it is carried out.
AFTER_THE_REQUEST = [
    "end after the handshake",
    "reset before the answer",
    "reset in the answer",
    "half an answer",
    "broken in the answer",
]

# How long a handshake is met with silence, in seconds.
_SILENT_FOR = 5.0


class Authority:
    """A certificate authority, and certificates that it signed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {folder.name}")])
        self.path = folder / "authority.pem"
        self.path.write_bytes(self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None)))

    def server_context(self, host: str, *, ends_in: timedelta = timedelta(days=1)) -> ssl.SSLContext:
        """
        Return what a server needs to be called by this host name.

        :param ends_in: How long the certificate is valid; less than nothing for one that has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]),
            key,
            x509.SubjectAlternativeName([x509.DNSName(host)]),
            ends_in,
        )
        path = self._folder / f"{host}.pem"
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        path.write_bytes(certificate + key.private_bytes(*form))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _sign(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extension: x509.ExtensionType,
        ends_in: timedelta = timedelta(days=1),
    ) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + ends_in)
            .add_extension(extension, critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Server:
    """
    A server behind TLS. One connection after the other meets the next fault; the rest are answered.

    ``requests`` are the first lines of those that arrived whole.

    :param context: What it shows of itself.
    :param answer: Returns the answer to a request. Both are whole messages.
    :param faults: What the first connections meet: of the lists above, and the names in ``others``.
    :param others: What it shows of itself instead, by the name of a fault.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        answer: Callable[[bytes], bytes],
        faults: Iterable[str] = (),
        others: Mapping[str, ssl.SSLContext] | None = None,
    ) -> None:
        self.requests: list[str] = []
        self.connections = 0
        self.port = 0
        self._context = context
        self._others = others or {}
        self._answer = answer
        self._open: set[socket.socket] = set()
        self.meet(faults)
        self.listen()

    def listen(self) -> None:
        """Accept connections; again at the same port, after a :meth:`close`."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, args=[self._listener], daemon=True).start()

    def close(self) -> None:
        """Refuse further connections."""
        close(self._listener)

    def meet(self, faults: Iterable[str]) -> None:
        """Have the next connections meet these faults."""
        self._faults = iter(faults)

    def cut(self) -> None:
        """End all connections that there are."""
        for connection in list(self._open):
            with suppress(OSError):
                # Not in the way of a TLS socket, which takes its state from the thread that reads.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            fault = next(self._faults, None)
            threading.Thread(target=self._meet, args=[connection, fault], daemon=True).start()

    def _meet(self, connection: socket.socket, fault: str | None) -> None:
        with suppress(OSError), connection:
            if fault in IN_THE_HANDSHAKE:
                return self._break_handshake(connection, fault)
            with self._others.get(fault or "", self._context).wrap_socket(connection, server_side=True) as secure:
                self._open.add(secure)
                try:
                    self._answer_all(secure, fault)
                finally:
                    self._open.discard(secure)
        return None

    def _break_handshake(self, connection: socket.socket, fault: str) -> None:
        if fault != "end before the handshake":
            hello = connection.recv(65536)
        if fault == "garbage":
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        if fault == "half a handshake":
            flight = self._first_flight(hello)
            connection.sendall(flight[: len(flight) // 2])
        if fault == "silence":
            threading.Event().wait(_SILENT_FOR)
        if fault == "reset in the handshake":
            return reset(connection)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):  # what is unread at the end is a reset too
            pass
        return None

    def _first_flight(self, hello: bytes) -> bytes:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        incoming.write(hello)
        with suppress(ssl.SSLWantReadError):
            self._context.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
        return outgoing.read()

    def _answer_all(self, connection: ssl.SSLSocket, fault: str | None) -> None:
        while request := read_message(connection):
            self.requests.append(request.partition(b"\r\n")[0].decode())
            if fault == "end after the handshake":
                # Only now, for what the client sees of it would else depend on how much it has sent.
                return None
            answer = self._answer(request)
            if fault == "reset before the answer":
                return reset(connection)
            if fault not in AFTER_THE_REQUEST:
                connection.sendall(answer)
                continue
            connection.sendall(answer[:-10])
            if fault == "reset in the answer":
                return reset(connection)
            if fault == "broken in the answer":
                # A record that no key of this connection encrypted.
                with socket.socket(fileno=connection.detach()) as bare:
                    bare.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            return None
        return None


def close(listener: socket.socket) -> None:
    """Close a socket that listens."""
    # One that is only closed still accepts for the thread that waits in it.
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def reset(connection: socket.socket) -> None:
    """Close with a RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_message(connection: socket.socket) -> bytes:
    """Return a request or an answer; nothing, at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    while lengths and len(body) < lengths[0]:
        piece = connection.recv(65536)
        if not piece:
            return b""
        body += piece
    return head + b"\r\n\r\n" + body
