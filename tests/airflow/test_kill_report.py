"""A kill that is red tells why, in lines that fit on a screen."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from kill_matrix import report, verdict
from kill_matrix.cases import BY_NAME, MAPPED
from kill_matrix.report import Delay, Event
from kill_matrix.stage import Outcome
from lab.airflow import LocalAirflow

from airflow_provider_dli.local.dli.admin.views import LocalJob, LocalRequest

KILLED = 1_800_000_000.0
JOB = "8ecb0777-9c3b-4a5b-a7c3-0d5f2a9c1b11"


def stamp(after: float) -> str:
    return datetime.fromtimestamp(KILLED + after, UTC).isoformat()


def job(job_id: str = JOB, state: str = "RUNNING", **fields: object) -> LocalJob:
    known = {"status": state, "message": "", "statement": "SELECT 1", "tags": {}, "conf": (), "queue_name": "default"}
    more = {"database": "", "owner": "", "job_type": "QUERY", "submitted_at": KILLED - 20, "started_at": KILLED - 18}
    return LocalJob(
        job_id=job_id, state=state, **{**known, **more, "ended_at": None, "cancel_requests": (KILLED + 2,), **fields}
    )


def requests(polls: int) -> list[LocalRequest]:
    def request(seq: int, after: float, method: str, call: str, status: int | None, **fields: object) -> LocalRequest:
        found = {"method": method, "path": call, "query": "", "call": call, "connection": "127.0.0.1:1", "job_id": JOB}
        answered = None if status is None else KILLED + after + 0.25
        return LocalRequest(seq=seq, at=KILLED + after, status=status, answered_at=answered, **{**found, **fields})

    submit = request(1, -20, "POST", "submit", 200)
    seen = [request(2 + number, number / 10 - 19, "GET", "status", 200) for number in range(polls)]
    cancels = [request(1000, 2, "DELETE", "cancel", None, fault="hang"), request(1001, 3, "DELETE", "cancel", 503)]
    # Of others on the same connection, in between polls: no two in a row are the same.
    others = [
        request(2000 + number, 4 + number / 10, "GET", f"call{number % 7}", 200, job_id=None) for number in range(300)
    ]
    return [submit, *seen, *cancels, *others]


def outcome(**fields: object) -> Outcome:
    """A kill whose cancel DLI never answers, and hundreds of everything."""
    said = [("info", f"Poll {number}: nothing new", number / 10 - 15) for number in range(500)]
    said += [("warning", "Airflow has told the task to end: cancelling SQL job " + JOB, 1.5), ("info", "SIGTERM", 1.4)]
    log = "\n".join(json.dumps({"timestamp": stamp(at), "level": level, "event": text}) for level, text, at in said)
    of_airflow_2 = f"[{stamp(0.5)}] {{job.py:1}} ERROR - Task failed with exception\nValueError: a bad thing"
    changes = [
        Event(KILLED + at, "task", f"job {state}, try 1, process 17") for at, state in ((-21, "running"), (1, "failed"))
    ]
    found = {
        "name": "mark-failed.wait",
        "case": BY_NAME["mark-failed.wait"],
        "jobs": [job()],
        "states": ["failed"],
        "tries": 1,
        "killed_at": KILLED,
        "over_at": KILLED + 6,
        "callbacks": ["failure"],
        "is_reached": True,
        "events": [
            Event(KILLED + 0.1, "case", "mark_task(failed) returns after 0.10 s"),
            *changes,
            *report.of_component("triggerer", f"{stamp(1)} [warning  ] It is late.\n{stamp(1)} [info ] Fine.", (), 0),
        ],
        "requests": requests(200),
        "logs": {"try 1": log, "try 2": of_airflow_2},
        "load": {"at the start": 1.5, "at the kill": 7.25},
        "delays": [Delay(KILLED + 3, 4.5, "the stage"), Delay(KILLED + 9, 1.5, "the stage")],
    }
    return Outcome(**{**found, **fields})


def red(outcome: Outcome) -> str:
    with pytest.raises(AssertionError) as caught:
        verdict.check(outcome)
    return str(caught.value)


def test_a_red_kill_tells_what_the_judge_saw_in_sixty_lines():
    text = red(outcome())
    assert len(text.splitlines()) <= report.MOST_LINES < 60
    assert max(map(len, text.splitlines())) <= report.WIDTH
    for part in (
        "mark-failed.wait: task ['failed'] after 1 tries, jobs: RUNNING",
        "Red: the jobs are RUNNING",
        "Wanted: task failed after 1 tries, jobs: CANCELLED. task marked failed, while waiting",
        "load average 1.5 at the start, 7.2 at the kill; factor ",
        "longest gaps: the stage: 4.5 s late +3.0 s from the kill",
        f"Job #1: sql {JOB}, RUNNING",
        "  -20.00  job       job #1 submitted",
        "  -18.00  job       job #1 RUNNING",
        "   +2.00  job       job #1: cancel 1 arrived",
        "  -21.00  task      job running, try 1, process 17",
        "   +1.00  task      job failed, try 1, process 17",
        "   +0.00  case      ----- the kill -----",
        "   +0.10  case      mark_task(failed) returns after 0.10 s",
        "   +6.00  case      the task is over",
        "  -20.00  DLI       POST submit #1: 200 after 0.25 s",
        "  -19.00  DLI       GET status #1: 200 after 0.25 s, 200 times within 19.90 s, at most 0.10 s apart",
        "   +2.00  DLI       DELETE cancel #1: no answer, fault hang",
        "   +3.00  DLI       DELETE cancel #1: 503 after 0.25 s",
        "   +1.50  try 1     [warning] Airflow has told the task to end: cancelling SQL job #1",
        "   +1.40  try 1     SIGTERM",
        "   +0.50  try 2     {job.py:1} ERROR - Task failed with exception",
        "   +0.50  try 2     ValueError: a bad thing",
        "   +1.00  triggerer [warning ] It is late.",
        "   +3.00  machine   the stage: 4.5 s late",
        "Left out: ",
    ):
        assert part in text
    assert "Fine." not in text


def test_what_happened_is_told_in_the_order_of_time():
    lines = red(outcome()).splitlines()
    begin = lines.index("Seconds from the kill:") + 1
    moments = [float(line.split()[0]) for line in lines[begin:-1]]
    assert moments == sorted(moments)


def test_jobs_tries_and_logs_without_end_do_not_make_it_longer():
    jobs = [job(f"{JOB}-{number}", cancel_requests=tuple(KILLED + n for n in range(50))) for number in range(100)]
    logs = {f"try {number}": outcome().logs["try 1"] for number in range(40)}
    events = [Event(KILLED + number, "task", f"job state {number}") for number in range(400)]
    problem = TimeoutError("the task is over:\nnot within 200 s")
    text = red(outcome(jobs=jobs, logs=logs, events=events, problem=problem, tries=40))
    assert len(text.splitlines()) <= report.MOST_LINES
    assert "Problem: TimeoutError('the task is over:\\nnot within 200 s')" in text


def test_a_case_that_was_never_played_has_little_to_tell():
    text = red(
        Outcome(
            "x", BY_NAME["mark-failed.wait"], [], [], 0, 0.0, 0.0, [], problem=TimeoutError("the job: not within 90 s")
        )
    )
    assert "Red: it was not played to its end" in text
    assert "Seconds from the first event:" in text


def test_a_green_kill_says_nothing():
    ended = job(state="CANCELLED", ended_at=KILLED + 3)
    verdict.check(outcome(jobs=[ended]))
    assert report.summary(outcome(jobs=[ended])).count("\n") == 0


def test_each_thing_that_can_be_wrong_is_named():
    ended = job(state="CANCELLED", ended_at=KILLED + 3)
    assert "Red: the task is not failed, but ['success']" in red(outcome(jobs=[ended], states=["success"]))
    assert "Red: it took 2 tries" in red(outcome(jobs=[ended], tries=2))
    late = job(state="CANCELLED", ended_at=KILLED + 100_000)
    assert "Red: a job ran on for too long after its task" in red(outcome(jobs=[late]))
    gone = replace(BY_NAME["run-deleted.wait"])
    assert "Red: the tasks are not gone, but ['failed']" in red(outcome(case=gone, jobs=[ended]))


def test_mapped_tasks_tell_the_same_way():
    with pytest.raises(AssertionError) as caught:
        verdict.check_mapped(outcome(case=MAPPED[0]))
    assert "Red: by map index, the tasks, jobs and cancels are [['failed'], ['RUNNING'], [True]]" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= report.MOST_LINES


def test_other_tests_show_the_ends_of_the_logs_that_were_written_last(tmp_path):
    for number in range(20):
        log = tmp_path / "logs" / f"{number}.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text("".join(f"line {line} of {number}\n" for line in range(100)))
        os.utime(log, (number, number))
    airflow = SimpleNamespace(home=tmp_path, _guardian=object())
    lines = LocalAirflow.last_logs(airflow).splitlines()
    assert [line for line in lines if line.startswith("---")] == [f"--- logs/{number}.log" for number in range(14, 20)]
    assert lines[-1] == "line 99 of 19"
    assert len(lines) <= 100
    assert LocalAirflow.last_logs(SimpleNamespace(_guardian=None)) == ""
