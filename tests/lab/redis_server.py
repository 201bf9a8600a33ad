"""A Redis server for one test, the broker of Celery."""

from __future__ import annotations

import os
import shutil
import socket
import time

import pace

from airflow_provider_dli.local.airflow.guardian import Guardian
from airflow_provider_dli.local.airflow.ports import hold_port


class Redis:
    """A new, empty server on a port of the loopback interface, with its data in a temporary folder.

    Use it as a context manager. However its owner ends, its guardian ends it and removes the folder.
    """

    def __enter__(self) -> Redis:
        self._held = hold_port()
        self._guardian = Guardian()
        try:
            self.start()
        except BaseException:
            self._guardian.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._guardian.close()
        self._held.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it, with the queues that it had when it was stopped."""
        program = shutil.which("redis-server")
        assert program, "there is no redis-server: install Redis"
        log, home = self._guardian.home / "redis.log", str(self._guardian.home)
        # An append-only file: what a broker forgets cannot be delivered twice, which is the harder case.
        options = ("--port", str(self._port), "--bind", "127.0.0.1", "--dir", home, "--save", "", "--appendonly", "yes")
        self._server = self._guardian.start([program, *options], env=dict(os.environ), log=log)
        deadline = time.monotonic() + pace.seconds(20)
        while not self._answers():
            if time.monotonic() > deadline:
                raise TimeoutError(f"Redis does not answer: {log.read_text()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self._server.terminate()
        deadline = time.monotonic() + pace.seconds(20)
        while self._guardian.exit_code(self._server) is None:
            if time.monotonic() > deadline:
                raise TimeoutError("Redis still runs")
            time.sleep(0.05)

    @property
    def _port(self) -> int:
        return int(self._held.getsockname()[1])

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
