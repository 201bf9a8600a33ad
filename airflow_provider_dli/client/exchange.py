"""Sends one request and reads its answer: the only place that knows the HTTP client and its errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from airflow_provider_dli import __version__
from airflow_provider_dli.api.answers import UNREADABLE, error_of, says_failed
from airflow_provider_dli.api.call import MAX_ANSWER, Answer
from airflow_provider_dli.client.line import Line
from airflow_provider_dli.exceptions import (
    PERMANENT,
    DliAuthenticationError,
    DliCertificateError,
    DliError,
    DliNotFoundError,
    DliPermissionError,
    DliTemporaryError,
    DliValueError,
)
from airflow_provider_dli.text import clean, exact_number, mask_values, parse_json, remember_secrets

if TYPE_CHECKING:
    import requests

    from airflow_provider_dli.api.call import Call
    from airflow_provider_dli.client.connection import DliConnection

T = TypeVar("T")

#: Seconds to wait for a connection to be made.
CONNECT_TIMEOUT = 10.0
#: The most seconds that a server can ask to wait.
MAX_RETRY_AFTER = 60.0
# The most values of one answer: a thousand rows of a thousand columns.
_MAX_VALUES = 1_100_000
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
# None where the environment would be asked.
_NO_PROXIES: Any = {"http": None, "https": None, "all": None}
# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and _CERT_HAS_EXPIRED; _HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH.
_OUTSIDE_ITS_TIME = (9, 10)
_OF_OTHER_HOSTS = (62, 64)


def prepare() -> None:
    """
    Import all that a request takes, and what becomes of it.

    Before anything is there to be cancelled: a kill may interrupt the main thread in an import, which then holds a lock
    that any other import of that module needs.
    """
    import pendulum
    import tenacity  # noqa: F401

    from airflow_provider_dli.client import signing, transport  # noqa: F401

    # What a time is written with.
    pendulum.locale(pendulum.get_locale())


def new_session() -> requests.Session:
    """Return a session whose requests say what DLI wants to read on every one of them."""
    import requests

    from airflow_provider_dli.client.transport import Transport

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Transport())
    session.headers.update({"Content-Type": "application/json", "User-Agent": f"airflow-provider-dli/{__version__}"})
    return session


def exchange(
    session: requests.Session,
    call: Call[T],
    connection: DliConnection,
    authenticate: Callable[[Any], Any],
    project_id: str,
    timeout: float,
    line: Line | None = None,
) -> T:
    """
    Send one request, read the answer and translate what went wrong.

    :param session: Sends it; see :func:`new_session`.
    :param call: What to send and how to read the answer.
    :param connection: Where to.
    :param authenticate: Makes the request authentic: one of the classes of :mod:`.signing`.
    :param project_id: Project that the call is about; empty for a call of IAM.
    :param timeout: Seconds to wait for the next piece of the answer.
    :param line: Limits the time of the whole call, and lets another thread give it up. Default: no limit.
    :raises DliError: It failed; the subclass says in what way. Nothing else is raised.
    """
    from requests import exceptions
    from urllib3.exceptions import HTTPError

    # A server may repeat them in any answer from now on, also when others have replaced them.
    remember_secrets(_secrets(connection, authenticate))
    bases = {"iam": connection.iam_endpoint, "metadata": connection.metadata_endpoint}
    base = bases.get(call.service, connection.endpoint)
    path, body = _request_of(call, project_id)
    line = line or Line(float("inf"))
    try:
        with line.in_use():
            response = session.request(
                call.method,
                base + path,
                data=body,
                auth=authenticate,
                timeout=(min(CONNECT_TIMEOUT, timeout), timeout),
                verify=connection.verify,
                # Another host would get the token too.
                allow_redirects=False,
                stream=True,
                proxies=_NO_PROXIES if call.service == "metadata" or _is_link_local(base) else None,
            )
            content = _read_content(response, call.max_bytes if response.status_code < 400 else MAX_ANSWER)
    except _TooLargeError as error:
        raise _too_large(call, str(error)) from None
    # A few errors of urllib3, and of the encoding of headers, come through requests as they are.
    except (exceptions.RequestException, HTTPError, OSError, ValueError) as error:
        cause = clean(_cause(error), secrets=_secrets(connection, authenticate))
        if advice := _certificate_advice(error, connection.conn_id):
            raise DliCertificateError(f"{call.what} failed: no TLS with {base} ({cause}). {advice}") from None
        raise DliTemporaryError(
            f"{call.what} failed: no answer from {base} ({cause})", nothing_started=_never_sent(error)
        ) from None
    # A token that is issued comes in a header, and may stand in the body too.
    secrets = (*_secrets(connection, authenticate), response.headers.get("X-Subject-Token") or "")
    answer, refusal = _answer(call, connection, project_id, response, content, secrets)
    if refusal is None:
        return _read(call, answer)
    if call.read_refusal is None or isinstance(refusal, (DliTemporaryError, *PERMANENT)):
        raise refusal
    return call.read_refusal(answer, refusal)


def _secrets(connection: DliConnection, authenticate: Callable[[Any], Any]) -> tuple[str, ...]:
    """Return what must not be shown of what was sent: once it is, for then the signature is known."""
    return (*connection.secrets, *getattr(authenticate, "secrets", ()))


def _request_of(call: Call[Any], project_id: str) -> tuple[str, bytes | None]:
    """Return path and body as they go over the wire."""
    try:
        path, body = call.url_path(project_id), None
        if call.body is not None:
            body = json.dumps(call.body, ensure_ascii=False, separators=(",", ":")).encode()
    except UNREADABLE as error:
        # Not the error's own text, which quotes the value.
        raise DliValueError(
            f"{call.what} cannot be sent: a value is no valid text or JSON ({type(error).__name__}). Nothing was sent."
        ) from None
    return path, body


def _read(call: Call[T], answer: Answer) -> T:
    try:
        return call.read(answer)
    except DliError:
        raise
    except UNREADABLE as error:
        problem = f"{type(error).__name__}: {answer.text(str(error), 200)}"
        raise DliTemporaryError(f"{call.what}: the answer cannot be read ({problem})") from None


def _answer(
    call: Call[Any],
    connection: DliConnection,
    project_id: str,
    response: requests.Response,
    content: bytes,
    secrets: tuple[str, ...],
) -> tuple[Answer, DliError | None]:
    if _has_too_many_values(content):
        raise _too_large(call, f"holds more than {_MAX_VALUES:,} values")
    body = _parsed(content, exact_number if call.keeps_digits else None)
    if call.service == "dli":
        # (What IAM and the metadata service answer are secrets, which are to be used.)
        body = _masked(call, body, secrets)
    status = response.status_code
    if 300 <= status < 400:
        raise DliError(
            f"{call.what} failed: {response.url.split('?')[0]} redirects elsewhere (HTTP {status}), which is not "
            f"followed. Check host and iam_endpoint of connection {connection.conn_id!r}.",
            status=status,
        )
    elements = body if isinstance(body, list) else [body]
    if status < 400 and call.answers_loosely and (isinstance(body, list) or not content.strip()):
        body = {"elements": elements if content.strip() else []}
    if status < 400 and not isinstance(body, dict):
        raise DliTemporaryError(f"{call.what}: the answer is no JSON object (HTTP {status})", status=status)
    answer = Answer(body if isinstance(body, dict) else {"elements": elements}, response.headers, secrets)
    failed = [each for each in elements if says_failed(each)] if call.tells_success else []
    if status >= 400 or failed:
        return answer, error_of(
            call.what,
            status,
            failed if status < 400 else body,
            hints=_hints(call, connection, project_id),
            advice=call.advice,
            about_job=call.about_job,
            retry_after=_retry_after(response.headers.get("Retry-After")),
            secrets=secrets,
        )
    return answer, None


def _parsed(content: bytes, parse_float: Callable[[str], Any] | None) -> Any:
    """Return the JSON value, without lone surrogates; when it is none, its text."""
    # A byte that is no UTF-8 spoils one character, not the id of a job that was started.
    text = content.decode(errors="replace").removeprefix("\ufeff")
    try:
        return parse_json(text, parse_float)
    except (ValueError, RecursionError):
        return text


def _masked(call: Call[Any], body: Any, secrets: tuple[str, ...]) -> Any:
    """Return an answer without the secrets that it repeats; the rows of a result are data, and stay as they are."""
    rows = {"rows": body["rows"]} if isinstance(body, dict) and "rows" in body else {}
    rest = {name: part for name, part in body.items() if name != "rows"} if rows else body
    try:
        found = mask_values(rest, secrets)
    except RecursionError:
        raise DliTemporaryError(f"{call.what}: the answer cannot be read (it is nested too deeply)") from None
    return {**found, **rows} if rows else found


def _hints(call: Call[Any], connection: DliConnection, project_id: str) -> dict[type[DliError] | str, str]:
    where = f"connection {connection.conn_id!r}"
    project = project_id or connection.project_id or connection.project_name
    if connection.auth_type == "password":
        refused = f"Check login, password, domain_name and project of {where}."
    elif connection.auth_type in ("agency", "metadata"):
        refused = f"The keys of {connection.user} were refused, new ones too: check its rights, and {where}."
    else:
        refused = (
            f"Check login (access key) and password (secret key) of {where}, and this machine's clock. Not tried "
            "again, because wrong signatures lock the key."
        )
    right = f"the IAM action {call.iam_action}" if call.iam_action else "the right for this call"
    address = "The gateway does not let this machine's address in: check IAM's access control, and your proxy."
    return {
        "DLI.0003": f"User {connection.user!r} of {where} needs {right} in project {project}, and a grant "
        "of DLI itself on the queue, the database or the table: its owner gives it, in DLI's console or by GRANT.",
        "APIG.0310": f"Check project_id of {where}: project {project} cannot be used in this region.",
        "APIG.0401": address,
        "APIG.0402": address,
        "APIG.0802": f"User {connection.user!r} may not use this region: check region and host of {where}.",
        DliAuthenticationError: refused,
        DliPermissionError: f"User {connection.user!r} of {where} needs {right} in project {project}.",
        DliNotFoundError: f"Looked in project {project} with {where}.",
    }


def _is_link_local(url: str) -> bool:
    """Tell whether an address is one of this machine's own link, which no proxy can reach."""
    import ipaddress

    try:
        address = ipaddress.ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_link_local


class _TooLargeError(Exception):
    """An answer is larger than one of its kind can be."""


def _too_large(call: Call[Any], problem: str) -> DliError:
    # Of a result, a repeat brings the same again. All else may be an outage, and a submit may have started a job.
    kind = DliError if call.reads_rows else DliTemporaryError
    return kind(f"{call.what} failed: the answer is too large: it {problem}")


def _read_content(response: requests.Response, most: int) -> bytes:
    with response:
        pieces, size = [], 0
        # Small pieces: each may be a thousand times as large before it was compressed.
        for piece in response.iter_content(16384):
            size += len(piece)
            if size > most:
                raise _TooLargeError(f"has more than {most // 2**20} MiB")
            pieces.append(piece)
        return b"".join(pieces)


def _has_too_many_values(content: bytes) -> bool:
    """Tell whether an answer would take much longer, and much more memory, to be parsed than its size tells."""
    if _number_of_values(content) <= _MAX_VALUES:
        return False
    # Not counted is what stands in texts. Each text is a value itself, or the name of one.
    without_texts, texts = _TEXT.subn(b"", content, count=2 * _MAX_VALUES)
    return texts == 2 * _MAX_VALUES or _number_of_values(without_texts) > _MAX_VALUES


def _number_of_values(content: bytes) -> int:
    return sum(map(content.count, (b",", b"[", b"{")))


def _never_sent(error: BaseException) -> bool:
    """Tell whether the connection was never made, so that DLI cannot have seen the request."""
    from urllib3 import exceptions

    never = (exceptions.NewConnectionError, exceptions.ConnectTimeoutError)
    return any(isinstance(each, never) for each in _layers(error))


def _certificate_advice(error: BaseException, conn_id: str) -> str | None:
    """Say what to do about a certificate of the other side that did not verify; None when that is not the problem."""
    from ssl import SSLCertVerificationError

    from urllib3.util.ssl_match_hostname import CertificateError

    unverified = (SSLCertVerificationError, CertificateError)
    if (reason := next((each for each in _layers(error) if isinstance(each, unverified)), None)) is None:
        return None
    code = getattr(reason, "verify_code", _OF_OTHER_HOSTS[0])
    if code in _OUTSIDE_ITS_TIME:
        return "The other side needs a new one, unless this machine's clock is wrong."
    if code in _OF_OTHER_HOSTS:
        return f"Check host and iam_endpoint of connection {conn_id!r}."
    return (
        f"If a CA of your own signed its certificate, set extra field `verify` of connection {conn_id!r} to the path "
        "of the CA bundle."
    )


def _layers(error: object) -> Iterator[BaseException]:
    """Yield the error and those that it wraps: requests wraps those of urllib3, which wraps those of the socket."""
    while isinstance(error, BaseException):
        yield error
        inner = [getattr(error, "reason", None), getattr(error, "original_error", None), *error.args]
        error = next((each for each in inner if isinstance(each, BaseException)), None)


def _cause(error: BaseException) -> str:
    """Say why there was no answer, without the object addresses that urllib3 writes."""
    from http.client import IncompleteRead
    from ssl import SSLError

    from urllib3 import exceptions

    from airflow_provider_dli.client.transport import TlsConnectionError, without_source

    *_, reason = _layers(error)
    if isinstance(reason, TlsConnectionError):
        return f"no TLS connection: {reason.problem}"
    if isinstance(reason, exceptions.NameResolutionError):
        host = getattr(reason, "host", None) or _between_quotes(str(reason))
        return f"the host name {host} is not known here: check it, the region, and this machine's name resolution"
    if isinstance(reason, exceptions.NewConnectionError):
        return f"{str(reason).rpartition(': ')[2]}: is the port right, and does a firewall allow it?"
    if isinstance(reason, exceptions.ConnectTimeoutError):
        return f"no connection within {CONNECT_TIMEOUT:.0f} s: does a firewall allow it?"
    if isinstance(reason, TimeoutError) or "timed out" in str(reason):
        return "the answer did not come in time"
    if isinstance(reason, (exceptions.IncompleteRead, IncompleteRead)):
        return "the answer broke off"
    if isinstance(reason, OSError) and not isinstance(reason, SSLError):
        return reason.strerror or str(reason) or type(reason).__name__
    return without_source(str(reason).rpartition(": ")[2]) or type(reason).__name__


def _between_quotes(text: str) -> str:
    return text.partition("'")[2].partition("'")[0]


def _retry_after(value: str | None) -> float | None:
    """Read the header, seconds or an HTTP date; None when it is missing or unreadable."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    try:
        return min(Retry().parse_retry_after(value), MAX_RETRY_AFTER) if value else None
    except (InvalidHeader, *UNREADABLE):
        return None
