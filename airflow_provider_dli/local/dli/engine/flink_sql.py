"""Flink's SQL dialect: the script of a job, read into its tables, views and queries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import sqlglot
from sqlglot import Token, TokenType, exp
from sqlglot.errors import SqlglotError

from airflow_provider_dli.local.dli.engine.spark_sql import SqlSyntaxError, first_line

# As close as sqlglot comes to Flink: Spark's SQL with a CAST that fails.
DIALECT = "databricks"
# What a table definition has beside columns.
NO_COLUMN = ("WATERMARK", "PRIMARY", "CONSTRAINT", "UNIQUE")
TYPE_ENDS = ("NOT", "NULL", "COMMENT", "METADATA", "PRIMARY")
# Types that Spark's dialect knows by another name, or not with these details.
TYPES = [
    (r"\bTIMESTAMP(_LTZ)?\b\s*(\(\d+\))?(\s*WITH(OUT)?(\s+LOCAL)?\s+TIME\s+ZONE)?", "TIMESTAMP_NTZ"),
    (r"\b(VAR)?CHAR\b\s*(\(\d+\))?", "STRING"),
    (r"\b(VAR)?BINARY\b\s*\(\d+\)|\bBYTES\b", "BINARY"),
    (r"\bTIME\b\s*\(\d+\)", "TIME"),
    (r"\bDOUBLE\s+PRECISION\b", "DOUBLE"),
    (r"\bROW\s*<", "STRUCT<"),
]
#: Statements that change nothing that the local DLI models.
IGNORED = ("SET", "RESET", "USE")


@dataclass(frozen=True)
class FlinkTable:
    """
    A table of a script, which stands for something outside: its connector.

    :param columns: Name and DuckDB type of each column that the connector has.
    :param computed: Name and expression of the others.
    :param options: The WITH part.
    """

    name: str
    columns: list[tuple[str, str]]
    computed: list[tuple[str, exp.Expr]]
    options: dict[str, str]

    @property
    def connector(self) -> str:
        return self.options.get("connector", "")

    @cached_property
    def generated_rows(self) -> int | None:
        """Number of rows that a datagen source makes; None when it never ends."""
        counts = [int(self.options["number-of-rows"])] if "number-of-rows" in self.options else []
        for label, _ in self.columns:
            if self.options.get(f"fields.{label}.kind") == "sequence":
                first, last = (int(self.options[f"fields.{label}.{end}"]) for end in ("start", "end"))
                counts.append(max(0, last - first + 1))
        return min(counts, default=None)

    @property
    def is_bounded(self) -> bool:
        """Whether what is read from it comes to an end. What the local DLI cannot read does not."""
        if self.connector == "datagen":
            return self.generated_rows is not None
        return self.connector == "filesystem" and "source.monitor-interval" not in self.options

    @property
    def seconds(self) -> float:
        """How long reading it takes at the least, by its own rate."""
        if self.connector != "datagen" or self.generated_rows is None:
            return 0
        return self.generated_rows // int(self.options.get("rows-per-second", "10000"))


@dataclass
class FlinkScript:
    """
    Tables and views by name in lower case, and the queries in their order.

    :param queries: INSERTs and SELECTs.
    """

    tables: dict[str, FlinkTable] = field(default_factory=dict)
    views: dict[str, exp.Expr] = field(default_factory=dict)
    queries: list[exp.Expr] = field(default_factory=list)

    @property
    def is_bounded(self) -> bool:
        return all(table.is_bounded for table in self._sources())

    @property
    def seconds(self) -> float:
        """How long the job takes at the least."""
        return max((table.seconds for table in self._sources()), default=0)

    def check(self) -> None:
        """
        :raises SqlSyntaxError: when nothing is to be run, or a table is not defined.
        """
        if not self.queries:
            raise SqlSyntaxError("the script has no INSERT and no SELECT")
        for query in [*self.views.values(), *self.queries]:
            for table in _named_tables(query):
                if table.name.lower() not in self.tables and table.name.lower() not in self.views:
                    raise SqlSyntaxError(f"Object '{table.name}' not found")

    def _sources(self) -> list[FlinkTable]:
        names = {table.name.lower() for query in self.queries for table in _named_tables(source_of(query))}
        names |= {table.name.lower() for view in self.views.values() for table in _named_tables(view)}
        return [table for name, table in self.tables.items() if name in names]


def parse_script(sql: str) -> FlinkScript:
    """
    Read the SQL of a job.

    :raises SqlSyntaxError: with the reason, also for a table that is not defined.
    """
    script = FlinkScript()
    try:
        for tokens in _statements(sqlglot.tokenize(sql, read=DIALECT)):
            _read(script, sql, tokens)
        script.check()
    except SqlglotError as error:
        raise SqlSyntaxError(first_line(str(error))) from None
    except RecursionError:
        raise SqlSyntaxError("the script is nested too deeply") from None
    return script


def source_of(query: exp.Expr) -> exp.Expr:
    """The SELECT of an INSERT."""
    return query.expression if isinstance(query, exp.Insert) else query


def _statements(tokens: list[Token]) -> Iterator[list[Token]]:
    """The statements, also those between BEGIN STATEMENT SET and END."""
    statement: list[Token] = []
    for token in [*tokens, None]:
        if token is not None and token.token_type != TokenType.SEMICOLON:
            statement.append(token)
            words = [part.text.upper() for part in statement]
            if words in (["BEGIN", "STATEMENT", "SET"], ["EXECUTE", "STATEMENT", "SET", "BEGIN"], ["END"]):
                statement = []
        elif statement:
            yield statement
            statement = []


def _read(script: FlinkScript, sql: str, tokens: list[Token]) -> None:
    words = [token.text.upper() for token in tokens[:3]]
    if words[0] in IGNORED:
        return
    if words[0] == "CREATE" and "TABLE" in words[1:]:
        table = _TableReader(sql, tokens).read()
        script.tables[table.name.lower()] = table
        return
    tree = sqlglot.parse_one(_text(sql, tokens), read=DIALECT)
    match tree:
        case exp.Insert() if isinstance(tree.expression, exp.Query | exp.Values) and tree.this.find(exp.Table):
            script.queries.append(tree)
        case exp.Query() | exp.Values():
            script.queries.append(tree)
        case exp.Create(kind="VIEW") if isinstance(tree.expression, exp.Query) and tree.find(exp.Table):
            script.views[tree.find(exp.Table).name.lower()] = tree.expression  # type: ignore[union-attr]
        case _:
            raise SqlSyntaxError(f"mismatched input {tokens[0].text[:40]!r}")


class _TableReader:
    """Reads one CREATE TABLE, which is too far from other dialects for their parsers."""

    def __init__(self, sql: str, tokens: list[Token]) -> None:
        self._sql, self._tokens = sql, tokens
        self._at = 0

    def read(self) -> FlinkTable:
        """
        :raises SqlSyntaxError: with the reason.
        """
        self._at = 1 + next(i for i, token in enumerate(self._tokens) if token.text.upper() == "TABLE")
        if [token.text.upper() for token in self._tokens[self._at : self._at + 3]] == ["IF", "NOT", "EXISTS"]:
            self._at += 3
        name = self._name()
        columns: list[tuple[str, str]] = []
        computed: list[tuple[str, exp.Expr]] = []
        for item in self._group():
            if len(item) > 2 and item[1].text.upper() == "AS":
                computed.append((item[0].text, self._expression(item[2:])))
            elif item[0].token_type == TokenType.IDENTIFIER or _word(item[0]) not in NO_COLUMN:
                columns.append((item[0].text, self._type(item[1:])))
        while self._at < len(self._tokens) and self._tokens[self._at].text.upper() != "WITH":
            self._at += 1  # COMMENT, PARTITIONED BY
        self._at += 1
        table = FlinkTable(name, columns, computed, dict(map(self._option, self._group())))
        _check_table(table)
        return table

    def _name(self) -> str:
        """The last part of a name that may have dots."""
        parts = self._tokens[self._at : self._at + 1]
        self._at += 1
        while self._at + 1 < len(self._tokens) and self._tokens[self._at].token_type == TokenType.DOT:
            parts = [self._tokens[self._at + 1]]
            self._at += 2
        if not parts:
            raise SqlSyntaxError("CREATE TABLE has no name")
        return parts[0].text

    def _group(self) -> list[list[Token]]:
        """What stands between the parentheses here, cut at the commas."""
        if self._at >= len(self._tokens) or self._tokens[self._at].token_type != TokenType.L_PAREN:
            raise SqlSyntaxError("CREATE TABLE needs columns and a WITH part, both in parentheses")
        items: list[list[Token]] = [[]]
        depth = 0
        for token in self._tokens[self._at :]:
            self._at += 1
            depth += (token.text in ("(", "<")) - (token.text in (")", ">"))
            if depth == 0:
                return [item for item in items if item]
            if depth == 1 and token.token_type == TokenType.COMMA:
                items.append([])
            elif items != [[]] or token.token_type != TokenType.L_PAREN:
                items[-1].append(token)
        raise SqlSyntaxError("a parenthesis is not closed")

    def _type(self, tokens: list[Token]) -> str:
        """The type at the start of these tokens, in DuckDB's words."""
        depth, kept = 0, 0
        for token in tokens:
            if depth == 0 and _word(token) in TYPE_ENDS:
                break
            depth += (token.text in ("(", "<")) - (token.text in (")", ">"))
            kept += 1
        if not kept:
            raise SqlSyntaxError("a column has no type")
        kind = _text(self._sql, tokens[:kept])
        for flinks, sparks in TYPES:
            kind = re.sub(flinks, sparks, kind, flags=re.IGNORECASE)
        return exp.DataType.build(kind, dialect=DIALECT).sql("duckdb")

    def _expression(self, tokens: list[Token]) -> exp.Expr:
        text = re.sub(r"\bPROCTIME\s*\(\s*\)", "CURRENT_TIMESTAMP", _text(self._sql, tokens), flags=re.I)
        tree = sqlglot.parse_one(text, read=DIALECT)
        if tree.find(exp.Query):
            raise SqlSyntaxError("a computed column takes no query")
        return tree

    def _option(self, tokens: list[Token]) -> tuple[str, str]:
        kinds = [token.token_type for token in tokens]
        if kinds != [TokenType.STRING, TokenType.EQ, TokenType.STRING]:
            raise SqlSyntaxError("the WITH part takes 'key' = 'value'")
        return tokens[0].text, tokens[2].text


def _check_table(table: FlinkTable) -> None:
    if not table.columns:
        raise SqlSyntaxError(f"table {table.name} has no columns")
    if not table.connector:
        raise SqlSyntaxError(f"table {table.name} has no connector")
    if table.connector == "datagen":
        try:
            _ = table.generated_rows, table.seconds
        except (KeyError, ValueError, ZeroDivisionError):
            raise SqlSyntaxError(f"the options of table {table.name} are not complete, or not numbers") from None


def _named_tables(query: exp.Expr) -> list[exp.Table]:
    """Tables that a query names, without its own WITH."""
    own = {cte.alias.lower() for cte in query.find_all(exp.CTE)}
    return [
        table
        for table in query.find_all(exp.Table)
        if isinstance(table.this, exp.Identifier) and table.name.lower() not in own
    ]


def _word(token: Token) -> str:
    """The first word of a token; some have two."""
    return token.text.upper().partition(" ")[0]


def _text(sql: str, tokens: list[Token]) -> str:
    return sql[tokens[0].start : tokens[-1].end + 1]
