"""What ends a probe early: a signal, or the end of its time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from airflow_provider_dli import machine

# How long a submit that is on its way may still be answered after a signal, in seconds: what is not known has to be
# looked for.
_GRACE = 10.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """
    The probe ends early. Not an ``Exception``, so that nothing on the way handles it as a failure.

    :param reason: Why, for people.
    :param exit_code: The exit code.
    """

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class Stop:
    """
    Notes signals, and raises where it is asked: never in the middle of a submit.

    :param timeout: Seconds until the time is over.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.restart_clock()
        self._number: int | None = None
        self._heard_at = 0.0

    def restart_clock(self) -> None:
        """Count the time from now on."""
        self._end = machine.monotonic() + self._timeout

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note signals from here on; they end nothing by themselves, so that what was started can be cancelled."""
        before = [(number, signal.signal(number, self._hear)) for number in _SIGNALS]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def check(self) -> None:
        """
        Return if the probe may go on.

        :raises Stopped: A signal has come, or the time is over.
        """
        if self._number is not None:
            raise Stopped(signal.Signals(self._number).name, 128 + self._number)
        if machine.monotonic() >= self._end:
            raise Stopped(f"its time is over ({self._timeout:.0f} s, see --timeout)", 1)

    def check_submit(self) -> None:
        """
        Return if a submit that is on its way may still be waited for.

        :raises Stopped: See :meth:`check`.
        """
        if self._number is None or machine.monotonic() >= self._heard_at + _GRACE:
            self.check()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._number is None:
            self._number, self._heard_at = number, machine.monotonic()
        # Past Python's buffers, which the code that was interrupted may be using. The terminal may be gone.
        with suppress(OSError):
            os.write(2, b"\nEnding: what the probe has started is cancelled first.\n")
