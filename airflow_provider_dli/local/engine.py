# ruff: noqa: S608 - SQL is what this module is about; names and texts in it are quoted by _name and _text
"""Runs SQL for real: Spark's dialect, translated by sqlglot, in an in-memory DuckDB that reaches nothing else."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, ParseError, SqlglotError, UnsupportedError

from airflow_provider_dli.local.runner import JobFailedError, StoppedError
from airflow_provider_dli.local.store import Column, Result
from airflow_provider_dli.local.values import column_of, plain

PREVIEW_ROWS = 1000

# Statements that sqlglot does not parse come as a Command; the local DLI reports them as not supported.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


class SqlSyntaxError(Exception):
    """The statement does not parse."""


@dataclass(frozen=True)
class Statement:
    """A parsed statement. :param job_type: DLI's word for its kind."""

    sql: str
    tree: exp.Expr
    job_type: str


def parse(sql: str) -> Statement:
    """Read one Spark SQL statement. :raises SqlSyntaxError: with the reason."""
    try:
        trees = [tree for tree in sqlglot.parse(sql, read="spark") if tree is not None]
    except (SqlglotError, RecursionError) as error:
        raise SqlSyntaxError(_first_line(str(error)) or "the statement is nested too deeply") from None
    if len(trees) != 1:
        raise SqlSyntaxError("one statement per call is expected")
    job_type = _job_type(trees[0])
    if job_type is None:
        raise SqlSyntaxError(f"mismatched input {sql.split()[0]!r}")
    return Statement(sql, trees[0], job_type)


JOB_TYPES: dict[type[exp.Expr], str] = {
    exp.Query: "QUERY",
    exp.Values: "QUERY",
    exp.Insert: "INSERT",
    exp.LoadData: "IMPORT",
    exp.Update: "UPDATE",
    exp.Merge: "UPDATE",
    exp.Delete: "DELETE",
    exp.Grant: "DCL",
    exp.Revoke: "DCL",
    exp.Create: "DDL",
    exp.Drop: "DDL",
    exp.Alter: "DDL",
    exp.TruncateTable: "DDL",
    exp.Describe: "DDL",
    exp.Show: "DDL",
    exp.Use: "DDL",
    exp.Set: "DDL",
    exp.Cache: "DDL",
    exp.Uncache: "DDL",
    exp.Refresh: "DDL",
    exp.Analyze: "DDL",
    exp.Comment: "DDL",
}
COMMAND_TYPES = {"GRANT": "DCL", "REVOKE": "DCL", "EXPLAIN": "QUERY"}


def _job_type(tree: exp.Expr) -> str | None:
    if isinstance(tree, exp.Command):
        return COMMAND_TYPES.get(str(tree.this).upper(), "DDL")
    return next((name for kind, name in JOB_TYPES.items() if isinstance(tree, kind)), None)


class Engine:
    """One in-memory database, shared by all jobs.

    :param results: Folder for the results of queries. Besides it, the database can only reach ``obs``.
    :param obs: Folder behind ``obs://``.
    """

    def __init__(self, results: Path, obs: Path, memory_limit: str = "1GB") -> None:
        self._results = results
        self._connection = duckdb.connect(":memory:")
        self._configure([results, obs], memory_limit)

    def session(self, statement: Statement, database: str, job_id: str) -> Session:
        return Session(self._connection.cursor(), statement.tree, database, self._results / f"{job_id}.parquet")

    def close(self) -> None:
        self._connection.close()

    def _configure(self, folders: list[Path], memory_limit: str) -> None:
        reachable = ", ".join(_text(f"{folder}/") for folder in folders)
        for setting in [
            "TimeZone = 'UTC'",
            # One thread per job: its own. Interrupting it ends all of its work.
            "threads = 1",
            f"memory_limit = {_text(memory_limit)}",
            f"temp_directory = {_text(f'{folders[0]}/spill')}",
            f"allowed_directories = [{reachable}]",
            "python_enable_replacements = false",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "allow_community_extensions = false",
            "enable_external_access = false",
        ]:
            self._connection.execute(f"SET {setting}")
        self._connection.execute('CREATE SCHEMA "default"')
        self._connection.execute("SET lock_configuration = true")


class Session:
    """One statement on its way through the database. ``run`` in one thread, ``interrupt`` from another."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, tree: exp.Expr, database: str, result_file: Path) -> None:
        self._cursor, self._tree, self._database, self._file = cursor, tree, database, result_file
        self._stopped = False

    def run(self) -> Result:
        """:raises JobFailedError: with a DLI code. :raises StoppedError: after an interrupt."""
        try:
            with _dli_errors():
                self._use_database()
                return self._run(self._tree)
        finally:
            self._cursor.close()

    def interrupt(self) -> None:
        self._stopped = True
        with contextlib.suppress(duckdb.Error):  # closed in the meantime
            self._cursor.interrupt()

    def _use_database(self) -> None:
        if not self._execute("SELECT 1 FROM duckdb_schemas() WHERE lower(schema_name) = lower(?)", [self._database]):
            raise JobFailedError(f"DLI.0002: There is no database named {self._database}")
        self._execute(f"USE memory.{_name(self._database)}")

    def _run(self, tree: exp.Expr) -> Result:
        if isinstance(tree, exp.Query | exp.Values):
            return self._query(tree)
        if _job_type(tree) == "DCL":
            return Result(message="There is one user here: rights are not modelled.")
        if isinstance(tree, exp.Create | exp.Drop | exp.Alter | exp.TruncateTable):
            return self._change(_without_storage(tree))
        if isinstance(tree, exp.Insert | exp.Update | exp.Delete | exp.Merge):
            return self._change(tree)
        if isinstance(tree, exp.Describe):
            return self._describe(tree)
        raise _unsupported(tree.sql("spark"))

    def _query(self, tree: exp.Expr) -> Result:
        sql = to_duckdb(tree)
        columns = [(name, kind) for name, kind, *_ in self._execute(f"DESCRIBE {sql}")]
        names = ", ".join(f"c{number}" for number in range(len(columns)))
        kept = ", ".join(f"CAST(c{i} AS {_stored(kind)}) AS c{i}" for i, (_, kind) in enumerate(columns))
        copied = self._execute(
            f"COPY (SELECT {kept} FROM ({sql}) AS q({names})) TO {_text(self._file)} (FORMAT parquet)"
        )
        rows = self._execute(f"SELECT * FROM read_parquet({_text(self._file)}) LIMIT {PREVIEW_ROWS}")
        return Result(
            columns=[column_of(name, _stored(kind)) for name, kind in columns],
            rows=[[plain(value) for value in row] for row in rows],
            count=copied[0][0],
            file=str(self._file),
        )

    def _change(self, tree: exp.Expr) -> Result:
        answer = self._execute(to_duckdb(tree))
        counted = isinstance(tree, exp.Insert | exp.Update | exp.Delete | exp.Merge) and answer
        return Result(count=answer[0][0] if counted else 0)

    def _describe(self, tree: exp.Describe) -> Result:
        described = self._execute(f"DESCRIBE {tree.this.sql('duckdb', identify=True)}")
        rows = [[name, column_of(name, kind).type, None] for name, kind, *_ in described]
        return text_result(["col_name", "data_type", "comment"], rows)

    def _execute(self, sql: str, parameters: list[Any] | None = None) -> list[Any]:
        if self._stopped:
            raise StoppedError
        return self._cursor.execute(sql, parameters).fetchall()


def to_duckdb(tree: exp.Expr) -> str:
    """The statement in DuckDB's words. :raises UnsupportedError: when it has none."""
    translated = tree.copy().transform(_spark_range)
    for hint in list(translated.find_all(exp.Hint)):
        hint.pop()
    return translated.sql("duckdb", identify=True, unsupported_level=ErrorLevel.RAISE)


def text_result(names: list[str], rows: list[list[Any]]) -> Result:
    """A small result of text columns, as of SHOW and DESC."""
    columns = [Column(name, "string", "string") for name in names]
    return Result(columns=columns, rows=rows[:PREVIEW_ROWS], count=len(rows))


def _spark_range(node: exp.Expr) -> exp.Expr:
    """The table function range(...) has a column `id` in Spark, `range` in DuckDB."""
    if not (isinstance(node, exp.Table) and isinstance(node.this, exp.Anonymous)):
        return node
    if node.this.name.lower() != "range":
        return node
    # A fourth argument, the number of partitions, means nothing here.
    bounds = ", ".join(item.sql("duckdb") for item in node.this.expressions[:3])
    numbers = sqlglot.parse_one(f"SELECT range AS id FROM range({bounds})", read="duckdb")
    return exp.Subquery(this=numbers, alias=node.args.get("alias"))


def _without_storage(tree: exp.Expr) -> exp.Expr:
    """Without USING, PARTITIONED BY, LOCATION and the like: where a table is kept makes no difference here."""
    tree = tree.copy()
    tree.set("properties", None)
    if tree.args.get("kind") == "DATABASE":
        tree.set("kind", "SCHEMA")
    return tree


def _stored(kind: str) -> str:
    """Type in which a result column is kept: one that Spark has too, moments in UTC."""
    for ours, sparks in STORED.items():
        kind = re.sub(rf"\b{ours}\b", sparks, kind)
    return kind


STORED = {
    "U?HUGEINT": "BIGINT",
    "UBIGINT": "DECIMAL(20, 0)",
    "UINTEGER": "BIGINT",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",
    "TIME WITH TIME ZONE": "TIME",
    "INTERVAL": "VARCHAR",
    "BIT": "VARCHAR",
}


ERRORS: list[tuple[type[Exception], str]] = [
    (duckdb.ConversionException, "DLI.0018: NumberFormatException"),
    (duckdb.OutOfRangeException, "DLI.0018: ArithmeticException"),
    (duckdb.OutOfMemoryException, "DLI.0009: OutOfMemoryError"),
    (duckdb.NotImplementedException, "DLI.0007: not supported by the local DLI"),
    (duckdb.PermissionException, "DLI.0003: access denied"),
    (duckdb.IOException, "DLI.0001: storage"),
    (duckdb.InternalException, "DLI.0999: internal error"),
    (duckdb.Error, "DLI.0005: AnalysisException"),
]


@contextlib.contextmanager
def _dli_errors() -> Iterator[None]:
    """Translate what DuckDB and sqlglot raise into the way a DLI job ends."""
    try:
        yield
    except duckdb.InterruptException:
        raise StoppedError from None
    except UnsupportedError as error:
        raise JobFailedError(f"DLI.0007: not supported by the local DLI: {error}") from None
    except (ParseError, RecursionError) as error:
        raise JobFailedError(f"DLI.0004: ParseException: {_first_line(str(error))}") from None
    except duckdb.Error as error:
        text = _first_line(str(error))
        if "already exists" in text:
            raise JobFailedError(f"DLI.0006: {text}") from None
        raise JobFailedError(f"{next(code for kind, code in ERRORS if isinstance(error, kind))}: {text}") from None


def _unsupported(sql: str) -> JobFailedError:
    return JobFailedError(f"DLI.0007: not supported by the local DLI: {sql[:200]}")


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _text(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"
