"""Compares what DLI shows of a job with what was sent: what it leaves out, cuts or formats counts as the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_dli.text import mask, mask_values

# The beginning of a text tells whose it is from so many characters on.
_LEAST = 24


def same_text(shown: str, sent: str) -> bool:
    """
    Whether this may be how DLI shows a statement.

    White space, a semicolon at the end and the case of letters do not count. Of a long one, DLI may show the beginning.
    """
    found, wanted = _plain(shown), _plain(sent)
    if found == wanted:
        return True
    beginning = found.removesuffix("...").removesuffix("…")
    return len(beginning) >= _LEAST and wanted.startswith(beginning)


def same_name(shown: object, sent: object) -> bool:
    """Whether this may be how DLI shows a name; where none was sent, DLI has chosen one."""
    return not shown or not sent or str(shown).casefold() == str(sent).casefold()


def same_fields(shown: Mapping[str, Any], sent: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether these fields may be how DLI shows what was sent; what it does not show may be the same."""
    return all(_value(shown[name]) == _value(sent.get(name)) for name in names if name in shown)


def _plain(text: str) -> str:
    # What is shown was masked when it was read: a secret in what was sent must not make it another job.
    return "".join(mask(text, ()).split()).rstrip(";").casefold()


def _value(value: Any) -> Any:
    """Return a value as it compares: nothing is nothing, and what is within a list is text."""
    if value in (None, "", [], {}):
        return None
    found = [str(each) for each in value] if isinstance(value, list | tuple) else str(value)
    return mask_values(found, ())
