"""What the driver of a batch has printed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

MAX_LINES = 5000
MAX_LINE = 2000


class DriverLog:
    """The last 5000 lines, cut at 2000 characters each. May be used in any thread."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self.add(*lines)

    def add(self, *lines: str) -> None:
        with self._lock:
            self._lines.extend(line[:MAX_LINE] for line in lines)

    def lines(self) -> list[str]:
        with self._lock:
            return list(self._lines)
