"""The jobs that a user may see, as the page shows them: whose they are, whether they are orphans, what may be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_dli import compat, identity, machine, xcoms
from airflow_provider_dli.identity import MAX_VALUE
from airflow_provider_dli.jobs_page.access import Rights
from airflow_provider_dli.sweep.verdict import Candidate, Verdict, exempt, judge, submitter, superseded
from airflow_provider_dli.task_instances import GONE, OLDER_THAN, TaskInstanceKey
from airflow_provider_dli.text import clean, in_words

if TYPE_CHECKING:
    from airflow_provider_dli.job import Job

Row = dict[str, Any]


@dataclass(frozen=True)
class Deployment:
    """
    This Airflow, as the tags of its jobs name it.

    :param name: The option ``[dli] deployment``; empty when it is not set.
    """

    name: str

    @classmethod
    def here(cls) -> Deployment:
        """Return this Airflow."""
        return cls(compat.deployment() or "")

    @property
    def tags(self) -> dict[str, str]:
        """The tags that all of its jobs have."""
        return {identity.DEPLOYMENT: identity.escape(self.name)} if self.name else {}

    @property
    def without_orphans(self) -> str:
        """Why nobody can tell which of its jobs are orphans; empty when that can be told."""
        option = "the option deployment in section [dli] of Airflow's configuration"
        if not self.name:
            return f"Which jobs are orphans cannot be told: {option} is not set."
        if identity.unescape(identity.escape(self.name)) is None:
            return f"Which jobs are orphans cannot be told: {option} is too long for a tag."
        return ""


class View:
    """
    What one user sees of the jobs of a connection. Asks Airflow's database and auth manager: for threads only.

    :param rights: What the user may do.
    :param conn_id: The connection.
    :param deployment: This Airflow.
    """

    def __init__(self, rights: Rights, conn_id: str, deployment: Deployment) -> None:
        self._rights = rights
        self._deployment = deployment
        # Of jobs that belong to no DAG of this Airflow, its rights on the connection decide.
        self.may_see_others = rights.connection(conn_id, "GET")
        self._may_cancel_others = self.may_see_others and rights.connection(conn_id, "PUT")
        #: Whether the page asks DLI for this user at all.
        self.may_ask = self.may_see_others or rights.use_of_connection(conn_id)

    def rows(self, jobs: Sequence[Job], *, others: bool = True, only_orphans: bool = False) -> list[Row]:
        """
        Return the rows of those jobs that the user may see, in their order.

        :param jobs: Jobs that DLI has listed before Airflow is asked for the states of their task instances.
        :param others: Whether to show jobs that belong to no DAG of this Airflow, too.
        :param only_orphans: Whether to leave out all that are no orphans.
        """
        submitters = {job.id: submitter(job) for job in jobs}
        states = compat.task_states_in_database(
            {each.task_instance for each in submitters.values() if not each.problem}
        )
        ours = {job.id for job in jobs if self._is_ours(job, submitters[job.id], states)}
        teams = compat.teams_of_dags({submitters[job_id].dag_id for job_id in ours})
        # Of a job whose DAG is gone, and its team with it, nobody has a right to the DAG.
        of_dags = {job_id for job_id in ours if submitters[job_id].dag_id in teams}
        readable = self._rights.dags(teams, "GET")
        shown = [
            job
            for job in jobs
            if (
                submitters[job.id].dag_id in readable
                if job.id in of_dags
                else self.may_see_others and (others or job.id in ours)
            )
        ]
        orphans = self._orphans([job for job in shown if job.id in ours], submitters, states)
        if only_orphans:
            shown = [job for job in shown if job.id in orphans]
        active = {job.id for job in shown if job.state.is_active}
        wanted = {submitters[job_id].dag_id for job_id in of_dags & active}
        editable = self._rights.dags({dag_id: teams[dag_id] for dag_id in wanted}, "PUT")
        return [
            {
                **_row(job, submitters[job.id], states),
                "orphan": orphans.get(job.id),
                "note": None if job.id in ours else self._note(job, submitters[job.id]),
                "may_cancel": job.id in active
                and (submitters[job.id].dag_id in editable if job.id in of_dags else self._may_cancel_others),
            }
            for job in shown
        ]

    def _is_ours(self, job: Job, found: Candidate, states: dict[TaskInstanceKey, str | None]) -> bool:
        """Whether a job belongs to a DAG of this Airflow."""
        if found.problem:
            return False
        if self._deployment.name:
            return identity.fits(job, self._deployment.tags)
        # Another Airflow without a name may have a DAG of the same name: that it ran here has to be known otherwise.
        return identity.DEPLOYMENT not in job.tags and found.task_instance in states

    def _orphans(
        self, jobs: Sequence[Job], submitters: dict[str, Candidate], states: dict[TaskInstanceKey, str | None]
    ) -> dict[str, str]:
        """Return the orphans, each with the reason: the verdict of the sweep, on the jobs of one page."""
        if self._deployment.without_orphans:
            return {}
        candidates = [submitters[job.id] for job in jobs if job.state.is_active]
        later_jobs = superseded(candidates)
        awaited = compat.xcoms_in_database(
            xcoms.JOB_ID, {each.task_instance for each in candidates if each.job_id in later_jobs}
        )
        judgements = {
            each.job_id: exempt(each, machine.time(), OLDER_THAN)
            or judge(
                states.get(each.task_instance, GONE),
                later_jobs.get(each.job_id, {}),
                awaited.get(each.task_instance),
            )
            for each in candidates
        }
        return {job_id: found.why for job_id, found in judgements.items() if found.verdict is Verdict.ORPHAN}

    def _note(self, job: Job, found: Candidate) -> str:
        """Say why a job counts as none of this Airflow."""
        if not job.tags:
            return "not submitted by an Airflow with this provider"
        if found.problem:
            return found.problem
        theirs = identity.unescape(job.tags.get(identity.DEPLOYMENT, ""))
        return (
            f"of the Airflow named {clean(theirs, MAX_VALUE)}" if theirs else "of another Airflow, as far as is known"
        )


def _row(job: Job, found: Candidate, states: dict[TaskInstanceKey, str | None]) -> Row:
    """Return what everybody sees who sees the job. Names come from tags, in which anyone can write anything."""
    dag, run, task = (clean(name, MAX_VALUE) for name in (found.dag_id, found.run_id, found.task_id))
    is_known = not found.problem and found.task_instance in states
    return {
        "id": job.id,
        "kind": job.kind,
        "title": str(job),
        "of_kind": job.title,
        "state": str(job.state),
        "status": job.status,
        "message": job.message,
        "is_active": job.state.is_active,
        "queue": job.queue_name,
        "submitted": job.start_time.isoformat() if job.start_time else None,
        "age": in_words(machine.time() - job.start_time.timestamp()) if job.start_time else None,
        "dag": dag,
        "run": run,
        "task": task if found.map_index < 0 else f"{task}[{found.map_index}]",
        "try": found.try_number or None,
        "links": _links(found) if is_known else {},
    }


def _links(found: Candidate) -> dict[str, str]:
    """Return the addresses of its DAG, run, task and try in Airflow's UI, below the address of Airflow."""
    dag = f"dags/{quote(found.dag_id, safe='')}"
    run = f"{dag}/runs/{quote(found.run_id, safe='')}"
    task = f"{run}/tasks/{quote(found.task_id, safe='')}"
    if found.map_index >= 0:
        task = f"{task}/mapped/{found.map_index}"
    return {"dag": dag, "run": run, "task": task, "try": f"{task}?try_number={found.try_number}"}
