"""Nothing that a guardian started outlives its owner, however the owner goes and whatever the processes do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pace
import psutil
import pytest

from airflow_provider_dli.local.airflow.guardian import Guardian

# Like Airflow at its worst: sessions of their own, orphans, a frozen process, and nobody obeys SIGTERM.
WILD_FAMILY = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for child in ("orphaner", "frozen", "parent"):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        if child == "orphaner":
            os._exit(0)
        if child == "frozen":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)
time.sleep(600)
"""
FAMILY_SIZE = 6
GRACE = 0.2

OWNER = f"""
import os, signal, sys, time
from airflow_provider_dli.local.airflow.guardian import Guardian
for number in (signal.SIGINT, signal.SIGHUP):  # a test run in the background ignores them, and so would its children
    signal.signal(number, signal.SIG_DFL)
guardian = Guardian({GRACE})
guardian.start([sys.executable, "-c", {WILD_FAMILY!r}], env=dict(os.environ), log=guardian.home / "family.log")
print(guardian.pid, guardian.home, flush=True)
time.sleep(600)
"""


def test_close_ends_every_descendant_and_removes_the_home() -> None:
    with Guardian(GRACE) as guardian:
        guardian.start([sys.executable, "-c", WILD_FAMILY], env=os.environ, log=guardian.home / "family.log")
        family = wait_for_family(guardian.pid)
    assert not [process for process in family if process.is_running()]
    assert not guardian.home.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_owner_ended_by_a_signal_leaves_nothing(number: signal.Signals) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert owner.stdout
    pid, home = owner.stdout.readline().split()
    guardian, family = psutil.Process(int(pid)), wait_for_family(int(pid))
    os.killpg(owner.pid, number)  # as a terminal does, to its whole foreground group
    owner.wait(pace.seconds(10))
    owner.stdout.close()
    assert not psutil.wait_procs([guardian, *family], timeout=10)[1]
    assert not Path(home).exists()


def test_sigterm_to_the_guardian_itself_ends_everything() -> None:
    guardian = Guardian(GRACE)
    guardian.start([sys.executable, "-c", WILD_FAMILY], env=os.environ, log=guardian.home / "family.log")
    family = wait_for_family(guardian.pid)
    for _ in range(3):
        os.kill(guardian.pid, signal.SIGTERM)
        time.sleep(0.1)
    guardian.close()
    assert not [process for process in family if process.is_running()]
    assert not guardian.home.exists()


def test_children_get_default_signal_handling_and_only_the_given_environment() -> None:
    # A task supervisor that ignores SIGINT, or cannot wait for its children, would be another Airflow.
    code = "import os, signal; print(dict(os.environ) | {s: signal.getsignal(getattr(signal, s)) for s in NAMES})"
    code = f"NAMES = ['SIGHUP', 'SIGCHLD', 'SIGTERM']\n{code}"
    with Guardian(GRACE) as guardian:
        log = guardian.home / "child.log"
        child = guardian.start([sys.executable, "-c", code], env={"LC_CTYPE": "C.UTF-8"}, log=log)
        while guardian.exit_code(child) is None:
            time.sleep(0.02)
        assert log.read_text().count("SIG_DFL") == 3
        assert "PATH" not in log.read_text()


def test_exit_codes() -> None:
    with Guardian(GRACE) as guardian:
        child = guardian.start(["sleep", "600"], env=os.environ, log=guardian.home / "log")
        assert guardian.exit_code(child) is None
        child.kill()
        deadline = time.monotonic() + pace.seconds(5)
        while guardian.exit_code(child) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert guardian.exit_code(child) == -signal.SIGKILL


def test_a_program_that_does_not_exist_is_an_error_with_its_name() -> None:
    with Guardian(GRACE) as guardian, pytest.raises(RuntimeError, match=r"cannot start /no/such: .*No such file"):
        guardian.start(["/no/such"], env={}, log=guardian.home / "log")


def test_the_home_can_be_kept_for_its_logs() -> None:
    with Guardian(GRACE) as guardian:
        (guardian.home / "log").write_text("why")
        guardian.keep_home()
    assert (guardian.home / "log").read_text() == "why"
    (guardian.home / "log").unlink()
    guardian.home.rmdir()


def wait_for_family(guardian_pid: int) -> list[psutil.Process]:
    """All processes of the wild family, once they are complete and its frozen member is frozen."""
    deadline = time.monotonic() + pace.seconds(10)
    while time.monotonic() < deadline:
        family = [
            process
            for process in psutil.Process(guardian_pid).children(recursive=True)
            if process.status() != psutil.STATUS_ZOMBIE
        ]
        if len(family) == FAMILY_SIZE and psutil.STATUS_STOPPED in {process.status() for process in family}:
            return family
        time.sleep(0.02)
    raise AssertionError(f"the family is not complete: {family}")
