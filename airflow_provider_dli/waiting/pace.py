"""How soon DLI may be asked again, when it does not answer: of all jobs together."""

from __future__ import annotations

from airflow_provider_dli import machine
from airflow_provider_dli.exceptions import DliTemporaryError

# The first and the longest pause, in seconds; each is twice as long as the one before.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0


class Pace:
    """Slows down while DLI does not answer."""

    def __init__(self) -> None:
        #: Until when nothing may be asked.
        self.wait_until = 0.0
        self._pause = 0.0
        self._slower_since = 0.0

    @property
    def is_trying(self) -> bool:
        """Whether DLI has not answered since it failed: then one call tries out whether it does again."""
        return self._pause > 0

    def failed(self, error: Exception, sent_at: float) -> None:
        """
        Note that a call has failed: pauses get longer and longer, or as long as DLI asks.

        :param error: How; only a temporary error counts.
        :param sent_at: When it was sent. One that was sent before the last failure is a part of that.
        """
        if isinstance(error, DliTemporaryError) and sent_at >= self._slower_since:
            self._slower_since = machine.monotonic()
            self._pause = min(max(self._pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
            self.wait_until = self._slower_since + max(self._pause, error.retry_after or 0.0)

    def answered(self) -> None:
        """Note that DLI answers."""
        self._pause = 0.0
