"""
What makes a waiting task killable: waits that end soon, and a thread that cancels.

Airflow calls ``on_kill`` inside a signal handler: the main thread stops between two byte codes of whatever it was
doing, and gets 5 seconds. So whatever that code may hold (the supervisor channel, the import lock, a logging lock,
an HTTP session) must not be needed for the cancel. Here nothing of it is: :meth:`KillSwitch.pull` sets a flag and
wakes a thread that was started before the job was submitted, has a session of its own, and imports nothing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_dli.exceptions import DliError, DliNotFoundError, DliTaskKilledError, DliTemporaryError

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_provider_dli.api.jobs import Cancellation, Job

T = TypeVar("T")

# The longest that any wait goes without looking whether the task was killed, in seconds.
SLICE = 0.25
# How long `on_kill` waits for the cancel, in seconds. Airflow sends SIGKILL after 5.
KILL_GRACE = 3.5
# How long a task that fails by itself waits for the cancel of its job, in seconds.
CANCEL_WITHIN = 30.0


def pause(seconds: float, watch: Callable[[], None]) -> None:
    """Sleep, calling ``watch`` at least every 0.25 s; what it raises ends the sleep."""
    end = time.monotonic() + seconds
    watch()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SLICE))
        watch()


def call_in_thread(function: Callable[[], T], watch: Callable[[], None], timeout: float, what: str) -> T:
    """
    Call a function in a thread of its own and wait for it, calling ``watch`` at least every 0.25 s.

    The wait ends when ``watch`` raises or the time is over, also when the function hangs in a system call
    that nothing can interrupt (a server that sends a byte per second, a name that does not resolve); its
    thread is left behind then, and what it returns is thrown away.

    :param timeout: Seconds.
    :param what: What it does, for the error.
    :raises DliTemporaryError: The time was over.
    """
    answers: list[tuple[T | None, BaseException | None]] = []
    # Not a queue: until Python 3.12 the `get(timeout=...)` of a SimpleQueue waits for ever when a signal handler that
    # interrupts it takes longer than the timeout, as an `on_kill` does.
    answered = threading.Lock()
    answered.acquire()

    def run() -> None:
        try:
            answers.append((function(), None))
        except BaseException as error:
            answers.append((None, error))
        answered.release()

    threading.Thread(target=run, name="dli-call", daemon=True).start()
    end = time.monotonic() + timeout
    while not answered.acquire(timeout=SLICE):
        watch()
        if time.monotonic() > end:
            raise DliTemporaryError(f"{what} failed: no complete answer within {timeout:.0f} s")
    result, error = answers[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only when the function returned None


class KillSwitch:
    """
    Cancels the one job of one task instance when the task is killed, at whatever moment.

    Exists from the first look on, so that a kill that comes before the task runs is not forgotten; entered
    (``with switch.armed(...)``) before anything is submitted.
    """

    def __init__(self) -> None:
        self.killed = False
        self._killed_at = 0.0
        self.job_id: str | None = None
        self._find: Callable[[], str | None] | None = None
        self._reset(None, None)

    @contextmanager
    def armed(self, cancel: Callable[[str], Cancellation] | None, log: Logger) -> Iterator[KillSwitch]:
        """
        Be ready to cancel.

        :param cancel: Cancels a job by its id; called in a thread of its own. None when a kill shall leave
            the job alone.
        :param log: Where that thread reports what it did.
        """
        self._reset(cancel, log)
        # Started before the submit, for starting a thread takes locks that killed code may hold.
        threading.Thread(target=self._obey, name="dli-canceller", daemon=True).start()
        try:
            yield self
        finally:
            self._settled = True
            self._orders.put(False)

    def pull(self) -> None:
        """
        Have the job cancelled and wait for it, at most 3.5 s. For a signal handler: takes no lock, never raises.

        Does no harm when called again, also while an earlier call still waits.
        """
        if not self.killed:
            self._killed_at = time.monotonic()
        self.killed = self._unwanted = True
        self._orders.put(True)
        self._wait_until_settled(KILL_GRACE)

    def abandon(self) -> None:
        """Have the job cancelled because the task fails by itself, and wait for it, at most 30 s."""
        if not self._unwanted:
            self._unwanted = True
            self._orders.put(True)
            self._wait_until_settled(CANCEL_WITHIN)
            self._wait_until_reported()

    def check(self) -> None:
        """
        End the task when it was killed.

        :raises DliTaskKilledError: It was; says what became of the job.
        """
        if self._unwanted:
            self._wait_until_reported()
            raise DliTaskKilledError(f"The task was killed. {self._fate()}")

    def submit(self, send: Callable[[], Job], timeout: float) -> Job:
        """
        Submit the job and note its id, with no gap in which a signal or a timeout could lose it.

        Sending and noting happen in a thread, for signals and timeouts only ever interrupt the main one. A
        kill that comes before the answer is seen when the answer arrives, or 30 s later: to end earlier would
        leave the job behind. (Where Airflow sends SIGKILL after 5 s, it is the one to end it.)

        :param send: Submits the job.
        :param timeout: Seconds after which the answer counts as lost.
        """

        def run() -> Job:
            try:
                job = send()
                self.job_id = job.id
            finally:
                # In this order: whoever sees that no submit is under way finds the job id.
                self._submitting = False
                if self._unwanted:
                    self._orders.put(True)
            return job

        self._submitting = True
        try:
            self.check()
        except DliTaskKilledError:
            self._submitting = False
            raise
        job = call_in_thread(run, self._check_submit, timeout, "submit of the job")
        if self._unwanted:
            self._wait_until_settled(KILL_GRACE)
        return job

    def follow(self, job_id: str) -> None:
        """From now on, cancel this job when the task is killed."""
        self.job_id = job_id
        self._find = None
        self.check()

    def search(self, find: Callable[[], str | None]) -> None:
        """
        From now on, look for a job to cancel when the task is killed: there may be one whose id got lost.

        :param find: Returns its id, or None; called in the thread that cancels.
        """
        self._find = find
        self.check()

    def release(self) -> None:
        """The job that was followed is over; from now on a kill has nothing to cancel."""
        self.job_id = None

    def _check_submit(self) -> None:
        if not self._submitting or time.monotonic() > self._killed_at + CANCEL_WITHIN:
            self.check()

    def _reset(self, cancel: Callable[[str], Cancellation] | None, log: Logger | None) -> None:
        self._cancel = cancel
        self._log = log
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._unwanted = self.killed
        self._submitting = False
        self._settled = False
        self._reported = False
        self._said = ""
        self._find = None
        self.job_id = None

    def _wait_until_settled(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._is_settled() and time.monotonic() < end:
            time.sleep(0.005)

    def _wait_until_reported(self) -> None:
        end = time.monotonic() + SLICE
        while self._said and not self._reported and time.monotonic() < end:
            time.sleep(0.005)

    def _is_settled(self) -> bool:
        nothing_to_cancel = self.job_id is None and not self._submitting and self._find is None
        return self._cancel is None or self._settled or nothing_to_cancel

    def _obey(self) -> None:
        while self._orders.get():
            if self._cancel is not None and not self._settled and self._has_job():
                self._said = _cancelled(str(self.job_id), self._cancel)
                self._settled = True
                # Only now, for the killed code may hold a lock of the logging that this line needs.
                if self._log is not None:
                    self._log.info("%s", self._said)
                self._reported = True

    def _has_job(self) -> bool:
        if self.job_id is None and self._find is not None:
            try:
                self.job_id = self._find()
            except DliError as error:
                self._said = f"Its DLI job, if there is one, could not be looked up and may still run: {error}"
            # Found or not, there is nothing more to wait for.
            self._settled = self.job_id is None
        return self.job_id is not None

    def _fate(self) -> str:
        if self.job_id is None:
            unknown = "The answer to its submit had not come." if self._submitting else "It had no DLI job."
            return self._said or unknown
        if self._cancel is None:
            return f"DLI job {self.job_id} goes on, as `cancel_on_kill=False` asks."
        return self._said or f"The cancel of DLI job {self.job_id} was not confirmed in time."


def _cancelled(job_id: str, cancel: Callable[[str], Cancellation]) -> str:
    try:
        return f"Cancel of DLI job {job_id}: {cancel(job_id)}."
    except DliNotFoundError:
        return f"DLI does not know job {job_id} any more: nothing is left to cancel."
    except Exception as error:  # the edge of a thread: nobody above could say it
        return f"DLI job {job_id} could NOT be cancelled and may still run: {error}"
