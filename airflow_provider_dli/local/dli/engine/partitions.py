"""Partitions of a table: columns like any other here, but where Spark has them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from airflow_provider_dli.local.dli.engine.spark_sql import NotSupportedError


def put_last(tree: exp.Create) -> None:
    """Move the columns of PARTITIONED BY to the end of the table, which is where Spark has them."""
    found = tree.find(exp.PartitionedByProperty)
    if found is None or not isinstance(tree.this, exp.Schema):
        return
    columns = tree.this.expressions
    given = {column.name.lower(): column for column in columns if isinstance(column, exp.ColumnDef)}
    # A column of its own, with a type, or the name of one of the others. A transform, such as years(day), moves none.
    parts = [part for part in found.this.expressions if isinstance(part, exp.ColumnDef | exp.Identifier)]
    last = [part if isinstance(part, exp.ColumnDef) else given.get(part.name.lower()) for part in parts]
    if None in last:
        raise NotSupportedError(found.sql("spark")[:200])
    tree.this.set("expressions", [*(column for column in columns if column not in last), *last])


def insert_of(tree: exp.Insert, columns: Sequence[str]) -> exp.Insert:
    """
    The same INSERT, with what PARTITION says as values of columns.

    :param columns: All columns of the table.
    """
    target = tree.this.find(exp.Table)
    values = values_of(target)
    if not values:
        return tree
    head, source = tree.this, tree.expression
    named = [each.name for each in head.expressions] if isinstance(head, exp.Schema) else list(columns)
    named = [column for column in named if column.lower() not in values]
    target = target.copy()
    target.set("partition", None)
    changed = tree.copy()
    changed.set("this", exp.Schema(this=target, expressions=[exp.to_identifier(each) for each in [*named, *values]]))
    rows = exp.Subquery(this=source.copy(), alias=exp.TableAlias(this=exp.to_identifier("rows_of_partition")))
    changed.set("expression", exp.select("*", *(value.copy() for value in values.values())).from_(rows))
    return changed


def values_of(table: exp.Table) -> dict[str, exp.Expr]:
    """
    What PARTITION says: the value of each of its columns, by name in lower case; empty without it.

    :raises NotSupportedError: for a column without a constant value, whose partitions follow from the rows.
    """
    partition = table.args.get("partition")
    found = partition.expressions if partition is not None else []
    if not all(isinstance(each, exp.EQ) and _is_constant(each.expression) for each in found):
        raise NotSupportedError(table.sql("spark")[:200])
    return {each.this.name.lower(): each.expression for each in found}


def _is_constant(value: exp.Expr) -> bool:
    inner = value.this if isinstance(value, exp.Cast | exp.Neg) else value
    return isinstance(inner, exp.Literal | exp.Null | exp.Boolean)
