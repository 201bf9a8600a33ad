"""Text from outside, made fit to be read, and to be shown to people: in errors, logs and XComs."""

from __future__ import annotations

import binascii
import html
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

#: The most characters that are shown of a message, and of a code, a state, a name or an id.
MESSAGE_LIMIT = 2000
NAME_LIMIT = 128

_BLANKS = re.compile(r"[ \t\r\n\v\f]+")
# JSON can spell half of a character, which no UTF-8 text can hold: no XCom, no log, no request.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HEX_DIGITS = re.compile(r"%[0-9A-F]{2}|\\u[0-9a-f]{4}")
# No number that means anything has more.
_MOST_DIGITS = 400
# A part of a secret that is no longer than this may be a word of its own.
_SHORT = 8
# A secret that is no longer than this may be a part of a name.
_WORD = 16
_MOST_REMEMBERED = 200
# The secrets that were used in this process, oldest first, each with its spellings; and all of those.
_remembered: dict[str, tuple[str, ...]] = {}
_remembered_forms: list[str] = []


def clean(text: str, limit: int = MESSAGE_LIMIT, *, secrets: Iterable[str] = ()) -> str:
    r"""
    Return text as one line that is safe to show.

    White space becomes blanks. What a terminal obeys or nobody sees (control characters, escape sequences, marks of the
    writing direction, lone surrogates) is written as an escape, such as ``\x1b``.

    :param text: Text of any length, from anywhere.
    :param limit: The most characters to return, not counting the mark that says how much was left out. Default 2,000.
    :param secrets: What is replaced by ``***``, beside what :func:`remember_secrets` was told; see :func:`mask`.
    """
    # Before anything is cut or changed: a piece of a secret would not be found.
    text = mask(text, secrets)
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


def mask(text: str, secrets: Iterable[str]) -> str:
    """
    Return text with ``***`` for each secret, wherever it occurs, also as it stands in JSON, a URL, HTML or Base64.

    Masked too is what :func:`remember_secrets` was told.

    :param text: The text; the rest of it stays as it is.
    :param secrets: What must not be shown.
    """
    given = tuple(secrets)
    if len(text) > _SHORT:
        text = _without(text, _remembered_forms)
    return _without(text, _forms(given))


def remember_secrets(secrets: Iterable[str]) -> None:
    """
    Mask these in every text from now on, also when they are replaced by others: a server may repeat an old one.

    The last 200 of this process are kept, in memory only. One of at most 8 characters is not: it may be a word.
    """
    global _remembered_forms
    # No lock, which the code that a kill has interrupted might hold: of two threads, the last one builds the list from
    # what both have noted.
    new = [secret for secret in secrets if len(secret) > _SHORT and secret not in _remembered]
    if not new:
        return
    for secret in new:
        _remembered[secret] = _spellings(secret)
    for oldest in list(_remembered)[:-_MOST_REMEMBERED]:
        _remembered.pop(oldest, None)
    _remembered_forms = _longest_first(form for forms in list(_remembered.values()) for form in forms)


def mask_values(value: Any, secrets: Iterable[str]) -> Any:
    """
    Return a JSON value with ``***`` for each secret in any of its texts, names of fields included.

    Secrets of at most 16 characters are left: a password may be a word that is a part of the name of a DAG too, and
    what a job is found by must stay as it is.

    :param value: The value; the same object if there was nothing to mask.
    :param secrets: What must not be shown, beside what :func:`remember_secrets` was told.
    """
    texts = list(_texts_of(value))
    # Searched as one text, because there is almost never anything to find.
    everything = "\n".join(texts)
    forms = [*_remembered_forms, *_forms(tuple(secret for secret in secrets if len(secret) > _WORD))]
    found = _longest_first(form for form in forms if len(form) > _WORD and form in everything)
    return _with_texts(value, lambda text: _without(text, found)) if found else value


def parse_json(text: str, parse_float: Callable[[str], Any] | None = None) -> Any:
    """
    Return the value of a JSON text, without lone surrogates.

    :param parse_float: What makes a number with a fraction or an exponent of its text. Default: float.
    :raises ValueError: It is none.
    :raises RecursionError: It is nested too deeply.
    """
    try:
        found = json.loads(text, parse_float=parse_float)
    except json.JSONDecodeError:
        raise
    except ValueError:  # a number of thousands of digits, which Python does not read: as large as any
        found = json.loads(text, parse_float=parse_float, parse_int=_whole_number)
    if _SURROGATE.search(text):
        found = _with_texts(found, lambda each: each.encode(errors="replace").decode())
    return found


def exact_number(text: str) -> Decimal | float:
    """
    Return a number with all its digits; as ``parse_float`` of :func:`parse_json`, for values of a result.

    One that no type of DLI has, such as 1e999999999, is a float: to write it out would take all memory.

    :raises ValueError: It is no number.
    :raises ArithmeticError: It is no number either.
    """
    exponent = text.lower().partition("e")[2].lstrip("+-0")
    return Decimal(text) if len(text) < _MOST_DIGITS and len(exponent) < 4 else float(text)


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) < _MOST_DIGITS else math.inf


def in_words(seconds: float) -> str:
    """Write a duration for people: its two largest units."""
    left = max(0, round(seconds))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def in_seconds(duration: float) -> str:
    """Write a number of seconds for people: to a tenth of a second, from a minute on in words."""
    return f"{max(duration, 0):.1f} s" if duration < 60 else in_words(duration)


def in_bytes(size: int) -> str:
    """Write a number of bytes for people."""
    for unit, least in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= least:
            return f"{size / least:,.1f} {unit}"
    return f"{size} bytes"


def has_control_characters(text: str) -> bool:
    """Tell whether text has line breaks, other control characters or halves of characters."""
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category.startswith("C") or category in ("Zl", "Zp"):
        # Not `unicode_escape`: the first use of a codec is an import, and a cancel in a kill must not need one.
        return ascii(character)[1:-1]
    return character


def _without(text: str, forms: Iterable[str]) -> str:
    for form in forms:
        if len(form) <= len(text):
            text = text.replace(form, "***")
    return text


def _texts_of(value: Any) -> Iterator[str]:
    """Yield all texts of a JSON value. Not recursive: it may be nested as deeply as JSON can be read."""
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, list):
            left.extend(part)
        elif isinstance(part, dict):
            left.extend(part)
            left.extend(part.values())


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_with_texts(part, change) for part in value]
    if isinstance(value, dict):
        return {change(name): _with_texts(part, change) for name, part in value.items()}
    return value


# A page of a list has hundreds of texts.
@lru_cache(maxsize=8)
def _forms(secrets: tuple[str, ...]) -> list[str]:
    """Return how secrets may be spelled."""
    return _longest_first(form for secret in secrets if secret for form in _spellings(secret))


def _longest_first(forms: Iterable[str]) -> list[str]:
    # One may be a part of another.
    return sorted(set(forms), key=len, reverse=True)


# Each request of a key pair brings a secret of its own, its signature.
@lru_cache(maxsize=64)
def _spellings(secret: str) -> tuple[str, ...]:
    in_json = json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]
    escaped = [
        *in_json,
        # Some writers of JSON escape the slash too.
        *(form.replace("/", "\\/") for form in in_json),
        # What is left alone in a path, in a query and in neither.
        quote(secret),
        quote(secret, safe="/:@!$&'()*+,;="),
        quote(secret, safe=""),
        quote_plus(secret),
    ]
    in_other_case = (_HEX_DIGITS.sub(_in_other_case, form) for form in escaped)
    in_html = html.escape(secret), html.escape(secret, quote=False)
    return (secret, repr(secret)[1:-1], *escaped, *in_other_case, *in_html, *_in_base64(secret.encode()))


def _in_other_case(digits: re.Match[str]) -> str:
    return digits[0][:2].lower() + digits[0][2:].swapcase() if digits[0][0] == "\\" else digits[0].lower()


def _in_base64(secret: bytes) -> Iterator[str]:
    """Yield what tells of a secret in Base64, whatever stands before and after it."""
    for before in range(3):
        encoded = binascii.b2a_base64(b"\0" * before + secret, newline=False).decode().rstrip("=")
        # A digit holds six bits: the first and the last ones may be shared with the neighbours.
        end = len(encoded) - (0 if (before + len(secret)) % 3 == 0 else 1)
        found = encoded[(before * 8 + 5) // 6 : end]
        if len(found) > _SHORT:
            yield from (found, found.translate(_URL_SAFE))


_URL_SAFE = str.maketrans("+/", "-_")
