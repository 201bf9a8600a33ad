"""A PostgreSQL server for one test, for Airflows that refuse SQLite."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pace
import psutil

from airflow_provider_dli.local.airflow.guardian import Guardian

# PostgreSQL refuses to be run by root. The Debian package brings this user.
USER = "postgres"


class Postgres:
    """A new, empty cluster in a temporary folder, reached through a socket in it.

    Use it as a context manager. However its owner ends, its guardian ends it and removes the folder.
    """

    def __enter__(self) -> Postgres:
        self._guardian = Guardian()
        try:
            self._start()
        except BaseException:
            self._guardian.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # SIGINT disconnects clients; after a SIGTERM the server would wait for them.
        self._server.send_signal(signal.SIGINT)
        self._wait(self._server, timeout=20)
        self._guardian.close()

    @property
    def url(self) -> str:
        """URL of its database for SQLAlchemy."""
        return f"postgresql+psycopg2://{USER}@/postgres?host={self._guardian.home}"

    def _start(self) -> None:
        home = self._guardian.home
        if os.geteuid() == 0:
            shutil.chown(home, USER, USER)
        data = str(home / "data")
        creation = self._run("initdb", f"--pgdata={data}", f"--username={USER}", "--encoding=UTF8", "--no-locale", "-N")
        self._wait(creation, timeout=60)
        # Its data need not survive a crash.
        settings = ("listen_addresses=", f"unix_socket_directories={home}", "fsync=off", "max_connections=200")
        self._server = self._run("postgres", "-D", data, *(f"--{setting}" for setting in settings))
        ready = ("--host", str(home), "--username", USER, "--quiet")
        deadline = time.monotonic() + pace.seconds(60)
        while self._wait(self._run("pg_isready", *ready), timeout=20, codes=(0, 1, 2)) != 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"PostgreSQL does not answer: {self._log.read_text()}")
            time.sleep(0.2)

    @property
    def _log(self) -> Path:
        return self._guardian.home / "postgres.log"

    def _run(self, program: str, *arguments: str) -> psutil.Process:
        as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.geteuid() == 0 else []
        argv = [*as_user, path(program) or program, *arguments]
        return self._guardian.start(argv, env=dict(os.environ), log=self._log)

    def _wait(self, process: psutil.Process, timeout: float, codes: tuple[int, ...] = (0,)) -> int:
        deadline = time.monotonic() + pace.seconds(timeout)
        while (code := self._guardian.exit_code(process)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"PostgreSQL: not within {timeout:g} s: {self._log.read_text()}")
            time.sleep(0.05)
        assert code in codes, self._log.read_text()
        return code


def path(program: str) -> str | None:
    """Path of a program of PostgreSQL, None if it is not installed. Debian keeps most of them out of the PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    return shutil.which(program) or next((str(folder / program) for folder in reversed(folders)), None)
