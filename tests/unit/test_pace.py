"""Bounds of time scale with how slow the machine is, which is measured once per run."""

import os
import time
from pathlib import Path

import pace
import pytest


@pytest.mark.parametrize(
    ("start", "trip", "expected"),
    [
        (pace.PROCESS_START, pace.ROUND_TRIP, 1),
        (pace.PROCESS_START / 2, pace.ROUND_TRIP / 2, 1),
        (3 * pace.PROCESS_START, pace.ROUND_TRIP, 3),
        (pace.PROCESS_START, 2.5 * pace.ROUND_TRIP, 2.5),
        (1000 * pace.PROCESS_START, pace.ROUND_TRIP, pace.MOST),
    ],
)
def test_the_factor_is_that_of_what_is_slower_and_has_limits(start, trip, expected):
    assert pace.factor_of(start, trip) == pytest.approx(expected)


def test_what_is_measured_is_quick_to_measure():
    began = time.monotonic()
    assert 0 < pace.process_start() < pace.MOST
    assert 0 < pace.round_trip() < 1
    assert time.monotonic() - began < pace.seconds(0.5)


def test_a_run_measures_once_and_hands_the_factor_on(monkeypatch):
    monkeypatch.delenv(pace.VARIABLE, raising=False)
    monkeypatch.setattr(pace, "process_start", lambda: 4 * pace.PROCESS_START)
    monkeypatch.setattr(pace, "round_trip", lambda: pace.ROUND_TRIP)
    pace.factor.cache_clear()
    try:
        assert (pace.factor(), pace.seconds(1.5), os.environ[pace.VARIABLE]) == (4, 6, "4.00")
        monkeypatch.setattr(pace, "process_start", lambda: pytest.fail("measured again"))
        assert pace.seconds(2) == 8
    finally:
        pace.factor.cache_clear()


def test_the_run_has_measured_and_tells_so_in_its_header(request):
    # In the environment, from which the workers of pytest-xdist have it.
    assert float(os.environ[pace.VARIABLE]) == pace.factor() >= 1
    header = str(request.config.hook.pytest_report_header(config=request.config, start_path=Path.cwd()))
    assert f"pace: this machine takes {pace.factor():.1f} times as long" in header
