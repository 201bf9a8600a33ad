"""
The switch: which jobs a kill cancels, and how.

Airflow calls ``on_kill`` inside a signal handler: the main thread stops between two byte codes of whatever it was
doing, and gets 5 seconds before SIGKILL, on some paths. So whatever that code may hold (the supervisor channel, the
import lock, a logging lock, an HTTP session) must not be needed for the cancel. Here nothing of it is:
:meth:`KillSwitch.pull` sets a flag and wakes a thread that was started before the job was submitted, has a session of
its own, and imports nothing.

A kill has two budgets: 3.5 s inside the signal handler, and 34 s in all. Airflow does not always send SIGKILL, so the
task stays until its jobs are cancelled or the 34 s are over, for as long as its process is let live.

What it does is logged through :class:`.BackgroundLog`: the killed code may hold a lock of the logging.

Where the switch stands, what moves it, and what becomes of each job is in ``kill_states.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from airflow_provider_dli import machine, story
from airflow_provider_dli.exceptions import DliAuthenticationError, DliError, DliNotFoundError, DliTaskKilledError
from airflow_provider_dli.tasks.kill_states import Fate, State
from airflow_provider_dli.threads import SLICE, Mailbox, call_in_thread

if TYPE_CHECKING:
    from airflow_provider_dli.job import Cancellation, Job
    from airflow_provider_dli.threads import BackgroundLog

# How long `on_kill` waits for the cancel, in seconds. Airflow sends SIGKILL after 5.
KILL_GRACE = 3.5
# How long a task that was killed, or fails by itself, waits for the cancel of its jobs, in seconds: for 30 s it is
# repeated, and the answers to the last requests say why it was in vain.
CANCEL_WITHIN = 34.0
# All that is known of a kill: whoever it comes from, it is the same signal.
_KILLED = (
    "Airflow has told the task to end (it does not say why: marked or cleared by a user, DAG run failed or timed out, "
    "worker shutting down)"
)
# How often a job is looked for whose submit is not answered, in seconds.
LOOK_EVERY = 0.5
# How long a kill looks for a job whose id got lost, or is wrong, in seconds.
FIND_WITHIN = 3.0


@dataclass
class _Followed:
    """One job that a kill cancels."""

    fate: Fate = Fate.FOLLOWED
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
    # Looks for the job that was submitted last.
    _find_submitted: Callable[[], Iterable[str]] | None
    # What a thread may change only if it is still its own: one whose submit or search counts as lost may end at any
    # time, also while the next one is under way. Each is compared and set in single steps, so it needs no lock.
    _submit_under_way: object | None
    _launch_under_way: object | None
    _begun_search: Callable[[], Iterable[str]] | None
    _ended_search: Callable[[], Iterable[str]] | None
    _is_left_to_next_try: Callable[[], bool]

    def __init__(self) -> None:
        self.killed = False
        #: Whether there may be a job that is not followed yet: of an earlier try, or from before a deferral.
        self.expects_a_job = False
        self._reset(None, None, None, str)

    def __reduce__(self) -> tuple[type[KillSwitch], tuple[()]]:
        # An operator that has run may be copied or pickled. The copy follows no job, and is killed by itself.
        return KillSwitch, ()

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
        log: BackgroundLog,
        reread_connection: Callable[[], object] | None = None,
        named: Callable[[str], str] = "DLI job {}".format,
        is_left_to_next_try: Callable[[], bool] = lambda: False,
    ) -> Iterator[KillSwitch]:
        """
        Be ready to cancel.

        :param cancel: Cancels a job by its id; called in threads. None when a kill leaves the jobs alone.
        :param log: Where to tell what is done.
        :param reread_connection: Called in the main thread when the credentials were refused, before what was refused
            is tried again.
        :param named: Returns a job in the words of people, by its id.
        :param is_left_to_next_try: Asked when the task ends: whether the next try takes its jobs over. Takes no lock.
        """
        self._reset(cancel, log, reread_connection, named)
        self._is_left_to_next_try = is_left_to_next_try
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
        self._give_up(_KILLED)
        self._wait_until_settled(KILL_GRACE)

    def abandon(self, why: str) -> None:
        """
        Have the jobs cancelled because the task fails by itself, and wait for it, at most 34 s.

        Of a task that was killed before, wait for the rest of the 34 s.

        :param why: Why it fails, for the log.
        """
        self._give_up(why)
        self._finish()

    def check(self) -> None:
        """
        End the task when it was killed, once its jobs are cancelled or 34 s are over.

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
        return self._launch_under_way is not None

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
        answers. The task stays until it is cancelled, or for 34 s: to end earlier would leave the job behind. (Where
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
                if self._submit_under_way is mine:
                    self._launch_under_way = None if launch is None else mine
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
                if self._launch_under_way is mine:
                    self._launch_under_way = None
                if self._submit_under_way is mine:
                    self._submit_under_way = None
                if self._unwanted:
                    self._orders.put(True)

        mine = object()
        # In this order: a kill that is not seen here finds a submit under way.
        self._submit_under_way, self._launch_under_way = mine, None
        # What was looked for is looked for by the submit.
        self._find = None
        self._find_submitted = find
        if self._unwanted:
            self._submit_under_way = None
            self.check()
        # Started before a kill, for the same reason as the thread that cancels.
        machine.start_thread(partial(self._look_meanwhile, mine, find))
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
        # Another one each time, for it may be looked for by the same function again.
        self._find = partial(find)
        if self._unwanted:
            self._orders.put(True)
        self.check()

    def stay_armed(self) -> None:
        """Cancel for as long as the process lives: a deferral takes Airflow a while, and a kill may come meanwhile."""
        self._stays_armed = True

    def release(self) -> None:
        """What was followed is over; from now on a kill has nothing to cancel."""
        self._jobs = {}
        self._find = self._find_submitted = None

    def _reset(
        self,
        cancel: Callable[[str], Cancellation] | None,
        log: BackgroundLog | None,
        reread_connection: Callable[[], object] | None,
        named: Callable[[str], str],
    ) -> None:
        self._cancel = cancel
        self._log = log
        self._reread_connection = reread_connection
        self._named = named
        self._orders: Mailbox[bool] = Mailbox()
        self._unwanted = self.killed
        # After a kill that came before, what is found from now on gets its full time.
        self._unwanted_at = machine.monotonic() if self.killed else 0.0
        # Why, until that is told.
        self._why = _KILLED if self.killed else ""
        self._is_left_to_next_try = lambda: False
        self._goes_on = "as `cancel_on_kill=False` asks"
        self._jobs = {}
        self._find = self._find_submitted = None
        self._begun_search = self._ended_search = None
        self._search_failure = ""
        self._is_search_refused = False
        self._submit_under_way = self._launch_under_way = None
        self._stays_armed = False
        self._is_closed = False

    def _give_up(self, why: str) -> None:
        if self._cancel is not None and self._is_left_to_next_try():
            self._cancel, self._goes_on = None, "for the next try: this task has lost Airflow's supervisor"
        if not self._unwanted_at:
            self._unwanted_at = machine.monotonic()
            self._why = why
        self._unwanted = True
        self._orders.put(True)

    @property
    def _submitting(self) -> bool:
        return self._submit_under_way is not None

    @property
    def _has_searched(self) -> bool:
        """Whether what is to be looked for was looked for, if there is anything."""
        return self._find is None or self._ended_search is self._find

    def _followed(self) -> list[_Followed]:
        return list(self._jobs.values())

    def _time_left(self) -> float:
        return self._unwanted_at + CANCEL_WITHIN - machine.monotonic()

    # Waiting

    def _finish(self) -> None:
        """Wait until all is cancelled, for the rest of the 34 s."""
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
            if self._is_search_refused:
                self._begun_search = self._ended_search = None
                self._is_search_refused = False
            self._orders.put(True)
            self._wait_until_settled(self._time_left())
        for job_id, job in list(self._jobs.items()):
            if job.fate is Fate.CANCELLING and not job.said:
                self._tell("error", job, story.not_confirmed(self._named(job_id)))
        self._wait_until_told()

    def _wait_until_settled(self, seconds: float) -> None:
        end = machine.monotonic() + seconds
        while not self._is_settled() and machine.monotonic() < end:
            machine.sleep(0.005)

    def _is_settled(self) -> bool:
        if self._cancel is None or self._is_closed:
            return True
        if self._submitting:
            return self._is_found()
        return self._has_searched and all(job.fate.is_settled for job in self._followed())

    def _wait_until_told(self) -> None:
        end = machine.monotonic() + SLICE
        while self._log is not None and not self._log.is_written and machine.monotonic() < end:
            machine.sleep(0.005)

    def _check_submit(self) -> None:
        if self._unwanted and (not self._submitting or self._is_found() or self._time_left() <= 0):
            self.check()

    def _is_found(self) -> bool:
        """Whether the job of a submit that is not answered was found, and seen to."""
        followed = self._followed()
        return bool(followed) and not self.is_launching and all(job.fate.is_settled for job in followed)

    # In threads

    def _obey(self, orders: Mailbox[bool]) -> None:
        while orders.wait():
            if self._cancel is None or not self._unwanted:
                continue
            for job_id, job in list(self._jobs.items()):
                if job.fate is Fate.FOLLOWED:
                    job.fate = Fate.CANCELLING
                    self._tell_begin(f"cancelling {self._named(job_id)}")
                    machine.start_thread(partial(self._cancel_job, job_id, job, self._cancel))
            if self._submitting and not self._jobs:
                self._tell_begin("the submit is not answered yet; its job is cancelled as soon as it is known")
            # One that is under way may look for something else.
            if (find := self._find) is not None and find is not self._begun_search:
                self._begun_search = find
                self._tell_begin("looking for jobs to cancel")
                machine.start_thread(partial(self._search, find))

    def _cancel_job(self, job_id: str, job: _Followed, cancel: Callable[[str], Cancellation]) -> None:
        name = self._named(job_id)
        # In this order: whoever sees that it is settled finds what was said.
        try:
            try:
                sentence = story.cancelled(name, cancel(job_id))
            except DliNotFoundError:
                sentence = story.wrong_id(name) if self._follow_instead(job_id) else story.unknown(name)
            self._tell("info", job, sentence)
            job.fate = Fate.GONE
        except Exception as error:  # the edge of a thread: nobody above could say it
            self._tell("error", job, story.not_cancelled(name, error))
            job.fate = Fate.REFUSED if isinstance(error, DliAuthenticationError) else Fate.LEFT

    def _follow_instead(self, unknown: str) -> bool:
        """Follow what was submitted, if DLI has answered the submit with an id that it does not know; tell whether."""
        find, end = self._find_submitted, machine.monotonic() + FIND_WITHIN
        while find is not None and not self._is_closed:
            # Not before this has an answer: where the credentials are refused, it is looked for once more.
            found = set(find())
            if self._find_submitted is find:
                self._find_submitted = None
            if found:
                for job_id in found - {unknown}:
                    self._jobs.setdefault(job_id, _Followed())
                    self._orders.put(True)
                return found != {unknown}
            if machine.monotonic() >= end:
                break
            machine.sleep(LOOK_EVERY)
        return False

    def _search(self, find: Callable[[], Iterable[str]]) -> None:
        failure, is_refused = "", False
        try:
            for job_id in find():
                self._jobs.setdefault(job_id, _Followed())
        except Exception as error:  # the edge of a thread: nobody above could say it
            failure = f"Its DLI job, if there is one, could not be looked up and may still run: {error}"
            is_refused = isinstance(error, DliAuthenticationError)
            if self._log is not None:
                self._log.error("%s", failure)
        if self._find is find:
            self._search_failure, self._is_search_refused = failure, is_refused
            # In this order: whoever sees that the search is over finds the jobs.
            self._ended_search = find
        self._orders.put(True)

    def _tell(self, level: Literal["info", "error"], job: _Followed, sentence: str) -> None:
        job.said = sentence
        if self._log is not None:
            getattr(self._log, level)("%s", sentence)

    def _tell_begin(self, doing: str) -> None:
        """Tell what is begun; the first time, also why."""
        why, self._why = self._why, ""
        if self._log is not None and why:
            self._log.warning("%s: %s.", why, doing)
        elif self._log is not None:
            self._log.info("%s.", doing[0].upper() + doing[1:])

    def _look_meanwhile(self, submit: object, find: Callable[[], Iterable[str]]) -> None:
        """Look for the job of a submit that is not answered yet, from the moment on at which it is unwanted."""
        while self._submit_under_way is submit and not self._jobs and not self._is_closed:
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
            return f"{', '.join(map(self._named, self._jobs))} goes on, {self._goes_on}."
        said = [job.said or story.not_confirmed(self._named(job_id)) for job_id, job in list(self._jobs.items())]
        if not said and self._submitting:
            said = ["The answer to its submit had not come."]
        if not self._has_searched:
            said.append("Its DLI job, if there is one, could not be looked up in time and may still run.")
        return " ".join([*said, self._search_failure]).strip() or "It had no DLI job."
