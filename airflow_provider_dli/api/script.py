"""
SQL text of an author, made the statements that DLI takes: one per job, each with its parameters in it.

A parser of DLI's dialect reads the text, so that quotes, comments and semicolons inside them are what they are to DLI.
What stands between two semicolons is sent as it was written.
"""

from __future__ import annotations

import re
from collections import UserString
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from airflow_provider_dli.exceptions import DliValueError
from airflow_provider_dli.text import clean

if TYPE_CHECKING:
    from sqlglot.tokenizer_core import Token
    from sqlglot.tokens import Tokenizer

#: The most characters and bytes of one statement that DLI takes.
MAX_CHARACTERS, MAX_BYTES = 500_000, 1_000_000

# Where none of these is, there is nothing to read: the parser takes a third of a second to be imported.
_NEEDS_PARSER = re.compile(r"""[;'"`]|--|/\*""")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENDS_A_NAME = re.compile(r"""[\w`)\]'"]""")
# After these words a value may follow, so a colon right behind one begins a parameter, as in `LIMIT:n`.
_BEFORE_A_VALUE = re.compile(
    "ALL|AND|AS|BETWEEN|BY|CASE|DISTINCT|DIV|ELSE|ESCAPE|EXISTS|HAVING|ILIKE|IN|INTERVAL|IS|LIKE|LIMIT|NOT|OF|OFFSET|"
    "ON|OR|REGEXP|RETURN|RLIKE|SELECT|SET|THEN|VALUES|WHEN|WHERE"
)
# What fields have, as in `struct<day:date>`; and what such a list begins with.
_TYPE = re.compile(
    "BOOLEAN|BYTE|TINYINT|SHORT|SMALLINT|INT|INTEGER|LONG|BIGINT|FLOAT|REAL|DOUBLE|DECIMAL|DEC|NUMERIC|DATE|TIMESTAMP|"
    "TIMESTAMP_NTZ|TIMESTAMP_LTZ|STRING|CHAR|CHARACTER|VARCHAR|BINARY|INTERVAL|VOID|VARIANT|ARRAY|MAP|STRUCT"
)
_HAS_TYPES = ("ARRAY", "MAP", "STRUCT")
# What cannot become one token with a literal before or after it; everything else is kept apart by a blank.
_GLUES_BEFORE = re.compile(r"[^\s(,]")
_GLUES_AFTER = re.compile(r"[^\s),;]")
# What Spark's parser reads back as it was. Line breaks are escaped so that a log shows the statement's own lines.
_ESCAPES = str.maketrans(
    {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\0": "\\0", "\x1a": "\\Z"}
)
_SURROGATE = re.compile("[\ud800-\udfff]")
# The most digits of a number of Spark.
_MOST_DIGITS = 38
# What a list for IN may be, and what is a sequence but no list.
_LISTS = (Sequence, Set)
_TEXTS = (str, bytes, bytearray, memoryview, UserString)
# What dates and times consist of; a datetime is a date, too.
_FIELDS: dict[Any, tuple[str, ...]] = {
    datetime: ("year", "month", "day", "hour", "minute", "second", "microsecond", "tzinfo", "fold"),
    date: ("year", "month", "day"),
    time: ("hour", "minute", "second", "microsecond", "tzinfo", "fold"),
}
_LEADING_COMMENTS = re.compile(r"(\s|--[^\n]*\n|/\*.*?\*/)*", re.DOTALL)

# How statements begin that only change a session, which DLI does not keep; and what to write instead.
_TABLE = "use a common table expression (WITH), or a table that a later statement drops"
_OF_A_SESSION = {
    "SET": "put the setting into conf",
    "RESET": "leave the setting out of conf",
    "USE": "give the database as `database`, or in front of the table names",
    "CREATE TEMPORARY": _TABLE,
    "CREATE TEMP": _TABLE,
    "CREATE OR REPLACE TEMPORARY": _TABLE,
    "CREATE OR REPLACE TEMP": _TABLE,
    "CREATE GLOBAL TEMPORARY": _TABLE,
    "CACHE": "write what is used several times into a table",
}


def statements(
    sql: object, parameters: Mapping[str, Any] | Sequence[Any] | None = None, *, may_be_unused: bool = False
) -> list[str]:
    """
    Return the statements of a script, with the parameters in them as literals.

    :param sql: A statement, a script whose statements are separated by semicolons, or a list of these.
    :param parameters: Values of ``:name`` by name, or of each ``?`` in order. None leaves both as they are. See
        :func:`literal`.
    :param may_be_unused: Whether there may be values that no statement has. Default: that is an error.
    :raises DliValueError: There is no statement, one of them cannot be used, or the parameters do not match.
    """
    found: list[str] = []
    for text in _texts(sql):
        found += _split(text, len(found))
    if not found:
        raise DliValueError("sql is empty: give a SQL statement. (Comments alone are none.)", field="sql")
    if parameters is not None:
        found = _bound(found, parameters, may_be_unused=may_be_unused)
    for number, statement in enumerate(found, 1):
        if len(statement) > MAX_CHARACTERS or len(statement.encode(errors="replace")) > MAX_BYTES:
            raise DliValueError(
                f"sql: statement {number} has {len(statement):,} characters; DLI takes at most {MAX_CHARACTERS:,}, and "
                "less than 1 MB. Put long lists of values into a table.",
                field="sql",
            )
    return found


def without_effect(statement: str) -> str | None:
    """Tell what to write instead of a statement that has an effect only in a session, which DLI does not keep."""
    words = _without_comments(statement)[:100].upper().split()
    return next(
        (instead for first, instead in _OF_A_SESSION.items() if words[: len(first.split())] == first.split()), None
    )


def is_query(statement: str) -> bool:
    """Whether a statement only reads, and has rows as its result: then DLI's type of its job is ``QUERY``."""
    word = _first_word(statement)
    if word not in ("WITH", "FROM"):
        return word in ("SELECT", "VALUES", "TABLE") or word.startswith("(")
    from sqlglot import exp, parse_one
    from sqlglot.errors import SqlglotError

    try:
        return isinstance(parse_one(statement, dialect="spark"), exp.Query)
    except SqlglotError:
        return True


def shows(statement: str) -> bool:
    """Whether a statement shows rows although it is no query, as ``SHOW TABLES`` does."""
    return _first_word(statement) in ("SHOW", "DESC", "DESCRIBE", "EXPLAIN")


def literal(value: object) -> str:
    """
    Write a value as DLI's SQL does.

    :param value: None, a bool, an int, a float, a Decimal, text, bytes, a UUID, a date, a time or a datetime; a scalar
        of numpy that is one of these; or a list, tuple, set or other sequence of these, which becomes what ``IN``
        takes: ``(1, 2)``. A time is text such as ``03:04:05``, because Spark has no such type.
    :raises TypeError: It has another type. A subclass of one of these is another type, because its text may be
        anything; dates, times and datetimes of a subclass are taken by their fields.
    :raises ValueError: It is an empty list, or SQL has no such value.
    """
    value = _plain(value)
    kind = type(value)
    if kind in _WRITERS:
        return _WRITERS[kind](value)
    if isinstance(value, _LISTS) and not isinstance(value, _TEXTS):
        if not value:
            raise ValueError("is an empty list, which IN does not take")
        items = [literal(one) for one in value]
        # The order of a set differs between processes, and a retry has to submit the same statement.
        return f"({', '.join(sorted(items) if isinstance(value, Set) else items)})"
    base = next((base.__name__ for base in kind.__mro__ if base in _WRITERS), None)
    advice = f": give a plain {base}, or None" if base else ""
    raise TypeError(f"has the type {kind.__name__}, which cannot be written as SQL{advice}")


def _plain(value: object) -> object:
    """Return a value of Python's own type, if it is surely the same value; else the value."""
    if any((base.__module__, base.__name__) == ("numpy", "generic") for base in type(value).__mro__):
        scalar: Any = value
        found = scalar.item()
        # Of a moment finer than microseconds, it is a number; of none, None.
        return found if scalar.dtype.kind in "biufSU" or isinstance(found, date) else value
    base = next((base for base in _FIELDS if isinstance(value, base)), None)
    if base is None or type(value) is base:
        return value
    try:
        found = base(**{name: getattr(value, name) for name in _FIELDS[base]})
        # What is finer than microseconds is not equal.
        return found if found == value else value
    except (TypeError, ValueError):  # NaT of pandas
        return value


def _text(value: str) -> str:
    if _SURROGATE.search(value):
        raise ValueError("has half of a character, which SQL text cannot have")
    # Spark replaces `${name}` everywhere, before it parses.
    return "'" + value.translate(_ESCAPES).replace("${", "$\\{") + "'"


def _whole(value: int) -> str:
    if abs(value) >= 10**_MOST_DIGITS:
        raise ValueError(f"has more than {_MOST_DIGITS} digits, which no number of Spark has")
    return str(value)


def _decimal(value: Decimal) -> str:
    if not value.is_finite():
        raise ValueError(f"is {value}, which no DECIMAL is")
    _, digits, exponent = value.as_tuple()
    if max(len(digits) + max(int(exponent), 0), -int(exponent)) > _MOST_DIGITS:
        raise ValueError(f"has more than {_MOST_DIGITS} digits, which no DECIMAL has")
    return f"{value:f}"


def _double(value: float) -> str:
    # 1.5 alone is a DECIMAL.
    return _cast({"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get(repr(value), repr(value)), "DOUBLE")


def _time(value: time) -> str:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise ValueError("is a time whose offset from UTC depends on the day")
    return _text(value.isoformat())


def _moment(value: datetime) -> str:
    offset = value.utcoffset()
    if offset is not None and offset % timedelta(minutes=1):
        # Spark takes no fractions of a second in an offset.
        value = value.astimezone(UTC)
    return _cast(value.isoformat(sep=" "), "TIMESTAMP")


def _cast(text: str, kind: str) -> str:
    return f"CAST('{text}' AS {kind})"


# By the exact type: text of a subclass may be anything.
_WRITERS: dict[type, Callable[[Any], str]] = {
    type(None): lambda value: "NULL",
    bool: lambda value: "TRUE" if value else "FALSE",
    int: _whole,
    float: _double,
    Decimal: _decimal,
    str: _text,
    bytes: lambda value: f"X'{value.hex().upper()}'",
    UUID: lambda value: _text(str(value)),
    date: lambda value: _cast(value.isoformat(), "DATE"),
    time: _time,
    datetime: _moment,
}


def _without_comments(statement: str) -> str:
    """Return a statement without what stands in front of it."""
    start = _LEADING_COMMENTS.match(statement)
    return statement[start.end() if start else 0 :]


def _first_word(statement: str) -> str:
    return (_without_comments(statement)[:100].upper().split() or [""])[0]


def _texts(sql: object) -> Iterator[str]:
    # The output of a mapped task is a sequence of its own.
    several = sql if isinstance(sql, Sequence) and not isinstance(sql, _TEXTS) else [sql]
    for text in several:
        if not isinstance(text, str):
            raise DliValueError(
                f"sql must be SQL text, or a list of such texts, not a {type(text).__name__}.", field="sql"
            )
        yield text


def _split(text: str, before: int) -> Iterator[str]:
    """Return the statements of a text, with the comments around them; so many statements came before it."""
    if not _NEEDS_PARSER.search(text):
        if text.strip():
            yield text
        return
    start, is_statement, is_script = 0, False, False
    for token in _tokens(text, before):
        if token.token_type.name != "SEMICOLON":
            is_statement = True
            continue
        if is_statement:
            yield text[start : token.start].strip()
        start, is_statement, is_script = token.end + 1, False, True
    if is_statement:
        # Text without a semicolon is sent exactly as it was written.
        yield text[start:].strip() if is_script else text


def _bound(found: Sequence[str], parameters: Mapping[str, Any] | Sequence[Any], *, may_be_unused: bool) -> list[str]:
    """Put the parameters into the statements."""
    if not isinstance(parameters, Mapping) and (
        isinstance(parameters, (str, bytes)) or not isinstance(parameters, Sequence)
    ):
        raise DliValueError(
            f"parameters must be a dict or a list, not a {type(parameters).__name__}.", field="parameters"
        )
    named = isinstance(parameters, Mapping)
    values = dict(parameters) if isinstance(parameters, Mapping) else dict(enumerate(parameters))
    literals = {key: _literal(key, value) for key, value in values.items()}
    used: set[object] = set()
    bound = []
    for number, statement in enumerate(found, 1):
        pieces, end = [], 0
        for start, stop, name in _places(statement, literals.keys() if named else None):
            key: object = name if named else len(used)
            if key not in literals:
                what = f"has no value for :{name}" if named else f"has {len(literals)} values, and there are more ?"
                raise DliValueError(f"parameters {what} of statement {number}.", field="parameters")
            used.add(key)
            pieces += [statement[end:start], _apart(statement, start, stop, literals[key])]
            end = stop
        bound.append("".join([*pieces, statement[end:]]))
    unused = [str(key) for key in literals if key not in used]
    # Of a list, some values but not all point to a mistake in any case.
    if unused and not (may_be_unused and (named or not used)):
        what = (
            f"has {', '.join(unused)}, and no statement has :{unused[0]}"
            if named
            else (f"has {len(literals)} values, and there are only {len(used)} ?")
        )
        raise DliValueError(f"parameters {what}.", field="parameters")
    return bound


def _apart(statement: str, start: int, stop: int, written: str) -> str:
    """Return a literal with blanks where it could merge with its neighbours: ``5-:n`` and -1 would begin a comment."""
    before = " " if _GLUES_BEFORE.match(statement, start - 1) and start else ""
    after = " " if _GLUES_AFTER.match(statement, stop) else ""
    return f"{before}{written}{after}"


def _literal(key: object, value: object) -> str:
    try:
        return literal(value)
    except (TypeError, ValueError) as error:
        raise DliValueError(f"parameters: the value of {key} {error}.", field="parameters") from error


def _places(statement: str, names: Collection[object] | None) -> Iterator[tuple[int, int, str]]:
    """
    Return where parameters stand: start, end, name.

    :param names: The names that have values; None for ``?``.
    :raises DliValueError: One stands right behind the name of a column, or a literal.
    """
    named = names is not None
    before, word, depth = -1, "", 0
    for token in _tokens(statement):
        kind = token.token_type.name
        if not named and kind == "PLACEHOLDER":
            yield token.start, token.end + 1, "?"
        if kind == "LT" and (depth or word in _HAS_TYPES):
            depth += 1
        elif kind == "GT" and depth:
            depth -= 1
        if names is not None and kind == "COLON" and (name := _NAME.match(statement, token.end + 1)):
            is_behind_a_word = before == token.start and _ENDS_A_NAME.match(statement, before - 1) is not None
            # `struct<day:date>` has none.
            if not (is_behind_a_word and depth and _TYPE.fullmatch(name[0].upper())):
                if not is_behind_a_word or _BEFORE_A_VALUE.fullmatch(word):
                    yield token.start, name.end(), name[0]
                elif name[0] in names:
                    around = clean(statement[max(before - 20, 0) : name.end()], 60)
                    raise DliValueError(
                        f"parameters: :{name[0]} stands right behind a word, in ...{around}. "
                        "Write a blank before the colon.",
                        field="parameters",
                    )
        before, word = token.end + 1, statement[token.start : token.end + 1].upper()


def _tokens(text: str, before: int = 0) -> list[Token]:
    """
    Return what a text consists of, comments left out.

    :param before: The number of statements before it, for the error.
    :raises DliValueError: A quote or a comment is not closed.
    """
    from sqlglot.errors import TokenError

    try:
        # A quote as the last character would be an IndexError.
        return _tokenizer()(dialect="spark").tokenize(f"{text}\n")
    except TokenError as error:
        # Of a comment, the parser does not say where it began.
        told = re.fullmatch(r"(Missing)?.* from \d+:(\d+)", str(error.__cause__))
        start = int(told[2]) if told else _start_of_comment(text)
        what = (
            "literal that cannot be read"
            if told and not told[1]
            else f"{'quote' if told else 'comment'} that is not closed"
        )
        number = before + 1 + sum(token.token_type.name == "SEMICOLON" for token in _tokens(text[:start]))
        raise DliValueError(
            f"sql: statement {number} has a {what}, in line {1 + text.count(chr(10), 0, start)}: "
            f"{clean(text[start:], 60)}",
            field="sql",
        ) from error


def _start_of_comment(text: str) -> int:
    """Return where the comments begin of which one is not closed."""
    closed = _tokenizer()(dialect="spark").tokenize(text + " */" * text.count("/*"))
    end = max((token.end + 1 for token in closed if token.start < len(text)), default=0)
    return max(text.find("/*", end), 0)


@cache
def _tokenizer() -> type[Tokenizer]:
    from sqlglot.dialects.spark import Spark

    class WithoutCommands(Spark.Tokenizer):
        # Of these, it would return the rest of the statement as one piece.
        COMMANDS: ClassVar = set()
        # Other dialects have operators that begin with the mark of a parameter, such as `?::`.
        KEYWORDS: ClassVar = {text: kind for text, kind in Spark.Tokenizer.KEYWORDS.items() if "?" not in text}

    return WithoutCommands
