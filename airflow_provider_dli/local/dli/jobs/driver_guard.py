"""
A small process between the server and the driver of a batch: the driver does not outlive the server.

The server holds the other end of its standard input. When that end closes, because the batch is cancelled or because
the server has gone, in whatever way, the guard ends the driver and all that the driver has started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import psutil

#: Seconds between SIGTERM and SIGKILL.
GRACE = 0.7
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def main(command: list[str]) -> int:
    """
    Run the driver.

    :returns: Its exit code; 128 and its number for a signal.
    """
    # Orphans of the driver are handed to this process, and so stay findable.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    driver = subprocess.Popen(  # noqa: S603 - the user's own program
        command,
        stdin=subprocess.DEVNULL,
        # Nobody could end the driver if this process were killed.
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )
    threading.Thread(target=_end_with_owner, daemon=True).start()
    code = driver.wait()
    end_descendants(0)
    _collect()
    return code if code >= 0 else 128 - code


def end_descendants(grace: float) -> None:
    """
    SIGTERM to all, SIGKILL to what is left after the grace period, until none is left.

    The tree is read anew in every round: processes on their way out may start others.
    """
    deadline = time.monotonic() + grace
    told: set[psutil.Process] = set()
    while alive := _descendants():
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                if time.monotonic() >= deadline:
                    process.kill()
                elif process not in told:
                    process.terminate()
                    told.add(process)
        time.sleep(0.02)


def _end_with_owner() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    end_descendants(GRACE)


def _descendants() -> list[psutil.Process]:
    """All that still run. Those that have ended and wait to be collected do no harm."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _collect() -> None:
    """Leave no ended process behind: not every container has an init process that collects them."""
    if sys.platform != "win32":
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
