"""The server's temporary folder, removed even after a SIGKILL: by the next server that starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

PREFIX = "dli-local-serve-"


class TemporaryFolder:
    """
    A new folder, removed by :meth:`remove`; after a SIGKILL, by the next server that starts.

    A living server holds a lock on its folder, which the system releases however the server ends. A process id in the
    name would not do: ids are reused.
    """

    def __init__(self) -> None:
        _remove_abandoned()
        # Under its final name only once it is locked, so that it is never taken for an abandoned one.
        new = Path(tempfile.mkdtemp(prefix="dli-local-new-")).resolve()
        self._lock = _lock(new)
        self.path = new.rename(new.with_name(PREFIX + new.name.removeprefix("dli-local-new-")))

    def remove(self) -> None:
        """Remove the folder with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _remove_abandoned() -> None:
    for folder in Path(tempfile.gettempdir()).resolve().glob(f"{PREFIX}*"):
        # Skip one that is locked, already gone, or another user's.
        with contextlib.suppress(OSError):
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """
    Hold the folder until the descriptor is closed; None where folders cannot be held.

    :raises OSError: when somebody else holds it, and for anything but a folder.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
