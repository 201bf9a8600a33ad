"""A call of a REST API, described once: what to send and how to read the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from airflow_provider_dli.text import MESSAGE_LIMIT, clean, mask

if TYPE_CHECKING:
    from airflow_provider_dli.exceptions import DliError

T = TypeVar("T")

#: The most bytes of an answer: of one that lists jobs or holds the rows of a result, and of any other one.
MAX_LONG_ANSWER = 64 * 2**20
MAX_ANSWER = 4 * 2**20


@dataclass(frozen=True)
class Answer:
    """
    A successful answer.

    :param body: The JSON object. It holds no lone surrogates.
    :param headers: HTTP headers, looked up without regard to case.
    :param secrets: What must not be shown, should the answer repeat it.
    """

    body: Mapping[str, Any]
    # Neither is in the repr: IAM sends the token in a header.
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def text(self, value: object, limit: int = MESSAGE_LIMIT) -> str:
        """
        Return text of the answer as it may be shown: see :func:`.clean`. Empty when the value is no text.

        :param value: Any part of the body.
        :param limit: The most characters. Default 2,000.
        """
        return clean(value, limit, secrets=self.secrets) if isinstance(value, str) else ""

    def masked(self, value: object) -> str:
        """Return text of the answer as it is, but without secrets. Empty when the value is no text."""
        return mask(value, self.secrets) if isinstance(value, str) else ""


@dataclass(frozen=True)
class Call(Generic[T]):
    """
    One call, as a value that :meth:`DliHook.send` sends.

    :param what: What it does, for error messages, such as ``status of SQL job 8ecb…``.
    :param method: HTTP method.
    :param path: Path below the endpoint, escaped, with ``{project_id}`` where the project belongs.
    :param read: Turns the answer into what the caller wants. What it stumbles over (a ``TypeError``, ``ValueError``,
        ``KeyError`` and the like) becomes a :class:`.DliTemporaryError`.
    :param query: Query parameters; those that are None are left out.
    :param body: JSON body, or None.
    :param service: ``"dli"``, ``"iam"`` for the identity service, or ``"metadata"`` for that of the machine.
    :param anonymous: True for calls that need no credentials: those that bring some.
    :param repeatable: True when doing it twice does no harm, so that it may be repeated blindly.
    :param timeout: Seconds between two pieces of the answer, where the call is known to take longer than
        the connection's own ``timeout``.
    :param iam_action: The IAM action the caller needs, named in the error when it is missing.
    :param tells_success: False where ``is_success`` means nothing.
    :param answers_loosely: Whether the answer may be an array, or empty; ``read`` then gets ``{"elements": [...]}``.
    :param max_bytes: The most bytes of its answer. Default 4 MiB.
    :param reads_rows: Whether it does nothing but read rows: one too many is no outage then, and a repeat is no help.
    :param keeps_digits: Whether its answer may hold rows: then numbers with a fraction are Decimals, not floats.
    :param advice: What to do about a refusal, by a word of DLI's message, in lower case.
    :param about_job: Whether it is about one job: then a refusal that says that something does not exist means the job.
    :param read_refusal: Turns a refusal into what the caller wants, from the answer and the error that it would be. By
        default, that is raised, and always where a repeat, new credentials or a right may help.
    """

    what: str
    method: str
    path: str
    read: Callable[[Answer], T]
    query: Mapping[str, str | int | None] = field(default_factory=dict)
    # Not in the repr: the body of the token call holds a password.
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    service: str = "dli"
    anonymous: bool = False
    repeatable: bool = False
    timeout: float | None = None
    iam_action: str | None = None
    tells_success: bool = True
    answers_loosely: bool = False
    max_bytes: int = MAX_ANSWER
    reads_rows: bool = False
    keeps_digits: bool = False
    advice: Mapping[str, str] = field(default_factory=dict)
    about_job: bool = False
    read_refusal: Callable[[Answer, DliError], T] | None = None

    def url_path(self, project_id: str) -> str:
        """Return path and query as they go over the wire; a signature covers exactly this text."""
        path = self.path.replace("{project_id}", escape(project_id))
        pairs = sorted((name, str(value)) for name, value in self.query.items() if value is not None)
        query = "&".join(f"{escape(name)}={escape(value)}" for name, value in pairs)
        return f"{path}?{query}" if query else path


def escape(value: str) -> str:
    """Percent-encode everything but unreserved characters, a slash included."""
    return quote(value, safe="-_.~")
