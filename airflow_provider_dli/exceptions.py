"""
What every failure of this package raises.

One tree of few classes. Each error says what was tried, what DLI answered and what to do, carries the parts
as fields, survives pickling, and never holds a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_dli.job import Job


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


#: What no repeat can fix: someone has to change a field, a certificate, a password or a right first.
PERMANENT = (DliValueError, DliCertificateError, DliAuthenticationError, DliPermissionError)

#: What counts, once there is a job, only when it is reported twice in a row: the first time, it may come from a proxy
#: in between, or from one of several servers.
SAID_TWICE = (DliNotFoundError, DliPermissionError, DliCertificateError)
