"""TLS faults: which of them are permanent, and after which of them a submit may be repeated."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from datetime import timedelta

import pytest
from tls import AFTER_THE_REQUEST, IN_THE_HANDSHAKE, Authority, Server, close, read_message

from airflow_provider_dli.api import sql
from airflow_provider_dli.client import client
from airflow_provider_dli.exceptions import DliCertificateError, DliTemporaryError
from airflow_provider_dli.hooks import dli as hooks

JOB = "8ecb0777-9c70-4529-9935-29ea0946039c"


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

    def start(*faults, host="localhost", verify=None, timeout=2, **certificate):
        server = Server(authority.server_context(host, **certificate), answer_to, faults)
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
    # What may leave a job running is tried twice: another server of the same name may have another certificate.
    assert (server.connections, server.requests) == (2 if call == "cancel" else 1, [])


@pytest.mark.parametrize("call", CALLS)
def test_a_certificate_of_another_host_is_permanent(serve, call):
    server, hook = serve(host="elsewhere.example.com")
    advice = (
        r"certificate is not valid for 'localhost'.*\)\. Check host and iam_endpoint of connection 'dli_default'\.$"
    )
    with pytest.raises(DliCertificateError, match=advice):
        CALLS[call](hook)
    # What may leave a job running is tried twice: another server of the same name may have another certificate.
    assert (server.connections, server.requests) == (2 if call == "cancel" else 1, [])


def test_a_certificate_that_has_expired_says_so(serve):
    server, hook = serve(ends_in=timedelta(days=-1))
    with pytest.raises(
        DliCertificateError, match=r"\(certificate has expired\)\. The other side needs a new one, unless"
    ):
        hook.get_job(JOB)
    assert server.requests == []


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
            read_message(client)
            failure = self._failures.pop(0) if self._failures else None
            if failure is not None:
                return client.sendall(failure)
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with socket.create_connection(("127.0.0.1", self._target_port)) as target:
                threading.Thread(target=pump, args=[client, target], daemon=True).start()
                pump(target, client)
        return None

    def close(self):
        close(self._listener)


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
