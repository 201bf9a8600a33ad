"""
What every failure of this package raises.

One tree of few classes. Each error says what was tried, what DLI answered and what to do, carries the parts
as fields, survives pickling, and never holds a secret.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from airflow_provider_dli.text import NAME_LIMIT, clean

if TYPE_CHECKING:
    from airflow_provider_dli.api.jobs import Job


class DliError(Exception):
    """
    A call to DLI or IAM failed.

    :param message: What was tried, what went wrong and what to do, for people.
    :param status: HTTP status of the answer; None when there was none.
    :param code: Error code of DLI, the API gateway or IAM, such as ``DLI.0002``; None when there was none.
    :param request_id: Id to quote to the cloud's support; None when the answer had none.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.request_id = request_id

    @classmethod
    def from_answer(
        cls,
        what: str,
        status: int,
        body: Any,
        *,
        hints: Mapping[type[DliError], str] = MappingProxyType({}),
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
        :param hints: What to do, by the class of the error.
        :param retry_after: Seconds the server asked to wait; None when it did not.
        :param secrets: What must not be shown, should the answer repeat it.
        """
        code, text, request_id = _read_error(body)
        kind = _KIND_BY_NUMBER.get(_number(code)) or _kind_by_status(status)
        code, request_id = (clean(value, NAME_LIMIT, secrets=secrets) for value in (code, request_id))
        text = clean(text, secrets=secrets)
        details = ", ".join([code] * bool(code) + [f"HTTP {status}"] + [f"request {request_id}"] * bool(request_id))
        message = f"{what} failed: {(text or 'no reason given').rstrip('.')} ({details})"
        if kind in hints:
            message = f"{message}. {hints[kind]}"
        fields: dict[str, Any] = {"status": status, "code": code or None, "request_id": request_id or None}
        if issubclass(kind, DliTemporaryError):
            fields.update(retry_after=retry_after, nothing_started=status == 429)
        return kind(message, **fields)


class DliValueError(DliError, ValueError):
    """
    A connection field, an operator parameter or a job id cannot be used as given. Nothing was sent.

    :param message: Names the field and says what it should be.
    :param field: The field, such as ``project_id``.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class DliAuthenticationError(DliError):
    """DLI or IAM does not accept the user, the token or the signature. Do not repeat: keys get locked."""


class DliPermissionError(DliError):
    """The user is known, but a right is missing."""


class DliNotFoundError(DliError):
    """There is no such job, queue, database, project or path."""


class DliCertificateError(DliError):
    """The certificate of DLI or IAM does not verify. Nothing was sent."""


class DliTemporaryError(DliError):
    """
    No answer, or one that says "later": worth another try.

    :param retry_after: Seconds the server asked to wait; None when it did not.
    :param nothing_started: True when it is certain that the request was not carried out, so that even a
        submit may be repeated.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        nothing_started: bool = False,
    ) -> None:
        super().__init__(message, status=status, code=code, request_id=request_id)
        self.retry_after = retry_after
        self.nothing_started = nothing_started


class DliJobError(DliError):
    """
    A job did not end well.

    :param message: Which job, in which state, DLI's own message and the first lines of the statement.
    :param job: The job as DLI last described it.
    """

    def __init__(self, message: str, *, job: Job | None = None) -> None:
        super().__init__(message)
        self.job = job


class DliTaskKilledError(DliError):
    """The Airflow task was killed; says what became of its job."""


#: What no repeat mends: a person has to change a field, a certificate, a password or a right first.
PERMANENT = (DliValueError, DliCertificateError, DliAuthenticationError, DliPermissionError)

#: What counts only when it is said twice in a row: the first time, it may come from a proxy that is in the way.
SAID_TWICE = (DliNotFoundError, DliPermissionError)


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


def _number(code: str) -> str:
    return code.replace("APIGW.", "APIG.")


def _read_error(body: Any) -> tuple[str, str, str]:
    """Return code, text and request id from any of the spellings in use, also one level deeper, or in an array."""
    if isinstance(body, str):
        return "", body, ""
    request_id = ""
    for level in _levels(body):
        request_id = request_id or _text(level.get("request_id"))
        for code_name, text_name in [("error_code", "error_msg"), ("errorCode", "errorMsg"), ("code", "message")]:
            code, text = _text(level.get(code_name)), _text(level.get(text_name))
            if code or text:
                return code, text, request_id
    return "", "", request_id


def _levels(body: Any) -> Iterator[Mapping[str, Any]]:
    for part in body if isinstance(body, list) else [body]:
        if isinstance(part, dict):
            yield part
            yield from (value for value in part.values() if isinstance(value, dict))


def _text(value: Any) -> str:
    """Return what can be shown of a value that should be text; empty for anything but text and numbers."""
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
