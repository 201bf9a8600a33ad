"""
Looks at all jobs of one kind that the triggers of an event loop wait for, with the credentials of one connection.

One job costs one status call. Of many, DLI's list shows a hundred with each call, so the list is read when that takes
fewer calls. But a list only ever says that a job is still active: it may lag, omit a job, or show one twice. All else
is said by the job's own status call: that it is over, that DLI does not know it. So jobs that the list does not show
are asked for one by one, at a steady pace.

When each job is due lies on a grid, so that jobs that are looked at equally often are due at the same moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from math import ceil, floor, inf, log2
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow_provider_dli import machine
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.exceptions import DliError, DliTemporaryError
from airflow_provider_dli.identity import DEPLOYMENT
from airflow_provider_dli.job import Goal, JobState
from airflow_provider_dli.text import in_words
from airflow_provider_dli.waiting.listing import PageRead, TooManyPagesError, walk
from airflow_provider_dli.waiting.pace import Pace
from airflow_provider_dli.waiting.waited_job import WaitedJob
from airflow_provider_dli.waiting.watcher import (
    FIRST_PATIENCE,
    FIRST_POLL_INTERVAL,
    OUTAGE_BUDGET,
    checked_poll_interval,
)

if TYPE_CHECKING:
    from airflow_provider_dli.api.job_kind import JobKind
    from airflow_provider_dli.client.client import DliClient, Log
    from airflow_provider_dli.story import Told

T = TypeVar("T")

# Status calls that are under way at the same time.
_CALLS_AT_ONCE = 4
# Seconds from the start of one status call to that of the next, and of one page to the next. Reading an answer holds
# Python's lock, for which the event loop of the triggerer waits then.
_CALL_EVERY, _PAGE_EVERY = 0.02, 0.025
# Seconds between two looks at which jobs are due: at least, and while more are due than can be asked for.
_SCAN_AFTER, _SCAN_EVERY = 0.1, 0.25
# So that it never spins, in seconds.
_SHORTEST_WAIT = 0.005
# So many of the jobs that came last are asked for by themselves, however many others wait: they may be short.
_ALWAYS_QUICK = 8
# Jobs that were just deferred are looked at often; the list is read for that, but no more than so many pages a second.
_QUICK_PAGES_EACH_SECOND = 10
# For so many pages, one job that the list shows is asked for by itself: the list may show what was long ago.
_PAGES_TO_ONE_CHECK = 40
# How long a job that is due waits for a list that is being read, in seconds.
_WAITS_FOR_LIST = 10.0
# Seconds for which the list is not read: after it was refused or cannot be read, and after DLI did not answer. And for
# which the number of its pages is taken to stay the same.
_LIST_REFUSED_FOR, _LIST_AWAY_FOR, _LIST_COUNTED_FOR = 600.0, 30.0, 600.0
# How often the poller is looked after, after how long without a sign of life it counts as hanging, and how soon it is
# started again when it has died, in seconds.
_TEND_EVERY, _HANGS_AFTER, _STARTS_AGAIN_AFTER = 10.0, 60.0, 1.0
# So many triggers at once are told that DLI has not answered for too long: each cancels its job.
_GIVE_UP_AT_ONCE = 50


class Caller(Protocol):
    """Calls a function in a thread, with a connected client, and waits for it."""

    async def __call__(self, function: Callable[[DliClient], T], within: float) -> T:
        """
        Return what it returns.

        :param within: Seconds.
        :raises DliTemporaryError: The time was over.
        """


class Poller:
    """
    Looks at jobs until they are over. Runs while there are any; when it dies or hangs, it is started again.

    :param kind: Kind of the jobs.
    :param call: Calls DLI.
    :param log: Where to log.
    """

    def __init__(self, kind: JobKind[Any], call: Caller, log: Log) -> None:
        self._kind = kind
        self._call = call
        self._log = log
        self._jobs: dict[tuple[str, Goal], WaitedJob] = {}
        self._latest: deque[WaitedJob] = deque(maxlen=_ALWAYS_QUICK)
        # Where the grid lies: triggerers that start together do not ask together.
        self._phase = random.uniform(0, 3600)  # noqa: S311 - no secret
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._alive_at = 0.0
        # When the event loop last stood still: then nobody has asked for the jobs.
        self._tended_at = self._stood_still_at = machine.monotonic()
        self._scan_at = self._scanned_at = 0.0
        self._begin_anew()
        self._pace = Pace()
        self._last_error: Exception = DliTemporaryError("DLI has not answered yet")
        # The job that it is about; None when it is about none.
        self._last_error_of: str | None = None
        # The list.
        self._list_from = self._walk_from = 0.0
        self._pages_counted: int | None = None
        self._pages_counted_at = 0.0
        self._list_problem = ""
        self._checked = 0

    def add(
        self, job_id: str, poll_interval: float, goal: Goal = Goal.FINISHED, told: Told | None = None
    ) -> asyncio.Future[None]:
        """
        Wait for a job; the result comes when it is over, or is what it is waited for.

        :param job_id: The job.
        :param poll_interval: Seconds between two looks, at most.
        :param goal: What it is waited for. Default: that it finishes.
        :param told: What was logged of it before. Default: nothing.
        :raises DliValueError: The interval is no number above 0. The same errors as those of
            :func:`.wait_until_over` come as exception of the future.
        """
        waited = self._jobs.get((job_id, goal))
        if waited is None:
            waited = WaitedJob(job_id, self._log, poll_interval=poll_interval, goal=goal, told=told)
            self._jobs[job_id, goal] = waited
            self._latest.append(waited)
        else:
            waited.poll_interval = min(waited.poll_interval, checked_poll_interval(poll_interval))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waited.waiting[future] = contextvars.copy_context()
        self._scan_at = min(self._scan_at, max(self._scanned_at + _SCAN_AFTER, machine.monotonic()))
        self._wake.set()
        self._tend_soon()
        return future

    def remove(self, job_id: str, future: asyncio.Future[None], goal: Goal = Goal.FINISHED) -> None:
        """Wait for this job no longer. Its status calls and its place in the list cost nothing from now on."""
        if future.done() and not future.cancelled():
            future.exception()  # (it was seen)
        future.cancel()
        waited = self._jobs.get((job_id, goal))
        if waited is not None:
            waited.waiting.pop(future, None)
            if not waited.waiting:
                del self._jobs[job_id, goal]

    def _tend_soon(self) -> None:
        if not self._jobs:
            return
        if self._task is None or self._task.done():
            self._start()
        if self._timer is None:
            # No task, for whoever cancels all tasks would cancel it.
            self._timer = asyncio.get_running_loop().call_later(_TEND_EVERY, self._tend)

    def _tend(self) -> None:
        """See to it that the poller lives, and that no trigger waits for ever."""
        self._timer = None
        self._tend_soon()
        now = machine.monotonic()
        if now - self._tended_at > 3 * _TEND_EVERY:
            self._stood_still_at = now
        self._tended_at = now
        if now - self._alive_at > _HANGS_AFTER and self._task is not None and self._jobs:
            self._log.warning("The poller of DLI jobs hangs; it is started again.")
            self._task.cancel()
            self._start()
        lost = [
            job
            for job in self._jobs.values()
            if now - max(job.seen_at, self._stood_still_at) > OUTAGE_BUDGET + job.poll_interval
        ]
        for job in lost[:_GIVE_UP_AT_ONCE]:
            self._end(job, self._given_up(job))
        if len(lost) > _GIVE_UP_AT_ONCE and self._timer is not None:
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(_SCAN_AFTER, self._tend)

    def _given_up(self, job: WaitedJob) -> Exception:
        """Say that DLI has not told of a job; the last problem may be that of a call about another one."""
        if not isinstance(self._last_error, DliError):
            return self._last_error
        named, cause = self._kind.named(job.job_id), str(self._last_error)
        if self._last_error_of is not None and self._last_error_of != job.job_id:
            cause = cause.replace(self._kind.named(self._last_error_of), f"another {self._kind.title}")
            cause = cause.replace(self._last_error_of, "…")
        return DliTemporaryError(f"{named}: no usable answer from DLI for {in_words(OUTAGE_BUDGET)}. {cause}")

    def _start(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._begin_anew()
        # Its context is that of no trigger: what it logs itself belongs to none of them.
        self._task = contextvars.Context().run(asyncio.create_task, self._poll())
        self._task.add_done_callback(self._ended)

    def _begin_anew(self) -> None:
        """Forget what was under way."""
        self._wake = asyncio.Event()
        self._alive_at = machine.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._next: deque[WaitedJob] = deque()
        self._asked: set[WaitedJob] = set()
        self._call_at = self._page_at = 0.0
        self._scan_at, self._scanned_at = 0.0, 0.0
        self._walk_began: float | None = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if task is not self._task or not self._jobs:
            return
        if error is not None:
            self._last_error = error if isinstance(error, Exception) else RuntimeError(str(error))
            self._last_error_of = None
            self._log.error("The poller of DLI jobs has died and is started again: %s: %s", type(error).__name__, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            task.get_loop().call_later(_STARTS_AGAIN_AFTER, self._tend_soon)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _poll(self) -> None:
        while self._jobs:
            self._alive_at = now = machine.monotonic()
            wake_at = self._pace.wait_until
            if now >= wake_at:
                if now >= self._scan_at:
                    self._scan(now)
                if self._next and self._has_room() and now >= self._call_at:
                    self._call_at = now + _CALL_EVERY
                    self._ask_soon(self._next.popleft())
                wake_at = min(self._scan_at, self._call_at if self._next and self._has_room() else inf)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(max(wake_at - now, _SHORTEST_WAIT), _TEND_EVERY)):
                    await self._wake.wait()

    def _has_room(self) -> bool:
        return len(self._asked) < (1 if self._pace.is_trying else _CALLS_AT_ONCE)

    def _scan(self, now: float) -> None:
        """Look which jobs are due, and choose how to ask for them."""
        self._scanned_at = now
        singly: list[WaitedJob] = []
        due: list[WaitedJob] = []
        upcoming = inf
        for job in self._jobs.values():
            if job.next_look > now:
                upcoming = min(upcoming, job.next_look)
            elif job not in self._asked:
                (singly if job.is_missing else due).append(job)
        self._scan_at = max(upcoming, now + _SCAN_AFTER)
        latest = [job for job in self._latest if job.is_young and job.next_look <= now and self._is_waited_for(job)]
        walk_began = self._walk_began
        waits_until = -inf if walk_began is None else walk_began + _WAITS_FOR_LIST
        if walk_began is not None and now < waits_until:
            # The list that is being read shows those that were due when that began.
            due = [job for job in due if job.next_look > walk_began]
            self._scan_at = min(self._scan_at, waits_until)
        if not self._is_list_cheaper(len(due), now) or (walk_began is not None and now >= waits_until):
            singly += due
        elif walk_began is None and now >= self._walk_from:
            self._walk_began = now
            self._in_background(self._walk(now))
        elif walk_began is None:
            self._scan_at = min(self._scan_at, self._walk_from)
        first = heapq.nsmallest(ceil(_SCAN_EVERY / _CALL_EVERY), singly, key=attrgetter("next_look"))
        self._next = deque(dict.fromkeys((*latest, *first)))
        if len(singly) > len(first):
            self._scan_at = min(self._scan_at, now + _SCAN_EVERY)

    def _is_list_cheaper(self, jobs: int, now: float) -> bool:
        return now >= self._list_from and not self._pace.is_trying and jobs > self._calls_of_walk(now)

    def _calls_of_walk(self, now: float) -> int:
        pages = self._pages_counted
        if pages is None or now > self._pages_counted_at + _LIST_COUNTED_FOR:
            pages = len(self._kind.active) + len(self._jobs) // self._kind.page_size
        return pages + _checks(pages)

    def _ask_soon(self, job: WaitedJob) -> None:
        if job not in self._asked and self._is_waited_for(job):
            self._asked.add(job)
            self._in_background(self._ask(job, self._asked))

    async def _ask(self, job: WaitedJob, asked: set[WaitedJob]) -> None:
        """Ask for the status of a job."""
        began = machine.monotonic()
        try:
            is_over = await self._call(partial(self._look, job), job.within)
            self._pace.answered()
            if is_over:
                self._end(job)
            else:
                self._schedule(job, machine.monotonic())
        except DliError as error:
            self._last_error, self._last_error_of = error, job.job_id
            self._pace.failed(error, began)
            try:
                job.missed(error, machine.monotonic() - began)
            except DliError as reason:
                self._end(job, reason)
            # After the others: one that always fails must not be what tries out whether DLI answers again.
            self._schedule(job, max(machine.monotonic(), self._pace.wait_until))
        except Exception as error:  # a bug; no trigger may wait for ever because of it
            self._log.exception("The status of DLI job %s could not be looked at.", job.job_id)
            self._end(job, error)
        finally:
            asked.discard(job)
            self._scan_at = min(self._scan_at, max(job.next_look, self._scanned_at + _SCAN_AFTER))
            self._wake.set()

    def _look(self, job: WaitedJob, client: DliClient) -> bool:
        """Return whether a job is over. In a thread."""
        found = client.job(self._kind, job.job_id)
        job.heard(found)
        return job.ends_wait(found, job.goal)

    def _end(self, job: WaitedJob, error: Exception | None = None) -> None:
        # At once: a trigger that comes now asks anew.
        if self._is_waited_for(job):
            del self._jobs[job.job_id, job.goal]
        job.wake(error)

    def _is_waited_for(self, job: WaitedJob) -> bool:
        return self._jobs.get((job.job_id, job.goal)) is job

    def _schedule(self, job: WaitedJob, after: float) -> None:
        """Let a job be due at the next moment of the grid after this one."""
        step = job.interval
        job.is_young = step < job.poll_interval
        if job.is_young:
            step = FIRST_POLL_INTERVAL * 2.0 ** floor(log2(step / FIRST_POLL_INTERVAL))
        job.next_look = (floor((after + self._phase) / step) + 1) * step - self._phase

    async def _walk(self, began: float) -> None:
        """Read the list of active jobs; those that it does not show are asked for by themselves then."""
        try:
            read, is_enough = partial(self._page, began), partial(self._has_shown_all, began)
            pages = await walk(self._kind, self._narrowed(), read, len(self._jobs), is_enough)
        except TooManyPagesError as error:
            self._count(error.pages + len(self._kind.active))
        except DliTemporaryError:
            self._list_from = machine.monotonic() + _LIST_AWAY_FOR
        except Exception as error:  # none says anything of a job
            self._list_from = machine.monotonic() + _LIST_REFUSED_FOR
            if str(error) != self._list_problem:
                self._list_problem = str(error)
                text = "The list of DLI jobs cannot be used, so %d jobs are asked for one by one. %s"
                self._log.warning(text, len(self._jobs), error)
        else:
            self._list_problem = ""
            self._count(pages)
            # Often enough for those that want it most often, but not oftener for jobs that have just begun.
            shortest = min((job.poll_interval for job in self._jobs.values()), default=0.0)
            self._walk_from = began + min(pages / _QUICK_PAGES_EACH_SECOND, shortest)
            await asyncio.sleep(0)
            self._miss([job for job in self._jobs.values() if job.seen_at < began])
            await asyncio.sleep(0)
            self._miss(self._in_turn(_checks(pages)))
        finally:
            if self._walk_began == began:
                self._walk_began = None
            self._scan_at = 0.0
            self._wake.set()

    def _has_shown_all(self, began: float) -> bool:
        return all(job.seen_at >= began for job in self._jobs.values())

    def _miss(self, jobs: Iterable[WaitedJob]) -> None:
        for job in jobs:
            job.is_missing = True
            job.next_look = job.seen_at

    def _in_turn(self, number: int) -> list[WaitedJob]:
        """Choose some jobs, others each time until all had their turn."""
        jobs = list(self._jobs.values())
        begin = self._checked if self._checked < len(jobs) else 0
        self._checked = begin + number
        return jobs[begin : self._checked]

    async def _page(self, began: float, query: Query) -> PageRead:
        """Read one page; again, if DLI does not answer."""
        for is_last in (False, False, True):
            now = machine.monotonic()
            self._page_at = max(now, self._page_at + _PAGE_EVERY, self._pace.wait_until)
            await asyncio.sleep(self._page_at - now)
            sent_at = machine.monotonic()
            try:
                page = await self._call(partial(self._read_page, began, query), FIRST_PATIENCE)
            except DliTemporaryError as error:
                self._pace.failed(error, sent_at)
                if is_last:
                    raise
            else:
                self._pace.answered()
                return page
        raise AssertionError("the last try returns or raises")

    def _read_page(self, began: float, query: Query, client: DliClient) -> PageRead:
        """Note what one page shows. In a thread."""
        page = client.send(self._kind.page(query))
        oldest = None
        for job in page.jobs:
            for goal in Goal:
                waited = self._jobs.get((job.id, goal))
                # A state that nobody knows may be an end: only the job's own status counts then.
                if waited is not None and not goal.ends_wait(job.state) and job.state is not JobState.UNKNOWN:
                    waited.heard(job)
                    self._schedule(waited, began)
            if job.start_time is not None and (oldest is None or job.start_time < oldest):
                oldest = job.start_time
        return PageRead(page.size, page.job_count, int(oldest.timestamp() * 1000) if oldest else None)

    def _narrowed(self) -> Query:
        """Ask only for what all the jobs have in common."""
        known = {(job.queue_name, job.deployment) for job in self._jobs.values() if job.queue_name is not None}
        queues, deployments = {queue for queue, _ in known}, {deployment for _, deployment in known}
        deployment = deployments.pop() if len(deployments) == 1 else None
        return Query(
            queue_name=(queues.pop() or None) if len(queues) == 1 else None,
            tags={DEPLOYMENT: deployment} if deployment else {},
        )

    def _count(self, pages: int) -> None:
        self._pages_counted, self._pages_counted_at = pages, machine.monotonic()


def _checks(pages: int) -> int:
    return max(1, pages // _PAGES_TO_ONE_CHECK)
