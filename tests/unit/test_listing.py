"""How a list is read page by page, and how soon DLI is asked again: without DLI."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from airflow_provider_dli import machine
from airflow_provider_dli.api import sql
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.exceptions import DliNotFoundError, DliTemporaryError
from airflow_provider_dli.waiting.listing import PAGES_AT_ONCE, PageRead, TooManyPagesError, walk
from airflow_provider_dli.waiting.pace import Pace

SIZE, MOST = 10, 4
KIND = replace(sql.KIND, page_size=SIZE, most_pages=MOST)


class Service:
    """
    Jobs by their start, in milliseconds, newest first.

    :param counts: Whether it says how many there are.
    :param filters: What it knows to filter by.
    """

    def __init__(self, launching=0, running=0, counts=True, filters=("status", "before")):
        self.jobs = {"LAUNCHING": range(launching, 0, -1), "RUNNING": range(running, 0, -1)}
        self.counts, self.filters = counts, filters
        self.asked, self.shown, self.at_once, self.most_at_once = [], set(), 0, 0

    async def read(self, query):
        self.asked.append((query.status, query.before, query.page))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        found = [
            (status, start)
            for status, starts in self.jobs.items()
            for start in starts
            if (status == query.status or "status" not in self.filters)
            and (query.before is None or start < query.before or "before" not in self.filters)
        ]
        page = found[(query.page - 1) * SIZE : query.page * SIZE]
        self.shown.update(page)
        number = 0 if not self.counts else len(found) if self.counts is True else min(len(found), SIZE * MOST)
        return PageRead(len(page), number, min((start for _, start in page), default=None))

    def walk(self, most_pages=1000):
        number = sum(map(len, self.jobs.values()))
        return asyncio.run(walk(KIND, Query(), self.read, most_pages, lambda: len(self.shown) == number))


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize(("running", "pages"), [(0, 1), (9, 1), (10, 1), (25, 3), (40, 4)])
def test_all_pages_are_read(running, pages, counts):
    service = Service(launching=3, running=running, counts=counts)
    # Without their number, nobody knows that a full page is the last one. Who has seen all looks for no more.
    assert service.walk() == (1 if not running else pages + 2 if running == SIZE and not counts else pages + 1)
    assert len(service.shown) == running + 3


def test_states_are_asked_for_in_the_order_in_which_a_job_goes_through_them():
    service = Service(launching=3, running=3)
    service.walk()
    assert [status for status, *_ in service.asked] == ["LAUNCHING", "RUNNING"]


@pytest.mark.parametrize("counts", [True, False, "no more than it shows"])
def test_beyond_the_last_page_it_goes_on_before_the_oldest(counts):
    service = Service(running=105, counts=counts)
    service.walk()
    assert len(service.shown) == 105
    assert max(page for *_, page in service.asked) == MOST


def test_a_service_that_does_not_know_how_to_go_on_is_not_asked_for_the_same_again():
    service = Service(running=105, filters=("status",))
    assert service.walk() <= 1 + MOST + 1


def test_a_service_that_ignores_the_state_is_asked_once():
    service = Service(launching=5, running=30, filters=())
    assert service.walk() == 4


def test_no_more_than_so_many_pages_are_on_their_way():
    service = Service(running=40)
    service.walk()
    assert service.most_at_once <= PAGES_AT_ONCE


def test_more_pages_than_it_is_worth_are_not_read():
    service = Service(running=40)
    with pytest.raises(TooManyPagesError) as error:
        service.walk(most_pages=3)
    assert error.value.pages == 4
    assert len(service.asked) == 2


def test_when_a_page_fails_the_others_are_not_read():
    service = Service(running=40)
    read = service.read

    async def fails(query):
        if query.page == 2:
            raise DliTemporaryError("away")
        return await read(query)

    service.read = fails
    with pytest.raises(DliTemporaryError):
        service.walk()
    assert len(service.asked) <= 4


class TestPace:
    @pytest.fixture
    def now(self, monkeypatch):
        clock = [1000.0]
        monkeypatch.setattr(machine, "monotonic", lambda: clock[0])
        return clock

    def test_pauses_get_longer_while_dli_does_not_answer(self, now):
        pace, pauses = Pace(), []
        for _ in range(10):
            pace.failed(DliTemporaryError("away"), now[0])
            pauses.append(pace.wait_until - now[0])
            now[0] = pace.wait_until
        assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
        pace.answered()
        assert not pace.is_trying
        pace.failed(DliTemporaryError("away"), now[0])
        assert pace.wait_until - now[0] == 0.5

    def test_calls_that_were_sent_together_fail_once(self, now):
        pace = Pace()
        sent_at = now[0]
        now[0] += 1
        for _ in range(4):
            pace.failed(DliTemporaryError("away"), sent_at)
        assert pace.wait_until - now[0] == 0.5

    def test_dli_is_asked_again_when_it_says(self, now):
        pace = Pace()
        pace.failed(DliTemporaryError("busy", retry_after=7), now[0])
        assert pace.wait_until - now[0] == 7

    def test_an_error_that_stays_slows_nothing_down(self, now):
        pace = Pace()
        pace.failed(DliNotFoundError("no such job"), now[0])
        assert not pace.is_trying
