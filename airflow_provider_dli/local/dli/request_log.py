"""The last requests to DLI and IAM, for the admin API."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict
from typing import Any

from airflow_provider_dli.local.dli.admin.views import LocalRequest


class RequestLog:
    """The last requests, oldest first."""

    def __init__(self, limit: int = 20_000) -> None:
        self._seq = 0
        self._lines: deque[LocalRequest] = deque(maxlen=limit)

    def open(self, **what: Any) -> LocalRequest:
        """Begin a line, which the gateway completes."""
        self._seq += 1
        line = LocalRequest(seq=self._seq, at=time.time(), **what)
        self._lines.append(line)
        return line

    def since(self, seq: int) -> list[dict[str, Any]]:
        return [asdict(line) for line in self._lines if line.seq > seq]

    def clear(self) -> None:
        """Forget the lines; the numbering continues."""
        self._lines.clear()
