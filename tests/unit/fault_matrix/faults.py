"""What goes wrong between a task and DLI, and how the local DLI, or the wire to it, is told to do so."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_dli.local.handle import LocalDli

if TYPE_CHECKING:
    from fault_matrix.roles import Place

#: Seconds that DLI is away when it restarts.
AWAY = 1.5
#: Seconds until a call that is under way has failed of a fault that lasts.
SETTLED_WITHIN = 1.0


@dataclass(frozen=True)
class Fault:
    """
    Something that goes wrong with a call.

    :param name: In the words of the page.
    :param kind: Kind of the fault in the local DLI; or ``wire``, ``clock``, ``restart``, ``connection``.
    :param details: Its fields.
    :param times: How many calls it meets, of the wire how many connections; None for all, until the fault is over.
    """

    name: str
    kind: str
    details: Mapping[str, Any] = field(default_factory=dict)
    times: int | None = 1

    @property
    def is_lasting(self) -> bool:
        """Whether it goes on until it is ended."""
        return self.times is None

    @property
    def meets_every_call(self) -> bool:
        """Whether no call to DLI gets through until it is ended, whatever its name."""
        return self.is_lasting and self.kind in ("wire", "clock")

    @property
    def connection(self) -> str:
        """How the id of the connection ends that it is played with."""
        return {"wire": "_tls", "clock": "_key"}.get(self.kind, "")

    @contextmanager
    def on(self, place: Place, call: str) -> Iterator[None]:
        """Have calls of this name meet it."""
        dli = place.dli
        if self.kind == "restart":
            with _restarting(dli):
                yield
        elif self.kind == "clock":
            dli.settings(**self.details)
            yield
            dli.settings(clock_skew=0)
        elif self.kind == "wire":
            # A wait goes on with the connection that it has. All other calls make one of their own, and it is theirs
            # that fails, not that of a wait beside them.
            with place.wire.broken(self.details["how"], self.times, cut=call == "status"):
                yield
                self._settle()
        else:
            dli.fault(call, self.kind, times=self.times, **self.details)
            yield
            self._settle()
            dli.clear_faults()

    def _settle(self) -> None:
        """Wait for calls that are under way at the end of the task: they must not get through after that."""
        if self.is_lasting:
            threading.Event().wait(SETTLED_WITHIN)


@contextmanager
def _restarting(dli: LocalDli) -> Iterator[None]:
    thread = threading.Thread(target=dli.restart, args=[AWAY])
    thread.start()
    # Until new connections are refused.
    threading.Event().wait(0.3)
    yield
    thread.join()


def _status(status: int, code: str | None = None, **details: Any) -> dict[str, Any]:
    return {"status": status, "error_code": code, "error_msg": "what DLI says", **details}


def _codes() -> Iterator[Fault]:
    for number in (*range(1, 10), 11, 12, 15, 16, 18, 19, 100, 999, 1028, 10001, 12004, 13024, 16001):
        yield Fault(f"400 DLI.{number:04}", "status", _status(400, f"DLI.{number:04}"))
    for status, code in (
        (404, "DLI.0023"),
        (401, "DLI.0013"),
        (401, "DLI.0014"),
        (401, "APIG.0301"),
        (403, "APIG.0302"),
    ):
        yield Fault(f"{status} {code}", "status", _status(status, code))
    for status, code in ((403, "APIG.0310"), (404, "APIG.0101"), (413, "APIG.0201"), (500, "APIG.0601")):
        yield Fault(f"{status} {code}", "status", _status(status, code))


def _throttled() -> Iterator[Fault]:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    long_ago = "Wed, 21 Oct 2015 07:28:00 GMT"
    values = {"0": "0", "1": "1", "-1": "-1", "10^9": "1000000000", "a date": soon, "a date in the past": long_ago}
    yield Fault("429", "status", _status(429, "APIG.0308"))
    for name, value in {**values, "nonsense": "soon", "empty": ""}.items():
        yield Fault(f"429, Retry-After {name}", "status", _status(429, "APIG.0308", retry_after=value))


ONCE = [
    Fault("connections refused for a while", "restart"),
    Fault("reset before the work", "drop_before"),
    Fault("reset after the work", "drop_after"),
    Fault("no answer, work not done", "hang"),
    Fault("no answer, work done", "hang_after"),
    Fault("the answer drips", "drip", {"seconds": 0.6}),
    Fault("half an answer", "truncate"),
    Fault("an empty answer", "empty"),
    Fault("100 MB", "huge", {"size": 100_000_000}),
    Fault("a compressed bomb of 2 GB", "bomb", {"size": 2_000_000_000}),
    Fault("a page of a proxy", "html"),
    Fault("no JSON", "status", {"status": 200, "body": "fine!"}),
    Fault("a JSON array", "status", {"status": 200, "body": "[1]"}),
    Fault("JSON nested 5,000 deep", "status", {"status": 200, "body": "[" * 5000}),
    *(
        Fault(f"{name} in every field", "field", {"value": value})
        for name, value in {
            "null": None,
            "a number": 7,
            "a text": "seven",
            "a list": [7],
            "an object": {"a": 7},
        }.items()
    ),
    Fault("a redirect", "redirect"),
    Fault("200 with is_success false", "soft_failure", {"message": "what DLI says"}),
    Fault("an expired token", "expired_token"),
    Fault("408", "status", {"status": 408, "body": ""}),
    Fault("502", "status", {"status": 502, "body": "<html>bad gateway</html>"}),
    Fault("503", "status", _status(503, "APIG.0610")),
    Fault("504", "status", {"status": 504, "body": ""}),
    *_throttled(),
    *_codes(),
]
"""What happens to one call, or for a short while."""

LASTING = [
    Fault(f"{fault.name}, for ever", fault.kind, fault.details, times=None)
    for fault in ONCE
    if fault.name
    in (
        "reset before the work",
        "no answer, work not done",
        "half an answer",
        "a page of a proxy",
        "200 with is_success false",
        "429",
        "503",
        "400 DLI.0007",
        "400 DLI.0999",
        "401 APIG.0301",
        "403 APIG.0302",
        "404 APIG.0101",
    )
]
"""What happens to every call, until it is over."""

_WIRE = {
    "the host name is not known": "unknown",
    "closed before the TLS handshake": "end before the handshake",
    "garbage in the TLS handshake": "garbage",
    "cut in the TLS handshake": "half a handshake",
    "cut after the TLS handshake": "end after the handshake",
    "half an answer over TLS": "half an answer",
    "a certificate of another host": "another host",
    "a certificate of an unknown authority": "unknown authority",
    "a certificate that has expired": "expired",
}

WIRE = [
    *(Fault(name, "wire", {"how": how}) for name, how in _WIRE.items()),
    Fault("silence in the TLS handshake", "wire", {"how": "silence"}),
    Fault("a broken TLS record in the answer", "wire", {"how": "broken in the answer"}),
    *(Fault(f"{name}, for ever", "wire", {"how": how}, times=None) for name, how in _WIRE.items()),
    Fault("connections refused, for ever", "wire", {"how": "refused"}, times=None),
    Fault("a clock that is off, with an access key, for ever", "clock", {"clock_skew": 1000}, times=None),
]
"""What happens below HTTP, to one connection or to all; and to what is signed."""

CONNECTION = [
    Fault("nobody listens there", "connection", {"host": "http://127.0.0.1:9"}),
    Fault("a host name that nobody knows", "connection", {"host": "http://dli.invalid"}),
    Fault("no TLS on the other side", "connection", {"host": "https://127.0.0.1:{port}"}),
    Fault("IAM is down, DLI is up", "connection", {"iam_endpoint": "http://127.0.0.1:9"}),
    Fault("IAM's host name is not known", "connection", {"iam_endpoint": "http://iam.invalid"}),
    Fault("no TLS on IAM's side", "connection", {"iam_endpoint": "https://127.0.0.1:{port}"}),
    Fault("a wrong password", "connection", {"password": "not-the-password"}),
    Fault("a wrong project", "connection", {"project_id": "0" * 32}),
    Fault("a clock that is off, with an access key", "connection", {"auth_type": "ak_sk", "clock_skew": 1000}),
    Fault("a wrong secret key", "connection", {"auth_type": "ak_sk", "password": "not-the-secret-key"}),
]
"""What is wrong with the connection, or with what it points to."""
