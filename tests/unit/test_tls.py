"""TLS faults: which of them are permanent, and after which of them a submit may be repeated."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import struct
import threading
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_provider_dli.api import sql
from airflow_provider_dli.client import client
from airflow_provider_dli.exceptions import DliCertificateError, DliTemporaryError
from airflow_provider_dli.hooks import dli as hooks

JOB = "8ecb0777-9c70-4529-9935-29ea0946039c"


class Authority:
    """A certificate authority, and certificates that it signed."""

    def __init__(self, folder):
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {folder.name}")])
        self.path = folder / "authority.pem"
        self.path.write_bytes(self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None)))

    def server_context(self, host):
        """Return what a server needs to be called by this host name."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]),
            key,
            x509.SubjectAlternativeName([x509.DNSName(host)]),
        )
        path = self._folder / f"{host}.pem"
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        path.write_bytes(certificate + key.private_bytes(*form))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _sign(self, name, key, extension):
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=False)
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Server:
    """
    A DLI behind TLS. One connection after the other meets the next fault; the rest are answered.

    ``requests`` are the first lines of those that arrived whole.
    """

    def __init__(self, context, faults=()):
        self.requests = []
        self.connections = 0
        self._faults = list(faults)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self):
        # A listener that is only closed still accepts for the thread that waits in it.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            fault = self._faults.pop(0) if self._faults else None
            threading.Thread(target=self._meet, args=[connection, fault], daemon=True).start()

    def _meet(self, connection, fault):
        with suppress(OSError), connection:
            if fault in ("end in the handshake", "reset in the handshake", "garbage", "silence"):
                connection.recv(5)
                if fault == "garbage":
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                if fault == "silence":
                    threading.Event().wait(3)
                if fault == "reset in the handshake":
                    reset(connection)
                else:
                    while connection.recv(65536):  # what is unread at the end is a reset too
                        connection.shutdown(socket.SHUT_WR)
                return None
            with self._context.wrap_socket(connection, server_side=True) as secure:
                while request := read_request(secure):
                    self.requests.append(request)
                    answer = answer_to(request)
                    if fault == "cut before the answer":
                        return reset(secure)
                    if fault == "cut in the answer":
                        secure.sendall(answer[:-10])
                        return reset(secure)
                    if fault == "broken in the answer":
                        secure.sendall(answer[:-10])
                        # A record that no key of this connection encrypted.
                        socket.socket(fileno=secure.detach()).sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
                        return None
                    secure.sendall(answer)
        return None


def reset(connection):
    """Close with a RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_request(connection):
    """Return the first line of a request, or an empty text at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return ""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    while lengths and len(body) < lengths[0]:
        body += connection.recv(65536)
    return head.split(b"\r\n")[0].decode()


def answer_to(request):
    body = json.dumps({"is_success": True, "job_id": JOB, "status": "RUNNING", "message": ""}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture
def serve(authority, monkeypatch):
    """Return a function that starts a server with faults, and makes a hook that trusts it."""
    servers = []

    def start(*faults, host="localhost", verify=None, timeout=2):
        server = Server(authority.server_context(host), faults)
        servers.append(server)
        extra = {
            "auth_type": "ak_sk",
            "region": "eu-de",
            "project_id": "p",
            "verify": str(verify or authority.path),
            "timeout": timeout,
        }
        connection = {
            "conn_type": "dli",
            "login": "key",
            "password": "canary-secret",
            "host": f"https://localhost:{server.port}",
            "extra": extra,
        }
        monkeypatch.setenv("AIRFLOW_CONN_DLI_DEFAULT", json.dumps(connection))
        monkeypatch.setattr(client, "FIRST_PAUSE", 0.05)
        return server, hooks.DliHook()

    yield start
    for server in servers:
        server.close()


CALLS = {
    "status": lambda hook: hook.get_job(JOB),
    "cancel": lambda hook: hook.cancel_job(JOB),
    "submit": lambda hook: hook.submit_sql_job("select 1"),
}
IN_THE_HANDSHAKE = ["end in the handshake", "reset in the handshake", "garbage", "silence"]
AFTER_THE_REQUEST = ["cut before the answer", "cut in the answer", "broken in the answer"]


@pytest.mark.parametrize("call", CALLS)
def test_a_good_server_is_trusted(serve, call):
    server, hook = serve()
    CALLS[call](hook)
    assert len(server.requests) == 1


@pytest.mark.parametrize("call", CALLS)
def test_a_certificate_of_another_authority_is_permanent(serve, call, tmp_path):
    server, hook = serve(verify=Authority(tmp_path).path)
    with pytest.raises(DliCertificateError, match="set extra field `verify` of connection 'dli_default'"):
        CALLS[call](hook)
    assert (server.connections, server.requests) == (1, [])


@pytest.mark.parametrize("call", CALLS)
def test_a_certificate_of_another_host_is_permanent(serve, call):
    server, hook = serve(host="elsewhere.example.com")
    with pytest.raises(DliCertificateError, match="certificate is not valid for 'localhost'"):
        CALLS[call](hook)
    assert (server.connections, server.requests) == (1, [])


@pytest.mark.parametrize("fault", IN_THE_HANDSHAKE)
@pytest.mark.parametrize("call", CALLS)
def test_a_handshake_that_fails_once_is_tried_again(serve, call, fault):
    server, hook = serve(fault, timeout=1)
    CALLS[call](hook)
    assert (server.connections, len(server.requests)) == (2, 1)


@pytest.mark.parametrize("fault", IN_THE_HANDSHAKE)
def test_a_handshake_that_fails_says_so(serve, fault):
    server, hook = serve(fault, timeout=1)
    with pytest.raises(DliTemporaryError, match="no TLS connection: ") as caught:
        hook.send(sql.status(JOB), give_up_after=0)
    assert caught.value.nothing_started
    assert "_ssl.c" not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("fault", AFTER_THE_REQUEST)
def test_a_submit_whose_answer_is_cut_may_have_started_a_job(serve, fault):
    server, hook = serve(fault)
    with pytest.raises(DliTemporaryError, match="submit of the SQL job failed: no answer from") as caught:
        hook.submit_sql_job("select 1")
    assert not caught.value.nothing_started
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", AFTER_THE_REQUEST)
@pytest.mark.parametrize("call", ["status", "cancel"])
def test_a_call_that_does_no_harm_is_repeated_when_its_answer_is_cut(serve, call, fault):
    server, hook = serve(fault)
    CALLS[call](hook)
    assert len(server.requests) == 2


class Proxy:
    """Answers CONNECT, first with the given failure, then as asked."""

    def __init__(self, target_port, *failures):
        self._target_port = target_port
        self._failures = list(failures)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._tunnel, args=[client], daemon=True).start()

    def _tunnel(self, client):
        with suppress(OSError), client:
            read_request(client)
            failure = self._failures.pop(0) if self._failures else None
            if failure is not None:
                return client.sendall(failure)
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with socket.create_connection(("127.0.0.1", self._target_port)) as target:
                threading.Thread(target=pump, args=[client, target], daemon=True).start()
                pump(target, client)
        return None

    def close(self):
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def pump(source, target):
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    "failure", [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"", b"nonsense\r\n\r\n"], ids=["503", "end", "nonsense"]
)
def test_a_submit_that_the_proxy_did_not_let_through_once_is_sent_again(serve, monkeypatch, failure):
    server, hook = serve()
    proxy = Proxy(server.port, failure)
    monkeypatch.setenv("https_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")
    hook.submit_sql_job("select 1")
    proxy.close()
    assert len(server.requests) == 1


def test_a_handshake_through_a_proxy_that_fails_once_is_tried_again(serve, monkeypatch):
    server, hook = serve("end in the handshake")
    proxy = Proxy(server.port)
    monkeypatch.setenv("https_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")
    hook.submit_sql_job("select 1")
    proxy.close()
    assert (server.connections, len(server.requests)) == (2, 1)
