"""The server process: start, help, end, and who may call its admin API."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pace
import pytest
import requests

from airflow_provider_dli.local.dli import server
from airflow_provider_dli.local.dli.account.identity import Identity
from airflow_provider_dli.local.dli.faults import Faults
from airflow_provider_dli.local.dli.gateway import Gateway
from airflow_provider_dli.local.dli.request_log import RequestLog
from airflow_provider_dli.local.handle import LocalDli

from .conftest import Wire, get_token, token_request

pytestmark = pytest.mark.matrix

CLI = [sys.executable, "-m", "airflow_provider_dli.local.cli"]
LONG = "SELECT count(*) FROM range(1000000000000)"


def serve(*options, **popen):
    process = subprocess.Popen([*CLI, "serve", "--port", "0", *options], stdout=subprocess.PIPE, text=True, **popen)
    return process, process.stdout.readline().split()[-1]


def test_the_help_shows_the_identity():
    shown = subprocess.run([*CLI, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    for word in ("local-access-key", "local-secret-key", "48cc2c48765f481480c7db940d6409d1", "18080", "127.0.0.1"):
        assert word in shown


def test_the_help_does_not_show_secrets_of_the_environment():
    env = {**os.environ, "DLI_LOCAL_SECRET_KEY": "canary"}
    shown = subprocess.run([*CLI, "serve", "--help"], capture_output=True, text=True, check=True, env=env).stdout
    assert "canary" not in shown
    assert "$DLI_LOCAL_SECRET_KEY" in shown


def test_identity_from_options_and_environment():
    env = {**os.environ, "DLI_LOCAL_USER": "from-env"}
    process, url = serve("--password", "from-option", env=env)
    try:
        dli = LocalDli(url)
        assert get_token(dli, name="from-env", password="from-option").status_code == 201
        assert get_token(dli).status_code == 401
    finally:
        process.terminate()
        process.wait(pace.seconds(10))
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly_with_a_query_running(number, tmp_path):
    process, url = serve(stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}, preexec_fn=hear_sighup)
    dli = LocalDli(url)
    wire = Wire(dli)
    wire.until(wire.start(LONG), "RUNNING")
    dli.fault("list", "hang")
    with pytest.raises(requests.ReadTimeout):
        wire.get("jobs", timeout=0.1)
    began = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=pace.seconds(10))
    assert time.monotonic() - began < pace.seconds(4)
    assert "Traceback" not in errors
    assert process.returncode == {signal.SIGINT: 0}.get(number, -signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []


def test_it_dies_with_its_owner_even_by_sigkill():
    code = (
        "import time; from airflow_provider_dli.local.handle import LocalDli;"
        "dli = LocalDli.start(); print(dli.pid, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + pace.seconds(5)
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_start_does_not_wait_for_the_sql_engine():
    """Loading it takes as long as all the rest; it is done once the server listens."""
    code = (
        "import sys, airflow_provider_dli.local.dli.server as _;"
        "print(sorted({'airflow', 'duckdb', 'sqlglot'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def hear_sighup():
    """A test run in the background ignores it, and so would its children."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.matrix
def test_after_nohup_it_ignores_a_hangup():
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    process, url = serve(preexec_fn=ignore)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    assert LocalDli(url).jobs() == []
    process.terminate()
    process.wait(pace.seconds(10))
    process.stdout.close()


@pytest.mark.matrix
def test_two_interrupts_in_a_row_leave_no_files_behind(tmp_path):
    process, url = serve(env={**os.environ, "TMPDIR": str(tmp_path)})
    wire = Wire(LocalDli(url))
    wire.until(wire.start(LONG), "RUNNING")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    process.wait(pace.seconds(10))
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.matrix
def test_files_of_a_server_that_was_killed_go_with_the_next_start(tmp_path):
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    (tmp_path / "dli-local-serve-file").write_text("no folder")
    (tmp_path / "dli-local-serve-link").symlink_to(tmp_path)
    others = set(tmp_path.iterdir())
    killed, _ = serve(env=env)
    (abandoned,) = set(tmp_path.iterdir()) - others
    (abandoned / "obs" / "bucket").mkdir()
    alive, url = serve(env=env)
    (held,) = set(tmp_path.iterdir()) - others - {abandoned}
    assert abandoned.exists(), "its owner is alive"
    killed.kill()
    killed.wait()
    killed.stdout.close()
    third, _ = serve(env=env)
    assert not abandoned.exists()
    assert held.exists()
    assert Wire(LocalDli(url)).rows("SELECT 1") == [[1]]
    for process in (alive, third):
        process.terminate()
        process.wait(pace.seconds(10))
        process.stdout.close()
    assert set(tmp_path.iterdir()) == others


@pytest.mark.matrix
def test_it_leaves_no_files_behind(tmp_path):
    process, _ = serve(env={**os.environ, "TMPDIR": str(tmp_path)})
    assert list(tmp_path.iterdir())
    process.terminate()
    process.wait(pace.seconds(10))
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--set", "speed=1"], "speed"),
        (["--set", "list_lag=-1"], "list_lag"),
        (["--set", "nonsense"], "NAME=VALUE"),
        (["--host", "192.0.2.1"], "address"),
    ],
)
def test_options_that_make_no_sense(options, reason):
    ended = subprocess.run([*CLI, "serve", "--port", "0", *options], capture_output=True, text=True, timeout=20)
    assert ended.returncode == 2
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run([*CLI, "serve", "--port", port], capture_output=True, text=True, timeout=20)
    assert ended.returncode == 2
    assert port in ended.stderr


def test_a_restart_of_the_api(dli_local, restart):
    dli_local.will(run_for=3)
    wire = Wire(dli_local)
    job_id = wire.start("select 1")
    restart(down_for=1)
    with pytest.raises(requests.ConnectionError):
        wire.status(job_id)
    dli_local.wait_until(lambda dli: is_reached(dli.url))
    assert wire.get(f"jobs/{job_id}/status").status_code == 401
    assert Wire(dli_local).until(job_id)["status"] == "FINISHED"
    (job,) = dli_local.jobs()
    assert job.ended_at - job.started_at > 2.9


def test_a_restart_that_comes_back_at_once(dli_local):
    for _ in range(3):
        dli_local.restart()
        assert get_token(dli_local).status_code == 201


def test_a_restart_that_makes_no_sense(dli_local):
    with pytest.raises(ValueError, match="down_for"):
        dli_local.restart(down_for=-1)


def test_settings_of_the_start_survive_a_reset():
    with LocalDli.start(cancel_ended="soft", queues={"default": 2}, user="me") as dli:
        dli.settings(cancel_ended="error", queues={"other": 1})
        dli.reset()
        assert dli.settings()["cancel_ended"] == "soft"
        assert dli.settings()["queues"] == {"default": 2}
        assert dli.connection()["login"] == "me"
        assert get_token(dli).status_code == 201
        assert LocalDli(dli.url).settings()["cancel_ended"] == "soft"


def test_the_admin_api_is_not_reached_through_a_foreign_name(dli_local):
    """A page in a browser could have its host name point to this machine."""
    url = f"{dli_local.url}/_local/jobs"
    assert requests.get(url, headers={"Host": "evil.example:80"}, timeout=10).status_code == 403
    assert requests.get(url, headers={"Host": "localhost:1"}, timeout=10).status_code == 200


ADMIN_CALLS = [
    ("GET", "jobs"),
    ("GET", "requests"),
    ("GET", "faults"),
    ("GET", "settings"),
    ("POST", "will"),
    ("POST", "faults"),
    ("POST", "settings"),
    ("POST", "restart"),
    ("POST", "reset"),
    ("DELETE", "faults"),
]


FOREIGN = pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "something new"},
        # In a frame.
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "localhost."},
        {"Host": "127.0.0.1."},
        {"Host": "0.0.0.0"},
        {"Host": "2130706433"},
        {"Host": "[::2]:80"},
        {"Host": "[fe80::1%25lo]"},
        {"Host": "localhost:80:80"},
        {"Host": "localhost:evil"},
        {"Host": "evil.example@localhost"},
        {"Referer": "https://evil.example/page"},
        {"Referer": "http://127.0.0.1:1/page"},
        {"Referer": "http://127.0.0.1"},
        # A form of another page: no question beforehand, and no JSON by its type.
        {"Origin": "https://evil.example", "Content-Type": "text/plain"},
        {
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Content-Type": "text/plain",
            "Host": "localhost",
        },
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    ],
    ids=str,
)


@FOREIGN
def test_the_admin_api_is_not_for_web_pages(dli_local, headers):
    dli_local.will(then="FAILED")
    wire = Wire(dli_local)
    wire.start("select 1")
    for method, path in ADMIN_CALLS:
        answer = requests.request(method, f"{dli_local.url}/_local/{path}", headers=headers, json={}, timeout=10)
        assert answer.status_code == 403, (method, path)
        assert any(why in answer.json()["error_msg"] for why in ("web pages", "through the name"))
    assert len(dli_local.jobs()) == 1, "nothing was reset"


@FOREIGN
def test_nothing_is_for_web_pages(dli_local, headers):
    """Its user and keys are published: what reaches it could run programs on this machine."""
    paths = [
        ("POST", "/v3/auth/tokens"),
        ("GET", "/openstack/latest/securitykey"),
        ("GET", f"/v1.0/{dli_local.project_id}/jobs"),
        ("POST", f"/v2.0/{dli_local.project_id}/batches"),
        ("GET", "/"),
    ]
    for method, path in paths:
        answer = requests.request(method, f"{dli_local.url}{path}", headers=headers, json={}, timeout=10)
        assert answer.status_code == 403, (method, path)
        assert any(why in answer.text for why in ("web pages", "through the name"))
    assert dli_local.requests() == []


def token_through(dli, host):
    return requests.post(f"{dli.url}/v3/auth/tokens", json=token_request(dli), headers={"Host": host}, timeout=10)


def test_every_name_of_this_machine_reaches_it(dli_local):
    port = urlsplit(dli_local.url).port
    for host in ("127.0.0.1", "localhost", "LOCALHOST", "127.8.9.10", "[::1]"):
        for name in (host, f"{host}:{port}"):
            assert token_through(dli_local, name).status_code == 201, name


@pytest.mark.parametrize("own", [{}, {"password": "own"}, {"secret_key": "own"}, {"password": "", "secret_key": "own"}])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_network_gets_no_published_keys(own, host, capsys):
    assert server.serve(Identity(**own), host=host) == 2
    assert "--allow-published-keys" in capsys.readouterr().err


def test_a_network_gets_published_keys_where_that_was_asked_for(capfd):
    with LocalDli.start(host="0.0.0.0", allow_published_keys=True) as dli:
        assert get_token(dli).status_code == 201
    assert "Warning: on 0.0.0.0, it runs programs for everyone in the network" in capfd.readouterr().err


def test_in_a_network_it_has_the_names_that_it_was_given():
    own = {"password": "own", "secret_key": "own"}
    with LocalDli.start(host="0.0.0.0", allow_hosts=["dli", "Ci.Example"], **own) as dli:
        port = urlsplit(dli.url).port
        assert dli.jobs() == []
        for host in ("dli", f"dli:{port}", "ci.example", "localhost", f"0.0.0.0:{port}", f"127.0.0.1:{port}"):
            assert token_through(dli, host).status_code == 201, host
        for host in ("evil.example", "dli.evil.example", "[::2]"):
            assert token_through(dli, host).status_code == 403, host
        refused = token_through(dli, "evil.example").json()["error"]["message"]
        assert "--allow-host evil.example" in refused
        # Admin calls are for this machine, whatever its name is elsewhere.
        assert requests.get(f"{dli.url}/_local/jobs", headers={"Host": "dli"}, timeout=10).status_code == 403


def test_from_elsewhere_nobody_gets_keys_without_credentials():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            # Sends nothing.
            asked.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but the loopback one")
        address = asked.getsockname()[0]
    path = "openstack/latest/securitykey"
    with LocalDli.start(host="0.0.0.0", password="own", secret_key="own") as dli:
        elsewhere = f"http://{address}:{urlsplit(dli.url).port}"
        assert requests.get(f"{dli.url}/{path}", timeout=10).status_code == 200
        assert requests.get(f"{elsewhere}/{path}", timeout=10).status_code == 403
        assert requests.get(f"{elsewhere}/_local/jobs", timeout=10).status_code == 403
        assert requests.get(f"{elsewhere}/v3/projects", timeout=10).status_code == 401


def test_the_admin_api_is_for_its_own_pages_and_the_address_bar(dli_local):
    port = urlsplit(dli_local.url).port
    for headers in (
        {"Origin": dli_local.url, "Sec-Fetch-Site": "same-origin"},
        {"Referer": f"{dli_local.url}/_local/jobs", "Sec-Fetch-Site": "same-origin"},
        {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"},
        {"Host": f"[::1]:{port}"},
        {"Host": "[::1]"},
        {"Sec-Fetch-Site": "none"},
        {},
    ):
        assert requests.post(f"{dli_local.url}/_local/reset", headers=headers, timeout=10).status_code == 200


@pytest.mark.parametrize("path", ["_local/jobs", "_local/reset", "v1.0/p/jobs"])
def test_a_browser_that_asks_beforehand_is_told_nothing_that_would_let_it_in(dli_local, path):
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    headers.update({"Access-Control-Request-Headers": "content-type", "Access-Control-Request-Private-Network": "true"})
    answer = requests.options(f"{dli_local.url}/{path}", headers=headers, timeout=10)
    assert answer.status_code >= 400
    for each in (answer, requests.get(f"{dli_local.url}/_local/jobs", timeout=10)):
        assert not [name for name in each.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("headers", ["", "Host: localhost\r\nHost: evil.example\r\n", "Host:\r\n"])
def test_a_request_of_no_host_or_of_two_is_refused(dli_local, headers):
    parts = urlsplit(dli_local.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as wire:
        wire.sendall(f"GET /_local/jobs HTTP/1.0\r\n{headers}\r\n".encode())
        assert re.match(rb"HTTP/1.1 40[03] ", wire.recv(100))


def test_a_link_in_another_page_opens_the_list_of_jobs_and_changes_nothing(dli_local):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    headers["Referer"] = "https://airflow.example/"
    assert requests.get(f"{dli_local.url}/_local/jobs", headers=headers, timeout=10).status_code == 200
    for origin in ({}, {"Origin": "https://evil.example"}):
        answer = requests.post(f"{dli_local.url}/_local/reset", headers={**headers, **origin}, timeout=10)
        assert answer.status_code == 403


def test_a_caller_cannot_claim_another_address(dli_local, wire):
    headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    assert wire.get("jobs", headers=headers).status_code == 200
    assert dli_local.requests("list")[0].connection.startswith("127.0.0.1:")


def test_the_admin_api_is_for_this_machine_only():
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    outside = [address for address in addresses if not address.startswith("127.")]
    if not outside:
        pytest.skip("this machine has no address but loopback")
    with LocalDli.start(host="0.0.0.0") as dli:
        port = dli.url.rpartition(":")[2]
        assert requests.get(f"http://{outside[0]}:{port}/_local/jobs", timeout=10).status_code == 403
        assert requests.get(f"http://{outside[0]}:{port}/v3/projects", timeout=10).status_code == 401
        assert requests.get(f"http://127.0.0.1:{port}/_local/jobs", timeout=10).status_code == 200


@pytest.mark.parametrize("auth_type", ["password", "ak_sk"])
def test_the_connection_for_airflow(dli_local, auth_type):
    connection = dli_local.connection(auth_type, default_queue="default", project_id=None)
    secret = dli_local.secret_key if auth_type == "ak_sk" else dli_local.password
    assert (connection["conn_type"], connection["password"]) == ("dli", secret)
    assert connection["host"] == connection["extra"]["iam_endpoint"] == dli_local.url
    assert connection["extra"]["default_queue"] == "default"
    assert "project_id" not in connection["extra"]


def is_running(pid):
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("client", "host", "status"),
    [
        ("192.0.2.7", "127.0.0.1:1", 403),
        ("127.0.0.1", "evil.example", 403),
        ("127.0.0.1", "127.0.0.1:1", 204),
        ("::1", "[::1]:1", 204),
    ],
)
def test_who_may_call_the_admin_api(client, host, status):
    """By address and name, on machines with no other network too."""

    async def service(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})

    sent = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    gateway = Gateway(
        service, project_id="", tokens=None, keys=None, may=None, faults=Faults(), log=RequestLog(), transport_of=None
    )
    headers = [(b"host", host.encode())]
    scope = {"type": "http", "method": "GET", "path": "/_local/jobs", "headers": headers, "client": (client, 5)}
    scope |= {"raw_path": b"/_local/jobs", "query_string": b""}
    asyncio.run(gateway(scope, receive, send))
    assert sent[0]["status"] == status


def is_reached(url):
    with contextlib.suppress(requests.ConnectionError):
        requests.get(url, timeout=5)
        return True
    return False
