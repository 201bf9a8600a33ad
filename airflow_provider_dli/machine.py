"""
What this package asks of the machine: the time, sleep, threads, locks and the number of its process.

A port: a test that simulates processes puts its own functions in the place of these, and nowhere else. So they are
called as ``machine.sleep(1)``, never imported by name.
"""

from __future__ import annotations

import _thread
import os
import threading
import time as _time
from collections.abc import Callable

time = _time.time
monotonic = _time.monotonic
sleep = _time.sleep
new_lock = threading.Lock
process_id = os.getpid
parent_process_id = os.getppid


def start_thread(function: Callable[[], None]) -> None:
    """
    Run a function in a thread that does not keep the process from ending.

    Takes no lock: ``threading.Thread.start`` takes one that the code may hold which a kill has interrupted.
    """
    _thread.start_new_thread(function, ())
