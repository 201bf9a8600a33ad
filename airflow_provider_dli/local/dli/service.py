"""One project of DLI: what all calls share."""

from __future__ import annotations

import itertools
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_dli.local.dli.account.identity import Identity
from airflow_provider_dli.local.dli.account.signature import AccessKeys
from airflow_provider_dli.local.dli.account.tokens import Tokens
from airflow_provider_dli.local.dli.actions import Action
from airflow_provider_dli.local.dli.bodies import ExportBody
from airflow_provider_dli.local.dli.engine.obs import Obs
from airflow_provider_dli.local.dli.faults import Faults
from airflow_provider_dli.local.dli.jobs.driver import Driver
from airflow_provider_dli.local.dli.jobs.job import Job
from airflow_provider_dli.local.dli.jobs.queue_book import QueueBook, QueueType
from airflow_provider_dli.local.dli.jobs.runner import Runner, Work
from airflow_provider_dli.local.dli.jobs.scripts import Scripts
from airflow_provider_dli.local.dli.jobs.spark_batch import SparkBatch
from airflow_provider_dli.local.dli.jobs.sql_job import Result
from airflow_provider_dli.local.dli.jobs.store import JobStore
from airflow_provider_dli.local.dli.request_log import RequestLog
from airflow_provider_dli.local.dli.settings import Settings
from airflow_provider_dli.local.dli.temporary_folder import TemporaryFolder

if TYPE_CHECKING:
    # Importing DuckDB and sqlglot takes longer than starting the server: done on first use.
    from airflow_provider_dli.local.dli.engine.engine import Engine
    from airflow_provider_dli.local.dli.engine.export import Export
    from airflow_provider_dli.local.dli.engine.flink_session import FlinkSession
    from airflow_provider_dli.local.dli.engine.flink_sql import FlinkScript
    from airflow_provider_dli.local.dli.engine.session import Session
    from airflow_provider_dli.local.dli.engine.spark_sql import Statement


class Service:
    """
    Used on the event loop only.

    :param settings: Settings at the start and after a reset.
    :param obs: Folder behind ``obs://``, one sub-folder per bucket. Default: a temporary one.
    """

    def __init__(self, identity: Identity, settings: Settings, obs: Path | None = None) -> None:
        self.identity = identity
        self._first_settings = settings
        self.settings = settings.model_copy(deep=True)
        self._folder = TemporaryFolder()
        self._own_obs = obs is None
        self._obs = Obs(obs or self._folder.path / "obs")
        self._results = self._folder.path / "results"
        for folder in (self._obs.root, self._results):
            folder.mkdir(parents=True, exist_ok=True)

        self.tokens = Tokens(self.clock)
        self.keys = AccessKeys(identity, lambda: self.settings, self.clock)
        self.faults = Faults()
        self.log = RequestLog()
        self.jobs = JobStore()
        #: Ids of Flink jobs, which are numbers.
        self.flink_numbers = itertools.count(100_001)
        self.scripts = Scripts()
        self.book = QueueBook(lambda: self.settings)
        self._runner = Runner(lambda: self.settings, self.book.capacity)
        self._engine: Engine | None = None

    def clock(self) -> float:
        return time.time() + self.settings.clock_skew

    def may(self, action: Action) -> bool:
        return self.settings.rights is None or action in self.settings.rights

    def queue(self, name: str, for_type: QueueType | None = None) -> str:
        """
        The queue as it is stored, in lower case.

        :param for_type: Type of the queue that a job needs which is to be submitted to it.
        :raises RefusedError: for an unknown one, or one that does not take the job.
        """
        found = self.book.queue(name) if for_type is None else self.book.queue_for(name, for_type)
        return found.name

    def has_active_jobs(self, queue: str) -> bool:
        return any(job.is_active and job.queue_name == queue for job in self.jobs)

    def start(self, job: Job, work: Work, launching_for: float = 0) -> None:
        """Take the job in, and let it run as soon as its queue has room."""
        self.take_in(job)
        self._runner.start(job, work, launching_for)

    def take_in(self, job: Job) -> None:
        """Have the job listed, with the times of this server's clock."""
        job.clock_skew = self.settings.clock_skew
        self.jobs.add(job)

    def session(self, statement: Statement, database: str, job_id: str) -> Session:
        """What runs a statement."""
        from airflow_provider_dli.local.dli.engine.session import Session

        return Session(self._open_engine(), statement.tree, database, self._results / f"{job_id}.parquet")

    def flink_session(self, script: FlinkScript) -> FlinkSession:
        """What runs the SQL of a Flink job."""
        from airflow_provider_dli.local.dli.engine.flink_session import FlinkSession

        return FlinkSession(self._open_engine(), script)

    def driver(self, batch: SparkBatch) -> Driver:
        """What runs the driver of a batch, once."""
        folder = self._folder.path / "batches" / f"{batch.job_id}-{len(batch.logs)}"
        return Driver(batch.body, self._obs, folder, batch.logs[-1])

    def export(self, source: Result, body: ExportBody, job_id: str) -> Export:
        """What exports a result."""
        from airflow_provider_dli.local.dli.engine.export import Export, Target

        return Export(self._open_engine().cursor(), Target(source, body, self._obs, self._results / job_id))

    def change_settings(self, settings: Settings) -> None:
        if settings.rotated_secret != self.settings.rotated_secret:
            self.tokens.revoke_all()
        self.settings = settings
        self._runner.make_room()

    def warm_up(self) -> None:
        """Have the engine ready before somebody waits for it. May be called in any thread."""
        from airflow_provider_dli.local.dli.engine import session  # noqa: F401

    async def reset(self) -> None:
        """Back to the start, but for the tokens: jobs are interrupted, tables and own OBS files are gone."""
        self._stop_all("The local DLI has been reset.")
        for kept in (self.jobs, self.scripts, self.faults, self.log, self.book):
            kept.clear()
        self.keys.unlock()
        self.change_settings(self._first_settings.model_copy(deep=True))
        await self._runner.finish_all(5)
        self._drop_data()

    async def close(self) -> None:
        """Interrupt all jobs and leave nothing behind."""
        self._stop_all("The local DLI is shutting down.")
        await self._runner.finish_all(2)
        self._folder.remove()

    def _open_engine(self) -> Engine:
        if self._engine is None or self._engine.is_broken:
            from airflow_provider_dli.local.dli.engine.engine import Engine

            self._engine = Engine(self._results, self._obs)
        return self._engine

    def _stop_all(self, why: str) -> None:
        for job in self.jobs:
            if job.is_active:
                job.end(why)

    def _drop_data(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        _empty(self._results)
        if self._own_obs:
            _empty(self._obs.root)


def _empty(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child, ignore_errors=True)
        else:
            child.unlink(missing_ok=True)
