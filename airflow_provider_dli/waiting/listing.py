"""Walks over the list of active jobs, page by page, as quickly as pages may be asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from airflow_provider_dli.api.job_kind import JobKind, Query

# Pages that are asked for at the same time.
PAGES_AT_ONCE = 4


class PageRead(NamedTuple):
    """
    What counts of a page that was read.

    :param jobs: Number of jobs on it.
    :param job_count: Number of jobs on all pages, as far as DLI says.
    :param oldest: Start of the oldest job on it, in milliseconds since the epoch; None when DLI does not say.
    """

    jobs: int
    job_count: int
    oldest: int | None


class TooManyPagesError(Exception):
    """The list has more pages than it is worth."""

    def __init__(self, pages: int) -> None:
        super().__init__(f"the list has {pages} pages")
        self.pages = pages


async def walk(
    kind: JobKind[Any],
    query: Query,
    read: Callable[[Query], Awaitable[PageRead]],
    most_pages: int,
    is_enough: Callable[[], bool],
) -> int:
    """
    Read all pages of all active jobs; return how many there were.

    :param kind: Kind of the jobs.
    :param query: Narrows the list.
    :param read: Reads a page.
    :param most_pages: More are not worth it.
    :param is_enough: Whether the jobs that were read so far are all that matter.
    :raises TooManyPagesError: There are more.
    """
    pages = 0
    # In the order of its states, so that a job that moves to the next one meanwhile is not missed.
    for status in kind.active:
        window: Query | None = replace(query, status=status)
        while window is not None:
            read_now, window = await _walk_window(kind, window, read, most_pages - pages)
            pages += read_now
            if is_enough():
                return pages
    return pages


async def _walk_window(
    kind: JobKind[Any], query: Query, read: Callable[[Query], Awaitable[PageRead]], most_pages: int
) -> tuple[int, Query | None]:
    """Read as many pages as DLI shows of one query; return their number, and the query for the jobs before those."""
    first = await read(query)
    ignores_end = query.before is not None and (first.oldest is None or first.oldest > query.before)
    if first.jobs < kind.page_size or ignores_end:
        return 1, None
    pages = min(max(ceil(first.job_count / kind.page_size), 1), kind.most_pages)
    if pages > most_pages:
        raise TooManyPagesError(pages)
    found = {1: first}

    async def read_each(numbers: Iterator[int]) -> None:
        for number in numbers:
            found[number] = await read(replace(query, page=number))

    numbers = iter(range(2, pages + 1))
    await _all_or_none(read_each(numbers) for _ in range(min(PAGES_AT_ONCE, pages - 1)))
    # The number of jobs may be missing, or have grown.
    while _goes_on(kind, found[pages], pages * kind.page_size) and pages < kind.most_pages:
        pages += 1
        if pages > most_pages:
            raise TooManyPagesError(pages)
        found[pages] = await read(replace(query, page=pages))
    oldest = min((page.oldest for page in found.values() if page.oldest is not None), default=None)
    # Of more jobs than it shows, DLI may count no more than it shows.
    if oldest is None or pages < kind.most_pages or not _goes_on(kind, found[pages], pages * kind.page_size - 1):
        return pages, None
    # One more millisecond: whether DLI counts the end itself is not documented.
    before = oldest + 1
    is_stuck = query.before is not None and before >= query.before
    return pages, None if is_stuck else replace(query, before=before)


def _goes_on(kind: JobKind[Any], last: PageRead, jobs: int) -> bool:
    """Whether there may be more than so many jobs after this page."""
    return last.jobs >= kind.page_size and not 0 < last.job_count <= jobs


async def _all_or_none(work: Iterator[Coroutine[Any, Any, None]]) -> None:
    """Await all of them; when one fails, none of the others continues."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
