"""
A small process that starts others and makes sure that none of them outlives their owner.

Airflow's processes cannot be ended by one signal: task supervisors and tasks open sessions and process groups
of their own, rename themselves, and are orphaned when a parent is killed. And an owner that is killed with
SIGKILL can end nothing at all. So the owner (`dli-local demo`, a test session) starts one guardian and lets
*it* start everything else. The guardian holds a pipe to its owner. When that pipe closes, in whatever way the
owner went, the guardian ends every descendant it has, orphaned ones too, removes the temporary directory, and
goes.

What it cannot survive is a SIGKILL of the guardian itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

_PR_SET_CHILD_SUBREAPER = 36

_exit_codes: dict[int, int] = {}


class Guardian:
    """
    The owner's side: starts the guardian process and asks it to start others.

    `home` is a new temporary directory, removed after the last process is gone.

    :param grace: Seconds between SIGTERM and SIGKILL when everything is ended. Default 1.5.
    """

    def __init__(self, grace: float = 1.5) -> None:
        self._lock = threading.Lock()
        # A session of its own: Ctrl-C and a closed terminal reach the owner only.
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", __name__, str(grace)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.home = Path(str(self._ask({})["home"]))

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> psutil.Process:
        """
        Start a process with exactly this environment; its output is appended to the file `log`.

        :raises RuntimeError: the program could not be started, or the guardian is gone.
        """
        answer = self._ask({"argv": list(argv), "env": dict(env), "log": str(log)})
        if "error" in answer:
            raise RuntimeError(f"cannot start {argv[0]}: {answer['error']}")
        return psutil.Process(int(answer["pid"]))

    def exit_code(self, process: psutil.Process) -> int | None:
        """How a process that was started here ended (a negative number is a signal); None while it runs."""
        code: int | None = self._ask({"exit_code_of": process.pid})["exit_code"]
        return code

    def keep_home(self) -> None:
        """Leave the temporary directory behind at the end, for the logs in it."""
        self._ask({"keep_home": True})

    def close(self) -> None:
        """End every process, and return when the last one is gone and the temporary directory removed."""
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin:
                self._process.stdin.close()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def __enter__(self) -> Guardian:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 - for the type checker: it is a pipe
        assert stdout is not None  # noqa: S101 - the same
        with self._lock:
            try:
                stdin.write(json.dumps(request) + "\n")
                stdin.flush()
                answer = stdout.readline()
            except (BrokenPipeError, ValueError):
                answer = ""
        if not answer:
            raise RuntimeError("the guardian process is gone, and with it everything it had started")
        return dict(json.loads(answer))


def main(grace: float) -> None:
    """Serve the owner's requests until its pipe closes or SIGTERM comes, then end everything."""
    _become_subreaper()
    _set_signal_handlers()
    home = tempfile.mkdtemp(prefix="dli-local-airflow-")
    keep_home = False
    try:
        for line in sys.stdin:
            request = json.loads(line)
            keep_home = keep_home or "keep_home" in request
            print(json.dumps(_answer(request, home)), flush=True)
    except (_Terminated, BrokenPipeError):
        pass
    finally:
        _end_descendants(grace)
        if not keep_home:
            shutil.rmtree(home, ignore_errors=True)


class _Terminated(Exception):  # noqa: N818
    """SIGTERM came."""


def _become_subreaper() -> None:
    """
    Have orphaned descendants handed to us instead of to init, so that they stay findable.

    Linux only. Elsewhere a process is ended as long as its ancestors live when the end begins, which leaves
    out only what was orphaned before.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _set_signal_handlers() -> None:
    # Handlers, never SIG_IGN: an ignored signal stays ignored in every process started from here.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGHUP, lambda *_: None)
    signal.signal(signal.SIGCHLD, _reap)
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(*_: object) -> None:
    # Once is enough: a second SIGTERM must not interrupt the clean-up.
    signal.signal(signal.SIGTERM, lambda *_: None)
    raise _Terminated


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            _exit_codes[ended[0]] = os.waitstatus_to_exitcode(ended[1])


def _answer(request: dict[str, Any], home: str) -> dict[str, Any]:
    if "argv" in request:
        return _start(request, home)
    if "exit_code_of" in request:
        return {"exit_code": _exit_codes.get(request["exit_code_of"])}
    return {"home": home}


def _start(request: dict[str, Any], home: str) -> dict[str, Any]:
    try:
        with open(str(request["log"]), "ab") as log:
            process = subprocess.Popen(  # noqa: S603 - what its owner asks for
                request["argv"],
                env=request["env"],
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
    except OSError as error:
        return {"error": str(error)}
    _exit_codes.pop(process.pid, None)
    return {"pid": process.pid}


def _end_descendants(grace: float) -> None:
    """
    SIGTERM to all, SIGKILL to what is left after the grace period, until none is left.

    The tree is read anew in every round: processes on their way out may start others.
    """
    deadline = time.monotonic() + grace
    told: set[psutil.Process] = set()
    while alive := _descendants():
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                if time.monotonic() > deadline:
                    process.kill()
                elif process not in told:
                    process.terminate()
                    told.add(process)
        time.sleep(0.05)


def _descendants() -> list[psutil.Process]:
    _reap()
    descendants: list[psutil.Process] = psutil.Process().children(recursive=True)
    return descendants


if __name__ == "__main__":
    main(float(sys.argv[1]))
