"""
Reads DLI's lists of jobs for the page, without waiting in the event loop.

A list is read page by page, as far as one answer needs it. What is asked twice within a few seconds is asked of DLI
once, however many tabs are open; and what DLI has not answered in time is an error for those who wait, not a thread
more for each of them. Nobody waits for what others have asked, or for another connection, and a cancel does not wait
for lists.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from airflow_provider_dli import compat, machine
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.api.kinds import KINDS, kind_of
from airflow_provider_dli.client.access import Access
from airflow_provider_dli.client.client import DliClient
from airflow_provider_dli.client.connection import CONN_TYPE, DliConnection
from airflow_provider_dli.client.patience import Patience
from airflow_provider_dli.exceptions import DliAuthenticationError, DliError, DliTemporaryError, DliValueError
from airflow_provider_dli.threads import run_in_thread

if TYPE_CHECKING:
    from airflow_provider_dli.job import Job

log = logging.getLogger(__name__)

T = TypeVar("T")

# For how long an answer of DLI is shown to everybody, in seconds.
_FRESH_FOR = 4.0
# How long a user waits for an answer, in seconds.
WITHIN = 15.0
# How long one call may take, and after how long it is not repeated, in seconds.
_PATIENCE = Patience(give_up_after=4.0, within=10.0)
# How many calls one turn has under way at the same time, in one process.
_AT_ONCE = 8
# How many pages of DLI's lists one answer reads, after the first of each: who may see few jobs goes on by a click.
_MOST_PAGES = 10


def client_of(conn_id: str) -> DliClient:
    """
    Return a client for a connection of type ``dli``; for threads only.

    :raises DliValueError: There is no such connection. The text is the same for one of another type.
    """
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    conn_type = None
    with contextlib.suppress(AirflowNotFoundException):
        conn_type = compat.connection_of_server(conn_id).conn_type
    if conn_type != CONN_TYPE:
        raise DliValueError(f"There is no connection {conn_id!r} of type {CONN_TYPE}.", field="conn_id")
    access = Access(lambda: DliConnection.from_airflow(compat.connection_of_server(conn_id)), log)
    return DliClient(access, log).patient(_PATIENCE)


class Purpose(Enum):
    """What DLI is asked for."""

    LOOK = "look"
    CANCEL = "cancel"


class Turn(NamedTuple):
    """
    Whose calls wait for each other.

    :param user: Id of the user who asks.
    :param conn_id: The connection.
    :param purpose: What for.
    """

    user: str
    conn_id: str
    purpose: Purpose = Purpose.LOOK


class Shared:
    """What threads have found a moment ago, for all who ask; of one event loop."""

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[asyncio.Task[Any], float]] = {}
        # As long as somebody holds one, or waits for it.
        self._slots: WeakValueDictionary[Turn, asyncio.Semaphore] = WeakValueDictionary()

    async def get(self, key: tuple[Hashable, ...], find: Callable[[], T], turn: Turn) -> T:
        """
        Return what ``find`` has found in a thread, now or a moment ago.

        :param key: What is found; begins with the connection.
        :param turn: Whose turn it takes.
        :raises DliTemporaryError: It takes too long.
        """
        if (task := self._fresh(key)) is None:
            slots = await self._slot(turn)
            # Others may have begun with it meanwhile. What they wait for themselves is not shared.
            if (task := self._fresh(key)) is None:
                task = self._begin(slots, find)
                task.add_done_callback(partial(self._keep, key))
                self._found[key] = task, float("inf")
            else:
                slots.release()
        # When this request ends, the task goes on: others may wait for the same.
        done, _ = await asyncio.wait([task], timeout=WITHIN)
        if not done:
            raise DliTemporaryError(f"No complete answer within {WITHIN:.0f} s.")
        found: T = task.result()
        return found

    async def do(self, work: Callable[[], T], turn: Turn) -> T:
        """Do something in a thread. Once begun, it goes on when nobody waits for it any more."""
        return await asyncio.shield(self._begin(await self._slot(turn), work))

    def forget(self, conn_id: str) -> None:
        """Ask again for what belongs to a connection, because one of its jobs has changed."""
        self._found = {key: kept for key, kept in self._found.items() if not _is_of(key, conn_id)}

    def _fresh(self, key: Hashable) -> asyncio.Task[Any] | None:
        now = machine.monotonic()
        self._found = {each: kept for each, kept in self._found.items() if not kept[0].done() or now <= kept[1]}
        return self._found[key][0] if key in self._found else None

    def _keep(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        if key in self._found and self._found[key][0] is task:
            self._found[key] = task, machine.monotonic() + _FRESH_FOR

    async def _slot(self, turn: Turn) -> asyncio.Semaphore:
        slots = self._slots.setdefault(turn, asyncio.Semaphore(_AT_ONCE))
        await slots.acquire()
        return slots

    def _begin(self, slots: asyncio.Semaphore, work: Callable[[], T]) -> asyncio.Task[T]:
        """Begin with something in a thread, and give the slot back at its end."""
        task = asyncio.create_task(run_in_thread(work))

        def end(done: asyncio.Task[T]) -> None:
            slots.release()
            # When nobody has waited long enough, nobody hears of its error.
            if not done.cancelled():
                done.exception()

        task.add_done_callback(end)
        return task


def _is_of(key: Hashable, conn_id: str) -> bool:
    return isinstance(key, tuple) and key[0] == conn_id


class List(NamedTuple):
    """
    One of DLI's lists.

    :param kind: Name of the kind of its jobs.
    :param status: DLI's state of its jobs; empty for all.
    """

    kind: str
    status: str = ""


class Place(NamedTuple):
    """
    Where in a list to go on.

    :param page: Page of DLI, from 1.
    :param offset: Number of jobs on the pages before.
    :param skip: Number of jobs on this page that were read already.
    """

    page: int = 1
    offset: int = 0
    skip: int = 0


Places = Mapping[List, Place]


def beginning(kinds: Iterable[str], *, active: bool) -> Places:
    """Return the beginnings of the lists that hold all jobs of these kinds, or all active ones."""
    return {List(name, status): Place() for name in kinds for status in (kind_of(name).active if active else ("",))}


def places_in_text(places: Places) -> str | None:
    """Write where to go on, for the browser to send back; None when nothing is left."""
    return json.dumps([[*each, *place] for each, place in places.items()], separators=(",", ":")) if places else None


def places_of_text(text: str) -> Places:
    """
    Read what :func:`places_in_text` wrote.

    :raises ValueError: It is no such text.
    """
    found = {}
    for kind, status, *numbers in json.loads(text):
        place = Place(*numbers)
        if kind not in KINDS or status not in ("", *KINDS[kind].active):
            raise ValueError("no list of DLI")
        if not all(type(number) is int and 0 <= number <= 1_000_000 for number in place) or place.page < 1:
            raise ValueError("no place in a list")
        found[List(kind, status)] = place
    return found


@dataclass(frozen=True)
class _Page:
    """A page of DLI, without the texts that the page does not show: there may be hundreds of long statements."""

    jobs: tuple[Job, ...]
    is_last: bool


class Reading:
    """
    Reads several lists together, newest job first.

    :param shared: Asks DLI.
    :param turn: Who asks, and by which connection.
    :param tags: Narrows the lists, where DLI can.
    :param places: Where to go on.
    """

    def __init__(self, shared: Shared, turn: Turn, tags: Mapping[str, str], places: Places) -> None:
        self._shared = shared
        self._turn = turn
        self._tags = dict(tags)
        self._places = dict(places)
        self._pages: dict[List, _Page] = {}
        self._pages_left = _MOST_PAGES
        self._seen: set[str] = set()
        #: Why some lists could not be read.
        self.problems: dict[List, DliError] = {}

    @property
    def places(self) -> Places:
        """Where to go on: lists that are read to their end, or that cannot be read, are not in it."""
        return {each: place for each, place in self._places.items() if each not in self.problems}

    async def begin(self) -> None:
        """
        Ask for the first page of each list.

        :raises DliError: The credentials or a field of the connection are of no use: no list can be read.
        """
        first, *others = self._places
        # One alone: credentials that are refused must not be sent nine times, for that locks the key.
        await self._load(first)
        if isinstance(error := self.problems.get(first), (DliAuthenticationError, DliValueError)):
            raise error
        await asyncio.gather(*map(self._load, others))

    async def next(self, count: int) -> list[Job]:
        """Return so many more jobs; fewer when the lists are at their end, or one answer has read enough of them."""
        found: list[Job] = []
        while len(found) < count and (newest := self._newest()) is not None:
            place, page = self._places[newest], self._pages[newest]
            job = page.jobs[place.skip]
            self._places[newest] = place._replace(skip=place.skip + 1)
            # A job may move to the next page, or the next state, while its list is read.
            if job.id not in self._seen:
                self._seen.add(job.id)
                found.append(job)
            if place.skip + 1 >= len(page.jobs) and not await self._turn_page(newest):
                break
        return found

    def _newest(self) -> List | None:
        """Return the list with the newest job that was not read."""
        moments = {each: _moment(page.jobs[self._places[each].skip]) for each, page in self._pages.items()}
        return max(moments, key=lambda each: moments[each], default=None)

    async def _turn_page(self, which: List) -> bool:
        """Go on with the next page of a list; False when it is not to be read for this answer."""
        page, place = self._pages.pop(which), self._places[which]
        if page.is_last or place.page >= kind_of(which.kind).most_pages:
            del self._places[which]
            return True
        self._places[which] = Place(place.page + 1, place.offset + len(page.jobs))
        if self._pages_left == 0:
            return False
        self._pages_left -= 1
        await self._load(which)
        return which not in self.problems

    async def _load(self, which: List) -> None:
        place = self._places[which]
        tags = tuple(sorted(self._tags.items()))
        try:
            page = await self._shared.get(
                (self._turn.conn_id, "list", which, tags, place.page, place.offset),
                lambda: _read(self._turn.conn_id, which, self._tags, place),
                self._turn,
            )
        except DliError as error:
            self.problems[which] = error
            return
        if page.jobs:
            self._pages[which] = page
            # The list may be shorter than it was when it was read before.
            if place.skip >= len(page.jobs):
                self._places[which] = place._replace(skip=len(page.jobs))
                await self._turn_page(which)
        else:
            del self._places[which]


def _moment(job: Job) -> float:
    return job.start_time.timestamp() if job.start_time else 0.0


def _read(conn_id: str, which: List, tags: Mapping[str, str], place: Place) -> _Page:
    """Ask DLI for a page; in a thread."""
    kind = kind_of(which.kind)
    query = Query(tags=tags, status=which.status or None, page=place.page, offset=place.offset)
    found = client_of(conn_id).send(kind.page(query))
    jobs = tuple(replace(job, statement="", runs={}, log=(), columns=()) for job in found.jobs)
    return _Page(jobs, found.is_last(kind.page_size, place.offset + len(jobs)))


async def in_time(work: Awaitable[T]) -> T:
    """
    Wait for an answer, as long as a user does.

    :raises DliTemporaryError: It takes too long.
    """
    try:
        return await asyncio.wait_for(work, WITHIN)
    except TimeoutError:
        raise DliTemporaryError(f"No complete answer within {WITHIN:.0f} s.") from None
