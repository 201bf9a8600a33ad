# ruff: noqa: S608 - names and texts in the SQL are quoted by name() and text()
"""External tables: files in a folder behind ``obs://`` that a table name stands for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlglot
from sqlglot import exp

from airflow_provider_dli.local.dli.engine.obs import SCHEME, Obs
from airflow_provider_dli.local.dli.engine.quoting import name, text
from airflow_provider_dli.local.dli.engine.spark_sql import NotSupportedError

FORMATS = ("csv", "json", "parquet")
# Spark's options of CSV files and their names in DuckDB. Spark's defaults: no header, comma, double quote, backslash.
CSV_OPTIONS = {"header": "header", "sep": "delim", "delimiter": "delim", "quote": "quote", "escape": "escape"}


@dataclass(frozen=True)
class ExternalTable:
    """Where the rows of a table are, and how they are written."""

    format: str
    path: Path
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: exp.Create, obs: Obs) -> ExternalTable | None:
        """
        What a CREATE TABLE says about files; None when it names no path.

        :raises NotSupportedError: for a format that the local DLI cannot read.
        """
        given = _properties(tree)
        url = given.pop("path", None)
        if url is None:
            return None
        kind = given.pop("format", "parquet").lower()
        if kind not in FORMATS:
            raise NotSupportedError(f"tables in the format {kind}; {', '.join(FORMATS)} are")
        return cls(kind, obs.path(url), given)

    @classmethod
    def of_path_query(cls, table: exp.Table, obs: Obs) -> ExternalTable | None:
        """
        The files of ``SELECT * FROM csv.`obs://bucket/file` ``; None for a table with a name.

        Without a format in front, the end of the name tells it.
        """
        if not table.name.startswith(SCHEME):
            return None
        kind = table.db.lower() or table.name.removesuffix(".gz").rpartition(".")[2].lower()
        if kind not in FORMATS:
            raise NotSupportedError(f"files in the format {kind}; {', '.join(FORMATS)} are")
        return cls(kind, obs.path(table.name))

    @property
    def copy_options(self) -> str:
        """Options of DuckDB's COPY TO."""
        options = [f"FORMAT {self.format}", *(self._csv_options(" ") if self.format == "csv" else [])]
        return ", ".join(options)

    @property
    def read_options(self) -> list[str]:
        """Options of DuckDB's reader, without the columns."""
        if self.format == "csv":
            return self._csv_options(" = ")
        return ["format = 'newline_delimited'"] if self.format == "json" else []

    def _csv_options(self, equals: str) -> list[str]:
        options = {"header": "false", "delim": "','", "quote": "'\"'", "escape": "'\\'"}
        for label, value in self.options.items():
            if label in CSV_OPTIONS:
                is_true = value.lower() == "true"
                options[CSV_OPTIONS[label]] = str(is_true).lower() if label == "header" else text(value)
        if options["quote"] == "''":
            del options["escape"]
        return [f"{label}{equals}{value}" for label, value in options.items()]


class ExternalTables:
    """The external tables by database and name, in lower case."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], ExternalTable] = {}

    def add(self, key: tuple[str, str], table: ExternalTable) -> None:
        self._known[key] = table

    def get(self, key: tuple[str, str]) -> ExternalTable | None:
        return self._known.get(key)

    def forget(self, key: tuple[str, str]) -> None:
        self._known.pop(key, None)

    def forget_database(self, database: str) -> None:
        for key in [key for key in self._known if key[0] == database.lower()]:
            self.forget(key)


def source_of(table: ExternalTable, files: list[Path], columns: list[Any]) -> exp.Expr:
    """
    The query that reads the files.

    :param columns: Name and DuckDB type of each, as DESCRIBE gives them; empty to find out from the files.
    """
    if not files:
        if not columns:
            raise NotSupportedError(f"to find out columns from files when there are none in {table.path.name!r}")
        nothing = ", ".join(f"CAST(NULL AS {kind}) AS {name(label)}" for label, kind, *_ in columns)
        return _query(f"SELECT {nothing} WHERE false")
    paths = "[" + ", ".join(text(file) for file in files) + "]"
    options = table.read_options
    if columns and table.format != "parquet":
        typed = ", ".join(f"{text(label)}: {text(kind)}" for label, kind, *_ in columns)
        options = [*options, f"columns = {{{typed}}}"]
    wanted = ", ".join(f"CAST({name(label)} AS {kind}) AS {name(label)}" for label, kind, *_ in columns) or "*"
    return _query(f"SELECT {wanted} FROM read_{table.format}({', '.join([paths, *options])})")


def _query(sql: str) -> exp.Expr:
    return sqlglot.parse_one(sql, read="duckdb")


def _properties(tree: exp.Create) -> dict[str, str]:
    """``format``, ``path`` and the OPTIONS of a CREATE TABLE, names in lower case."""
    found: dict[str, str] = {}
    properties = tree.args.get("properties")
    for item in properties.expressions if properties else []:
        if isinstance(item, exp.FileFormatProperty):
            found["format"] = item.this.name
        elif isinstance(item, exp.LocationProperty):
            found["path"] = item.this.name
        elif isinstance(item, exp.OptionsProperty):
            found |= {option.this.name.lower(): _value(option.args["value"]) for option in item.expressions}
    return found


def _value(value: exp.Expr) -> str:
    return str(value.this).lower() if isinstance(value, exp.Boolean) else value.name
