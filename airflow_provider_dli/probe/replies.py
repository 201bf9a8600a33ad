"""What DLI answers to a call, refusals included: the open points are about exactly that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_dli.exceptions import DliError, DliNotFoundError, DliTemporaryError

if TYPE_CHECKING:
    from airflow_provider_dli.api.call import Answer, Call
    from airflow_provider_dli.client.client import DliClient


@dataclass(frozen=True)
class Reply:
    """
    What DLI answers.

    :param body: The JSON object; of an array, or of an empty body, ``{"elements": [...]}``.
    :param refusal: The error that it would be; None for a call that was accepted.
    """

    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    refusal: DliError | None = None

    @property
    def is_soft(self) -> bool:
        """Whether the HTTP status is a success, and ``is_success`` false."""
        return self.refusal is not None and (self.refusal.status or 0) < 400

    @property
    def is_unknown(self) -> bool:
        """Whether it counts as the answer about something that DLI does not know."""
        return isinstance(self.refusal, DliNotFoundError)

    @property
    def shape(self) -> str:
        """How the body is built: an object, an array of so many elements, or nothing."""
        elements = self.body.get("elements")
        if not isinstance(elements, list):
            return "an object"
        return f"an array of {len(elements)}" if elements else "an empty body"

    @property
    def flag(self) -> str:
        """How ``is_success`` is written: ``true (boolean)``, ``"false" (text)``, ``absent``."""
        elements = self.body.get("elements")
        part = elements[0] if isinstance(elements, list) and elements else self.body
        value = part.get("is_success") if isinstance(part, Mapping) else None
        if isinstance(value, bool):
            return f"{str(value).lower()} (boolean)"
        return f'"{value.lower()}" (text)' if isinstance(value, str) and len(value) < 10 else "absent"

    def __str__(self) -> str:
        if self.refusal is None:
            return f"accepted, is_success {self.flag}"
        code = f" {self.refusal.code}" if self.refusal.code else ""
        return f"HTTP {self.refusal.status}{code}" + (f", is_success {self.flag}" if self.is_soft else "")


def look(client: DliClient, call: Call[Any]) -> Reply:
    """
    Send a call and return what DLI answers.

    :raises DliError: There is no answer, or one that says nothing about the call itself: about the credentials, a
        right, or that DLI is busy.
    """

    def accepted(answer: Answer) -> Reply:
        return Reply(answer.body)

    def refused(answer: Answer, error: DliError) -> Reply:
        return Reply(answer.body, error)

    asked: Call[Reply] = replace(call, read=accepted, read_refusal=refused, answers_loosely=True)
    try:
        return client.send(asked)
    except DliTemporaryError as error:
        # DLI has codes for "later" that it may use for good, with a status that says that the request is wrong.
        if error.status != 400:
            raise
        return Reply(refusal=error)
