"""What the judge of a kill saw, as one timeline that fits on a screen."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import pace

from airflow_provider_dli.local.dli.admin.views import LocalJob, LocalRequest
from kill_matrix.kinds import tags_of

if TYPE_CHECKING:
    from kill_matrix.stage import Outcome

# With the lines that pytest prints around it, a red test has 60 at most.
MOST_LINES = 52
MOST_JOBS = 6
WIDTH = 180
# So many events of each source are shown before any source has more.
SHARE = 5

# Ranks of events: the least telling are left out first.
ALWAYS, TELLING, USEFUL, DULL = range(4)

TELLING_WORDS = re.compile(
    r"SIG[A-Z]{3,}|[Kk]ill|[Cc]ancel|shouldn't be running|[Tt]imed out|[Tt]imeout|exit_code|blocked"
)
USEFUL_WORDS = re.compile(r"DLI|\bjobs?\b|defer|[Rr]esum|[Tt]rigger|heartbeat|state")
WARNING = re.compile(r"\[(?:warning|error|critical)\b|\b(?:WARNING|ERROR|CRITICAL)\b")
_ERROR = re.compile(r"^[\w.]*(Error|Exception|Timeout|Exit)\b")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Event:
    """
    Something that happened.

    :param at: Epoch seconds.
    :param source: Where it was seen: ``case``, ``job``, ``task``, ``DLI``, ``machine``, or the name of a log.
    :param rank: One of ``ALWAYS``, ``TELLING``, ``USEFUL``, ``DULL``.
    """

    at: float
    source: str
    text: str
    rank: int = ALWAYS


@dataclass(frozen=True)
class Delay:
    """
    How much longer something took on this machine than it should.

    :param at: Epoch seconds when it was over.
    :param what: ``the stage`` woke late, which shows that the machine stood still, or ``a look at …`` took long.
    """

    at: float
    seconds: float
    what: str

    def __str__(self) -> str:
        return f"{self.what}: {self.seconds:.1f} s late"


def report(outcome: Outcome, why: str = "") -> str:
    """
    Tell what came of a case, relative to the kill: at most ``MOST_LINES`` lines.

    :param why: Why it is red.
    """
    head = [line[:WIDTH] for line in _head(outcome, why)]
    numbers = {job.job_id: f"#{number}" for number, job in enumerate(outcome.jobs, start=1)}
    events = sorted(_events(outcome, numbers), key=lambda event: event.at)
    # One line for the title, one for what is left out.
    shown = _most_telling(events, MOST_LINES - len(head) - 2, outcome.killed_at)
    left_out = Counter(event.source for event in events) - Counter(event.source for event in shown)
    lines = [*head, f"Seconds from {'the kill' if outcome.killed_at else 'the first event'}:"]
    zero = outcome.killed_at or (events[0].at if events else 0)
    lines += [f"{event.at - zero:+8.2f}  {event.source:<9} {_short(event.text, numbers)}"[:WIDTH] for event in shown]
    if left_out:
        lines.append("Left out: " + ", ".join(f"{source} {times}" for source, times in left_out.items()))
    return "\n".join(lines)


def summary(outcome: Outcome) -> str:
    """What came of a case, in one line."""
    problem = f", {outcome.problem!r}" if outcome.problem else ""
    jobs = ", ".join(job.state for job in outcome.jobs) or "none"
    return f"{outcome.name}: task {outcome.states} after {outcome.tries} tries, jobs: {jobs}{problem}".replace(
        "\n", " "
    )


def of_log(name: str, text: str, job_ids: Sequence[str] = ()) -> Iterator[Event]:
    """The events in a log of Airflow: JSON lines, or lines that begin with a moment."""
    at = 0.0
    for line in text.splitlines():
        try:
            found = json.loads(line) if line.startswith("{") else _parsed(line)
            at = datetime.fromisoformat(found["timestamp"]).timestamp()
        except (ValueError, KeyError, TypeError):
            if at and _ERROR.match(line):
                yield Event(at, name, line, TELLING)
            continue
        said = str(found.get("event", ""))
        if said.startswith("::"):  # folds lines in the UI
            continue
        if line.startswith("{") and found.get("level") in ("warning", "error", "critical"):
            said = f"[{found['level']}] {said}"
        errors = [f"{each.get('exc_type')}: {each.get('exc_value')}" for each in found.get("error_detail") or ()]
        yield Event(at, name, " | ".join([said, *errors]).replace("\n", " "), _rank(found, said, job_ids))


def of_component(name: str, text: str, ids: Iterable[str], since: float) -> list[Event]:
    """The events in the log of a component that all runs share: those that name one of the ids, and all warnings."""
    events = [event for event in of_log(name, text) if event.at >= since]
    return [
        event
        for event in events
        if any(each in event.text for each in ids) or WARNING.search(event.text) or "blocked for" in event.text
    ]


def _head(outcome: Outcome, why: str) -> Iterator[str]:
    yield summary(outcome)
    if why:
        yield f"Red: {why}"
    path = outcome.case.path
    jobs = " or ".join(", ".join(jobs) or "none" for jobs in outcome.case.may_be)
    yield f"Wanted: task {path.ends} after {path.tries} tries, jobs: {jobs}. {path.title}, {outcome.case.moment.title}"
    if outcome.problem:
        yield f"Problem: {outcome.problem!r}".replace("\n", " ")
    yield _machine(outcome)
    if outcome.callbacks:
        yield f"Callbacks: {', '.join(outcome.callbacks)}"
    for number, job in enumerate(outcome.jobs[:MOST_JOBS], start=1):
        yield f"Job #{number}: {job.kind} {job.job_id}, {job.state}, attempt {tags_of(job).get('airflow_attempt', 'unknown')}"
    if more := outcome.jobs[MOST_JOBS:]:
        yield f"{len(more)} more jobs: {dict(Counter(job.state for job in more))}"


def _machine(outcome: Outcome) -> str:
    load = ", ".join(f"{load:.1f} {when}" for when, load in outcome.load.items())
    longest: dict[str, Delay] = {}
    for delay in sorted(outcome.delays, key=lambda delay: delay.seconds):
        longest[delay.what] = delay
    late = [f"{delay} {delay.at - outcome.killed_at:+.1f} s from the kill" for delay in longest.values()]
    return (
        f"Machine: {os.cpu_count()} cores, load average {load or 'unknown'}; factor {pace.factor():.1f}; "
        f"longest gaps: {', '.join(late) or 'none over 1 s'}"
    )


def _events(outcome: Outcome, numbers: Mapping[str, str]) -> Iterator[Event]:
    yield from outcome.events
    if outcome.killed_at:
        yield Event(outcome.killed_at, "case", "----- the kill -----")
    if outcome.over_at:
        yield Event(outcome.over_at, "case", "the task is over")
    for job in outcome.jobs:
        yield from _of_job(f"job {numbers[job.job_id]}", job)
    yield from _of_requests(outcome.requests, numbers)
    for delay in outcome.delays:
        yield Event(delay.at, "machine", str(delay), TELLING if delay.seconds > 2 else USEFUL)
    for name, text in outcome.logs.items():
        yield from of_log(name, text, tuple(numbers))


def _short(text: str, numbers: Mapping[str, str]) -> str:
    """One line, with the numbers of the jobs instead of their long ids."""
    for job_id, number in numbers.items():
        text = text.replace(job_id, number)
    return " ".join(text.split())


def _of_job(name: str, job: LocalJob) -> Iterator[Event]:
    yield Event(job.submitted_at, "job", f"{name} submitted")
    if job.started_at:
        yield Event(job.started_at, "job", f"{name} RUNNING")
    for number, at in enumerate(job.cancel_requests, start=1):
        yield Event(at, "job", f"{name}: cancel {number} arrived", ALWAYS if number < SHARE else USEFUL)
    if job.ended_at:
        yield Event(job.ended_at, "job", f"{name} {job.state}")


def _of_requests(requests: Sequence[LocalRequest], numbers: Mapping[str, str]) -> Iterator[Event]:
    """A run of the same calls with the same answers is one event: polls, mostly."""
    for key, group in groupby(requests, key=lambda each: (each.call, each.job_id, each.status, each.fault)):
        call, job_id, status, fault = key
        first, *more = group
        answer = "no answer" if status is None else str(status)
        took = f" after {first.answered_at - first.at:.2f} s" if first.answered_at else ""
        times = ""
        if more:
            pause = max(later.at - each.at for each, later in pairwise([first, *more]))
            times = f", {len(more) + 1} times within {more[-1].at - first.at:.2f} s, at most {pause:.2f} s apart"
        text = f"{first.method} {call}{' ' * bool(job_id)}{numbers.get(job_id or '', '')}: {answer}{took}{times}"
        is_dull = status == 200 and not fault and first.method == "GET" and not (job_id and more)
        yield Event(first.at, "DLI", f"{text}, fault {fault}" if fault else text, DULL if is_dull else TELLING)


def _most_telling(events: Sequence[Event], most: int, killed_at: float) -> list[Event]:
    """At most so many events, in the order of time: the best of each source, then the best of all that are not dull."""

    def telling(event: Event) -> tuple[int, float]:
        return event.rank, abs(event.at - killed_at)

    of_source: Counter[str] = Counter()
    chosen, others = list[Event](), list[Event]()
    for event in sorted(events, key=telling):
        of_source[event.source] += 1
        if of_source[event.source] <= SHARE:
            chosen.append(event)
        elif event.rank < DULL:
            others.append(event)
    return sorted([*sorted(chosen, key=telling), *others][:most], key=lambda event: event.at)


def _parsed(line: str) -> dict[str, Any]:
    """A line of a component (``2026-11-21T10:00:00.0Z [info ] text``) or of Airflow 2 (``[2026-11-21T10:00:00.0+0000] …``)."""
    stamp, _, text = _COLOURS.sub("", line).strip("[").partition(" ")
    text = re.sub(r"\[info *\]|\bloc=\S+", "", text)
    return {
        "timestamp": stamp.rstrip("]"),
        "event": " ".join(text.split()),
        "level": (WARNING.findall(text) or [""])[0],
    }


def _rank(line: Mapping[str, Any], said: str, job_ids: Sequence[str]) -> int:
    if line.get("level") not in ("", "info", "debug", None) or line.get("error_detail"):
        return TELLING
    if "DagBag" in said:
        return DULL
    if TELLING_WORDS.search(said):
        return TELLING
    if USEFUL_WORDS.search(said) or any(job_id in said for job_id in job_ids):
        return USEFUL
    return DULL
