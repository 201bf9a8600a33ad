"""Lists of jobs are read to their end, whatever DLI's pages are like. Of more than DLI shows: test_hook.py."""

from __future__ import annotations

import logging
from dataclasses import replace

import pendulum
import pytest

from airflow_provider_dli.api import flink, spark
from airflow_provider_dli.api.job_kind import JobPage, Query
from airflow_provider_dli.client.finding import list_jobs
from airflow_provider_dli.job import Job, JobState

NOW = pendulum.datetime(2026, 11, 22)


def jobs_of(number, **changes):
    """The newest first, a minute apart."""
    return [
        Job(str(index), "flink", "Flink job", JobState.RUNNING, "x", start_time=NOW.subtract(minutes=index), **changes)
        for index in range(number)
    ]


class Pages:
    """A DLI that shows no more than so many jobs on a page."""

    def __init__(self, jobs, page_size, says_count=True):
        self.jobs, self.page_size, self.says_count, self.calls = jobs, page_size, says_count, 0

    def __call__(self, call):
        self.calls += 1
        offset = call.query.get("offset", call.query.get("from"))
        return JobPage(self.jobs[offset : offset + self.page_size], len(self.jobs) if self.says_count else 0)


@pytest.mark.parametrize("kind", [spark.KIND, flink.KIND], ids=lambda kind: kind.name)
@pytest.mark.parametrize("page_size", [100, 30])
def test_also_where_pages_are_shorter_than_asked_for(kind, page_size):
    pages = Pages(jobs_of(130), page_size)
    assert [job.id for job in list_jobs(pages, kind, Query(), logging)] == [str(index) for index in range(130)]


def test_also_where_dli_does_not_count():
    assert len(list(list_jobs(Pages(jobs_of(230), 100, says_count=False), flink.KIND, Query(), logging))) == 230


def test_it_ends_with_what_is_older_than_needed():
    pages = Pages(jobs_of(1000), 100)
    since = int(NOW.subtract(minutes=150).timestamp() * 1000)
    found = [int(job.id) for job in list_jobs(pages, flink.KIND, Query(since=since), logging)]
    assert set(range(150)) <= set(found)
    assert pages.calls == 3


def test_but_not_where_the_pages_are_not_sorted():
    pages = Pages(jobs_of(1000)[::-1], 100)
    since = int(NOW.subtract(minutes=150).timestamp() * 1000)
    found = [int(job.id) for job in list_jobs(pages, flink.KIND, Query(since=since), logging)]
    assert set(range(150)) <= set(found)


def test_names_are_compared_exactly():
    jobs = [replace(job, name=name) for job, name in zip(jobs_of(2), ["nightly", "nightly-2"], strict=True)]
    assert [job.name for job in list_jobs(Pages(jobs, 100), spark.KIND, Query(name="nightly"), logging)] == ["nightly"]
