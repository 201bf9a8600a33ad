"""
Which active jobs are orphans: no task waits for them any more, and no process is left to cancel them.

Pure functions, no I/O. They rely on an order: DLI is asked for its active jobs first, Airflow for the states of their
task instances afterwards. A task instance that is over by then has no use for a job that was listed before. When
somebody clears it later, the new try is of another generation: it cancels that job itself, and submits one that is not
in the list.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_dli import identity
from airflow_provider_dli.core.decide import why_orphan
from airflow_provider_dli.task_instances import TaskInstanceKey, portions
from airflow_provider_dli.text import in_words

if TYPE_CHECKING:
    from airflow_provider_dli.job import Job


class Verdict(StrEnum):
    """What becomes of an active job."""

    ORPHAN = "orphan"
    CANCELLED = "cancelled"
    WOULD_BE_CANCELLED = "would be cancelled"
    OVER = "over by itself"
    NOT_CANCELLED = "not cancelled"
    STATE_UNKNOWN = "state unknown"
    UNIDENTIFIED = "unidentified"
    LEFT_ALONE = "left alone"

    @property
    def is_failure(self) -> bool:
        """Whether the sweep could not do its work on this job."""
        return self in (Verdict.NOT_CANCELLED, Verdict.STATE_UNKNOWN)


class Judgement(NamedTuple):
    """
    What to do with a job.

    :param verdict: What to do.
    :param why: The reason, for people.
    :param is_confirmed: Whether a cancelled job is known not to run.
    """

    verdict: Verdict
    why: str
    is_confirmed: bool = False


class Candidate(NamedTuple):
    """
    All that is kept of an active job: there may be ten thousand, and statements are long.

    :param job_id: DLI's id of the job.
    :param kind: Name of its kind.
    :param dag_id: Airflow's DAG id; like the other names, the tag as it stands when there is a ``problem``.
    :param run_id: Airflow's run id.
    :param task_id: Airflow's task id.
    :param map_index: Index of a mapped task, -1 when it is not mapped.
    :param statement_index: Index of the statement within the task.
    :param generation: See :func:`.identity.generation`.
    :param try_number: The try that submitted it; 0 when there is a ``problem``.
    :param owner: ``task`` when a task waits for the end of the job.
    :param submitted: Seconds since the epoch; None when DLI does not say.
    :param problem: Why its identity cannot be read; empty when it can.
    """

    job_id: str
    kind: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    statement_index: int
    generation: str
    try_number: int
    owner: str
    submitted: float | None
    problem: str = ""

    @property
    def task_instance(self) -> TaskInstanceKey:
        """The task instance that it belongs to, as its tags say."""
        return TaskInstanceKey(self.dag_id, self.run_id, self.task_id, self.map_index)


class Question(NamedTuple):
    """
    One question to Airflow: the states of one task in some runs of its DAG.

    :param dag_id: The DAG.
    :param task_id: The task.
    :param candidates: The jobs that it is about.
    """

    dag_id: str
    task_id: str
    candidates: list[Candidate]

    @property
    def run_ids(self) -> list[str]:
        """The runs, each once."""
        return list(dict.fromkeys(candidate.run_id for candidate in self.candidates))


def candidate(job: Job, deployment: str) -> Candidate | None:
    """
    Read back who submitted a job; None when it is over, or of another deployment.

    :param job: A job as DLI lists it.
    :param deployment: The provider option ``[dli] deployment``.
    """
    # DLI's filter is fuzzy: without this comparison `prod` would sweep the jobs of `prod-2`. A name alone does not tell
    # the deployment: such a job is reported.
    if not job.state.is_active or not identity.fits(job, {identity.DEPLOYMENT: identity.escape(deployment)}):
        return None
    return submitter(job)


def submitter(job: Job) -> Candidate:
    """
    Read back who submitted a job, whatever its state and its deployment.

    :param job: A job as DLI lists it.
    """
    submitted = job.start_time.timestamp() if job.start_time else None
    tags = [job.tags.get(key, "") for key in (identity.DAG, identity.RUN, identity.TASK)]
    names = [identity.unescape(tag) for tag in tags]
    attempt = identity.read_attempt(job.tags)
    if attempt is None or not all(names):
        return Candidate(
            job_id=job.id,
            kind=job.kind,
            dag_id=tags[0],
            run_id=tags[1],
            task_id=tags[2],
            map_index=-1,
            statement_index=0,
            generation="",
            try_number=0,
            owner="",
            submitted=submitted,
            problem=_unreadable(job.tags, names) if job.is_proved else f"only its name {job.name} tells whose it is",
        )
    # Most jobs share their names with others: each is kept once.
    dag_id, run_id, task_id = (sys.intern(name or "") for name in names)
    found = Candidate(
        job_id=job.id,
        kind=job.kind,
        dag_id=dag_id,
        run_id=run_id,
        task_id=task_id,
        map_index=attempt.map_index,
        statement_index=attempt.statement_index,
        generation=sys.intern(attempt.generation),
        try_number=attempt.try_number,
        owner=sys.intern(attempt.owner),
        submitted=submitted,
    )
    if _ti(found, attempt) != job.tags.get(identity.TI):
        return found._replace(problem=f"its tag {identity.TI} is not that of its names")
    return found


def exempt(candidate: Candidate, now: float, older_than: timedelta) -> Judgement | None:
    """
    Judge a job that is not touched whatever Airflow says; None when Airflow is to be asked.

    :param candidate: The job.
    :param now: Seconds since the epoch.
    :param older_than: Younger jobs are left alone.
    """
    if candidate.problem:
        return Judgement(Verdict.UNIDENTIFIED, candidate.problem)
    if candidate.owner != "task":
        return Judgement(Verdict.LEFT_ALONE, f"no task waits for its end ({candidate.owner})")
    if candidate.submitted is None:
        return Judgement(Verdict.LEFT_ALONE, "DLI does not say how old it is")
    if now - candidate.submitted < older_than.total_seconds():
        return Judgement(Verdict.LEFT_ALONE, f"younger than {in_words(older_than.total_seconds())}")
    return None


def judge(state: str | None, later_jobs: Mapping[str, int], awaited: str | None) -> Judgement:
    """
    Tell whether a job that is not :func:`exempt` is an orphan.

    :param state: See :func:`.decide.why_orphan`, as for the others.
    :param later_jobs: See :func:`superseded`.
    """
    if why := why_orphan(state, later_jobs, awaited):
        return Judgement(Verdict.ORPHAN, why)
    # Also any state that a newer Airflow may have: a task that is not known to be over may take up its job again.
    return Judgement(Verdict.LEFT_ALONE, f"its task instance is {state or 'yet to be scheduled'}")


def superseded(candidates: Iterable[Candidate]) -> dict[str, dict[str, int]]:
    """
    Return the jobs beside which, as tags say, later tries of the same task instance have others.

    With the ids of those, and the numbers of the tries. A later try that submits has looked at the earlier job and
    decided against it, or was told not to look, or did not find it. The tries after that go on with the later job, or
    with none.

    :param candidates: All active jobs.
    """
    of_task_instance = defaultdict(list)
    for each in candidates:
        if not each.problem:
            key = (each.dag_id, each.run_id, each.task_id, each.map_index, each.statement_index)
            of_task_instance[key].append(each)
    found: dict[str, dict[str, int]] = {}
    for group in of_task_instance.values():
        for earlier in group:
            if later := {each.job_id: each.try_number for each in group if _is_later(each, earlier)}:
                found[earlier.job_id] = later
    return found


def questions(candidates: Iterable[Candidate]) -> Iterator[Question]:
    """Group jobs whose states Airflow can return in one answer."""
    of_task = defaultdict(list)
    for each in candidates:
        of_task[each.dag_id, each.task_id].append(each)
    for (dag_id, task_id), group in of_task.items():
        of_run = defaultdict(list)
        for each in group:
            of_run[each.run_id].append(each)
        for run_ids in portions(of_run):
            yield Question(dag_id, task_id, [each for run_id in run_ids for each in of_run[run_id]])


def _ti(found: Candidate, attempt: identity.Attempt) -> str:
    return identity.Identity(
        dag_id=found.dag_id,
        run_id=found.run_id,
        task_id=found.task_id,
        map_index=attempt.map_index,
        statement_index=attempt.statement_index,
        generation=attempt.generation,
        try_number=attempt.try_number,
        owner="task",
        work=attempt.work,
    ).ti


def _unreadable(tags: Mapping[str, str], names: Iterable[str | None]) -> str:
    keys = [key for key, name in zip((identity.DAG, identity.RUN, identity.TASK), names, strict=True) if not name]
    if identity.read_attempt(tags) is None:
        keys.append(identity.ATTEMPT)
    missing = [key for key in keys if key not in tags]
    what = "missing" if missing == keys else "cut or unreadable"
    return f"its tag {' and '.join(keys)} is {what}" if len(keys) == 1 else f"its tags {', '.join(keys)} are {what}"


def _is_later(job: Candidate, than: Candidate) -> bool:
    """
    Whether a job is of a later try than another one of the same task instance.

    The number of the try alone does not tell: a run that is deleted and created again counts from 1 once more, and its
    first try must not lose its job to the third of the run before. So the run that started later counts first, and
    within one run the try. The order in which DLI got the jobs has to agree: starts of runs are of several clocks, and
    a try that Airflow gave up may have submitted late.
    """
    if job.submitted is None or than.submitted is None or job.submitted < than.submitted:
        return False
    start, other_start = identity.run_start(job.generation), identity.run_start(than.generation)
    if start == other_start:
        return job.try_number > than.try_number
    known = start.isdecimal() and other_start.isdecimal() and int(other_start) > 0
    return known and int(start) > int(other_start)
