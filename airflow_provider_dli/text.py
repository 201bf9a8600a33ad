"""Text of a server, made fit to be shown to people: in errors, logs and XComs."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import quote

#: The most characters that are shown of a message, and of a code, a state, a name or an id.
MESSAGE_LIMIT = 2000
NAME_LIMIT = 128

_BLANKS = re.compile(r"[ \t\r\n\v\f]+")


def clean(text: str, limit: int = MESSAGE_LIMIT, *, secrets: Iterable[str] = ()) -> str:
    r"""
    Return text as one line that is safe to show.

    White space becomes blanks. What a terminal obeys or nobody sees (control characters, escape sequences, marks of the
    writing direction, lone surrogates) is written as an escape, such as ``\x1b``.

    :param text: Text of any length, from anywhere.
    :param limit: The most characters to return, not counting the mark that says how much was left out. Default 2,000.
    :param secrets: What is replaced by ``***`` wherever it occurs, also as it stands in JSON or in a URL.
    """
    # Before anything is cut or changed: a piece of a secret would not be found.
    text = _mask(text, secrets)
    # Nearly all text: a page of a list has hundreds.
    if len(text) <= limit and text.isascii() and text.isprintable() and "  " not in text and text == text.strip(" "):
        return text
    # Several times the limit, for blanks may collapse. The whole may be as long as the largest answer.
    head = text[: 16 * limit]
    line = _BLANKS.sub(" ", head).strip(" ")
    pieces: list[str] = []
    length = 0
    for position, character in enumerate(line):
        piece = _visible(character)
        if length + len(piece) > limit:
            left_out = len(line) - position + len(text) - len(head)
            return f"{''.join(pieces).rstrip(' ')}… ({left_out} more characters)"
        pieces.append(piece)
        length += len(piece)
    left_out = len(text) - len(head)
    return "".join(pieces) + (f"… ({left_out} more characters)" if left_out else "")


def in_words(seconds: float) -> str:
    """Write a duration for people: its two largest units."""
    left = max(0, round(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def has_control_characters(text: str) -> bool:
    """Tell whether text has line breaks, other control characters or halves of characters."""
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category.startswith("C") or category in ("Zl", "Zp"):
        # Not `unicode_escape`: the first use of a codec is an import, and a cancel in a kill must not need one.
        return ascii(character)[1:-1]
    return character


def _mask(text: str, secrets: Iterable[str]) -> str:
    for form in _forms(tuple(secrets)):
        text = text.replace(form, "***")
    return text


# A page of a list has hundreds of texts.
@lru_cache(maxsize=8)
def _forms(secrets: tuple[str, ...]) -> list[str]:
    """Return how secrets may be spelled; the longest first, for one may be a part of another."""
    forms = set()
    for secret in filter(None, secrets):
        in_json = json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]
        # Some writers of JSON escape the slash too.
        forms.update([secret, *in_json, *(form.replace("/", "\\/") for form in in_json), quote(secret, safe="")])
    return sorted(forms, key=len, reverse=True)
