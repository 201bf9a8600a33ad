"""
Thousands of histories with a fake clock: no orphan, no duplicate, no wrong cancel, no green kill.

The real operators, trigger, hook and kill switch against a model of Airflow and a DLI that is a table; ``histories``
says how. A history that fails is printed with all that happened in it, after Hypothesis has made it as short as it can;
put it below, with a name.

Each run tries the same 120 histories. ``HISTORIES=5000 pytest -n 0 tests/unit/test_histories.py`` tries so many
others, at random: about 1000 in a minute.
"""

from __future__ import annotations

import os

import pytest
from histories.fake_dli import FOREVER
from histories.history import After, At, Event, Settings, Step, installed, run
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

HISTORIES = int(os.environ.get("HISTORIES", "0"))


@pytest.fixture(scope="module", autouse=True)
def fakes():
    with installed():
        yield


moments = st.one_of(
    st.builds(After, st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 31.0, 60.0])),
    st.builds(
        At,
        st.sampled_from(["submit", "launch", "status", "list", "cancel"]),
        st.sampled_from(["carried out", "sent", "answered"]),
    ),
    st.sampled_from([At("start", "carried out"), At("xcom", "carried out"), At("report", "sent")]),
    st.builds(Step, st.integers(0, 60)),
)
kills = st.sampled_from([("mark_failed",), ("clear",), ("mark_success",), ("terminate_supervisor",)])
losses = st.sampled_from([("kill_task",), ("lose_node",), ("lose_supervisor",)])
triggerers = st.one_of(
    st.tuples(st.sampled_from(["stop_triggerer", "kill_triggerer"]), st.sampled_from([0.5, 5.0, 60.0, 200.0])),
    st.tuples(st.just("freeze_triggerer"), st.sampled_from([10.0, 45.0])),
)
troubles = st.one_of(
    st.tuples(
        st.just("fault"),
        st.sampled_from(["submit", "launch", "status", "list", "cancel"]),
        st.sampled_from(["lost", "unseen", "silent", "503", "429", "refused", "slow"]),
    ),
    st.tuples(st.just("fault"), st.just("cancel"), st.sampled_from(["hung", "soft", "soft"])),
    st.tuples(
        st.just("rotate_password"),
        st.sampled_from([0.0, 0.0, 30.0, 1000.0]),
    ),
    st.tuples(
        st.just("dli_is_away"),
        st.sampled_from(["503", "refused", "unseen"]),
        st.sampled_from([2.0, 20.0, 90.0, 2500.0]),
    ),
    st.tuples(st.just("airflow_is_silent"), st.sampled_from([5.0, 40.0])),
    st.tuples(st.just("mark_failed_in_silence"), st.sampled_from([5.0, 40.0])),
    st.just(("void_token",)),
    st.just(("user_cancels_job",)),
)
sweeps = st.tuples(st.just("sweep"), st.sampled_from([0.0, 300.0]))
events = st.builds(Event, moments, st.one_of(kills, kills, kills, losses, triggerers, troubles, troubles, sweeps))
jobs = st.tuples(
    st.sampled_from([FOREVER, FOREVER, FOREVER, 0.0, 0.6, 3.0, 30.0]),
    st.sampled_from(["FINISHED", "FINISHED", "FAILED"]),
)
all_settings = st.builds(
    Settings,
    line=st.sampled_from(["3.3", "3.1", "2.11"]),
    deferrable=st.booleans(),
    retries=st.sampled_from([1, 0, 2]),
    retry_delay=st.sampled_from([5.0, 0.0, 300.0]),
    execution_timeout=st.sampled_from([None, None, None, 30.0, 5.0]),
    jobs=st.lists(jobs, min_size=1, max_size=3).map(tuple),
    cancel_takes=st.sampled_from([0.0, 2.0, 10.0]),
    heartbeat=st.sampled_from([2.0, 0.0]),
    lag=st.sampled_from([0.0, 0.0, 1.5, 20.0]),
    channel=st.sampled_from([0.02, 0.02, 12.0]),
    left_behind=st.sampled_from([0, 0, 0, 0, 1, 2]),
    template_differs=st.sampled_from([False, False, False, True]),
    kind=st.sampled_from(["sql", "script", "spark", "flink"]),
)


@settings(
    max_examples=HISTORIES or 120,
    derandomize=not HISTORIES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
    print_blob=False,
)
@given(all_settings, st.lists(events, max_size=5))
def test_no_history_leaves_an_orphan_or_a_duplicate_or_cancels_what_is_wanted(all_settings, events):
    outcome = run(all_settings, events)
    assert not outcome.wrong, f"\n{outcome}"


class TestFound:
    """What the machine has found."""

    def test_a_lost_worker_and_a_clear_before_dli_lists_the_job(self):
        """A clear does not wait for `retry_delay`, so that must not shorten the look for the job."""
        lost = Event(At("submit", "answered"), ("kill_task",))
        assert_holds(Settings(retry_delay=300, lag=5), lost, Event(After(2), ("clear",)))

    def test_a_lost_worker_after_a_try_whose_job_is_listed(self):
        """The job of try 1 is listed, and ends the look before that of try 2 is."""
        lost = Event(At("submit", "answered"), ("kill_task",))
        again = Event(At("submit", "answered"), ("kill_task",))
        assert_holds(
            Settings(retries=2, retry_delay=5, lag=20, jobs=((0.0, "FAILED"), (FOREVER, "FINISHED"))), lost, again
        )

    @pytest.mark.parametrize("kind", ["sql", "script"])
    def test_a_list_that_shows_an_earlier_job_as_it_was_and_no_later_one(self, kind):
        """The job of try 1 was cancelled, and try 2 has submitted again: that is not listed when try 3 looks."""
        settings = Settings(
            left_behind=1, retries=1, retry_delay=0, lag=20, execution_timeout=5, jobs=((3.0, "FINISHED"),), kind=kind
        )
        assert_holds(settings, Event(After(1), ("user_cancels_job",)), Event(After(1.5), ("kill_task",)))

    @pytest.mark.parametrize("line", ["3.3", "3.1", "2.11"])
    def test_a_kill_that_airflow_has_not_told_of_yet_when_the_task_defers(self, line):
        settings = Settings(line=line, deferrable=True)
        assert_holds(settings, Event(After(0.55), ("mark_failed",)), then="job-1 is cancelled by try 1")

    @pytest.mark.parametrize("line", ["3.3", "3.1", "2.11"])
    def test_a_kill_while_airflow_defers_the_task_is_left_to_the_sweep(self, line):
        """No process is left when Airflow would tell it, and no trigger was ever made."""
        settings = Settings(line=line, deferrable=True)
        assert_holds(settings, Event(At("report", "sent"), ("mark_failed",)), then="job-1 is cancelled by sweep")

    @pytest.mark.parametrize("silent_for", [5, 40])
    def test_a_rotated_password_that_airflow_cannot_tell_at_once(self, silent_for):
        """The refused credentials say nothing about the job: the deferred task waits until Airflow answers."""
        events = Event(After(3), ("rotate_password", 0.0)), Event(After(0), ("airflow_is_silent", silent_for))
        assert_holds(Settings(deferrable=True), *events)

    @pytest.mark.parametrize(
        ("timeout", "kill"), [(30, ()), (None, (Event(At("submit", "carried out"), ("terminate_supervisor",)),))]
    )
    def test_a_submit_without_an_answer_when_the_last_try_ends(self, timeout, kill):
        """The task waits for the answer for half a minute, and looks the job up then."""
        silent = Event(After(0.0), ("fault", "submit", "silent"))
        settings = Settings(retries=0, execution_timeout=timeout)
        assert_holds(settings, silent, *kill, then="job-1 is cancelled by try 1")


class TestRare:
    """Moments that are too rare to be in each run."""

    def test_a_kill_while_airflow_is_told_of_the_deferral(self):
        kill = Event(At("report", "sent"), ("mark_failed",))
        assert_holds(Settings(deferrable=True, heartbeat=0), kill, then="job-1 is cancelled by try 1")

    def test_no_triggerer_until_the_scheduler_ends_the_deferral(self):
        lost = Event(After(5), ("kill_triggerer", 200.0))
        settings = Settings(deferrable=True, retries=0, execution_timeout=30)
        assert_holds(settings, lost, then="job-1 is cancelled by try 1 resumed")

    def test_a_sweep_before_the_retry_of_a_lost_worker(self):
        lost, swept = Event(After(5), ("kill_task",)), Event(After(20), ("sweep", 0.0))
        assert_holds(Settings(retry_delay=300), lost, swept, then="try 2 succeeds with job-1")

    def test_a_sweep_after_a_retry_that_did_not_find_the_job(self):
        lost, swept = Event(At("submit", "answered"), ("kill_task",)), Event(After(200), ("sweep", 0.0))
        outcome = run(
            Settings(retry_delay=31, lag=80, jobs=((FOREVER, "FINISHED"), (FOREVER, "FINISHED"))), [lost, swept]
        )
        assert any(line.endswith("job-1 is cancelled by sweep") and " running " in line for line in outcome.story)

    def test_an_answer_that_is_lost_just_when_the_task_is_killed(self):
        lost = Event(After(0), ("fault", "submit", "lost"))
        kill = Event(At("list", "sent"), ("terminate_supervisor",))
        assert_holds(Settings(retries=0, lag=1), lost, kill, then="job-1 is cancelled by try 1")

    @pytest.mark.parametrize("kind", ["sql", "script", "spark"])
    @pytest.mark.parametrize("before", [1, 2])
    def test_a_clear_runs_again_whatever_retries_says(self, kind, before):
        """The clear sets `max_tries` to what it was before."""
        events = [Event(After(0), ("edit_retries", before - 1)), Event(After(60), ("clear_while_run_runs",))]
        jobs = ((2.0, "FINISHED"),) * 3
        then = "succeeds with job-6" if kind == "script" else "try 2 succeeds with job-2"
        assert_holds(Settings(kind=kind, retries=before, jobs=jobs), *events, then=then)

    def test_and_so_does_the_try_after_one_that_was_lost_at_once(self):
        edited = Event(After(0), ("edit_retries", 1))
        cleared, lost = Event(After(60), ("clear_while_run_runs",)), Event(At("list", "sent"), ("kill_task",))
        settings = Settings(retries=2, jobs=((2.0, "FINISHED"),) * 2)
        assert_holds(settings, edited, cleared, lost, then="try 3 succeeds with job-2")

    def test_a_deferred_task_that_is_cleared_so_keeps_the_job_that_it_takes_over(self):
        edited, cleared = Event(After(0), ("edit_retries", 0)), Event(After(20), ("clear",))
        assert_holds(Settings(deferrable=True, jobs=((60.0, "FINISHED"),)), edited, cleared, then="")

    @pytest.mark.parametrize("retries", [0, 1, 5])
    def test_a_retry_takes_the_result_whatever_retries_says(self, retries):
        edited, lost = Event(After(0), ("edit_retries", retries)), Event(At("report", "sent"), ("lose_node",))
        assert_holds(Settings(jobs=((2.0, "FINISHED"),)), edited, lost, then="try 2 succeeds with job-1")

    @pytest.mark.parametrize("line", ["3.3", "3.1", "2.11"])
    @pytest.mark.parametrize("deferrable", [False, True])
    def test_the_time_of_an_orphan_is_over_when_try_2_has_taken_its_job_over(self, line, deferrable):
        lost = Event(At("submit", "answered") if deferrable else After(5), ("lose_supervisor",))
        assert_holds(
            Settings(line=line, deferrable=deferrable, execution_timeout=60.0, jobs=((70.0, "FINISHED"),)),
            lost,
            then="succeeds with job-1",
        )

    def test_a_task_that_is_killed_right_before_its_deferral_while_airflow_does_not_answer(self):
        killed = Event(At("status", "answered"), ("mark_failed_in_silence", 5.0))
        # Longer than it takes to be refused an answer.
        assert_holds(Settings(deferrable=True, heartbeat=8.0), killed, then="job-1 is cancelled by try 1")

    def test_a_clear_waits_for_the_end_of_the_job(self):
        cleared = Event(After(20), ("clear",))
        assert_holds(Settings(deferrable=True, cancel_takes=10), cleared, then="try 2 resumed succeeds with job-2")

    def test_a_kill_of_the_last_try_while_it_looks_for_the_job_of_a_lost_one(self):
        lost, kill = Event(After(5), ("kill_task",)), Event(At("list", "sent"), ("terminate_supervisor",))
        assert_holds(Settings(), lost, kill, then="job-1 is cancelled by try 2")


def assert_holds(settings, *events, then=""):
    outcome = run(settings, events)
    assert not outcome.wrong, f"\n{outcome}"
    assert any(line.endswith(then) for line in outcome.story), f"\n{outcome}"
