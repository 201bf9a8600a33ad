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
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from airflow_provider_dli.exceptions import DliError, DliNotFoundError, DliTaskKilledError
from airflow_provider_dli.threads import SLICE, call_in_thread

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_provider_dli.api.jobs import Cancellation, Job

# How long `on_kill` waits for the cancel, in seconds. Airflow sends SIGKILL after 5.
KILL_GRACE = 3.5
# How often a job is looked for whose submit is not answered, in seconds.
LOOK_EVERY = 0.5
# How long a task that fails by itself waits for the cancel of its job, in seconds.
CANCEL_WITHIN = 30.0


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
        self._submitting = False
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
            if not self._stays_armed:
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

    def submit(self, send: Callable[[], Job], timeout: float, find: Callable[[], str | None]) -> Job:
        """
        Submit the job and note its id, with no gap in which a signal or a timeout could lose it.

        Sending and noting happen in a thread, for signals and timeouts only ever interrupt the main one. After a kill
        that comes before the answer, the job is looked for as well: a synchronous statement may run for minutes before
        DLI answers. The task stays until it is cancelled, or for 30 s: to end earlier would leave the job behind.
        (Where Airflow sends SIGKILL after 5 s, it is the one to end it.)

        :param send: Submits the job.
        :param timeout: Seconds after which the answer counts as lost.
        :param find: Looks for the job, once; returns its id, or None. Called in a thread.
        """

        def run() -> Job:
            known = None
            try:
                job = send()
                known, self.job_id = self.job_id, job.id
            finally:
                # In this order: whoever sees that no submit is under way finds the job id.
                self._submitting = False
                if self._unwanted and known is None:
                    self._order_again()
            return job

        self._submitting = True
        try:
            self.check()
        except DliTaskKilledError:
            self._submitting = False
            raise
        # Started before a kill, for the same reason as the thread that cancels.
        threading.Thread(target=partial(self._look_meanwhile, find), name="dli-searcher", daemon=True).start()
        try:
            job = call_in_thread(run, self._check_submit, timeout, "submit of the job")
        except BaseException:
            # Airflow 2 raises as soon as `on_kill` returns.
            if self._submitting:
                self._wait_until_settled(self._killed_at + CANCEL_WITHIN - time.monotonic())
            raise
        if self._unwanted:
            self._wait_until_settled(KILL_GRACE)
        return job

    def follow(self, job_id: str) -> None:
        """From now on, cancel this job when the task is killed; at once, when it was killed already."""
        self.job_id = job_id
        self._find = None
        if self._unwanted:
            self._order_again()
            self._wait_until_settled(KILL_GRACE)
        self.check()

    def search(self, find: Callable[[], str | None]) -> None:
        """
        From now on, look for a job to cancel when the task is killed; at once, when it was killed already.

        There may be one whose id got lost.

        :param find: Returns its id, or None; called in the thread that cancels.
        """
        self._find = find
        if self._unwanted:
            self._order_again()
            self._wait_until_settled(KILL_GRACE)
        self.check()

    def stay_armed(self) -> None:
        """Cancel for as long as the process lives: a deferral takes Airflow a while, and a kill may come meanwhile."""
        self._stays_armed = True

    def release(self) -> None:
        """The job that was followed is over; from now on a kill has nothing to cancel."""
        self.job_id = None
        self._find = None

    def _order_again(self) -> None:
        """Have a job cancelled that was not known when the task was killed."""
        self._settled = False  # for a look that found nothing settled nothing
        self._orders.put(True)

    def _check_submit(self) -> None:
        if not self._submitting or self._settled or time.monotonic() > self._killed_at + CANCEL_WITHIN:
            self.check()

    def _look_meanwhile(self, find: Callable[[], str | None]) -> None:
        """Look for the job of a submit that is not answered yet, from the moment on at which it is unwanted."""
        while self._submitting and self.job_id is None and not self._settled:
            if not self._unwanted or self._cancel is None:
                time.sleep(SLICE / 5)
                continue
            with suppress(DliError):
                found = find()
                if found is not None and self.job_id is None:
                    self.job_id = found
                    self._order_again()
            time.sleep(LOOK_EVERY)

    def _reset(self, cancel: Callable[[str], Cancellation] | None, log: Logger | None) -> None:
        self._cancel = cancel
        self._log = log
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._unwanted = self.killed
        self._submitting = False
        self._settled = False
        self._stays_armed = False
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
