"""The tags by which a job is found again: a contract with the releases that come after."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dli import identity
from airflow_provider_dli.api.sql import SqlWork
from airflow_provider_dli.exceptions import DliValueError
from airflow_provider_dli.job import Job, JobState

START = datetime(2026, 11, 22, 16, 20, 0, 123457, tzinfo=UTC)


def an_identity(**changes):
    fields = {
        "dag_id": "sales",
        "run_id": "scheduled__2026-11-22T00:00:00+00:00",
        "task_id": "load.daily",
        "map_index": -1,
        "statement_index": 0,
        "generation": identity.generation(START, 2),
        "try_number": 1,
        "owner": "task",
        "work": SqlWork("select 1", "db", "default", {"b": True, "a": 1}).digest,
        "deployment": "production",
    }
    return identity.Identity(**{**fields, **changes})


def test_the_tags_of_this_release_stay_as_they_are():
    # Jobs that run while a user upgrades must be found by the next release: never change these values.
    assert an_identity().tags() == {
        "airflow_ti": "21ad96942cd532e5a304c03dac76c98d7cd9c054",
        "airflow_attempt": "1:1795364400123457.2:1:-1:0:task:b1556c9f75ad9a19",
        "airflow_dag": "sales",
        "airflow_run": "scheduled__2026-11-22T00:00:00+00:00",
        "airflow_task": "load.daily",
        "airflow_deployment": "production",
    }


def test_without_a_deployment_there_is_no_such_tag():
    assert "airflow_deployment" not in an_identity(deployment=None).tags()


@pytest.mark.parametrize("field", ["dag_id", "run_id", "task_id"])
def test_another_task_instance_has_another_airflow_ti(field):
    assert an_identity().ti != an_identity(**{field: "other"}).ti


def test_tries_share_airflow_ti_and_differ_in_the_attempt():
    first, second = an_identity(), an_identity(try_number=2)
    assert first.ti == second.ti
    assert first.attempt != second.attempt
    assert an_identity(map_index=3).ti != first.ti


def test_a_clear_changes_the_generation():
    assert identity.generation(START, 2) == identity.generation(START, 2)
    assert identity.generation(START, 2) != identity.generation(START, 3)
    assert identity.generation(START, 2) != identity.generation(START + timedelta(microseconds=1), 2)
    assert identity.generation(None, 0) == "0.0"


def test_work_tells_statements_and_settings_apart_but_not_their_order():
    assert SqlWork("s", "d", "q", {"a": 1, "b": 2}).digest == SqlWork("s", "d", "q", {"b": "2", "a": "1"}).digest
    several = {
        SqlWork(*what).digest
        for what in [
            ("s", "d", "q", {}),
            ("t", "d", "q", {}),
            ("s", "e", "q", {}),
            ("s", "d", "r", {}),
            ("s", "d", "q", {"a": 1}),
        ]
    }
    assert len(several) == 5


@given(st.text(max_size=80))
def test_every_name_is_written_with_allowed_characters_and_read_back(name):
    value = identity.escape(name)
    assert re.fullmatch(r"[A-Za-z0-9 _.:+@-]{0,255}", value)
    expected = name if len(value) <= 255 and not value.endswith("@-") else None
    assert identity.unescape(value) == expected


@given(st.text(min_size=256, max_size=400))
def test_a_name_that_is_too_long_is_cut_marked_and_not_read_back(name):
    value = identity.escape(name)
    assert len(value) <= 255
    assert identity.unescape(value) is None


def test_the_users_tags_come_first_and_ours_are_there():
    tags = identity.merged_tags({"team": "sales", "cost center": 42}, an_identity().tags())
    assert list(tags)[:3] == ["team", "cost center", "airflow_ti"]
    assert tags["cost center"] == "42"


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        ({"airflow_ti": "x"}, "'airflow_ti' is a tag by which this provider finds its jobs again; choose another name"),
        ({"": "x"}, "DLI does not take the key ''"),
        ({" a": "x"}, "DLI does not take the key ' a'"),
        ({"a ": "x"}, "DLI does not take the key 'a '"),
        ({"_sys_a": "x"}, "not starting with _sys_"),
        ({"a/b": "x"}, "DLI does not take the key 'a/b'"),
        ({"a": "x=y"}, "DLI does not take the value 'x=y' of 'a'"),
        ({"a": "x" * 256}, "at most 255 letters"),
        ({"a": "line\nbreak"}, "DLI does not take the value"),
    ],
)
def test_a_tag_that_dli_refuses_is_named_before_anything_is_sent(tags, problem):
    with pytest.raises(DliValueError, match=re.escape(problem)) as caught:
        identity.merged_tags(tags, {})
    assert caught.value.field == "tags"


class TestWithoutTags:
    """Kinds without tags carry the same values elsewhere."""

    def test_settings_of_spark(self):
        tags = an_identity().tags()
        conf = identity.settings(tags)
        assert conf["spark.airflow.ti"] == tags["airflow_ti"]
        assert identity.from_settings({**conf, "spark.sql.shuffle.partitions": "200", "spark.x": 1}) == tags

    def test_a_name_tells_the_attempt_and_the_first_digits(self):
        mine = an_identity(map_index=-1)
        name = identity.name("nightly-job", identity.long_ending(mine), 128)
        assert identity.from_name(name) == {"airflow_ti": mine.ti[:24], "airflow_attempt": mine.attempt}
        assert identity.from_name(identity.name("x" * 200, identity.long_ending(mine), 128))["airflow_ti"]

    @pytest.mark.parametrize("name", ["", "nightly", "a-1:2:3", f"a-{'0' * 24}-2:1.1:1:-1:0:task:abc"])
    def test_the_name_of_somebody_else_tells_nothing(self, name):
        assert identity.from_name(name) == {}

    def test_names_of_flink_differ_from_try_to_try(self):
        first, second = (identity.short_ending(an_identity(try_number=number)) for number in (1, 2))
        assert first != second
        assert first[:24] == second[:24]
        assert re.fullmatch(r"[0-9a-f]{24}-[0-9a-f]{8}", first)
        assert len(identity.name("a" * 60, first, 57)) == 57

    @given(st.text(min_size=1, max_size=250), st.text(min_size=1, max_size=250), st.text(min_size=1, max_size=250))
    def test_a_description_fits_and_names_that_do_not_are_marked_as_cut(self, dag_id, run_id, task_id):
        mine = an_identity(dag_id=dag_id, run_id=run_id, task_id=task_id, deployment="d" * 100)
        text = identity.description(mine.tags(), 512)
        found = identity.from_description(text)
        assert len(text) <= 512
        assert {key: found[key] for key in ("airflow_ti", "airflow_attempt", "airflow_deployment")} == {
            key: mine.tags()[key] for key in ("airflow_ti", "airflow_attempt", "airflow_deployment")
        }
        for key, name in (("airflow_dag", dag_id), ("airflow_run", run_id), ("airflow_task", task_id)):
            assert identity.unescape(found[key]) in (name, None)

    @pytest.mark.parametrize("text", ["", "a job of mine", "[]", '{"airflow_ti": 1, "team": "sales"}', "{" * 100_000])
    def test_a_description_of_somebody_else_tells_nothing(self, text):
        assert identity.from_description(text) == {}

    def test_a_job_that_only_its_name_tells_of(self):
        mine, other = an_identity(), an_identity(task_id="other")
        tags = {"airflow_ti": mine.ti[:24], "airflow_attempt": mine.attempt}
        job = Job("1", "spark", "Spark batch", JobState.RUNNING, "running", tags=tags, is_proved=False)
        assert identity.fits(job, mine.tags())
        assert not identity.fits(job, other.tags())
        assert not identity.fits(replace(job, tags={}), {})
        assert not identity.fits(replace(job, is_proved=True), mine.tags())
