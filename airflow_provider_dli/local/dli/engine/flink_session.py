# ruff: noqa: S608 - SQL is what this module is about; names and texts in it are quoted by name() and text()
"""Runs the bounded SQL of a Flink job for real, in DuckDB."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import sqlglot
from sqlglot import exp

from airflow_provider_dli.local.dli.engine.engine import Engine
from airflow_provider_dli.local.dli.engine.errors import dli_errors
from airflow_provider_dli.local.dli.engine.external_tables import FORMATS, ExternalTable, source_of
from airflow_provider_dli.local.dli.engine.flink_datagen import generator
from airflow_provider_dli.local.dli.engine.flink_sql import FlinkScript, FlinkTable
from airflow_provider_dli.local.dli.engine.flink_sql import source_of as select_of
from airflow_provider_dli.local.dli.engine.quoting import name, text
from airflow_provider_dli.local.dli.engine.spark_sql import NotSupportedError, to_duckdb
from airflow_provider_dli.local.dli.engine.values import valid_json
from airflow_provider_dli.local.dli.jobs.job import JobFailedError, StoppedError

# Sinks whose rows go nowhere: into a log that the local DLI does not keep.
NOWHERE = ("print", "blackhole")
CHUNK = 10_000


class FlinkSession:
    """The queries of a script, one after the other. ``run`` in one thread, ``interrupt`` from another."""

    def __init__(self, engine: Engine, script: FlinkScript) -> None:
        self._engine, self._script = engine, script
        self._cursor = engine.cursor()
        self._stopped = False

    def check(self) -> None:
        """
        Bind all queries, run nothing.

        :raises JobFailedError: with a DLI code.
        """
        with dli_errors():
            for query in self._script.queries:
                self._columns_for(query)

    def run(self) -> int:
        """
        :returns: Number of rows written.
        :raises JobFailedError: with a DLI code.
        :raises StoppedError: after an interrupt.
        """
        with dli_errors():
            return sum(self._run(query) for query in self._script.queries)

    def interrupt(self) -> None:
        self._stopped = True
        with contextlib.suppress(duckdb.Error):  # closed in the meantime
            self._cursor.interrupt()

    def close(self) -> None:
        self._cursor.close()

    def _run(self, query: exp.Expr) -> int:
        sql = self._columns_for(query)
        sink = self._sink(query)
        if sink is None or sink.connector in NOWHERE:
            return self._drain(sql)
        return self._write(sql, _files_of(sink, self._engine), overwrite=bool(query.args.get("overwrite")))

    def _columns_for(self, query: exp.Expr) -> str:
        """The SELECT whose columns are those of its sink."""
        sql = self._sql(select_of(query))
        given = [label for label, *_ in self._execute(f"DESCRIBE {sql}")]
        sink = self._sink(query)
        if sink is None:
            return sql
        if query.args.get("partition"):
            raise NotSupportedError("INSERT with PARTITION")
        if sink.connector not in (*NOWHERE, "filesystem"):
            raise NotSupportedError(f"writing to the connector {sink.connector[:100]!r}")
        named = _target_columns(query)
        wanted = [label for label, _ in sink.columns] if named is None else named
        if len(given) != len(wanted):
            text = f"the sink {sink.name} takes {len(wanted)} columns, the query gives {len(given)}"
            raise JobFailedError(f"DLI.0005: ValidationException: {text}")
        if unknown := {label.lower() for label in wanted} - {label.lower() for label, _ in sink.columns}:
            raise JobFailedError(f"DLI.0005: ValidationException: the sink {sink.name} has no column {min(unknown)}")
        source = {label.lower(): f"c{number}" for number, label in enumerate(wanted)}
        cells = ", ".join(
            f"CAST({source.get(label.lower(), 'NULL')} AS {kind}) AS {name(label)}" for label, kind in sink.columns
        )
        labels = ", ".join(source.values())
        return f"SELECT {cells} FROM ({sql}) AS q({labels})"

    def _sink(self, query: exp.Expr) -> FlinkTable | None:
        """The table that a query writes to; a SELECT of its own shows its rows to nobody."""
        if not isinstance(query, exp.Insert):
            return None
        target = query.this.find(exp.Table)
        found = self._script.tables.get(target.name.lower()) if target is not None else None
        if found is None:
            raise JobFailedError(f"DLI.0005: ValidationException: {query.this.sql()[:100]} cannot be written to")
        return found

    def _sql(self, query: exp.Expr) -> str:
        return to_duckdb(query, self._read)

    def _read(self, table: exp.Table) -> exp.Expr:
        """The query that stands for a table or a view."""
        label = table.name.lower()
        if (view := self._script.views.get(label)) is not None:
            return sqlglot.parse_one(self._sql(view), read="duckdb")
        if (found := self._script.tables.get(label)) is None:
            raise JobFailedError(f"DLI.0005: ValidationException: Object '{table.name[:100]}' not found")
        if found.connector == "datagen":
            source = generator(found)
        elif found.connector == "filesystem":
            external = _files_of(found, self._engine)
            source = source_of(external, self._engine.obs.files(external.path), found.columns)
        else:
            raise NotSupportedError(f"reading from the connector {found.connector[:100]!r}")
        if not found.computed:
            return source
        computed = ", ".join(f"{to_duckdb(tree)} AS {name(label)}" for label, tree in found.computed)
        return sqlglot.parse_one(f"SELECT *, {computed} FROM ({source.sql('duckdb')}) AS q", read="duckdb")

    def _drain(self, sql: str) -> int:
        """Make all rows, piece by piece, and drop them."""
        count = 0
        with self._watched():
            self._cursor.execute(sql)
            while rows := self._cursor.fetchmany(CHUNK):
                count += len(rows)
                if self._stopped:
                    raise StoppedError
        return count

    def _write(self, sql: str, sink: ExternalTable, overwrite: bool) -> int:
        """One more file in the folder of the sink, which is there as a whole or not at all."""
        before = self._engine.obs.files(sink.path) if overwrite else []
        sink.path.mkdir(parents=True, exist_ok=True)
        label = f"part-{uuid.uuid4()}-0"
        hidden = sink.path / f".{label}.inprogress"
        try:
            ((count,),) = self._execute(f"COPY ({sql}) TO {text(hidden)} ({sink.copy_options})")
            if sink.format == "json":
                _make_json_valid(hidden)
            hidden.rename(sink.path / f"{label}.{sink.format}")
            for old in before:
                old.unlink(missing_ok=True)
        finally:
            hidden.unlink(missing_ok=True)
        return int(count)

    def _execute(self, sql: str) -> list[Any]:
        with self._watched():
            return self._cursor.execute(sql).fetchall()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Run nothing after an interrupt, and note when the engine breaks down."""
        if self._stopped:
            raise StoppedError
        try:
            yield
        except (duckdb.InternalException, duckdb.FatalException):
            self._engine.is_broken = True
            raise


def _files_of(table: FlinkTable, engine: Engine) -> ExternalTable:
    """The folder behind a table of the connector filesystem."""
    kind = table.options.get("format", "csv").lower()
    if kind not in FORMATS:
        raise NotSupportedError(f"files in the format {kind[:100]}; {', '.join(FORMATS)} are")
    separator = table.options.get("csv.field-delimiter", ",")
    # Flink's CSV files have no header, and double a quote inside of quotes.
    return ExternalTable(kind, engine.obs.path(table.options.get("path", "")), {"sep": separator, "escape": '"'})


def _target_columns(query: exp.Expr) -> list[str] | None:
    """The columns that ``INSERT INTO sink (a, b)`` names, if it does."""
    return [column.name for column in query.this.expressions] if isinstance(query.this, exp.Schema) else None


def _make_json_valid(file: Path) -> None:
    with file.open("rb") as written:
        lines = [valid_json(line) for line in written]
    file.write_bytes(b"".join(lines))
