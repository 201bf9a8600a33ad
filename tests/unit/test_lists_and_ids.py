"""Answers that are about another job, lists with a job that cannot be read, and lists without end."""

from __future__ import annotations

import itertools
import json
import logging

import pytest
from test_odd_answers import JOB, answered

from airflow_provider_dli import identity
from airflow_provider_dli.api import flink, spark, sql
from airflow_provider_dli.api.job_kind import JobPage, Query
from airflow_provider_dli.client.finding import list_jobs
from airflow_provider_dli.exceptions import DliTemporaryError
from airflow_provider_dli.job import Job, JobState

OTHER = "8ecb0777-0000-4529-9935-29ea0946039c"
LONG = "9" * 4000
LONGER = "9" * 40_000
LISTS = {
    "sql": (sql.list_jobs(), "job_id", lambda jobs: {"job_count": 3, "jobs": jobs}, JOB),
    "spark": (spark.list_batches(), "id", lambda jobs: {"total": 3, "sessions": jobs}, JOB),
    "flink": (flink.list_jobs(), "job_id", lambda jobs: {"job_list": {"total_count": 3, "jobs": jobs}}, 131),
}
LOOKS = {
    "sql": (sql.status(JOB), lambda **id: {"status": "FINISHED", **id}, "job_id"),
    "spark": (spark.status(JOB), lambda **id: {"state": "success", **id}, "id"),
    "spark detail": (spark.detail(JOB), lambda **id: {"state": "success", **id}, "id"),
    "flink": (flink.status("131"), lambda **id: {"job_detail": {"status": "job_finish", **id}}, "job_id"),
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("shown", [OTHER, 132, "132", 0, True, {}, ["131"]])
def test_an_answer_about_another_job_is_not_usable(look, shown):
    call, body, field = LOOKS[look]
    with pytest.raises(DliTemporaryError, match="about another job"):
        answered(call, json.dumps(body(**{field: shown})).encode())


@pytest.mark.parametrize("look", LOOKS)
def test_but_one_that_does_not_say_or_spells_it_otherwise_is(look):
    call, body, field = LOOKS[look]
    mine = ["131", 131, 131.0] if look == "flink" else [JOB, JOB.upper()]
    for known in [body(), body(**{field: None}), body(**{field: ""}), *(body(**{field: each}) for each in mine)]:
        assert answered(call, json.dumps(known).encode()).state is JobState.FINISHED


def test_nor_are_the_rows_of_another_job():
    body = {"job_id": OTHER, "schema": [{"id": "int"}], "rows": [[1]]}
    with pytest.raises(DliTemporaryError, match="about another job"):
        answered(sql.preview(JOB), json.dumps(body).encode())


def test_a_wait_goes_on_after_it(dli_local, hook):
    job = hook.submit_sql_job("select 1")
    dli_local.fault("status", "field", times=2, field="job_id", value=OTHER)
    assert hook.wait_for_job(job.id, poll_interval=0.1).state.is_success


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize(
    "odd", ['"a/b"', '""', "null", LONG, LONGER, "{}", "[]", "-1", "1.5", "true"], ids=lambda odd: odd[:9]
)
def test_a_job_with_a_bad_id_is_skipped(kind, odd):
    call, field, body, known = LISTS[kind]
    text = json.dumps(body([{field: known}, {field: "ODD"}, None, 5])).replace('"ODD"', odd)
    page = answered(call, text.encode())
    assert [job.id for job in page.jobs] == [str(known)]
    assert page.size == 4


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize(
    "number",
    [LONG, LONGER, f"-{LONGER}", f"{LONG}.5", f"1e{LONG}"],
    ids=["long", "longer", "negative", "fraction", "power"],
)
def test_a_number_without_sense_is_left_out(kind, number):
    call, field, body, known = LISTS[kind]
    for name in ("start_time", "create_time", "duration", "result_count", "input_size", "status", "queue_name"):
        text = json.dumps(body([{field: known, name: "ODD"}])).replace('"ODD"', number)
        assert [job.id for job in answered(call, text.encode()).jobs] == [str(known)]


def job_of(number, **more):
    return Job(str(number), "flink", "Flink job", JobState.RUNNING, "x", **more)


def test_it_is_said_once(caplog):
    said, page = set(), JobPage([job_of(1)], 0, (None,))
    for _ in range(3):
        assert len(list(list_jobs(lambda call: page, flink.KIND, Query(), logging, said))) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "DLI's list of Flink jobs holds jobs without a usable id (1 on one page): they are left out."
    ]


def test_but_one_of_the_task_itself_is_not_taken_for_missing():
    tags = {identity.TI: "x"}
    page = JobPage([], 0, (job_of("", tags=tags),))
    with pytest.raises(DliTemporaryError, match="a job of this task without a usable id"):
        list(list_jobs(lambda call: page, flink.KIND, Query(tags=tags), logging))


@pytest.mark.parametrize("kind", [sql.KIND, spark.KIND, flink.KIND], ids=lambda kind: kind.name)
@pytest.mark.parametrize("skipped", [False, True])
def test_a_list_that_repeats_its_page_ends(kind, skipped, caplog):
    page = JobPage([], 0, (None,) * 100) if skipped else JobPage([job_of(number) for number in range(100)], 0)
    calls = itertools.count()
    found = list(list_jobs(lambda call: (next(calls), page)[1], kind, Query(), logging))
    assert len(found) == (0 if skipped else 100)
    assert next(calls) < 10
    assert "shows the same jobs again and again" in caplog.text


@pytest.mark.parametrize("kind", [sql.KIND, spark.KIND, flink.KIND], ids=lambda kind: kind.name)
def test_a_list_that_never_ends_is_bounded(kind, caplog):
    numbers = itertools.count()
    found = list_jobs(lambda call: JobPage([job_of(next(numbers)) for _ in range(100)], 0), kind, Query(), logging)
    assert sum(1 for _ in found) <= 100_000
    assert "has no end" in caplog.text or "of one moment" in caplog.text
