"""The walk over the active jobs of a deployment, of all kinds: ask DLI, ask Airflow, cancel the orphans, look again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import compat, identity, machine, story, xcoms
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.exceptions import (
    DliAuthenticationError,
    DliError,
    DliNotFoundError,
    DliPermissionError,
    DliTaskKilledError,
    DliTemporaryError,
)
from airflow_provider_dli.job import JobState
from airflow_provider_dli.sweep.report import Report
from airflow_provider_dli.sweep.verdict import (
    Candidate,
    Judgement,
    Question,
    Verdict,
    candidate,
    exempt,
    judge,
    questions,
    superseded,
)
from airflow_provider_dli.task_instances import GONE
from airflow_provider_dli.text import clean, in_words
from airflow_provider_dli.waiting.watcher import FIRST_POLL_INTERVAL, may_be_cancelled

if TYPE_CHECKING:
    from airflow_provider_dli.api.job_kind import JobKind
    from airflow_provider_dli.client.client import DliClient

# How long the sweep waits for the end of all jobs that it has cancelled, in seconds.
_CONFIRM_WITHIN = 300.0
# How long the sweep repeats the cancel of one job, in seconds: there may be thousands, and it comes again.
_CANCEL_WITHIN = 5.0


class _TimeIsOverError(Exception):
    """The time to wait for the end of the jobs is over."""


class Walk:
    """
    One walk.

    :param client: Talks to DLI; its ``watch`` ends the walk.
    :param deployment: The provider option ``[dli] deployment``.
    :param older_than: Younger jobs are left alone.
    :param only_tell: Whether to only report what would be cancelled.
    :param confirm: Whether to wait until the cancelled jobs are over, for 5 minutes at most.
    :param poll_interval: Seconds between two status calls, at most.
    :param kinds: Kinds of the jobs.
    """

    def __init__(
        self,
        client: DliClient,
        deployment: str,
        *,
        kinds: Sequence[JobKind[Any]],
        older_than: timedelta,
        only_tell: bool,
        confirm: bool,
        poll_interval: float,
    ) -> None:
        self._client = client
        self._check = client.patience.watch
        self._deployment = deployment
        self._older_than = older_than
        self._only_tell = only_tell
        self._confirm = confirm
        self._poll_interval = poll_interval
        self._kinds = kinds
        self._later_jobs: Mapping[str, Mapping[str, int]] = {}
        #: What became of the jobs so far.
        self.report = Report(machine.time(), client.secrets)
        #: Why jobs of some kinds cannot be swept.
        self.refusals: list[DliError] = []

    def go(self, queue_name: str | None) -> None:
        """
        Look at all active jobs, and cancel the orphans.

        :param queue_name: Only jobs of this queue; None for all queues.
        """
        candidates = self._active_jobs(queue_name)
        self._later_jobs = superseded(candidates)
        cancelled: dict[str, tuple[Candidate, str]] = {}
        for found, judgement in self._judged(candidates):
            if judgement.verdict is Verdict.ORPHAN:
                judgement = self._cancel(found, judgement)
            if judgement.verdict is Verdict.CANCELLED and self._confirm and not judgement.is_confirmed:
                cancelled[found.job_id] = found, judgement.why
            else:
                self.report.add(found, judgement)
        for found, judgement in self._confirmed(cancelled):
            self.report.add(found, judgement)

    def _active_jobs(self, queue_name: str | None) -> list[Candidate]:
        """Return the active jobs of this deployment, oldest first."""
        found: dict[str, Candidate] = {}
        for kind in self._kinds:
            try:
                for each in self._active_jobs_of(kind, queue_name):
                    found[each.job_id] = each
            except (DliPermissionError, DliNotFoundError) as error:
                # The jobs of the other kinds are swept all the same. A region may lack a kind; but a proxy may answer
                # "not found" too, while jobs run.
                self.refusals.append(error)
        return sorted(found.values(), key=lambda each: each.submitted or 0)

    def _active_jobs_of(self, kind: JobKind[Any], queue_name: str | None) -> Iterator[Candidate]:
        tags = {identity.DEPLOYMENT: identity.escape(self._deployment)}
        for status in kind.active:
            for job in self._client.jobs(kind, Query(tags, status, queue_name)):
                if not job.is_reset and (each := candidate(job, self._deployment)) is not None:
                    yield each

    def _judged(self, candidates: Iterable[Candidate]) -> Iterator[tuple[Candidate, Judgement]]:
        now, to_ask = machine.time(), []
        for each in candidates:
            if judgement := exempt(each, now, self._older_than):
                yield each, judgement
            else:
                to_ask.append(each)
        for question in questions(to_ask):
            yield from self._ask(question)

    def _ask(self, question: Question) -> Iterator[tuple[Candidate, Judgement]]:
        """Ask Airflow for the states of task instances, and judge their jobs."""
        self._check()
        try:
            states = compat.task_states(question.dag_id, question.run_ids, [question.task_id])
        except Exception as error:  # of another class in every Airflow; the other jobs are swept all the same
            # The names come from tags, in which anyone who may submit jobs can write anything.
            texts = (question.task_id, question.dag_id, str(error) or type(error).__name__)
            shown = [clean(text, secrets=self._client.secrets) for text in texts]
            self._client.log.warning("Airflow does not tell the states of task %s of DAG %s: %s", *shown)
            why = f"Airflow did not tell the state of its task instance: {error}"
            for each in question.candidates:
                yield each, Judgement(Verdict.STATE_UNKNOWN, why)
            return
        self._check()
        for each in question.candidates:
            state = states.get((each.run_id, each.task_id, each.map_index), GONE)
            later_jobs = self._later_jobs.get(each.job_id, {})
            yield each, judge(state, later_jobs, self._awaited(each) if later_jobs else None)

    def _awaited(self, found: Candidate) -> str | None:
        """Return the job that a task instance waits for, as Airflow knows it."""
        self._check()
        try:
            return xcoms.announced_job_id(found.task_instance)
        except Exception as error:  # of another class in every Airflow; not knowing, the job is left alone
            shown = clean(str(error) or type(error).__name__, secrets=self._client.secrets)
            self._client.log.warning("Airflow does not tell which job a task waits for: %s", shown)
            return None

    def _cancel(self, orphan: Candidate, judgement: Judgement) -> Judgement:
        if self._only_tell:
            return judgement._replace(verdict=Verdict.WOULD_BE_CANCELLED)
        # Minutes may have passed since Airflow was asked, for other jobs are cancelled first. Whoever clears the task
        # meanwhile gets a new generation, as a rule, whose try cancels this job itself. But when `retries` in the DAG
        # file was lowered, a clear can bring the old generation back, and its try takes up this very job. So one more
        # small question for each orphan, right before its cancel.
        [(_, judgement)] = self._ask(Question(orphan.dag_id, orphan.task_id, [orphan]))
        if judgement.verdict is not Verdict.ORPHAN:
            return judgement
        client = self._client.patient(replace(self._client.patience, give_up_after=_CANCEL_WITHIN))
        kind = self._kind_of(orphan)
        name = kind.named(orphan.job_id)
        try:
            cancellation = client.cancel(kind, orphan.job_id)
        except (DliTaskKilledError, DliAuthenticationError):
            raise
        except DliNotFoundError:
            return Judgement(Verdict.OVER, "DLI does not know it any more")
        except DliError as error:
            self._client.log.error("%s", story.not_cancelled(name, error))
            return Judgement(Verdict.NOT_CANCELLED, str(error))
        self._client.log.info("%s", story.cancelled(f"{name} ({judgement.why})", cancellation))
        if cancellation.accepted or cancellation.was_removed:
            return judgement._replace(verdict=Verdict.CANCELLED, is_confirmed=cancellation.was_removed)
        return Judgement(Verdict.OVER, f"{cancellation.state} before the cancel")

    def _kind_of(self, orphan: Candidate) -> JobKind[Any]:
        return next(kind for kind in self._kinds if kind.name == orphan.kind)

    def _confirmed(self, cancelled: Mapping[str, tuple[Candidate, str]]) -> Iterator[tuple[Candidate, Judgement]]:
        """Wait until the cancelled jobs are over, all together for 5 minutes at most."""
        end = machine.monotonic() + _CONFIRM_WITHIN
        interval = min(FIRST_POLL_INTERVAL, self._poll_interval)
        waiting = dict(cancelled)
        problems = dict.fromkeys(waiting, "there was no time to look whether it has ended")

        def watch() -> None:
            # Every wait within a call looks here, so no call takes longer, however slow DLI is.
            self._check()
            if machine.monotonic() >= end:
                raise _TimeIsOverError

        client = self._client.patient(replace(self._client.patience, give_up_after=0, watch=watch))
        with suppress(_TimeIsOverError):
            while waiting:
                for job_id, (orphan, why) in list(waiting.items()):
                    watch()
                    judgement = self._end(client, orphan, why)
                    if isinstance(judgement, str):
                        problems[job_id] = judgement
                    else:
                        del waiting[job_id]
                        yield orphan, judgement
                if waiting:
                    client.pause(interval)
                    interval = min(interval * 1.5, self._poll_interval)
        for job_id, (orphan, _) in waiting.items():
            yield orphan, Judgement(Verdict.NOT_CANCELLED, f"DLI accepted the cancel, but {problems[job_id]}")

    def _end(self, client: DliClient, orphan: Candidate, why: str) -> Judgement | str:
        """Tell how a cancelled job ended; or what keeps it from having ended, as far as is known."""
        kind = self._kind_of(orphan)
        try:
            job = client.job(kind, orphan.job_id)
            if may_be_cancelled(kind, job) or job.state is JobState.CREATED:
                return Judgement(Verdict.CANCELLED, why)
            if not job.state.is_active:
                return Judgement(Verdict.OVER, f"{job.status} in spite of the cancel")
            problem = f"it is still {job.status} {in_words(_CONFIRM_WITHIN)} later"
        except DliNotFoundError:
            return Judgement(Verdict.OVER, "DLI does not know it any more")
        except (DliTaskKilledError, DliAuthenticationError):
            raise
        except DliError as error:
            if not isinstance(error, DliTemporaryError):
                return Judgement(Verdict.NOT_CANCELLED, f"DLI accepted the cancel, but {error}")
            problem = str(error)
        return problem
