"""The in-memory DuckDB behind all jobs. It reaches nothing but the folders of results and of ``obs://``."""

from __future__ import annotations

from pathlib import Path

import duckdb

from airflow_provider_dli.local.dli.engine.external_tables import ExternalTables
from airflow_provider_dli.local.dli.engine.obs import Obs
from airflow_provider_dli.local.dli.engine.quoting import name, text

DEFAULT_DATABASE = "default"


class Engine:
    """
    One in-memory database, shared by all jobs.

    :param results: Folder for the results of queries. Besides it, the database can only reach ``obs``.
    """

    def __init__(self, results: Path, obs: Obs, memory_limit: str = "1GB") -> None:
        self._results, self.obs = results, obs
        self.external = ExternalTables()
        #: After an internal error, DuckDB refuses all work, and a new engine is needed.
        self.is_broken = False
        self._connection = duckdb.connect(":memory:")
        self._configure(memory_limit)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        return self._connection.cursor()

    def close(self) -> None:
        self._connection.close()

    def _configure(self, memory_limit: str) -> None:
        reachable = ", ".join(text(f"{folder}/") for folder in (self._results, self.obs.root))
        for setting in [
            "TimeZone = 'UTC'",
            # One thread per job: its own. Interrupting it ends all of its work.
            "threads = 1",
            f"memory_limit = {text(memory_limit)}",
            f"temp_directory = {text(f'{self._results}/spill')}",
            f"allowed_directories = [{reachable}]",
            "python_enable_replacements = false",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "allow_community_extensions = false",
            "enable_external_access = false",
        ]:
            self._connection.execute(f"SET {setting}")
        self._connection.execute(f"CREATE SCHEMA {name(DEFAULT_DATABASE)}")
        self._connection.execute("SET lock_configuration = true")
