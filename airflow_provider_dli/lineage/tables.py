"""Which tables statements read and write: by OpenLineage's parser, and by sqlglot what that one cannot read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sqlglot import exp

_DIALECT = "spark"


class Tables(NamedTuple):
    """
    Tables, as ``database.table``, each once.

    :param read: Those that are read.
    :param written: Those that are written.
    :param columns: OpenLineage's parses, which tell from which columns the columns of ``written`` come.
    """

    read: list[str]
    written: list[str]
    columns: list[Any]


def tables_of(statements: Iterable[str], database: str) -> Tables:
    """
    Return the tables of some statements.

    :param statements: The statements, in DLI's dialect.
    :param database: Database of unqualified names.
    :raises ImportError: The OpenLineage provider is not installed.
    """
    from airflow.providers.openlineage.sqlparser import SQLParser

    parser = SQLParser(dialect=_DIALECT, default_schema=database)
    read: list[str] = []
    written: list[str] = []
    columns = []
    for statement in statements:
        found = parser.parse([statement])
        if found is None or found.errors:
            of_statement = _by_sqlglot(statement, database)
        else:
            columns.append(found)
            of_statement = [_name(table) for table in found.in_tables], [_name(table) for table in found.out_tables]
        read += of_statement[0]
        written += of_statement[1]
    return Tables(list(dict.fromkeys(read)), list(dict.fromkeys(written)), columns)


def _name(table: Any) -> str:
    return f"{table.schema}.{table.name}"


def _by_sqlglot(statement: str, database: str) -> tuple[list[str], list[str]]:
    from sqlglot import exp, parse_one
    from sqlglot.errors import SqlglotError

    try:
        tree = parse_one(statement, dialect=_DIALECT)
    except SqlglotError:
        return [], []
    writes = isinstance(tree, (exp.Create, exp.Insert, exp.Merge, exp.Update, exp.Delete))
    target = tree.this.find(exp.Table) if writes and isinstance(tree.this, exp.Expression) else None
    names = {cte.alias for cte in tree.find_all(exp.CTE)}
    read = [
        table for table in tree.find_all(exp.Table) if table is not target and (table.db or table.name not in names)
    ]
    return _qualified(read, database), _qualified([target] if target else [], database)


def _qualified(tables: Sequence[exp.Table], database: str) -> list[str]:
    return [f"{table.db or database}.{table.name}" for table in tables if table.name]
