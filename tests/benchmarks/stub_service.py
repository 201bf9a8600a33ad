"""
A service with very many jobs, as cheap as Python allows: for figures of what asks it, not of itself.

It speaks as much of DLI's API (token, status, list, cancel of SQL jobs) and of Databricks' (runs/get, runs/cancel) as
their triggers need. ``GET /_counts`` says how often each call was made, and when the cancels came.
Run: ``python tests/benchmarks/stub_service.py <jobs> [<seconds of latency>]``; the first line that it prints is its port.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

PAGE_SIZE = 100


class Service:
    """The jobs, and what was asked."""

    def __init__(self, jobs: int, latency: float) -> None:
        self.latency = latency
        self.calls: Counter[str] = Counter()
        self.cancels: dict[str, float] = {}
        self.connections: set[asyncio.Transport] = set()
        self.most_connections = 0
        self._start = int(time.time() * 1000)
        self._active = {job_id(number): self._line(number) for number in range(jobs)}
        self._over: dict[str, bytes] = {}

    def answer(self, method: str, target: str, body: bytes) -> tuple[str, bytes]:
        """Return extra headers and the JSON body."""
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        *_, before, last = parts.path.split("/")
        if last == "_counts":
            counts = {"calls": self.calls, "cancels": self.cancels, "connections": self.most_connections}
            return "", json.dumps(counts).encode()
        if last == "_add":
            return "", self._add(query["job"], float(query["for"]))
        if last == "tokens":
            ends = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
            token = {"token": {"expires_at": ends, "project": {"id": "p", "name": "stub"}}}
            return "X-Subject-Token: stub\r\n", json.dumps(token).encode()
        if method == "DELETE":
            self.calls["cancel"] += 1
            self.cancels.setdefault(last, time.time())
            self._end(last, "CANCELLED")
            return "", b'{"is_success": true, "message": ""}'
        if last == "status":
            self.calls["status"] += 1
            return "", self._active.get(before) or self._over.get(before, b"{}")
        if last == "jobs":
            self.calls["list"] += 1
            return "", self._page(query)
        if last == "get":
            self.calls["runs/get"] += 1
            run_id = json.loads(body or b"{}").get("run_id")
            return (
                "",
                b'{"run_id": %d, "run_page_url": "", "state": {"life_cycle_state": "RUNNING", "state_message": ""}}'
                % run_id,
            )
        if last == "cancel":
            self.calls["runs/cancel"] += 1
            self.cancels.setdefault(str(json.loads(body)["run_id"]), time.time())
        return "", b"{}"

    def _page(self, query: dict[str, str]) -> bytes:
        lines = list(self._active.values()) if query.get("job-status", "RUNNING") == "RUNNING" else []
        begin = (int(query.get("current-page", "1")) - 1) * PAGE_SIZE
        shown = b",".join(lines[begin : begin + PAGE_SIZE])
        return b'{"is_success": true, "job_count": %d, "jobs": [%s]}' % (len(lines), shown)

    def _add(self, number: str, seconds: float) -> bytes:
        added = job_id(int(number))
        # Newest first.
        self._active = {added: self._line(int(number)), **self._active}
        asyncio.get_running_loop().call_later(seconds, self._end, added, "FINISHED")
        return b"{}"

    def _end(self, ended: str, status: str) -> None:
        line = self._active.pop(ended, None)
        if line is not None:
            self._over[ended] = line.replace(b'"RUNNING"', b'"%s"' % status.encode())

    def _line(self, number: int) -> bytes:
        tags = {
            "airflow_ti": f"{number:040x}",
            "airflow_attempt": "1:1800000000000000.2:1:-1:0:task:0123456789abcdef",
            "airflow_dag": "sales",
            "airflow_run": "scheduled__2026-11-26T00:00:00@2b00:00",
            "airflow_task": "load_partition",
            "airflow_deployment": "stub",
        }
        line = {
            "is_success": True,
            "message": "",
            "job_id": job_id(number),
            "job_type": "INSERT",
            "job_mode": "async",
            "queue_name": "etl",
            "owner": "airflow",
            "start_time": self._start - number,
            "duration": 600_000,
            "status": "RUNNING",
            "input_row_count": 0,
            "bad_row_count": 0,
            "input_size": 0,
            "result_count": 0,
            "database_name": "sales",
            "table_name": "orders",
            "detail": "",
            "statement": "INSERT INTO orders SELECT id, customer, amount, day FROM staging WHERE day = '2026-11-26'",
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        }
        return json.dumps(line).encode()


def job_id(number: int) -> str:
    """Return the id of a job."""
    return f"00000000-0000-4000-8000-{number:012d}"


class Connection(asyncio.Protocol):
    """One HTTP connection, kept alive."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._service.connections.add(transport)
        self._service.most_connections = max(self._service.most_connections, len(self._service.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, rest = self._received.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            length = next((int(line[15:]) for line in lines if line.lower().startswith("content-length:")), 0)
            if len(rest) < length:
                return
            self._received = rest[length:]
            method, target, _ = lines[0].split(" ", 2)
            headers, body = self._service.answer(method, target, rest[:length])
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s" % (
                headers.encode(),
                len(body),
                body,
            )
            if self._service.latency:
                asyncio.get_running_loop().call_later(self._service.latency, self._transport.write, answer)
            else:
                self._transport.write(answer)


async def main(jobs: int, latency: float) -> None:
    """Serve until the process ends."""
    service = Service(jobs, latency)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=20000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0))
