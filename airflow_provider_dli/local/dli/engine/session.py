# ruff: noqa: S608 - SQL is what this module is about; names and texts in it are quoted by name() and text()
"""Runs one statement of Spark SQL for real, in DuckDB."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import sqlglot
from sqlglot import exp

from airflow_provider_dli.local.dli.engine import partitions
from airflow_provider_dli.local.dli.engine.engine import DEFAULT_DATABASE, Engine
from airflow_provider_dli.local.dli.engine.errors import dli_errors
from airflow_provider_dli.local.dli.engine.external_tables import ExternalTable, source_of
from airflow_provider_dli.local.dli.engine.quoting import name, text
from airflow_provider_dli.local.dli.engine.spark_sql import NotSupportedError, to_duckdb
from airflow_provider_dli.local.dli.engine.values import column_of, plain, valid_json
from airflow_provider_dli.local.dli.jobs.job import JobFailedError, StoppedError
from airflow_provider_dli.local.dli.jobs.sql_job import Column, Result

PREVIEW_ROWS = 1000
# Beyond 127, DuckDB fails with an internal error.
MAX_NESTING = 100
DATABASES = ("DATABASE", "SCHEMA")
# What DuckDB keeps for itself beside the schemas that stand for databases here; and the name of its whole
# catalog, which a schema of that name would make ambiguous.
ENGINE_SCHEMAS = ("main", "information_schema", "pg_catalog", "memory")


class Session:
    """One statement on its way through the database. ``run`` in one thread, ``interrupt`` from another."""

    def __init__(self, engine: Engine, tree: exp.Expr, database: str, result_file: Path) -> None:
        self._engine, self._tree, self._database, self._file = engine, tree, database, result_file
        self._cursor = engine.cursor()
        self._stopped = False

    def run(self) -> Result:
        """
        :raises JobFailedError: with a DLI code.
        :raises StoppedError: after an interrupt.
        """
        with self._opened():
            return self._run(self._tree)

    def check(self) -> None:
        """
        Bind a query, run nothing.

        :raises JobFailedError: with a DLI code.
        """
        with self._opened():
            if isinstance(self._tree, exp.Query):
                self._execute(f"DESCRIBE {self._sql(self._tree)}")

    def interrupt(self) -> None:
        self._stopped = True
        with contextlib.suppress(duckdb.Error):  # closed in the meantime
            self._cursor.interrupt()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        try:
            with dli_errors():
                self._use_database()
                yield
        finally:
            self._cursor.close()

    def _use_database(self) -> None:
        known = "SELECT 1 FROM duckdb_schemas() WHERE database_name = 'memory' AND lower(schema_name) = lower(?)"
        if not self._execute(known, [_not_the_engines(self._database)]):
            raise JobFailedError(f"DLI.0002: There is no database named {self._database}")
        self._execute(f"USE memory.{name(self._database)}")

    def _run(self, tree: exp.Expr) -> Result:
        match tree:
            case exp.Query() | exp.Values():
                return self._query(tree)
            case exp.Insert() | exp.LoadData():
                return self._insert(_as_insert(tree))
            case exp.Update() | exp.Delete() | exp.Merge():
                self._check_internal(tree)
                return self._change(tree)
            case exp.Create(kind="TABLE"):
                return self._create_table(tree)
            case exp.Create(kind="DATABASE" | "SCHEMA" | "VIEW"):
                return self._create(tree)
            case exp.Drop(kind="TABLE" | "VIEW" | "DATABASE" | "SCHEMA"):
                return self._drop(tree)
            case exp.Alter(kind="TABLE"):
                return self._alter(tree)
            case exp.TruncateTable():
                self._check_internal(tree)
                return self._change(tree)
            case exp.Describe(this=exp.Table()) if not tree.args.get("kind"):
                return self._describe(tree.this)
            case exp.Refresh():
                return Result()  # files behind a table are looked up anew by every statement
            case exp.Grant() | exp.Revoke() | exp.Command(this="GRANT" | "REVOKE"):
                return Result(message="There is one user here: rights are not modelled.")
            case exp.Command(this="SHOW"):
                return self._show(tree.expression.name)
            case exp.Command(this="EXPLAIN"):
                return self._explain(tree.expression.name)
        raise NotSupportedError(tree.sql("spark")[:200])

    def _query(self, tree: exp.Expr) -> Result:
        sql = self._sql(tree)
        columns = [(label, stored(kind)) for label, kind, *_ in self._execute(f"DESCRIBE {sql}")]
        if any(kind.count("[]") + kind.count("(") > MAX_NESTING for _, kind in columns):
            raise JobFailedError(f"DLI.0009: the type of a column is nested more than {MAX_NESTING} deep")
        labels = ", ".join(f"c{number}" for number in range(len(columns)))
        kept = ", ".join(f"CAST(c{number} AS {kind}) AS c{number}" for number, (_, kind) in enumerate(columns))
        target = f"{text(self._file)} (FORMAT parquet)"
        ((count,),) = self._execute(f"COPY (SELECT {kept} FROM ({sql}) AS q({labels})) TO {target}")
        rows = self._execute(f"SELECT * FROM read_parquet({text(self._file)}) LIMIT {PREVIEW_ROWS}")
        return Result(
            columns=[column_of(label, kind) for label, kind in columns],
            rows=[[plain(value) for value in row] for row in rows],
            count=count,
            file=str(self._file),
        )

    def _insert(self, tree: exp.Insert) -> Result:
        target = tree.this.find(exp.Table)
        if target is None or tree.expression is None:
            raise NotSupportedError(tree.sql("spark")[:200])
        overwrite, partition = bool(tree.args.get("overwrite")), partitions.values_of(target)
        external = self._external(target)
        if partition and external is not None:
            raise NotSupportedError(f"PARTITION of the external table {target.name}")
        tree = partitions.insert_of(tree, self._columns_of(target) if partition else [])
        tree = tree.copy()
        tree.set("overwrite", False)
        sql = self._insert_sql(tree)
        this_partition = "".join(
            f" AND {name(column)} IS NOT DISTINCT FROM {value.sql('duckdb')}" for column, value in partition.items()
        )
        with self._transaction(keep=external is None):
            # Rows of this transaction have larger row ids than all that are there.
            rows_there = f"SELECT coalesce(max(rowid), -1) FROM {self._name_of(target)}"
            ((last,),) = self._execute(rows_there)
            ((count,),) = self._execute(sql)
            if external is not None:
                self._write(external, target, overwrite)
            elif overwrite:
                self._execute(f"DELETE FROM {self._name_of(target)} WHERE rowid <= {last}{this_partition}")
        return Result(count=count)

    def _insert_sql(self, tree: exp.Insert) -> str:
        """Replace external tables in the source, not the target."""
        head = tree.copy()
        self._qualify(head.this.find(exp.Table))
        source = head.expression.pop()
        # Names from WITH are visible to the source only.
        if (given := head.args.get("with_")) is not None:
            inner = source.args.get("with_")
            source.set("with_", exp.With(expressions=[*given.expressions, *(inner.expressions if inner else [])]))
            head.set("with_", None)
        return f"{head.sql('duckdb', identify=True)} {self._sql(source)}"

    def _write(self, external: ExternalTable, target: exp.Table, overwrite: bool) -> None:
        """Write the rows that wait in the table of the same name, and leave that one empty."""
        before = self._engine.obs.files(external.path) if overwrite else []
        external.path.mkdir(parents=True, exist_ok=True)
        file = external.path / f"part-{uuid.uuid4()}.{external.format}"
        self._execute(f"COPY (SELECT * FROM {self._name_of(target)}) TO {text(file)} ({external.copy_options})")
        if external.format == "json":
            with file.open("rb") as written:
                lines = [valid_json(line) for line in written]
            file.write_bytes(b"".join(lines))
        for old in before:
            old.unlink(missing_ok=True)

    def _change(self, tree: exp.Expr) -> Result:
        answer = self._execute(self._sql(tree))
        counted = isinstance(tree, exp.Update | exp.Delete | exp.Merge) and answer
        return Result(count=answer[0][0] if counted else 0)

    def _create_table(self, tree: exp.Create) -> Result:
        target = tree.find(exp.Table)
        if target is None:
            raise NotSupportedError(tree.sql("spark")[:200])
        if tree.args.get("exists") and self._exists(target):
            return Result()
        external = ExternalTable.of(tree, self._engine.obs)
        if external is None:
            return self._create(tree)
        return self._create_external(tree, target, external)

    def _create_external(self, tree: exp.Create, target: exp.Table, external: ExternalTable) -> Result:
        """An empty table of the same name holds the columns; rows are in the files."""
        query = tree.expression
        if query is not None and self._engine.obs.files(external.path):
            raise JobFailedError(f"DLI.0006: the folder of table {target.name} already has files")
        if query is not None:
            columns = f"AS {self._sql(query)} WITH NO DATA"
        elif isinstance(tree.this, exp.Schema):
            columns = f"({', '.join(column.sql('duckdb', identify=True) for column in tree.this.expressions)})"
        else:
            files = self._engine.obs.files(external.path)
            columns = f"AS {source_of(external, files, []).sql('duckdb')} WITH NO DATA"
        self._execute(f"CREATE TABLE {self._name_of(target)} {columns}")
        self._engine.external.add(self._key(target), external)
        return Result() if query is None else self._insert(exp.Insert(this=target.copy(), expression=query.copy()))

    def _create(self, tree: exp.Create) -> Result:
        """A table kept inside, a view or a database. How Spark would store it makes no difference here."""
        properties = tree.args.get("properties")
        tree = tree.copy()
        partitions.put_last(tree)
        tree.set("properties", None)
        if tree.args.get("kind") in DATABASES:
            return self._create_database(tree)
        if properties is None or (model := properties.find(exp.LikeProperty)) is None:
            self._execute(self._sql(tree, views=False))
        else:
            target, model_name = self._name_of(tree.this), self._name_of(model.this)
            self._execute(f"CREATE TABLE {target} AS SELECT * FROM {model_name} WITH NO DATA")
        return Result()

    def _create_database(self, tree: exp.Create) -> Result:
        if tree.args.get("replace"):
            raise JobFailedError("DLI.0004: ParseException: CREATE OR REPLACE is for tables and views")
        exists = "IF NOT EXISTS " if tree.args.get("exists") else ""
        self._execute(f"CREATE SCHEMA {exists}{_database_name(tree.this)}")
        return Result()

    def _drop(self, tree: exp.Drop) -> Result:
        (target,) = tree.args["tables"]
        if tree.args.get("kind") in DATABASES:
            return self._drop_database(tree, target)
        exists = "IF EXISTS " if tree.args.get("exists") else ""
        self._execute(f"DROP {tree.args['kind']} {exists}{self._name_of(target)}")
        # The files stay, as in Spark.
        self._engine.external.forget(self._key(target))
        return Result()

    def _drop_database(self, tree: exp.Drop, target: exp.Table) -> Result:
        database = _database_name(target)
        if database == _database_name(exp.to_table(DEFAULT_DATABASE)):
            raise JobFailedError("DLI.0005: AnalysisException: Can not drop default database")
        exists = "IF EXISTS " if tree.args.get("exists") else ""
        self._execute(f"DROP SCHEMA {exists}{database}{' CASCADE' if tree.args.get('cascade') else ''}")
        self._engine.external.forget_database(target.name or target.db)
        return Result()

    def _alter(self, tree: exp.Alter) -> Result:
        self._check_internal(tree)
        table = self._name_of(tree.this)
        for action in tree.args.get("actions", []):
            if isinstance(action, exp.Schema):  # ADD COLUMNS (a int, b string)
                for column in action.expressions:
                    self._execute(f"ALTER TABLE {table} ADD COLUMN {column.sql('duckdb', identify=True)}")
            else:
                self._execute(f"ALTER TABLE {table} {action.sql('duckdb', identify=True)}")
        return Result()

    def _describe(self, table: exp.Table) -> Result:
        described = self._execute(f"DESCRIBE {self._name_of(table)}")
        rows = [[label, column_of(label, kind).type, None] for label, kind, *_ in described]
        return text_result(["col_name", "data_type", "comment"], rows)

    def _show(self, what: str) -> Result:
        words = what.strip().rstrip(";")
        like = _like(words)
        if re.match(r"(databases|schemas)\b", words, re.I):
            query = (
                "SELECT DISTINCT schema_name FROM duckdb_schemas() WHERE database_name = 'memory' "
                "AND schema_name NOT IN ('main', 'information_schema', 'pg_catalog') AND schema_name ILIKE ? ORDER BY 1"
            )
            return text_result(["databaseName"], [list(row) for row in self._execute(query, [like])])
        if found := re.match(r"tables(?:\s+(?:in|from)\s+`?(\w+)`?)?(?:\s|$)", words, re.I):
            database = _not_the_engines(found[1] or self._database)
            query = (
                "SELECT schema_name, table_name, false FROM duckdb_tables() "
                "WHERE lower(schema_name) = lower(?) AND table_name ILIKE ? ORDER BY 2"
            )
            rows = [list(row) for row in self._execute(query, [database, like])]
            return text_result(["database", "tableName", "isTemporary"], rows)
        if found := re.match(r"columns\s+(?:in|from)\s+(\S+)$", words, re.I):
            described = self._describe(sqlglot.parse_one(found[1], into=exp.Table, read="spark"))
            return text_result(["col_name"], [row[:1] for row in described.rows])
        raise NotSupportedError(f"SHOW {words[:100]}")

    def _explain(self, sql: str) -> Result:
        sql = re.sub(r"^\s*(extended|formatted|cost|codegen)\b", "", sql, flags=re.I)
        plan = self._execute(f"EXPLAIN {self._sql(sqlglot.parse_one(sql, read='spark'))}")
        return text_result(["plan"], [[line] for line in plan[0][1].splitlines()])

    def _sql(self, tree: exp.Expr, views: bool = True) -> str:
        """The statement for DuckDB, external tables replaced by what is in their folders now."""

        def read(table: exp.Table) -> exp.Expr | None:
            """The query that reads the files of an external table; every other one gets its full name."""
            path_query = ExternalTable.of_path_query(table, self._engine.obs)
            external = path_query or self._external(table)
            if external is None:
                if "/" in table.name:
                    raise NotSupportedError(f"reading {table.name[:100]!r}; only obs:// can be read")
                self._qualify(table)
                return None
            if not views and isinstance(tree, exp.Create) and tree.args.get("kind") == "VIEW":
                raise NotSupportedError("a view on an external table")
            columns = [] if path_query else self._execute(f"DESCRIBE {self._name_of(table)}")
            return source_of(external, self._engine.obs.files(external.path), columns)

        return to_duckdb(tree, read)

    def _external(self, table: exp.Table) -> ExternalTable | None:
        return self._engine.external.get(self._key(table))

    def _check_internal(self, tree: exp.Expr) -> None:
        target = tree.find(exp.Table)
        if target is not None and self._external(target) is not None:
            raise NotSupportedError(f"{tree.key.upper()} on the external table {target.name}")

    def _columns_of(self, table: exp.Table) -> list[str]:
        return [label for label, *_ in self._execute(f"DESCRIBE {self._name_of(table)}")]

    def _exists(self, table: exp.Table) -> bool:
        query = "SELECT 1 FROM duckdb_tables() WHERE lower(schema_name) = ? AND lower(table_name) = ?"
        return bool(self._execute(query, list(self._key(table))))

    def _key(self, table: exp.Table) -> tuple[str, str]:
        """
        Database and name, in lower case.

        :raises JobFailedError: for a name in a catalog.
        :raises NotSupportedError: for a name of the engine's own.
        """
        if table.catalog:
            raise JobFailedError(f"DLI.0005: AnalysisException: There is no catalog named {table.catalog}")
        return _not_the_engines((table.db or self._database).lower()), table.name.lower()

    def _qualify(self, table: exp.Table) -> None:
        """Name database and catalog: DuckDB would also look among tables and catalogs of its own."""
        database, _ = self._key(table)
        table.set("db", exp.to_identifier(database, quoted=True))
        table.set("catalog", exp.to_identifier("memory", quoted=True))

    def _name_of(self, table: exp.Table) -> str:
        database, label = self._key(table)
        return f"memory.{name(database)}.{name(label)}"

    @contextlib.contextmanager
    def _transaction(self, keep: bool) -> Iterator[None]:
        self._execute("BEGIN")
        try:
            yield
        except BaseException:
            with contextlib.suppress(duckdb.Error):
                self._cursor.execute("ROLLBACK")
            raise
        self._execute("COMMIT" if keep else "ROLLBACK")

    def _execute(self, sql: str, parameters: list[Any] | None = None) -> list[Any]:
        if self._stopped:
            raise StoppedError
        try:
            return self._cursor.execute(sql, parameters).fetchall()
        except (duckdb.InternalException, duckdb.FatalException):
            self._engine.is_broken = True
            raise


def _database_name(target: exp.Table) -> str:
    """
    The full name of the database that CREATE or DROP names.

    :raises JobFailedError: when it is in a catalog.
    :raises NotSupportedError: for one of the engine's own.
    """
    # CREATE has the name where a table has its own, DROP where a table has its database's.
    parts = [part for part in (target.catalog, target.db, target.name) if part]
    if len(parts) != 1:
        raise JobFailedError(f"DLI.0005: AnalysisException: There is no catalog named {parts[0] if parts else ''}")
    return f"memory.{name(_not_the_engines(parts[0].lower()))}"


def _not_the_engines(database: str) -> str:
    if database.lower() in ENGINE_SCHEMAS:
        raise NotSupportedError(f"the name {database} for a database: it is one of the SQL engine's own")
    return database


def text_result(labels: list[str], rows: list[list[Any]]) -> Result:
    """A small result of text columns, as of SHOW and DESC."""
    columns = [Column(label, "string", "string") for label in labels]
    return Result(columns=columns, rows=rows[:PREVIEW_ROWS], count=len(rows))


STORED = {
    "U?HUGEINT": "BIGINT",
    "UBIGINT": "DECIMAL(20, 0)",
    "UINTEGER": "BIGINT",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",
    "TIME WITH TIME ZONE": "TIME",
    "INTERVAL": "VARCHAR",
    "BIT": "VARCHAR",
}


def stored(kind: str) -> str:
    """Type in which a result column is kept: one that Spark has too, moments in UTC."""
    for ours, sparks in STORED.items():
        kind = re.sub(rf"\b{ours}\b", sparks, kind)
    return kind


def _as_insert(tree: exp.Expr) -> exp.Insert:
    """Both LOAD DATA INPATH and INSERT INTO a TABLE b are an INSERT of a query."""
    if isinstance(tree, exp.Insert):
        if isinstance(source := tree.args.get("source"), exp.Table):  # INSERT INTO a TABLE b
            tree = tree.copy()
            tree.set("source", None)
            tree.set("expression", exp.select("*").from_(source.copy()))
        return tree
    path = exp.to_identifier(tree.args["inpath"].name, quoted=True)
    overwrite = bool(tree.args.get("overwrite"))
    return exp.Insert(
        this=tree.this.copy(), expression=exp.select("*").from_(exp.Table(this=path)), overwrite=overwrite
    )


def _like(words: str) -> str:
    """SQL pattern of ``LIKE 'a*'``; Spark writes * for anything."""
    found = re.search(r"like\s+'([^']*)'$", words, re.I)
    return found[1].replace("*", "%") if found else "%"
