"""What DLI does with a call, apart from its wire format."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_dli.local.bodies import CheckBody, ExportBody, SubmitBody
from airflow_provider_dli.local.faults import Faults
from airflow_provider_dli.local.folders import TemporaryFolder
from airflow_provider_dli.local.gateway import RequestLog
from airflow_provider_dli.local.iam import Iam
from airflow_provider_dli.local.obs import Obs, ObsError, check_name
from airflow_provider_dli.local.runner import (
    CANCELLED_BY_USER,
    JobFailedError,
    Runner,
    Script,
    Work,
    in_thread,
    play,
    run_interruptibly,
)
from airflow_provider_dli.local.security import AccessKeys, RefusedError, Tokens
from airflow_provider_dli.local.settings import Identity, Settings
from airflow_provider_dli.local.store import Job, JobStore, Result

if TYPE_CHECKING:
    # Importing DuckDB and sqlglot takes longer than starting the server: done on first use.
    from airflow_provider_dli.local.engine import Engine
    from airflow_provider_dli.local.spark import Statement


@dataclass
class Scripted:
    """A script for the next ``times`` jobs whose statement contains ``matching``."""

    script: Script
    matching: str = ""
    times: int = 1


class SoftFailureError(Exception):
    """Answered with 200 and is_success false."""


class Service:
    """One project of DLI, with everything that can be switched. Used on the event loop only.

    :param settings: How the switches stand at the start and after a reset.
    :param obs: Folder behind ``obs://``, one sub-folder per bucket. Default: a temporary one.
    """

    def __init__(self, identity: Identity, settings: Settings, obs: Path | None = None) -> None:
        self.identity = identity
        self.created_ms = int(time.time() * 1000)
        self._first_settings = settings
        self.settings = settings.model_copy(deep=True)
        self._folder = TemporaryFolder()
        self._own_obs = obs is None
        self.obs = Obs(obs or self._folder.path / "obs")
        self._results = self._folder.path / "results"
        for folder in (self.obs.root, self._results):
            folder.mkdir(parents=True, exist_ok=True)

        self.tokens = Tokens(self.clock)
        self.keys = AccessKeys(identity, lambda: self.settings, self.clock)
        self.iam = Iam(identity, lambda: self.settings, self.tokens, self.clock)
        self.faults = Faults()
        self.log = RequestLog()
        self.jobs = JobStore()
        self.runner = Runner(lambda: self.settings)
        self._scripts: list[Scripted] = []
        self._engine: Engine | None = None

    def clock(self) -> float:
        return time.time() + self.settings.clock_skew

    async def submit(self, body: SubmitBody) -> Job:
        """Start a job; in synchronous mode, return when it is over.

        :raises RefusedError: when the statement does not parse, or names an unknown queue or bad settings.
        """
        conf = body.settings()
        scripted = self._next_script(body.sql)
        statement = await self._parse(body.sql, forgiving=scripted is not None)
        job_type = statement.job_type if statement else "QUERY"
        job = Job(
            statement=body.sql,
            job_type=job_type,
            job_mode=self._mode(job_type, conf),
            queue_name=self.queue(body.queue_name),
            owner=self.identity.user,
            database=body.currentdb or "default",
            table=statement.table if statement else "",
            tags=[tag.model_dump() for tag in body.tags],
            conf=body.conf,
            timeout=_timeout(conf),
        )
        if scripted is not None:
            self._start(job, lambda job: play(job, scripted), scripted.launching_for)
        elif statement is not None:
            self._start(job, self._sql(statement))
        if job.job_mode == "sync":
            await self._wait_for(job)
        return job

    async def check(self, body: CheckBody) -> str:
        """The job type of a statement that would run.

        :raises RefusedError: :raises SoftFailureError: when it would not, depending on the settings.
        """
        try:
            statement = await self._parse(body.sql)
            assert statement is not None  # noqa: S101 - only a script forgives
            engine, database = self._open_engine(), body.currentdb or "default"
            await in_thread(lambda: engine.check(statement, database))
        except (RefusedError, JobFailedError) as error:
            refusal = error if isinstance(error, RefusedError) else _as_refusal(str(error))
            if self.settings.check_sql == "soft":
                raise SoftFailureError(f"{refusal.code}: {refusal.message}") from None
            raise refusal from None
        return statement.job_type

    def export(self, job_id: str, body: ExportBody) -> Job:
        """Start an EXPORT job for the result of a QUERY job. :raises RefusedError: when there is none."""
        source = self.job(job_id)
        if source.job_type != "QUERY" or source.status != "FINISHED":
            text = f"Only the result of a QUERY job that is FINISHED can be exported, not {source.job_type}"
            raise RefusedError(400, "DLI.0007", f"{text} that is {source.status}.")
        if source.result.file is None:
            raise RefusedError(400, "DLI.0100", "The result has expired: the rows of a scripted job are not stored.")
        try:
            check_name(body.data_path)
        except ObsError as error:
            raise RefusedError(400, "DLI.0001", f"The parameter data_path is not valid: {error}") from None
        job = Job(
            statement=f"EXPORT RESULT OF {job_id} TO {body.data_path}",
            job_type="EXPORT",
            queue_name=self.queue(body.queue_name),
            owner=self.identity.user,
            database=source.database,
            table=source.table,
            export=body.model_dump(),
        )
        self._start(job, self._export(source.result, body))
        return job

    def job(self, job_id: str) -> Job:
        """:raises RefusedError: for an unknown id, in the way that the settings say."""
        job = self.jobs.get(job_id)
        if job is not None:
            return job
        if self.settings.unknown_job == "404":
            raise RefusedError(404, "DLI.0023", "No related resources were found.")
        raise RefusedError(400, "DLI.0002", f"There is no job with the id {job_id[:64]}")

    def cancel(self, job_id: str) -> None:
        """Ask the job to stop. It is CANCELLED once it has really stopped.

        :raises RefusedError: :raises SoftFailureError: when the job has ended, depending on the settings.
        """
        job = self.job(job_id)
        job.cancel_requests.append(time.time())
        if job.is_active:
            job.ask_to_stop(CANCELLED_BY_USER)
        elif self.settings.cancel_ended == "soft":
            raise SoftFailureError(f"The job has ended ({job.status}) and cannot be canceled.")
        else:
            raise RefusedError(400, "DLI.0007", f"The job has ended ({job.status}) and cannot be canceled.")

    def queue(self, name: str) -> str:
        """The queue as it is stored, in lower case. :raises RefusedError: for an unknown one."""
        if name.lower() not in self.settings.queues:
            raise RefusedError(400, "DLI.0002", f"There is no queue named {name}")
        return name.lower()

    def script(self, script: Scripted) -> None:
        """Play the next matching jobs instead of running them."""
        self._scripts.append(script)

    def change_settings(self, settings: Settings) -> None:
        if settings.rotated_secret != self.settings.rotated_secret:
            self.tokens.forget()
        self.settings = settings
        self.runner.make_room()

    def warm_up(self) -> None:
        """Have the engine ready before somebody waits for it. May be called in any thread."""
        from airflow_provider_dli.local import engine  # noqa: F401

    async def reset(self) -> None:
        """Back to the start, but for the tokens: jobs are interrupted, tables and own OBS files are gone."""
        self._stop_all("The local DLI has been reset.")
        self.jobs.clear()
        self._scripts.clear()
        self.faults.clear()
        self.log.clear()
        self.keys.unlock()
        self.change_settings(self._first_settings.model_copy(deep=True))
        await self.runner.finish_all(5)
        self._drop_data()

    async def close(self) -> None:
        """Interrupt all jobs and leave nothing behind."""
        self._stop_all("The local DLI is shutting down.")
        await self.runner.finish_all(2)
        self._folder.remove()

    def _next_script(self, sql: str) -> Script | None:
        for scripted in self._scripts:
            if scripted.matching in sql:
                scripted.times -= 1
                if scripted.times <= 0:
                    self._scripts.remove(scripted)
                return scripted.script
        return None

    async def _parse(self, sql: str, forgiving: bool = False) -> Statement | None:
        """The parsed statement; for a job that is not run, one that does not parse is good enough."""
        from airflow_provider_dli.local.spark import SqlSyntaxError, parse

        try:
            return await in_thread(lambda: parse(sql))
        except SqlSyntaxError as error:
            if forgiving:
                return None
            raise RefusedError(400, "DLI.0004", f"ParseException: {error}") from None

    def _mode(self, job_type: str, conf: dict[str, str]) -> str:
        asynchronous = conf.get("dli.sql.sqlasync.enabled", "true").lower() != "false"
        if job_type == "DCL" and self.settings.dcl_mode == "sync":
            return "sync"
        return "sync" if job_type in ("DDL", "DCL") and not asynchronous else "async"

    def _start(self, job: Job, work: Work, launching_for: float = 0) -> None:
        self.jobs.add(job)
        self.runner.start(job, work, launching_for)

    def _sql(self, statement: Statement) -> Work:
        async def run(job: Job) -> Result:
            session = self._open_engine().session(statement, job.database, job.job_id)
            return await run_interruptibly(job, session)

        return run

    async def _wait_for(self, job: Job) -> None:
        """:raises RefusedError: when the job failed or took longer than a synchronous call may."""
        try:
            await asyncio.wait_for(job.ended.wait(), self.settings.sync_limit)
        except TimeoutError:
            raise RefusedError(400, "DLI.0019", "The synchronous call took too long and was cut off.") from None
        if job.status != "FINISHED":
            raise _as_refusal(job.message)

    def _export(self, source: Result, body: ExportBody) -> Work:
        async def run(job: Job) -> Result:
            from airflow_provider_dli.local.export import Export, Target

            target = Target(source, body, self.obs, self._results / job.job_id)
            return await run_interruptibly(job, Export(self._open_engine().cursor(), target))

        return run

    def _open_engine(self) -> Engine:
        if self._engine is None or self._engine.is_broken:
            from airflow_provider_dli.local.engine import Engine

            self._engine = Engine(self._results, self.obs)
        return self._engine

    def _stop_all(self, why: str) -> None:
        for job in self.jobs:
            if job.is_active:
                job.ask_to_stop(why)

    def _drop_data(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        _empty(self._results)
        if self._own_obs:
            _empty(self.obs.root)


def _as_refusal(message: str) -> RefusedError:
    """A job's message as the answer of a call."""
    code, colon, text = message.partition(": ")
    return RefusedError(400, *((code, text) if colon and code.startswith("DLI.") else ("DLI.0999", message)))


def _timeout(conf: dict[str, str]) -> float | None:
    text = conf.get("dli.sql.job.timeout")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) < 10**9):
        raise RefusedError(400, "DLI.0001", f"dli.sql.job.timeout must be a number of seconds, not {text[:40]!r}")
    return float(text)


def _empty(folder: Path) -> None:
    children: Iterable[Path] = folder.iterdir()
    for child in children:
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child, ignore_errors=True)
        else:
            child.unlink(missing_ok=True)
