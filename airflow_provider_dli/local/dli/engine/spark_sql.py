"""Spark's SQL dialect: parsing statements, and translating them to DuckDB's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

# Statements that sqlglot does not parse come as a Command, which is reported again where it is run.
logging.getLogger("sqlglot").setLevel(logging.ERROR)

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


class SqlSyntaxError(Exception):
    """The statement does not parse."""


class NotSupportedError(Exception):
    """The statement parses, but the local DLI cannot run it."""


@dataclass(frozen=True)
class Statement:
    """
    A parsed statement.

    :param job_type: DLI's name for its kind.
    :param table: The table that it changes.
    """

    tree: exp.Expr
    job_type: str
    table: str = ""


def parse(sql: str) -> Statement:
    """
    Read one statement.

    :raises SqlSyntaxError: with the reason.
    """
    try:
        trees = [tree for tree in sqlglot.parse(sql, read="spark") if tree is not None]
    except SqlglotError as error:
        raise SqlSyntaxError(first_line(str(error))) from None
    except RecursionError:
        raise SqlSyntaxError("the statement is nested too deeply") from None
    if len(trees) != 1:
        raise SqlSyntaxError(f"one statement is expected, not {len(trees)}")
    tree = trees[0]
    if isinstance(tree, exp.Drop) and len(tree.args["tables"]) != 1:
        raise SqlSyntaxError("mismatched input ',': DROP takes one name")
    job_type = _job_type(tree)
    if job_type is None:
        raise SqlSyntaxError(f"mismatched input {sql.split()[0][:40]!r}")
    changed = None if job_type in ("QUERY", "DCL") or isinstance(tree, exp.Command) else tree.find(exp.Table)
    return Statement(tree, job_type, changed.name if changed else "")


def to_duckdb(tree: exp.Expr, read_table: Callable[[exp.Table], exp.Expr | None] = lambda table: None) -> str:
    """
    The statement in DuckDB's dialect.

    :param read_table: Gives what to read instead of a table, or None to leave it.
    :raises UnsupportedError: when DuckDB has no equivalent.
    """
    tree = tree.copy()
    _name_like_spark(tree)
    for hint in list(tree.find_all(exp.Hint)):
        hint.pop()
    shadowed = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}

    def replace(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Table):
            return node
        if isinstance(node.this, exp.Identifier):
            if not node.db and node.name.lower() in shadowed:
                return node
            return _as_source(read_table(node), node)
        return _as_source(_table_function(node.this), node)

    return tree.transform(replace).sql("duckdb", identify=True, unsupported_level=ErrorLevel.RAISE)


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _job_type(tree: exp.Expr) -> str | None:
    if isinstance(tree, exp.Command):
        return COMMAND_TYPES.get(str(tree.this).upper(), "DDL")
    return next((name for kind, name in JOB_TYPES.items() if isinstance(tree, kind)), None)


def _name_like_spark(tree: exp.Expr) -> None:
    """Result columns without an alias are named by their text, which differs between the dialects."""
    query = tree.expression if isinstance(tree, exp.Create) else tree
    if not isinstance(query, exp.Select):
        return
    for column in query.expressions:
        unnamed = not isinstance(column, exp.Alias | exp.Column | exp.Star | exp.Explode | exp.Inline)
        if unnamed and not column.is_star and not column.find(exp.Explode, exp.Inline, exp.Stack):
            column.replace(exp.alias_(column.copy(), _text_in_spark(column), quoted=True))


def _text_in_spark(column: exp.Expr) -> str:
    if column == exp.Count(this=exp.Star(), big_int=True):
        return "count(1)"
    if isinstance(column, exp.CurrentDate) and not column.this:
        return "current_date()"
    return column.sql("spark")


def _as_source(source: exp.Expr | None, table: exp.Table) -> exp.Expr:
    """Read from ``source`` under the name that the table has in the statement."""
    if source is None:
        return table
    alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(table.alias_or_name or None))
    replaced = exp.Subquery(this=source, alias=alias)
    for rest in ("joins", "laterals", "pivots"):
        replaced.set(rest, table.args.get(rest))
    return replaced


def _table_function(call: exp.Expr) -> exp.Expr | None:
    """
    The table function range(...) has a column `id` in Spark, `range` in DuckDB. No other one is let through:
    DuckDB has many that read files or its own state.
    """
    if isinstance(call, exp.Anonymous) and call.name.lower() == "range":
        # A fourth argument, the number of partitions, means nothing here.
        bounds = ", ".join(item.sql("duckdb") for item in call.expressions[:3])
        return sqlglot.parse_one(f"SELECT range AS id FROM range({bounds})", read="duckdb")  # noqa: S608 - numbers
    if isinstance(call, exp.Explode | exp.Unnest | exp.Lateral | exp.Subquery | exp.Values):
        return None
    raise NotSupportedError(f"the table function {call.sql('spark')[:100]}")
