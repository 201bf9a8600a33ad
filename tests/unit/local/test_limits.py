"""What is too large is refused as DLI's gateway does, and takes no memory."""

import json
import socket
import time

import pace
import psutil
import pytest

pytestmark = pytest.mark.matrix

MB = 1024 * 1024


@pytest.fixture
def connect(dli_local):
    """Bare connections to the server."""
    opened = []
    host, port = dli_local.url.partition("://")[2].split(":")

    def connect():
        opened.append(socket.create_connection((host, int(port)), timeout=10))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def answer_to(connection):
    """Status and body of what comes, until the server closes."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionError:
        pass
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else None, body


def pour(connection, piece, limit):
    """Send until the server hangs up; returns the number of bytes that it let come."""
    sent = 0
    try:
        while sent < limit:
            connection.sendall(piece)
            sent += len(piece)
    except (ConnectionError, TimeoutError):
        pass
    return sent


PATHS = ["/v1.0/{project_id}/jobs/submit-job", "/v3/auth/tokens", "/_local/will", "/_local/settings", "/nowhere"]


@pytest.mark.parametrize("path", PATHS)
def test_a_body_over_12_mb(wire, dli_local, path):
    url = dli_local.url + path.format(project_id=dli_local.project_id)
    answer = wire.http.post(url, json={"sql": "x" * 12 * MB}, timeout=20)
    assert answer.status_code == 413
    assert f"larger than {12 * MB} bytes" in answer.text
    assert wire.get("jobs").status_code == 200, "on the same connection"


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_announced_to_be_large_is_not_waited_for(dli_local, connect, path):
    path = path.format(project_id=dli_local.project_id)
    for announced in (12 * MB + 1, 10**4000):
        connection = connect()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {announced}\r\n\r\n"
        connection.sendall(head.encode())
        assert answer_to(connection)[0] == (413 if announced < 10**20 else 400)


@pytest.mark.parametrize("path", ["/v1.0/{project_id}/jobs/submit-job", "/_local/will"])
def test_a_body_without_an_end(wire, dli_local, connect, path):
    connection, before = connect(), memory(dli_local)
    head = f"POST {path.format(project_id=dli_local.project_id)} HTTP/1.1\r\nHost: localhost\r\n"
    head += f"X-Auth-Token: {wire.http.headers['X-Auth-Token']}\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.sendall(head.encode())
    sent = pour(connection, b"%x\r\n%b\r\n" % (MB, b"x" * MB), 100 * MB)
    assert 12 * MB < sent < 50 * MB
    assert answer_to(connection)[0] in (413, None)
    assert memory(dli_local) < before + 60 * MB
    assert wire.get("jobs").status_code == 200


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        ("/v1.0/{project_id}/jobs?tags=" + "x" * 33 * 1024, {}, 414),
        ("/_local/jobs?since=" + "0" * 33 * 1024, {}, 414),
        ("/v1.0/{project_id}/jobs", {"X-Large": "x" * 65 * 1024}, 494),
        ("/_local/jobs", {"X-Large": "x" * 65 * 1024}, 494),
        ("/v1.0/{project_id}/jobs", {f"X-Number-{number}": "1" for number in range(120)}, 494),
        ("/_local/jobs", {f"X-Number-{number}": "1" for number in range(120)}, 494),
        ("/v1.0/{project_id}/jobs", {"X-Large": "x" * 500 * 1024}, 494),
        ("/v1.0/{project_id}/jobs?tags=" + "x" * 30 * 1024, {"X-Large": "x" * 50 * 1024}, 200),
    ],
    ids=lambda value: str(value)[:40],
)
def test_uri_and_headers(wire, dli_local, path, headers, expected):
    url = dli_local.url + path.format(project_id=dli_local.project_id)
    answer = wire.http.get(url, headers=headers, timeout=20)
    assert answer.status_code == expected
    assert expected == 200 or answer.json()["error_code"] == "APIG.0201"


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        ("GET /", b"x" * 65536),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"x" * 65536),
        ("GET / HTTP/1.1\r\nHost: localhost\r\n", b"X-Name: value\r\n" * 4096),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 65536),
        (
            "POST /_local/will HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"X: y\r\n" * 9000,
        ),
    ],
    ids=["uri", "header", "headers", "chunk", "trailer"],
)
def test_a_head_without_an_end(dli_local, connect, start, piece):
    connection, before = connect(), memory(dli_local)
    connection.sendall(start.encode())
    assert pour(connection, piece, 100 * MB) < 20 * MB
    assert memory(dli_local) < before + 30 * MB


def test_slow_heads_do_not_stand_in_the_way(wire, connect):
    for connection in [connect() for _ in range(50)]:
        connection.sendall(b"GET / HTTP/1.1\r\nX: y")
    began = time.monotonic()
    assert wire.get("jobs").status_code == 200
    assert time.monotonic() - began < pace.seconds(3)


def test_what_is_no_http(connect):
    connection = connect()
    connection.sendall(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\r\n\r\n")
    status, body = answer_to(connection)
    assert (status, json.loads(body)["error_code"]) == (400, "APIG.0201")


def memory(dli):
    return psutil.Process(dli.pid).memory_info().rss
