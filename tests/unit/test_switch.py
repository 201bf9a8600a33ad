"""The switch walks exactly the transitions that are written down in ``tasks/kill_states.py``."""

from __future__ import annotations

import builtins
import gc
import logging
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pace
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_dli import machine
from airflow_provider_dli.exceptions import (
    DliAuthenticationError,
    DliError,
    DliNotFoundError,
    DliTaskKilledError,
    DliTemporaryError,
)
from airflow_provider_dli.job import Cancellation, Job, JobState
from airflow_provider_dli.tasks import kill
from airflow_provider_dli.tasks.kill import KillSwitch
from airflow_provider_dli.tasks.kill_states import TRANSITIONS, Fate, State
from airflow_provider_dli.threads import BackgroundLog

WAIT = pace.seconds(5)


class Walk:
    """A real switch with real threads, and a DLI whose answers wait until they are let go."""

    def __init__(self, outcome=None):
        self.answer = threading.Event()
        self.cancels = threading.Event()
        self.outcome = outcome
        self.cancelled = []
        self.submitter = None
        self.switch = KillSwitch()
        self.armed = self.switch.armed(self.cancel, BackgroundLog(logging.getLogger(__name__)), lambda: None)

    def __enter__(self):
        self.armed.__enter__()
        return self

    def __exit__(self, *_):
        self.answer.set()
        self.cancels.set()
        if self.submitter is not None:
            self.submitter.join(WAIT)
        self.armed.__exit__(None, None, None)

    def cancel(self, job_id):
        assert self.cancels.wait(WAIT)
        self.cancelled.append(job_id)
        if self.outcome is not None:
            raise self.outcome
        return Cancellation(job_id, accepted=True)

    def create(self):
        assert self.answer.wait(WAIT)
        if self.lost:
            raise DliTemporaryError("lost")
        return Job("job", "sql", "SQL job", JobState.LAUNCHING, "submitted")

    def do(self, event):
        """Have something happen, in a thread where it waits for a cancel that is not let go yet."""
        switch = self.switch
        if event == "submit":
            self.submitter = in_thread(lambda: switch.submit(self.create, timeout=WAIT, find=list))
            until(lambda: switch.state in (State.SUBMITTING, State.SETTLED))
        elif event in ("answer", "no answer"):
            self.lost = event == "no answer"
            self.answer.set()
            self.submitter.join(WAIT)
        elif event == "follow":
            in_thread(lambda: switch.follow("job"))
        elif event == "search":
            in_thread(lambda: switch.search(lambda: ["job"]))
        elif event == "forget":
            switch.forget("job")
        elif event == "settle":
            self.cancels.set()
            self.answer.set()
        elif event == "abandon":
            in_thread(lambda: switch.abandon("The task fails"))
        else:
            in_thread(getattr(switch, event))

    lost = False


def in_thread(function):
    def run():
        with suppress(DliError):
            function()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def until(condition):
    end = threading.Event()
    for _ in range(int(WAIT * 100)):
        if condition():
            return
        end.wait(0.01)
    raise AssertionError("it did not come to this")


def ways_to():
    """The shortest way to each state."""
    ways = {State.IDLE: []}
    for state in ways_in_order(ways):
        for event, after in TRANSITIONS[state].items():
            ways.setdefault(after, [*ways[state], event])
    return ways


def ways_in_order(ways):
    seen = set()
    while more := [state for state in ways if state not in seen]:
        seen.add(more[0])
        yield more[0]


WAYS = ways_to()
ALL = [(state, event, after) for state, events in TRANSITIONS.items() for event, after in events.items()]


def test_every_state_can_be_reached_and_has_its_line():
    assert set(WAYS) == set(TRANSITIONS) == set(State)


@pytest.mark.parametrize(("state", "event", "after"), ALL, ids=lambda each: getattr(each, "name", each))
def test_each_transition(state, event, after):
    with Walk() as walk:
        for step in WAYS[state]:
            walk.do(step)
        until(lambda: walk.switch.state is state)
        if state is State.SETTLED:
            # What is followed from here on waits again.
            walk.cancels.clear()
        walk.do(event)
        until(lambda: walk.switch.state is after)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(sorted({event for _, event, _ in ALL})), max_size=7))
def test_any_walk_ends_with_every_job_cancelled_when_it_is_killed(events):
    with Walk() as walk:
        state = State.IDLE
        for event in events:
            if event not in TRANSITIONS[state] or event == "settle":
                continue
            walk.do(event)
            state = TRANSITIONS[state][event]
            until(lambda state=state: walk.switch.state is state)
            if event in ("answer", "no answer"):
                walk.answer.clear()
            if state in (State.CANCELLING, State.SETTLED):
                break
        walk.lost = False
        walk.cancels.set()
        walk.answer.set()
        walk.switch.pull()
        until(lambda: walk.switch.state is State.SETTLED)
        assert walk.cancelled == ([] if state in (State.IDLE, State.SETTLED) else ["job"])


@pytest.mark.parametrize(
    ("outcome", "fate"),
    [
        (None, Fate.GONE),
        (DliNotFoundError("unknown"), Fate.GONE),
        (DliTemporaryError("away"), Fate.LEFT),
        (DliAuthenticationError("refused"), Fate.REFUSED),
        (RuntimeError("a bug"), Fate.LEFT),
    ],
    ids=str,
)
def test_the_fate_of_a_job(outcome, fate):
    with Walk(outcome) as walk:
        walk.switch.follow("job")
        [job] = walk.switch._followed()
        assert job.fate is Fate.FOLLOWED
        walk.do("pull")
        until(lambda: job.fate is Fate.CANCELLING)
        walk.cancels.set()
        until(lambda: job.fate is fate)
        assert walk.switch.may_leave_a_job is (fate is not Fate.GONE)


@pytest.mark.parametrize(
    ("found", "fate", "followed"), [([], Fate.GONE, 1), (["other"], Fate.GONE, 2), (None, Fate.LEFT, 1)]
)
def test_a_job_that_dli_does_not_know_is_looked_for_as_it_was_submitted(monkeypatch, found, fate, followed):
    def find():
        if found is None:
            raise DliError("the list of jobs is not shown")
        return found

    monkeypatch.setattr(kill, "FIND_WITHIN", 0.1)
    with Walk(DliNotFoundError("unknown")) as walk:
        walk.cancels.set()
        walk.switch.submit(lambda: Job("job", "sql", "SQL job", JobState.LAUNCHING, ""), timeout=WAIT, find=find)
        walk.do("pull")
        until(lambda: walk.switch.state is State.SETTLED)
        assert walk.switch._jobs["job"].fate is fate
        assert len(walk.cancelled) == len(walk.switch._jobs) == followed


def test_it_is_looked_for_once_more_with_other_credentials(monkeypatch):
    answers = iter([DliAuthenticationError("refused"), ["other"]])

    def find():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with Walk(DliNotFoundError("unknown")) as walk:
        walk.cancels.set()
        walk.switch.submit(lambda: Job("job", "sql", "SQL job", JobState.LAUNCHING, ""), timeout=WAIT, find=find)
        walk.do("pull")
        with pytest.raises(DliTaskKilledError, match="found under another id"):
            walk.switch.check()
        assert walk.cancelled == ["job", "job", "other"]


class TestLaunch:
    """A job that is created first, and launched afterwards."""

    def submit(self, walk, launched):
        job = Job("job", "sql", "SQL job", JobState.CREATED, "new")
        walk.launching = threading.Event()

        def launch(job):
            walk.launching.set()
            assert launched.wait(WAIT)
            return job

        walk.submitter = in_thread(lambda: walk.switch.submit(lambda: job, launch, timeout=WAIT, find=list))
        assert walk.launching.wait(WAIT)

    def test_a_kill_while_it_is_launched_cancels_once_more_afterwards(self):
        """The cancel may reach DLI before the launch does."""
        launched = threading.Event()
        with Walk() as walk:
            walk.cancels.set()
            self.submit(walk, launched)
            walk.do("pull")
            until(lambda: walk.cancelled == ["job"])
            assert walk.switch.state is State.CANCELLING
            launched.set()
            until(lambda: walk.cancelled == ["job", "job"])
            until(lambda: walk.switch.state is State.SETTLED)

    def test_after_a_kill_it_is_not_launched(self):
        launched = []
        with Walk() as walk:
            walk.cancels.set()

            def create():
                walk.switch.pull()
                return Job("job", "sql", "SQL job", JobState.CREATED, "new")

            in_thread(lambda: walk.switch.submit(create, launched.append, timeout=WAIT, find=list)).join(WAIT)
            until(lambda: walk.switch.state is State.SETTLED)
            assert (walk.cancelled, launched) == (["job"], [])


def test_a_task_that_fails_says_so_when_its_cancel_is_not_answered_in_time(monkeypatch, caplog):
    monkeypatch.setattr(kill, "CANCEL_WITHIN", 0.1)
    with Walk() as walk:
        walk.switch.follow("job")
        walk.switch.abandon("The task fails")
        # Nothing but this tells of the job: the error of the task is about something else.
        assert caplog.messages[-1] == "The cancel of DLI job job was not confirmed in time: it may still run."


class TestInsideASignalHandler:
    """What `pull` must not do: the code that it interrupts may hold any lock, and must not see an error."""

    OUTCOMES = [None, DliNotFoundError("unknown"), DliTemporaryError("away"), DliAuthenticationError("no"), KeyError()]

    @pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
    def test_it_never_raises(self, outcome):
        with Walk(outcome) as walk:
            walk.cancels.set()
            walk.switch.follow("job")
            for _ in range(2):
                walk.switch.pull()
            assert walk.switch.killed
            assert walk.cancelled[0] == "job"

    @pytest.mark.parametrize("search", [None, lambda: 1 / 0], ids=["not armed", "search fails"])
    def test_it_does_not_raise_without_a_job_either(self, search):
        if search is None:
            switch = KillSwitch()
            switch.pull()
            assert switch.killed
            return
        with Walk() as walk:
            walk.switch.search(search)
            walk.switch.pull()
            assert walk.switch.state is State.SETTLED

    def test_it_imports_nothing_and_calls_nothing_but_the_switch(self, monkeypatch):
        """Neither the import system nor the logging, nor Airflow: their locks may be held."""
        mine, imported, files = threading.get_ident(), [], set()
        real = builtins.__import__

        def note_import(name, *arguments, **named):
            if threading.get_ident() == mine:
                imported.append(name)
            return real(name, *arguments, **named)

        def note_call(frame, event, _):
            if event == "call":
                files.add(Path(frame.f_code.co_filename).name)

        with Walk() as walk:
            walk.cancels.set()
            walk.switch.follow("job")
            monkeypatch.setattr(builtins, "__import__", note_import)
            gc.disable()
            sys.setprofile(note_call)
            try:
                walk.switch.pull()
            finally:
                sys.setprofile(None)
                gc.enable()
            monkeypatch.undo()
            until(lambda: walk.cancelled == ["job"])
        assert imported == []
        assert files <= {"kill.py", "kill_states.py", "threads.py", "machine.py", "contextlib.py", "enum.py"}

    def test_it_waits_for_no_other_thread_that_is_inside_it(self):
        """Wherever the first call stands still, a second one returns: so it holds no lock, not even one of its own."""
        for line in range(40):
            stopped, go_on, seen = threading.Event(), threading.Event(), []

            def stop(frame, event, _, line=line, seen=seen, stopped=stopped, go_on=go_on):
                if event == "call":
                    return stop if frame.f_code.co_filename == kill.__file__ else None
                if event == "line":
                    seen.append(frame.f_lineno)
                    if len(seen) == line + 1:
                        stopped.set()
                        go_on.wait(WAIT)
                return stop

            with Walk() as walk:
                walk.cancels.set()
                walk.switch.follow("job")

                def first(walk=walk, stop=stop):
                    sys.settrace(stop)
                    walk.switch.pull()

                one = in_thread(first)
                is_inside = stopped.wait(0.2 if line > 8 else WAIT)
                two = in_thread(walk.switch.pull)
                two.join(WAIT)
                assert not two.is_alive(), f"it waits for a call that stands still after {line} lines"
                go_on.set()
                one.join(WAIT)
            if not is_inside:
                return

    @pytest.mark.parametrize(
        ("method", "least", "most"), [("pull", 3.0, 4.0), ("abandon", 30.0, 40.0), ("check", 30.0, 40.0)]
    )
    def test_it_gives_up_in_time_but_not_before(self, monkeypatch, method, least, most):
        """Airflow sends SIGKILL after 5 s, or not at all: then the cancel gets 30 s and its last answers a few more."""
        with Walk() as walk:
            walk.switch.follow("job")
            clock = [machine.monotonic()]
            began = clock[0]
            mine, sleep = threading.get_ident(), machine.sleep

            def skip(seconds):
                if threading.get_ident() != mine:
                    return sleep(seconds)
                clock[0] += seconds
                return None

            monkeypatch.setattr(machine, "monotonic", lambda: clock[0])
            monkeypatch.setattr(machine, "sleep", skip)
            if method == "check":
                walk.switch.pull()
            with suppress(DliTaskKilledError):
                getattr(walk.switch, method)(*(["The task fails"] if method == "abandon" else []))
            took = clock[0] - began
            monkeypatch.undo()
            assert least <= took <= most


class TestWhatAKillFinds:
    def test_a_job_that_is_followed_only_after_it(self):
        with Walk() as walk:
            walk.cancels.set()
            walk.switch.pull()
            # The order of the kill itself is carried out.
            until(lambda: not walk.switch._orders._values)
            threading.Event().wait(0.05)
            with suppress(DliTaskKilledError):
                walk.switch.follow("job")
            until(lambda: walk.cancelled == ["job"])

    def test_what_is_looked_for_only_after_it(self):
        with Walk() as walk:
            walk.cancels.set()
            walk.switch.pull()
            with suppress(DliTaskKilledError):
                walk.switch.search(lambda: ["job"])
            until(lambda: walk.cancelled == ["job"])

    def test_all_jobs_that_are_looked_for(self):
        with Walk() as walk:
            walk.cancels.set()
            walk.switch.search(lambda: ["one", "two"])
            walk.do("pull")
            until(lambda: sorted(walk.cancelled) == ["one", "two"])

    def test_only_what_is_followed_last(self):
        with Walk() as walk:
            walk.cancels.set()
            walk.switch.follow("one", "two")
            walk.switch.follow("two", "three")
            walk.switch.pull()
            assert sorted(walk.cancelled) == ["three", "two"]

    def test_a_job_after_the_task_has_asked_to_be_deferred(self):
        with Walk() as walk:
            walk.cancels.set()
            walk.switch.follow("job")
            walk.switch.stay_armed()
        walk.switch.pull()
        assert walk.cancelled == ["job"]

    def test_the_job_of_a_submit_that_is_not_answered(self):
        with Walk() as walk:
            walk.cancels.set()
            submit = walk.switch.submit
            walk.submitter = in_thread(lambda: submit(walk.create, timeout=WAIT, find=lambda: ["job"]))
            until(lambda: walk.switch.state is State.SUBMITTING)
            walk.do("pull")
            until(lambda: walk.cancelled == ["job"])
            assert not walk.answer.is_set()

    def test_what_it_may_look_for_only_with_other_credentials(self):
        answers = iter([DliAuthenticationError("refused")])

        def find():
            for error in answers:
                raise error
            return ["job"]

        with Walk() as walk:
            walk.cancels.set()
            walk.switch.search(find)
            walk.switch.pull()
            with pytest.raises(DliTaskKilledError):
                walk.switch.check()
            assert walk.cancelled == ["job"]


class TestOvertaken:
    """A thread that counts as lost ends while what came after it is under way: it changes nothing of that."""

    def test_a_submit_that_counted_as_lost(self):
        job, answers = Job("late", "sql", "SQL job", JobState.LAUNCHING, ""), threading.Event()
        with Walk() as walk:
            walk.cancels.set()

            def late():
                assert answers.wait(WAIT)
                return job

            with pytest.raises(DliTemporaryError):
                walk.switch.submit(late, lambda job: job, timeout=0.05, find=list)
            walk.do("submit")
            answers.set()
            until(lambda: "late" in walk.switch._jobs)
            # The answer to the second submit has not come.
            assert walk.switch.state is State.SUBMITTING
            walk.switch.forget("late")
            threading.Event().wait(0.05)
            walk.do("pull")
            assert walk.switch.state is State.CANCELLING
            walk.answer.set()
            until(lambda: walk.switch.state is State.SETTLED)
            assert "job" in walk.cancelled

    def test_its_launch_says_nothing_of_the_next_one(self):
        first, second, has_begun = threading.Event(), threading.Event(), threading.Event()
        job = Job("job", "sql", "SQL job", JobState.CREATED, "")

        def launch(go_on):
            def wait(job):
                if go_on is second:
                    has_begun.set()
                assert go_on.wait(WAIT)
                return job

            return wait

        with Walk() as walk:
            with pytest.raises(DliTemporaryError):
                walk.switch.submit(lambda: job, launch(first), timeout=0.05, find=list)
            walk.submitter = in_thread(lambda: walk.switch.submit(lambda: job, launch(second), timeout=WAIT, find=list))
            assert has_begun.wait(WAIT)
            first.set()
            threading.Event().wait(0.2)  # until its thread is over
            assert walk.switch.is_launching
            second.set()
            walk.submitter.join(WAIT)
            assert not walk.switch.is_launching

    def test_a_search_while_another_one_runs(self):
        slow, begun = threading.Event(), threading.Event()

        def first():
            begun.set()
            assert slow.wait(WAIT)
            return ["old"]

        with Walk() as walk:
            walk.cancels.set()
            in_thread(lambda: walk.switch.search(first))
            walk.do("pull")
            assert begun.wait(WAIT)
            in_thread(lambda: walk.switch.search(lambda: ["new"]))
            # Not even after the first one, which may hang.
            until(lambda: walk.cancelled == ["new"])
            slow.set()
            until(lambda: sorted(walk.cancelled) == ["new", "old"])
            until(lambda: walk.switch.state is State.SETTLED)

    def test_the_same_search_once_more(self):
        found = iter([["one"], ["two"]])
        with Walk() as walk:
            walk.cancels.set()

            def find():
                return next(found)

            walk.do("pull")
            for job_id in ("one", "two"):
                in_thread(lambda: walk.switch.search(find))
                until(lambda job_id=job_id: job_id in walk.cancelled)
