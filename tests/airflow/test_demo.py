"""
`dli-local demo`: it tells the story, and whatever ends it, it leaves no process and no temporary home behind.

With ``DLI_LOCAL``, the ``dli-local`` of another environment is tested, as that of a wheel.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pace
import psutil
import pytest

DLI_LOCAL = os.environ.get("DLI_LOCAL")
COMMAND = [*([DLI_LOCAL] if DLI_LOCAL else [sys.executable, "-m", "airflow_provider_dli.local.cli"]), "demo"]

Demo = subprocess.Popen[str]


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """A function that starts a demo, as from a terminal, with a temporary directory of its own."""
    demos = []

    def start(*arguments: str) -> Demo:
        demo = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            cwd="/",  # nothing of this checkout is imported from here
        )
        demos.append(demo)
        return demo

    yield start
    for demo in demos:
        demo.kill()
        demo.communicate()


@pytest.mark.matrix
def test_it_shows_the_job_cancelled_and_ctrl_c_ends_a_kept_one(start_demo: Callable[..., Demo], tmp_path: Path) -> None:
    demo = start_demo("--keep")
    story = read_until(demo, "Ctrl-C ends them", timeout=240) + read_until(demo, "_local/jobs", timeout=5)
    steps = [
        "the task submitted the job",
        "the DAG run was marked failed",
        "DLI received DELETE",
        "the job was CANCELLED",
    ]
    assert [story.find(step) for step in steps] == sorted(story.find(step) for step in steps)
    assert all(step in story for step in steps)
    assert "Jobs left running: 0" in story
    assert re.search(r"Airflow +http://127\.0\.0\.1:\d+", story)
    assert re.search(r"login +admin / \S{8,}", story)

    family = family_of(demo)
    os.killpg(demo.pid, signal.SIGINT)
    assert demo.wait(pace.seconds(15)) == 0
    assert_nothing_is_left(family, tmp_path, within=0)


@pytest.mark.matrix
def test_killed_with_sigkill_while_the_job_runs(start_demo: Callable[..., Demo], tmp_path: Path) -> None:
    demo = start_demo()
    read_until(demo, "The job is RUNNING in DLI", timeout=240)
    family = family_of(demo)
    assert len(family) > 20  # the Airflow, its workers and the task, and the local DLI
    demo.kill()
    assert_nothing_is_left(family, tmp_path, within=20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ended_by_a_signal_while_airflow_starts(
    start_demo: Callable[..., Demo], tmp_path: Path, number: signal.Signals
) -> None:
    demo = start_demo()
    read_until(demo, "creating its database", timeout=20)
    family = family_of(demo)
    os.killpg(demo.pid, number)
    assert f"Ended by {number.name}" in demo.communicate(timeout=pace.seconds(15))[0]
    assert demo.returncode == 128 + number
    assert_nothing_is_left(family, tmp_path, within=0)


@pytest.mark.matrix
def test_a_second_ctrl_c_returns_at_once_and_the_rest_ends_by_itself(
    start_demo: Callable[..., Demo], tmp_path: Path
) -> None:
    demo = start_demo()
    read_until(demo, "starting api-server", timeout=60)
    family = family_of(demo)
    os.killpg(demo.pid, signal.SIGINT)
    time.sleep(0.3)
    os.killpg(demo.pid, signal.SIGINT)
    demo.communicate(timeout=pace.seconds(15))
    assert_nothing_is_left(family, tmp_path, within=20)


def test_a_busy_port_is_said_before_anything_is_started(start_demo: Callable[..., Demo], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        demo = start_demo("--airflow-port", str(busy.getsockname()[1]))
        said, _ = demo.communicate(timeout=pace.seconds(20))
    assert demo.returncode == 2
    assert re.search(r"port \d+ cannot be used \(Address already in use\); choose another --airflow-port", said)
    assert not list(tmp_path.iterdir())


def read_until(demo: Demo, text: str, timeout: float) -> str:
    """What the demo has printed up to the line with this text."""
    assert demo.stdout
    lines: list[str] = []
    deadline = time.monotonic() + pace.seconds(timeout)
    while not lines or text not in lines[-1]:
        assert time.monotonic() < deadline, f"no {text!r} within {timeout} s in:\n{''.join(lines)}"
        line = demo.stdout.readline()
        assert line, f"the demo ended without {text!r}:\n{''.join(lines)}"
        lines.append(line)
    return "".join(lines)


def family_of(demo: Demo) -> list[psutil.Process]:
    process = psutil.Process(demo.pid)
    return [process, *process.children(recursive=True)]


def assert_nothing_is_left(family: list[psutil.Process], temporary: Path, within: float) -> None:
    """No process of the family, none that knows the temporary directory, and nothing in it."""
    deadline = time.monotonic() + pace.seconds(within)
    while left := [*filter(is_alive, family), *processes_that_name(temporary), *temporary.iterdir()]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_that_name(directory: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            known = f"{process.cmdline()} {process.environ()}"
        except psutil.Error:
            continue
        if str(directory) in known:
            found.append(process)
    return found
