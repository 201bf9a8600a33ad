"""
A running local DLI as tests and continuous integration see it.

::

    with LocalDli.start() as dli:
        dli.will(run_for=5, then="FAILED", message="DLI.0005: AnalysisException: no such column")
        dli.fault("status", "status", times=2, status=503)
        ...  # run the code under test against dli.url
        assert [job.status for job in dli.jobs()] == ["FAILED"]
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from typing import Any, TypeVar

import requests

from airflow_provider_dli.local.dli.account.identity import Identity
from airflow_provider_dli.local.dli.admin.views import LocalJob, LocalRequest

T = TypeVar("T")


class LocalDli:
    """
    A local DLI, started by :meth:`start` or attached to by its URL.

    :param url: Base URL of a running server.
    :param identity: What it was started with; default: environment variables, else the built-in one.
    """

    def __init__(self, url: str, identity: Identity | None = None) -> None:
        self.url = url.rstrip("/")
        self.identity = identity or Identity.from_env()
        self._process: subprocess.Popen[str] | None = None

    @classmethod
    def start(cls, port: int = 0, *, startup_timeout: float = 30, **settings: Any) -> LocalDli:
        """
        Start a server in a process of its own, which ends with this one, however this one ends.

        :param port: 0 picks a free one.
        :param settings: Identity fields (``user="x"``), ``obs="folder"``, ``host``, with it ``allow_hosts`` (names by
            which it may be called) and ``allow_published_keys``, and fields of
            :class:`airflow_provider_dli.local.dli.settings.Settings`.
        :raises ModuleNotFoundError: without the extra ``[local]``.
        """
        _check_installed()
        names = {field.name for field in fields(Identity)}
        known = {name: getattr(Identity.from_env(), name) for name in names}
        identity = Identity(**known | {name: settings.pop(name) for name in names & set(settings)})
        process = _spawn(port, settings, identity)
        dli = cls(_url_of(process, startup_timeout), identity)
        dli._process = process
        return dli

    def stop(self) -> None:
        """End the server, if it was started here; its running jobs are interrupted."""
        process, self._process = self._process, None
        if process is None or process.stdin is None or process.stdout is None:
            return
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def __enter__(self) -> LocalDli:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    user = property(lambda self: self.identity.user)
    password = property(lambda self: self.identity.password)
    domain = property(lambda self: self.identity.domain)
    access_key = property(lambda self: self.identity.access_key)
    secret_key = property(lambda self: self.identity.secret_key)
    security_token = property(lambda self: self.identity.security_token)
    agency = property(lambda self: self.identity.agency)
    project_id = property(lambda self: self.identity.project_id)
    project_name = property(lambda self: self.identity.project_name)
    region = property(lambda self: self.identity.region)

    @property
    def pid(self) -> int | None:
        """Process id of a server that was started here."""
        return self._process.pid if self._process else None

    def jobs(self) -> list[LocalJob]:
        """All jobs, oldest first."""
        return [LocalJob(**found) for found in self._admin("GET", "jobs")]

    def job(self, job_id: str) -> LocalJob:
        """
        :raises LookupError: when there is no such job.
        """
        for job in self.jobs():
            if job.job_id == job_id:
                return job
        raise LookupError(f"no job {job_id} in {self.url}")

    def requests(self, call: str | None = None, since: int = 0) -> list[LocalRequest]:
        """
        Requests seen, oldest first, without those to the admin API.

        :param call: Only requests of this name.
        :param since: Only requests with a greater ``seq``.
        """
        found = [LocalRequest(**line) for line in self._admin("GET", "requests", params={"since": since})]
        return [request for request in found if call in (None, request.call)]

    def will(self, **script: Any) -> None:
        """
        Script the next matching jobs instead of running them.

        :param script: ``kind``, ``matching``, ``times``, ``launching_for``, ``run_for``, ``then``, ``message``,
            ``stuck_in``, ``cancel_takes``, ``rows``, ``log``; see
            :class:`airflow_provider_dli.local.dli.admin.api.Will`.
        """
        self._admin("POST", "will", json=script)

    def fault(self, call: str, kind: str, times: int | None = 1, **details: Any) -> None:
        """
        Let calls go wrong.

        :param call: Name of a call in :mod:`airflow_provider_dli.local.dli.routes`, or ``*`` for every call.
        :param kind: One of :data:`airflow_provider_dli.local.dli.faults.KINDS`.
        :param times: Number of calls; None for all that follow.
        :param details: Fields of :class:`airflow_provider_dli.local.dli.faults.Fault`.
        """
        self._admin("POST", "faults", json={"call": call, "fault": kind, "times": times, **details})

    def clear_faults(self) -> None:
        """Remove all rules of faults."""
        self._admin("DELETE", "faults")

    def settings(self, **changes: Any) -> dict[str, Any]:
        """
        Change the given settings and return all of them.

        See :class:`airflow_provider_dli.local.dli.settings.Settings`.
        """
        if changes:
            return dict(self._admin("POST", "settings", json=changes))
        return dict(self._admin("GET", "settings"))

    def restart(self, down_for: float = 0) -> None:
        """
        Restart DLI's API, and return once it is back: all connections are cut, and tokens are no longer valid.

        Jobs run on, as in a cloud. Requests, faults, scripts and settings are kept.

        :param down_for: Seconds without an API, in which connections are refused; 600 at most.
        """
        self._admin("POST", "restart", json={"down_for": down_for}, timeout=30 + down_for)

    def reset(self) -> None:
        """Forget jobs (interrupting them), tables, faults, scripts, settings, requests and locks."""
        self._admin("POST", "reset")

    def wait_until(self, predicate: Callable[[LocalDli], T], timeout: float = 10) -> T:
        """
        Wait for ``predicate(self)`` to be true and return it.

        :raises TimeoutError: with the jobs and the last requests.
        """
        deadline = time.monotonic() + timeout
        while True:
            if found := predicate(self):
                return found
            if time.monotonic() > deadline:
                seen = "\n".join(map(str, [*self.jobs()[-10:], *self.requests()[-20:]]))
                raise TimeoutError(f"not within {timeout} seconds; jobs and last requests:\n{seen}")
            time.sleep(0.02)

    def connection(self, auth_type: str = "password", **extra: Any) -> dict[str, Any]:
        """
        An Airflow connection to this server, as in the JSON form of Airflow connections.

        :param auth_type: ``password``, ``ak_sk``, ``agency``, ``metadata`` or ``environment``.
        :param extra: More fields of the extra, or other values; None leaves a field out.
        """
        signed = auth_type != "password"
        more = {
            "agency": {"agency_name": self.agency, "agency_domain_name": self.domain},
            "metadata": {"metadata_endpoint": self.url},
        }
        all_extra = {
            "auth_type": auth_type,
            "region": self.region,
            "project_id": self.project_id,
            "domain_name": self.domain,
            "iam_endpoint": self.url,
            **more.get(auth_type, {}),
            **extra,
        }
        of_none = auth_type in ("metadata", "environment")
        return {
            "conn_type": "dli",
            "login": None if of_none else self.access_key if signed else self.user,
            "password": None if of_none else self.secret_key if signed else self.password,
            "host": self.url,
            "extra": {key: value for key, value in all_extra.items() if value is not None},
        }

    def connection_env(self, conn_id: str = "dli_default", auth_type: str = "password", **extra: Any) -> dict[str, str]:
        """The environment variable that gives Airflow this connection."""
        return {f"AIRFLOW_CONN_{conn_id.upper()}": json.dumps(self.connection(auth_type, **extra))}

    @contextmanager
    def as_connection(self, conn_id: str = "dli_default", auth_type: str = "password", **extra: Any) -> Iterator[None]:
        """Have the connection in the environment of this process for a while."""
        wanted = self.connection_env(conn_id, auth_type, **extra)
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    def _admin(self, method: str, path: str, **options: Any) -> Any:
        # A session of its own each time: the handle may be used from several threads, and after a fork.
        with requests.Session() as session:
            # This machine is never reached through a proxy.
            session.trust_env = False
            response = session.request(method, f"{self.url}/_local/{path}", **{"timeout": 30, **options})
        if not response.ok:
            raise ValueError(f"{method} /_local/{path}: {response.status_code} {response.text}")
        return response.json()


def _check_installed() -> None:
    missing = [name for name in ("duckdb", "fastapi", "sqlglot", "uvicorn") if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise ModuleNotFoundError(f"no {names} here; run: pip install 'airflow-provider-dli[local]'", name=missing[0])


def _spawn(port: int, settings: dict[str, Any], identity: Identity) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "airflow_provider_dli.local.cli", "serve", "--port", str(port)]
    command.append("--until-stdin-closes")
    for name in ("host", "obs"):
        if name in settings:
            command += [f"--{name}", str(settings.pop(name))]
    for name in settings.pop("allow_hosts", ()):
        command += ["--allow-host", name]
    if settings.pop("allow_published_keys", False):
        command.append("--allow-published-keys")
    for name, value in settings.items():
        command += ["--set", f"{name}={json.dumps(value)}"]
    return subprocess.Popen(  # noqa: S603 - our own module
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # In the environment, so that no secret is in the list of processes.
        env={**os.environ, **identity.to_env()},
        # Ctrl-C is for the owner, which may want its server while it cleans up.
        start_new_session=True,
    )


def _url_of(process: subprocess.Popen[str], timeout: float) -> str:
    """
    Where the server says that it listens.

    :raises RuntimeError: when it does not say so in time.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    try:
        line = lines.get(timeout=timeout)
    except queue.Empty:
        line = ""
    if "listening on http" not in line:
        process.kill()
        raise RuntimeError(f"the local DLI did not start within {timeout} seconds; exit code {process.wait()}")
    # Of a server on all addresses, one that answers to its owner.
    return line.split()[-1].replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
