"""Figures of the local DLI, next to what is wanted of them. Run: python tests/benchmarks/local_dli.py"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import statistics
import threading
import time
from urllib.parse import urlsplit

import psutil
import requests

from airflow_provider_dli.local.handle import LocalDli

LONG = "SELECT count(*) FROM range(1000000000000)"


class Client:
    """One keep-alive connection with a token, as light as the standard library allows: the server is measured."""

    def __init__(self, dli: LocalDli, token: str) -> None:
        self._base = f"/v1.0/{dli.project_id}/"
        self._headers = {"X-Auth-Token": token, "Content-Type": "application/json"}
        self._connection = http.client.HTTPConnection(urlsplit(dli.url).netloc, timeout=30)

    def call(self, method: str, path: str, body: dict[str, object] | None = None) -> dict[str, object]:
        text = None if body is None else json.dumps(body)
        self._connection.request(method, self._base + path, text, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{method} {path}: {answer.status} {content.decode()}")
        return dict(json.loads(content))

    def submit(self, sql: str) -> str:
        return str(self.call("POST", "jobs/submit-job", {"sql": sql})["job_id"])


def main() -> None:
    report("start-up, median of 5", start_up(), "s", "< 1")
    with LocalDli.start() as dli:
        token = get_token(dli)
        report("first query finished after start-up", first_query(dli, token), "s", "")
        report("status calls, 16 connections", status_calls(dli, token), "/s", ">= 1000")
        median, worst = cancels(dli, token)
        report("cancel answered, 8 queries running, median", median * 1000, "ms", "< 10")
        report("cancel answered, 8 queries running, worst of 40", worst * 1000, "ms", "")
        listing(dli, token)


def report(what: str, figure: float, unit: str, wanted: str) -> None:
    print(f"{what:<50} {figure:>10.2f} {unit:<4} {wanted}", flush=True)


def start_up() -> float:
    """From the start of the process until it says that it listens."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        dli = LocalDli.start()
        times.append(time.perf_counter() - began)
        dli.stop()
    return statistics.median(times)


def first_query(dli: LocalDli, token: str) -> float:
    began, client = time.perf_counter(), Client(dli, token)
    job_id = client.submit("SELECT 1")
    while client.call("GET", f"jobs/{job_id}/status")["status"] != "FINISHED":
        time.sleep(0.01)
    return time.perf_counter() - began


def status_calls(dli: LocalDli, token: str, seconds: float = 5) -> float:
    """Two client processes of 8 threads, so that the client is not the limit more than it must be."""
    job_id = Client(dli, token).submit("SELECT 1")
    before, began = dli.requests()[-1].seq, time.perf_counter()
    with multiprocessing.Pool(2) as pool:
        done = sum(pool.starmap(poll, [(dli.url, token, job_id, seconds)] * 2))
    took = time.perf_counter() - began
    log = dli.requests("status", since=before)
    served, connections = log[-1].seq - before, len({line.connection for line in log})
    # The server's own count, so that a mistake in here cannot make the figure.
    if (served, connections) != (done, 16):
        raise RuntimeError(f"{done} calls counted here, {served} on {connections} connections in the server")
    return done / took


def poll(url: str, token: str, job_id: str, seconds: float, threads: int = 8) -> int:
    counts = [0] * threads
    deadline = time.perf_counter() + seconds

    def work(number: int) -> None:
        client = Client(LocalDli(url), token)
        while time.perf_counter() < deadline:
            client.call("GET", f"jobs/{job_id}/status")
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts)


def cancels(dli: LocalDli, token: str, running: int = 8, rounds: int = 40) -> tuple[float, float]:
    client = Client(dli, token)
    jobs = [client.submit(LONG) for _ in range(running)]
    times = []
    for number in range(rounds):
        time.sleep(0.05)
        began = time.perf_counter()
        client.call("DELETE", f"jobs/{jobs[number]}")
        times.append(time.perf_counter() - began)
        jobs.append(client.submit(LONG))
    dli.reset()
    return statistics.median(times), max(times)


def listing(dli: LocalDli, token: str, count: int = 10_000) -> None:
    client, server = Client(dli, token), psutil.Process(dli.pid)
    dli.settings(queues={"default": 16})
    dli.will(times=count)
    for number in range(count):
        client.submit(f"SELECT {number} FROM somewhere")
    before = server.memory_info().rss
    began, seen = time.perf_counter(), set()
    for page in range(1, 101):
        jobs = client.call("GET", f"jobs?page-size=100&current-page={page}")["jobs"]
        seen |= {job["job_id"] for job in jobs}  # type: ignore[attr-defined]
    took = time.perf_counter() - began
    if len(seen) != count:
        raise RuntimeError(f"{len(seen)} jobs seen instead of {count}")
    report("10,000 jobs listed in 100 pages", took, "s", "")
    report("memory before", before / 2**20, "MiB", "")
    report("memory after", server.memory_info().rss / 2**20, "MiB", "flat")


def get_token(dli: LocalDli) -> str:
    user = {"name": dli.user, "password": dli.password, "domain": {"name": dli.domain}}
    scope = {"project": {"id": dli.project_id}}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    return requests.post(f"{dli.url}/v3/auth/tokens", json=body, timeout=10).headers["X-Subject-Token"]


if __name__ == "__main__":
    main()
