"""
The switch: which jobs a kill cancels, and how.

Airflow calls ``on_kill`` inside a signal handler: the main thread stops between two byte codes of whatever it was
doing, and gets 5 seconds before SIGKILL, on some paths. So whatever that code may hold (the supervisor channel, the
import lock, a logging lock, an HTTP session) must not be needed for the cancel. Here nothing of it is:
:meth:`KillSwitch.pull` sets a flag and wakes a thread that was started before the job was submitted, has a session of
its own, and imports nothing.

A kill has two budgets: 3.5 s inside the signal handler, and 30 s in all. Airflow does not always send SIGKILL, so the
task stays until its jobs are cancelled or the 30 s are over, for as long as its process is let live.

:class:`State` and :data:`TRANSITIONS` say where the switch stands and what moves it, :class:`Fate` what becomes of each
job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from airflow_provider_dli import machine
from airflow_provider_dli.exceptions import DliAuthenticationError, DliError, DliNotFoundError, DliTaskKilledError
from airflow_provider_dli.threads import SLICE, Mailbox, call_in_thread

if TYPE_CHECKING:
    from airflow_provider_dli.client.client import Log
    from airflow_provider_dli.job import Cancellation, Job

# How long `on_kill` waits for the cancel, in seconds. Airflow sends SIGKILL after 5.
KILL_GRACE = 3.5
# How long a task that was killed, or fails by itself, waits for the cancel of its jobs, in seconds.
CANCEL_WITHIN = 30.0
# How often a job is looked for whose submit is not answered, in seconds.
LOOK_EVERY = 0.5


class Fate(Enum):
    """What becomes of one job that a kill cancels, in this order; a refused one starts again once."""

    FOLLOWED = "no cancel was sent"
    CANCELLING = "a cancel is under way"
    GONE = "it does not run on: DLI accepted the cancel, or it was over, or DLI does not know it"
    LEFT = "it could not be cancelled, and may still run"
    REFUSED = "the credentials were refused: only a connection that is read again helps"

    @property
    def is_settled(self) -> bool:
        """Whether no thread of the switch is at it any more."""
        return self not in (Fate.FOLLOWED, Fate.CANCELLING)


class State(Enum):
    """Where a switch stands: in the first four states the task is wanted, in the last two it is not."""

    IDLE = "a kill has nothing to cancel"
    SUBMITTING = "a submit is under way: a kill waits for its answer, and looks for its job meanwhile"
    LOOKING = "there may be jobs whose ids are not known: a kill looks for them first"
    FOLLOWING = "a kill cancels these jobs"
    CANCELLING = "the task was killed, or fails by itself: its jobs are looked for and cancelled"
    SETTLED = "nothing is left to be done, or nothing more can be done"


#: What moves a switch: for each state, what happens there (a method, unless the comment says otherwise), and the state
#: after that. What is not here changes nothing or, after a kill, ends the task.
TRANSITIONS: Mapping[State, Mapping[str, State]] = {
    State.IDLE: {
        "submit": State.SUBMITTING,
        "search": State.LOOKING,
        "follow": State.FOLLOWING,
        "pull": State.SETTLED,
        "abandon": State.SETTLED,
    },
    State.SUBMITTING: {
        "answer": State.FOLLOWING,  # of DLI to the submit
        "no answer": State.IDLE,
        "pull": State.CANCELLING,
        "abandon": State.CANCELLING,
    },
    State.LOOKING: {
        "follow": State.FOLLOWING,
        "submit": State.SUBMITTING,
        "release": State.IDLE,
        "pull": State.CANCELLING,
        "abandon": State.CANCELLING,
    },
    State.FOLLOWING: {
        "follow": State.FOLLOWING,
        "forget": State.IDLE,  # the last one
        "release": State.IDLE,
        "pull": State.CANCELLING,
        "abandon": State.CANCELLING,
    },
    State.CANCELLING: {
        "settle": State.SETTLED,  # of the last job: a fate that is settled
    },
    State.SETTLED: {
        # A job that turns up after the kill is cancelled all the same.
        "search": State.CANCELLING,
        "follow": State.CANCELLING,
    },
}


@dataclass
class _Followed:
    """One job that a kill cancels."""

    fate: Fate = Fate.FOLLOWED
    is_reported: bool = False
    said: str = ""


class KillSwitch:
    """
    Cancels the jobs of one task instance when the task is killed, at whatever moment.

    It follows a *set* of jobs: the one that the task waits for, and those of earlier tries that must not run on. Exists
    from its first use on, so that a kill that comes before the task runs is not forgotten; entered
    (``with switch.armed(...)``) before anything is submitted.
    """

    # A dictionary is read and changed in single steps, so it needs no lock.
    _jobs: dict[str, _Followed]
    _find: Callable[[], Iterable[str]] | None

    def __init__(self) -> None:
        self.killed = False
        #: Whether there may be a job that is not followed yet: of an earlier try, or from before a deferral.
        self.expects_a_job = False
        self._reset(None, None, None)

    @property
    def state(self) -> State:
        """Where the switch stands."""
        if self._unwanted:
            return State.SETTLED if self._is_settled() else State.CANCELLING
        if self._submitting:
            return State.SUBMITTING
        if self._find is not None:
            return State.LOOKING
        return State.FOLLOWING if self._jobs else State.IDLE

    @contextmanager
    def armed(
        self,
        cancel: Callable[[str], Cancellation] | None,
        log: Log,
        reread_connection: Callable[[], object] | None = None,
    ) -> Iterator[KillSwitch]:
        """
        Be ready to cancel.

        :param cancel: Cancels a job by its id; called in threads. None when a kill leaves the jobs alone.
        :param log: Where those threads report what they did.
        :param reread_connection: Called in the main thread when the credentials were refused, before what was refused
            is tried again.
        """
        self._reset(cancel, log, reread_connection)
        machine.start_thread(partial(self._obey, self._orders))
        try:
            yield self
        finally:
            if not self._stays_armed:
                self._is_closed = True
                self._orders.put(False)

    def pull(self) -> None:
        """
        Have the jobs cancelled and wait for it, at most 3.5 s. For a signal handler: takes no lock, never raises.

        Does no harm when called again, also while an earlier call still waits.
        """
        self.killed = True
        self._give_up()
        self._wait_until_settled(KILL_GRACE)

    def abandon(self) -> None:
        """
        Have the jobs cancelled because the task fails by itself, and wait for it, at most 30 s.

        Of a task that was killed before, wait for the rest of the 30 s.
        """
        self._give_up()
        self._finish()
        late = [job_id for job_id, job in list(self._jobs.items()) if not job.said]
        if late and self._cancel is not None and self._log is not None and not self.killed:
            # (The error of a killed task says it.) Here, for the process may end before the threads can say more. A
            # task whose supervisor was killed has no log any more.
            with suppress(OSError):
                self._log.error("%s", self._story())

    def check(self) -> None:
        """
        End the task when it was killed, once its jobs are cancelled or 30 s are over.

        :raises DliTaskKilledError: It was; says what became of the jobs.
        """
        if self._unwanted:
            self._finish()
            self.raise_if_killed()

    def raise_if_killed(self) -> None:
        """
        As :meth:`check`, but without waiting for anything; for other threads than the main one.

        :raises DliTaskKilledError: It was killed.
        """
        if self._unwanted:
            raise DliTaskKilledError(f"The task was killed. {self._story()}")

    @property
    def may_leave_a_job(self) -> bool:
        """Whether a job of this task may still run."""
        return self.expects_a_job or any(job.fate is not Fate.GONE for job in self._followed())

    @property
    def is_launching(self) -> bool:
        """Whether a job may be started at any moment; once that has been tried, a kill cancels it once more."""
        return self._launching

    def submit(
        self,
        create: Callable[[], Job],
        launch: Callable[[Job], Job] | None = None,
        *,
        timeout: float,
        find: Callable[[], Iterable[str]],
    ) -> Job:
        """
        Submit a job and note its id, with no gap in which a signal or a timeout could lose it.

        All this happens in a thread, for signals and timeouts only ever interrupt the main one. After a kill that comes
        before the answer, the job is looked for as well: a synchronous statement may run for minutes before DLI
        answers. The task stays until it is cancelled, or for 30 s: to end earlier would leave the job behind. (Where
        Airflow sends SIGKILL after 5 s, it is the one to end it.)

        :param create: Creates the job.
        :param launch: Starts what was created, where that is a step of its own; returns the job. Not called after a
            kill that cancels.
        :param timeout: Seconds after which the answer counts as lost.
        :param find: Looks for the job, once; returns its id, if it is there. Called in a thread.
        """

        def run() -> Job:
            try:
                job = create()
                self._jobs.setdefault(job.id, _Followed())
                self._launching = launch is not None
                if launch is None or (self._unwanted and self._cancel is not None):
                    return job
                try:
                    return launch(job)
                finally:
                    if self._unwanted:
                        # Once more, for the cancel may have come before the launch.
                        self._jobs[job.id] = _Followed()
            finally:
                # In this order: whoever sees that no submit is under way finds the job id.
                self._launching = self._submitting = False
                if self._unwanted:
                    self._orders.put(True)

        # In this order: a kill that is not seen here finds a submit under way.
        self._submitting = True
        # What was looked for is looked for by the submit.
        self._find = None
        if self._unwanted:
            self._submitting = False
            self.check()
        # Started before a kill, for the same reason as the thread that cancels.
        machine.start_thread(partial(self._look_meanwhile, find))
        try:
            job = call_in_thread(run, self._check_submit, timeout, "submit of the job")
        except BaseException:
            # Airflow 2 raises as soon as `on_kill` returns.
            if self._submitting and self._unwanted:
                self._wait_until_settled(self._time_left())
            raise
        if self._unwanted:
            self._wait_until_settled(self._time_left())
        return job

    def follow(self, *job_ids: str) -> None:
        """From now on, cancel these jobs and no others when the task is killed; at once, when it was killed already."""
        self._jobs = {job_id: self._jobs.get(job_id, _Followed()) for job_id in job_ids}
        self._find = None
        if self._unwanted:
            self._orders.put(True)
        self.check()

    def forget(self, job_id: str) -> None:
        """This job is over; a kill has nothing to cancel there."""
        self._jobs.pop(job_id, None)

    def search(self, find: Callable[[], Iterable[str]]) -> None:
        """
        From now on, look for jobs to cancel when the task is killed; at once, when it was killed already.

        There may be some whose ids got lost.

        :param find: Returns their ids; called in a thread.
        """
        self._has_searched = False
        self._find = find
        if self._unwanted:
            self._orders.put(True)
        self.check()

    def stay_armed(self) -> None:
        """Cancel for as long as the process lives: a deferral takes Airflow a while, and a kill may come meanwhile."""
        self._stays_armed = True

    def release(self) -> None:
        """What was followed is over; from now on a kill has nothing to cancel."""
        self._jobs = {}
        self._find = None

    def _reset(
        self,
        cancel: Callable[[str], Cancellation] | None,
        log: Log | None,
        reread_connection: Callable[[], object] | None,
    ) -> None:
        self._cancel = cancel
        self._log = log
        self._reread_connection = reread_connection
        self._orders: Mailbox[bool] = Mailbox()
        self._unwanted = self.killed
        # After a kill that came before, what is found from now on gets its full time.
        self._unwanted_at = machine.monotonic() if self.killed else 0.0
        self._jobs = {}
        self._find = None
        self._is_searching = False
        self._has_searched = False
        self._search_failure = ""
        self._is_search_refused = False
        self._submitting = False
        self._launching = False
        self._stays_armed = False
        self._is_closed = False

    def _give_up(self) -> None:
        if not self._unwanted_at:
            self._unwanted_at = machine.monotonic()
        self._unwanted = True
        self._orders.put(True)

    def _followed(self) -> list[_Followed]:
        return list(self._jobs.values())

    def _time_left(self) -> float:
        return self._unwanted_at + CANCEL_WITHIN - machine.monotonic()

    # Waiting

    def _finish(self) -> None:
        """Wait until all is cancelled, for the rest of the 30 s."""
        self._wait_until_settled(self._time_left())
        is_refused = self._is_search_refused or any(job.fate is Fate.REFUSED for job in self._followed())
        if is_refused and self._reread_connection is not None:
            # Here, for only the main thread may ask Airflow for anything, and it is not inside such a question now.
            reread_connection, self._reread_connection = self._reread_connection, None
            reread_connection()
            # Once more in any case: it may have been read again already, just when the cancel was refused.
            for job_id, job in list(self._jobs.items()):
                if job.fate is Fate.REFUSED:
                    self._jobs[job_id] = _Followed()
            self._has_searched, self._is_search_refused = self._has_searched and not self._is_search_refused, False
            self._orders.put(True)
            self._wait_until_settled(self._time_left())
        self._wait_until_reported()

    def _wait_until_settled(self, seconds: float) -> None:
        end = machine.monotonic() + seconds
        while not self._is_settled() and machine.monotonic() < end:
            machine.sleep(0.005)

    def _is_settled(self) -> bool:
        if self._cancel is None or self._is_closed:
            return True
        if self._submitting:
            return self._is_found()
        is_searching = self._find is not None and not self._has_searched
        return not is_searching and all(job.fate.is_settled for job in self._followed())

    def _wait_until_reported(self) -> None:
        end = machine.monotonic() + SLICE
        while any(job.said and not job.is_reported for job in self._followed()) and machine.monotonic() < end:
            machine.sleep(0.005)

    def _check_submit(self) -> None:
        if self._unwanted and (not self._submitting or self._is_found() or self._time_left() <= 0):
            self.check()

    def _is_found(self) -> bool:
        """Whether the job of a submit that is not answered was found, and seen to."""
        followed = self._followed()
        return bool(followed) and not self._launching and all(job.fate.is_settled for job in followed)

    # In threads

    def _obey(self, orders: Mailbox[bool]) -> None:
        while orders.wait():
            if self._cancel is None or not self._unwanted:
                continue
            for job_id, job in list(self._jobs.items()):
                if job.fate is Fate.FOLLOWED:
                    job.fate = Fate.CANCELLING
                    machine.start_thread(partial(self._cancel_job, job_id, job, self._cancel))
            if self._find is not None and not self._has_searched and not self._is_searching:
                self._is_searching = True
                machine.start_thread(partial(self._search, self._find))

    def _cancel_job(self, job_id: str, job: _Followed, cancel: Callable[[str], Cancellation]) -> None:
        try:
            job.said = f"Cancel of DLI job {job_id}: {cancel(job_id)}."
            job.fate = Fate.GONE
        except DliNotFoundError:
            job.said = f"DLI does not know job {job_id} any more: nothing is left to cancel."
            job.fate = Fate.GONE
        except Exception as error:  # the edge of a thread: nobody above could say it
            job.said = f"DLI job {job_id} could NOT be cancelled and may still run: {error}"
            job.fate = Fate.REFUSED if isinstance(error, DliAuthenticationError) else Fate.LEFT
        # Only now, for the killed code may hold a lock of the logging that this line needs.
        if self._log is not None:
            (self._log.info if job.fate is Fate.GONE else self._log.error)("%s", job.said)
        job.is_reported = True

    def _search(self, find: Callable[[], Iterable[str]]) -> None:
        self._search_failure = ""
        try:
            for job_id in find():
                self._jobs.setdefault(job_id, _Followed())
        except Exception as error:  # the edge of a thread: nobody above could say it
            self._search_failure = f"Its DLI job, if there is one, could not be looked up and may still run: {error}"
            self._is_search_refused = isinstance(error, DliAuthenticationError)
        self._is_searching = False
        # In this order: whoever sees that the search is over finds the jobs.
        self._has_searched = True
        self._orders.put(True)

    def _look_meanwhile(self, find: Callable[[], Iterable[str]]) -> None:
        """Look for the job of a submit that is not answered yet, from the moment on at which it is unwanted."""
        while self._submitting and not self._jobs and not self._is_closed:
            if not self._unwanted or self._cancel is None:
                machine.sleep(SLICE / 5)
                continue
            with suppress(DliError):
                for job_id in find():
                    self._jobs.setdefault(job_id, _Followed())
                    self._orders.put(True)
            machine.sleep(LOOK_EVERY)

    def _story(self) -> str:
        """Say what became of the jobs."""
        if self._cancel is None and self._jobs:
            return f"DLI job {', '.join(self._jobs)} goes on, as `cancel_on_kill=False` asks."
        said = [
            job.said or f"The cancel of DLI job {job_id} was not confirmed in time: it may still run."
            for job_id, job in list(self._jobs.items())
        ]
        if not said and self._submitting:
            said = ["The answer to its submit had not come."]
        if self._find is not None and not self._has_searched:
            said.append("Its DLI job, if there is one, could not be looked up in time and may still run.")
        return " ".join([*said, self._search_failure]).strip() or "It had no DLI job."
