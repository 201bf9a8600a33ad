"""Reads lists of jobs to their end, whatever DLI's pages are like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import identity
from airflow_provider_dli.exceptions import DliTemporaryError

if TYPE_CHECKING:
    from pendulum import DateTime

    from airflow_provider_dli.api.call import Call
    from airflow_provider_dli.api.job_kind import JobKind, JobPage, Query
    from airflow_provider_dli.client.client import Log
    from airflow_provider_dli.job import Job


# No list of a real project has more pages. And of a server that shows the same page again and again, so many are read.
_MOST_PAGES, _MOST_REPEATED = 1000, 3


def list_jobs(
    send: Callable[[Call[Any]], Any], kind: JobKind[Any], query: Query, log: Log, said: set[str] | None = None
) -> Iterator[Job]:
    """
    List jobs, newest first, page by page as they are asked for.

    :param send: Sends a call.
    :param kind: Their kind.
    :param query: Which jobs. Tags, the name and the target are compared exactly.
    :param log: Where to say that some cannot be shown.
    :param said: What was said before; notes what is said.
    :raises DliTemporaryError: DLI shows a job of the task that is looked for, without a usable id.
    """
    said = set() if said is None else said
    seen: set[str] = set()
    pages = repeated = 0
    while True:
        # Ids only: there may be ten thousand jobs, with long statements.
        window: set[str] = set()
        oldest: DateTime | None = None
        offset = 0
        for page in range(1, kind.most_pages + 1):
            found: JobPage = send(kind.page(replace(query, page=page, offset=offset)))
            offset += found.size
            pages += 1
            _tell_skipped(found, kind, query, log, said)
            repeated = 0 if {job.id for job in found.jobs} - window else repeated + 1
            # A job that is submitted meanwhile moves the others to the next page.
            for job in found.jobs:
                if job.id not in window and job.id not in seen:
                    yield from _wanted(job, send, kind, query)
                window.add(job.id)
                oldest = min(filter(None, (oldest, job.start_time)), default=None)
            if found.is_last(kind.page_size, offset) or _is_before(found.jobs, query.since):
                return
            if repeated >= _MOST_REPEATED or pages >= _MOST_PAGES:
                why = "shows the same jobs again and again" if pages < _MOST_PAGES else "has no end"
                text = "DLI's list of %ss %s: %d pages were read, and older jobs are not shown."
                log.warning(text, kind.title, why, pages)
                return
        # One more millisecond: whether DLI counts the end itself is not documented.
        earlier = int(oldest.timestamp() * 1000) + 1 if oldest else None
        if earlier is None or (query.before is not None and earlier >= query.before):
            log.warning("DLI lists no more than %d jobs of one moment; older ones are not shown.", len(window))
            return
        query, seen = replace(query, before=earlier), window


def _tell_skipped(page: JobPage, kind: JobKind[Any], query: Query, log: Log, said: set[str]) -> None:
    """Say that some jobs cannot be read."""
    for job in page.skipped:
        # Taken for missing, it would be run twice.
        if job is not None and identity.TI in query.tags and identity.fits(job, query.tags):
            raise DliTemporaryError(f"list of {kind.title}s: DLI shows a job of this task without a usable id")
    if page.skipped and kind.name not in said:
        said.add(kind.name)
        text = "DLI's list of %ss holds jobs without a usable id (%d on one page): they are left out."
        log.warning(text, kind.title, len(page.skipped))


def _wanted(job: Job, send: Callable[[Call[Any]], Any], kind: JobKind[Any], query: Query) -> Iterator[Job]:
    """Return the job, if it is wanted."""
    if query.target is None or kind.target_of is None:
        if query.name in (None, job.name) and identity.fits(job, query.tags):
            yield job
    elif not _is_before([job], query.since) and send(kind.target_of(job.id)) == query.target:
        yield replace(job, tags=dict(query.tags))


def _is_before(jobs: Sequence[Job], since: int | None) -> bool:
    """Whether all jobs of a page, and so all that follow, are older; only if the page is sorted at all."""
    times = [job.start_time for job in jobs]
    if since is None or None in times:
        return False
    moments = [moment.timestamp() for moment in times if moment is not None]
    return max(moments) * 1000 < since and moments == sorted(moments, reverse=True)
