"""
How much slower this machine is than the one on which the bounds of time in tests were chosen.

It is measured once per run, before the first test: how long a process takes to start, and an empty HTTP round trip on
loopback. Upper bounds are scaled with it (``pace.seconds(5)``), and nothing else: no lower bound, and not what a test
lets a job or a fault last.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from statistics import mean

# Seconds on the reference machine when it is quiet: two cores, Python 3.11, measured on 2026-12-01.
PROCESS_START = 0.011
ROUND_TRIP = 0.00012
# A machine that is slower than this cannot tell a slow test from one that hangs.
MOST = 10.0
# The workers of pytest-xdist, and a pytest that a test starts, take the value of the process that has measured it.
VARIABLE = "DLI_TEST_PACE"


def seconds(bound: float) -> float:
    """
    Scale an upper bound of time.

    :param bound: Seconds that are enough on the reference machine.
    :return: Seconds that are enough here; never less than the bound.
    """
    return bound * factor()


@cache
def factor() -> float:
    """How many times slower than the reference machine this one is: 1 to 10. Measured unless the environment has it."""
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = f"{factor_of(process_start(), round_trip()):.2f}"
    return float(os.environ[VARIABLE])


def factor_of(start: float, trip: float) -> float:
    """The factor of a machine on which a process start and a round trip take so many seconds: that of the slower one."""
    return min(MOST, max(1.0, start / PROCESS_START, trip / ROUND_TRIP))


def process_start() -> float:
    """Seconds that a Python process takes from its start to its end."""
    return _mean_of(lambda: subprocess.run([sys.executable, "-I", "-c", "pass"], check=True), times=5, within=0.2)


def round_trip() -> float:
    """Seconds that an empty HTTP request on loopback takes until its answer is read."""
    with HTTPServer(("127.0.0.1", 0), _Empty) as server:
        # It handles one connection, and ends with it.
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port)

        def ask() -> None:
            connection.request("GET", "/")
            connection.getresponse().read()

        try:
            ask()  # connects
            return _mean_of(ask, times=100, within=0.1)
        finally:
            connection.close()
            thread.join()


class _Empty(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def _mean_of(call: Callable[[], object], times: int, within: float) -> float:
    took: list[float] = []
    while not took or (len(took) < times and sum(took) < within):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return mean(took)
