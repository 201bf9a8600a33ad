"""
How an answer is read: the pieces that all chapters share, and what an error body says.

DLI spells the same thing in several ways. What is spelled in none of them is left out, or makes the answer unreadable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from airflow_provider_dli.exceptions import (
    DliAuthenticationError,
    DliError,
    DliNotFoundError,
    DliPermissionError,
    DliTemporaryError,
    DliValueError,
)
from airflow_provider_dli.job import JobState, checked_job_id
from airflow_provider_dli.text import NAME_LIMIT, clean, parse_json

if TYPE_CHECKING:
    from pendulum import DateTime, Duration

    from airflow_provider_dli.api.job_kind import JobPage
    from airflow_provider_dli.job import Job

#: What code raises that reads data of another shape than it expects.
UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

# The end of the year 9999: as far as dates go.
_LAST_MILLISECOND = 253_402_300_799_000


# What to do about what any call, or any job, may be refused for, by a word of DLI's message in lower case.
_ARREARS = "The account is in arrears, or its budget is used up: pay the bill or raise the budget, then run it again."
_ADVICE = {
    "no budget": _ARREARS,
    "arrear": _ARREARS,
    "sold out": "The region has no resources left for the queue: try again later, or use another queue.",
}


def advised(message: str) -> str:
    """Return the message of a failed job, with what to do about it where that is known."""
    found = next((_ADVICE[word] for word in _ADVICE if word in message.lower()), None)
    return message if found is None else f"{message.rstrip('.')}. {found}"


def error_of(
    what: str,
    status: int,
    body: Any,
    *,
    hints: Mapping[type[DliError] | str, str] = MappingProxyType({}),
    advice: Mapping[str, str] = MappingProxyType({}),
    about_job: bool = False,
    retry_after: float | None = None,
    secrets: Collection[str] = (),
) -> DliError:
    """
    Translate a failed answer: the DLI code decides before the HTTP status does.

    DLI answers 400 for a missing queue, a server fault and a bad token alike, and can answer 200 with
    ``is_success: false``. An answer that cannot be read at all is judged by its status.

    :param what: What was tried, such as ``cancel of SQL job 8ecb…``.
    :param status: HTTP status of the answer.
    :param body: The parsed JSON body, or its text when it was not JSON.
    :param hints: What to do, by the code of the error, or by its class.
    :param advice: What to do, by a word of DLI's message, in lower case; the first one counts.
    :param about_job: Whether the call is about one job, which is what does not exist if DLI says so.
    :param retry_after: Seconds the server asked to wait; None when it did not.
    :param secrets: What must not be shown, should the answer repeat it.
    """
    code, text, request_id = _read_error(body)
    kind = _KIND_BY_NUMBER.get(_normal(code)) or _kind_by_status(status)
    if code == "DLI.0008" and "queue" in text.lower():
        # What DLI.0002 is today.
        kind = DliNotFoundError
    if about_job and _is_gone(kind, status, code, text):
        kind = DliNotFoundError
    code, request_id = (clean(value, NAME_LIMIT, secrets=secrets) for value in (code, request_id))
    text = clean(text, secrets=secrets)
    details = ", ".join([code] * bool(code) + [f"HTTP {status}"] + [f"request {request_id}"] * bool(request_id))
    message = f"{what} failed: {(text or 'no reason given').rstrip('.')} ({details})"
    if hint := hints.get(_normal(code)) or hints.get(kind):
        message = f"{message}. {hint}"
    advice = {**_ADVICE, **advice}
    if (found := next((advice[word] for word in advice if word in text.lower()), None)) is not None:
        message = f"{message}. {found}"
    fields: dict[str, Any] = {"status": status, "code": code or None, "request_id": request_id or None}
    if issubclass(kind, DliTemporaryError):
        fields.update(retry_after=retry_after, nothing_started=status == 429)
    return kind(message, **fields)


def says_failed(part: object) -> bool:
    """Whether a part of an answer says that the call has failed, though its status says otherwise."""
    flag = part.get("is_success") if isinstance(part, Mapping) else None
    return flag is False or (isinstance(flag, str) and flag.lower() == "false")


def job_id(value: object, problem: str) -> str:
    try:
        found = checked_job_id(value)
        # It repeated a secret, which is masked.
        if "***" in found:
            raise DliValueError(problem)
        return found
    except DliValueError:
        # Temporary, so that the caller looks for the job: it was started.
        raise DliTemporaryError(problem) from None


def jobs_of(what: str, body: Mapping[str, Any], field: str, count_field: str) -> list[Any]:
    """
    Return the jobs of one page of a list.

    :param what: What was asked for, such as ``list of SQL jobs``.
    :param body: The answer.
    :param field: Where the jobs are.
    :param count_field: Where their number is.
    :raises DliTemporaryError: They are not there: taken for an empty list, it would have a job started twice.
    """
    jobs = body.get(field)
    if jobs is None and count(body.get(count_field)) == 0:
        return []
    if not isinstance(jobs, list):
        raise DliTemporaryError(f"{what}: DLI's answer holds no list of jobs")
    return jobs


def page_of(
    parts: Iterable[Any], id_of: Callable[[Any], str], read: Callable[[Any, str], Job], job_count: object
) -> JobPage:
    """
    Read one page of a list. A job without a usable id is left out of it: it must not keep the others from being read.

    :param parts: The jobs.
    :param id_of: Returns the id of a job, or raises.
    :param read: Reads a job of this id.
    :param job_count: Number of jobs on all pages.
    :raises DliTemporaryError: Nothing on it looks like a job: an empty list would have a job started twice.
    """
    from airflow_provider_dli.api.job_kind import JobPage

    jobs: list[Job] = []
    skipped: list[Job | None] = []
    for part in parts:
        try:
            jobs.append(read(part, id_of(part)))
        except (DliError, *UNREADABLE):
            try:
                skipped.append(read(part, ""))
            except UNREADABLE:
                skipped.append(None)
    if skipped and not jobs and all(job is None or job.state is JobState.UNKNOWN for job in skipped):
        raise DliTemporaryError("DLI's answer holds a list without a single job that can be read")
    return JobPage(jobs, count(job_count) or 0, tuple(skipped))


def check_job(what: str, shown: object, job_id: str) -> None:
    """
    Check that an answer is about the job that was asked for, where it says so.

    :param what: What was asked for.
    :param shown: The id in the answer, if there is one.
    :param job_id: The id that was asked for.
    :raises DliTemporaryError: It is about another job, as after a mix-up in a cache or a proxy.
    """
    if shown is None or shown == "":
        return
    if isinstance(shown, float) and shown.is_integer():
        shown = int(shown)
    is_id = isinstance(shown, (str, int)) and not isinstance(shown, bool)
    if not is_id or str(shown).strip().lower() != job_id.lower():
        # Without that id: a server may repeat a secret anywhere.
        raise DliTemporaryError(f"{what}: DLI's answer is about another job")


def moment(milliseconds: object) -> DateTime | None:
    import pendulum

    found = number(milliseconds, _LAST_MILLISECOND)
    return None if found is None else pendulum.from_timestamp(found / 1000)


def duration(milliseconds: object) -> Duration | None:
    import pendulum

    found = number(milliseconds, _LAST_MILLISECOND)
    return None if found is None else pendulum.duration(milliseconds=found)


def count(value: object) -> int | None:
    found = number(value, 2**63 - 1)
    return value if found is not None and isinstance(value, int) else None


def number(value: object, largest: float) -> float | None:
    """Return a number from 0 to ``largest``; None for anything else, such as NaN or a flag."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    return value if 0 <= value <= largest else None


def is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def tags(tags: object) -> dict[str, str]:
    found = tags if isinstance(tags, list) else []
    pairs = [(tag.get("key"), tag.get("value")) for tag in found if isinstance(tag, dict)]
    return {key: value for key, value in pairs if isinstance(key, str) and isinstance(value, str)}


_KIND_BY_NUMBER: dict[str, type[DliError]] = {
    # Numbers of section "Error codes" of the DLI API Reference and of the API gateway. Huawei Cloud writes the
    # gateway's prefix as APIGW in places, so the number decides there.
    **dict.fromkeys(["DLI.0002", "DLI.0023", "DLI.12004", "DLI.16001", "APIG.0101"], DliNotFoundError),
    **dict.fromkeys(["DLI.0003", "DLI.0011", "DLI.0016"], DliPermissionError),
    **dict.fromkeys(["APIG.0302", "APIG.0306", "APIG.0310", "APIG.0401", "APIG.0402", "APIG.0802"], DliPermissionError),
    **dict.fromkeys(["DLI.0013", "DLI.0014", "DLI.0015"], DliAuthenticationError),
    **dict.fromkeys(["APIG.0301", "APIG.0305", "APIG.0307"], DliAuthenticationError),
    # After DLI.0019, a time-out, and DLI.10001, an internal error, the work may have been done all the same.
    **dict.fromkeys(["DLI.0012", "DLI.0019", "DLI.0999", "DLI.10001", "APIG.0308"], DliTemporaryError),
}


# No source names the code for a job that DLI does not know; what is recorded comes with a code that may mean anything.
_DOES_NOT_EXIST = re.compile(r"\bnot exist\b|n't exist\b|\bnot (?:be )?found\b|\bno such\b", re.IGNORECASE)


def _is_gone(kind: type[DliError], status: int, code: str, text: str) -> bool:
    is_of_dli = code.startswith("DLI.") or (not code and status < 500)
    return is_of_dli and kind in (DliError, DliTemporaryError) and _DOES_NOT_EXIST.search(text) is not None


def _kind_by_status(status: int) -> type[DliError]:
    if status == 401:
        return DliAuthenticationError
    if status == 403:
        return DliPermissionError
    if status == 404:
        return DliNotFoundError
    # 408: a synchronous call took too long.
    if status in (408, 429) or status >= 500:
        return DliTemporaryError
    return DliError


def _normal(code: str) -> str:
    return code.replace("APIGW.", "APIG.")


def _read_error(body: Any) -> tuple[str, str, str]:
    """Return code, text and request id from any of the spellings in use: in a text, an array, or one level deeper."""
    if isinstance(body, str):
        return _code_in(body), body, ""
    request_id, cause = "", _cause(body)
    for level in _levels(body):
        request_id = request_id or _text(level.get("request_id"))
        code, text = (
            next(filter(None, (_text(level.get(name)) for name in names)), "") for names in (_CODES, _MESSAGES)
        )
        if code or text:
            inner_code, text, inner_id = _unpacked(text)
            if cause and cause not in text:
                text = text.replace("{0}", cause) if "{0}" in text else f"{text} {cause}".lstrip()
            return code or inner_code, text, request_id or inner_id
    return _code_in(cause), cause, request_id


_CODES = ("error_code", "errorCode", "code")
_MESSAGES = ("error_msg", "errorMsg", "message", "msg")
_CODE = re.compile(r"\b(?:DLI|APIGW?|IAM)\.[0-9]{3,6}\b")


def _code_in(text: str) -> str:
    """Return the code that a text says, as ``DLI.0002: …``; empty when there is none."""
    found = _CODE.search(text)
    return found[0] if found else ""


def _unpacked(text: str) -> tuple[str, str, str]:
    """Return what a message says that may be a whole error body itself, as JSON in a text."""
    if text.lstrip()[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            code, inner, request_id = _read_error(parse_json(text))
            if code or inner:
                return code, inner or text, request_id
    return _code_in(text), text, ""


def _cause(body: Any) -> str:
    """Return the cause that some answers keep apart from the message, in which it is only ``{0}``."""
    for level in _levels(body):
        options = level.get("error_json_opt")
        if isinstance(options, str):
            with suppress(ValueError, RecursionError):
                options = parse_json(options)
        if isinstance(options, dict) and (found := _text(options.get("error"))):
            return found
    return ""


def _levels(body: Any) -> Iterator[Mapping[str, Any]]:
    for part in body if isinstance(body, list) else [body]:
        if isinstance(part, dict):
            yield part
            yield from (value for value in part.values() if isinstance(value, dict))


def _text(value: Any) -> str:
    """Return what can be shown of a value that should be text; empty for anything but text and numbers."""
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
