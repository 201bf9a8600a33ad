"""
An upgrade while tasks are deferred and jobs run, and a downgrade: what 0.1.0 has left is understood.

The files in `fixtures` are what that release wrote, and stay as they are. A release that writes something else adds a
folder of its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import inspect
import json
from pathlib import Path

import pendulum
import pytest
from airflow.models import Connection
from fakes import OVER, TaskInstance, context_of, execute
from test_odd_answers import answered

from airflow_provider_dli import compat, identity, xcoms
from airflow_provider_dli.api import flink, spark, sql
from airflow_provider_dli.api.flink_definition import FlinkDefinition
from airflow_provider_dli.api.spark import SparkWork
from airflow_provider_dli.client.connection import DliConnection
from airflow_provider_dli.exceptions import DliError
from airflow_provider_dli.get_provider_info import get_provider_info
from airflow_provider_dli.operators import dli as operators
from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator
from airflow_provider_dli.sensors.dli import DliJobSensor
from airflow_provider_dli.sweep.verdict import candidate
from airflow_provider_dli.task_instances import TaskInstanceKey
from airflow_provider_dli.tasks.deferral import Deferral
from airflow_provider_dli.triggers.dli import DliJobTrigger

KEPT = Path(__file__).parent / "fixtures" / "0.1.0"
START = pendulum.datetime(2026, 11, 22)
HOW_TO_DEPRECATE = (
    'A parameter is never just removed or given another default: see "How a parameter is removed" in CONTRIBUTING.md.'
)


def kept(name):
    return json.loads((KEPT / name).read_text())


def parameters_of(function):
    """Return the names of the parameters with their defaults, as text; those that have none, with None."""
    parameters = {}
    # Airflow's own classes take part by their keyword arguments.
    for cls in reversed(inspect.getmro(function)) if inspect.isclass(function) else [function]:
        own = cls.__dict__.get("__init__") if inspect.isclass(cls) else cls
        if own is None or not getattr(own, "__module__", "").startswith("airflow_provider_dli"):
            continue
        for name, each in inspect.signature(inspect.unwrap(own)).parameters.items():
            if name != "self" and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL):
                # What a setting of Airflow decides is not the same everywhere.
                default = "[operators] default_deferrable" if name == "deferrable" else repr(each.default)
                parameters[name] = None if each.default is each.empty else default
    return parameters


def public_methods(cls):
    return {name: each for name, each in vars(cls).items() if inspect.isfunction(each) and not name.startswith("_")}


class TestJobs:
    """Jobs that a task of 0.1.0 has left running."""

    JOBS = kept("jobs.json")

    def read(self, each):
        call, body = {
            "sql": (sql.status("8ecb0777"), each["body"]),
            "spark": (spark.detail("8ecb0777"), each["body"]),
            "flink": (flink.status("131"), {"job_detail": each["body"]}),
        }[each["kind"]]
        return answered(call, json.dumps(body).encode())

    @pytest.mark.parametrize("each", JOBS, ids=lambda each: f"{each['kind']}, {each['what']}")
    def test_they_tell_whose_they_are(self, each):
        job, mine = self.read(each), identity.Identity(**each["identity"])
        assert job.tags == each["tags"]
        assert job.is_proved == each.get("is_proved", True)
        assert identity.fits(job, mine.sought if job.is_proved else {identity.TI: mine.ti})
        attempt = identity.read_attempt(job.tags)
        for field in ("generation", "try_number", "map_index", "statement_index", "owner", "work"):
            assert getattr(attempt, field) == getattr(mine, field), field
        if identity.DAG in job.tags and not job.tags[identity.DAG].endswith("@-"):
            names = [identity.unescape(job.tags[key]) for key in (identity.DAG, identity.RUN, identity.TASK)]
            assert names == [mine.dag_id, mine.run_id, mine.task_id]
        if mine.deployment:
            found = candidate(job, mine.deployment)
            assert (found.dag_id, found.owner, found.problem) == (mine.dag_id, mine.owner, "")

    @pytest.mark.parametrize("each", JOBS, ids=lambda each: f"{each['kind']}, {each['what']}")
    def test_this_release_would_write_the_same(self, each):
        mine, tags = identity.Identity(**each["identity"]), each["tags"]
        if each["kind"] == "sql":
            assert mine.tags() == tags
        elif each["kind"] == "flink":
            assert json.loads(identity.description(mine.tags(), flink.MAX_DESCRIPTION)) == tags
            assert each["body"]["name"].endswith(identity.short_ending(mine))
        else:
            assert each["body"]["name"].endswith(identity.long_ending(mine))
            conf = json.loads(each["body"].get("req_body", '{"conf": {}}'))["conf"]
            assert conf in ({}, identity.settings(mine.tags()))

    def test_the_next_try_waits_for_one(self, connect, dli_local):
        plain = self.JOBS[0]
        dli_local.will(run_for=0.5)
        tags = {tag["key"]: tag["value"] for tag in plain["body"]["tags"]}
        job_id = connect().submit_sql_job("select 1", tags=tags).id
        assert self.next_try() == job_id
        assert len(dli_local.jobs()) == 1

    def next_try(self, **arguments):
        task = DliSubmitSqlJobOperator(task_id="load", sql="select 1", poll_interval=0.1, **arguments)
        return execute(task, context_of(TaskInstance(try_number=2), START))

    @pytest.mark.parametrize("attempt", ["2:1795305600000000.2:1:-1:0:task:ab", "10:anything"])
    def test_beside_one_of_a_newer_release_nothing_is_started(self, connect, dli_local, attempt):
        tags = {**self.JOBS[0]["tags"], "airflow_attempt": attempt}
        dli_local.will(run_for=60)
        connect().submit_sql_job("select 1", tags=tags)
        with pytest.raises(DliError, match="was submitted by a newer release of airflow-provider-dli"):
            self.next_try()
        assert [job.is_active for job in dli_local.jobs()] == [True]
        assert self.next_try(on_earlier_job="ignore") == dli_local.jobs()[1].job_id

    def test_a_tag_that_a_newer_release_adds_does_no_harm(self, connect, dli_local):
        dli_local.will(run_for=0.5)
        job_id = connect().submit_sql_job("select 1", tags={**self.JOBS[0]["tags"], "airflow_novelty": "x"}).id
        assert self.next_try() == job_id


class TestTriggers:
    """Of every kind and every operator; those of SQL statements are in `test_trigger.py`."""

    @pytest.mark.parametrize("each", kept("triggers.json"), ids=lambda each: each["what"])
    def test_it_fires(self, connect, dli_local, each):
        hook, kind = connect(), each["arguments"]["kind"]
        dli_local.will(kind=kind, run_for=0.2 if each["arguments"]["goal"] == "finished" else 60)
        job_ids = [self.started(hook, kind) for _ in each["arguments"]["job_ids"]]
        module, _, name = each["class"].rpartition(".")
        trigger = getattr(importlib.import_module(module), name)(**{**each["arguments"], "job_ids": job_ids})
        trigger.task_instance = TaskInstance()
        assert trigger.serialize() == (each["class"], {**each["arguments"], "job_ids": job_ids})

        async def event():
            return (await anext(trigger.run())).payload

        assert asyncio.run(event()) == {"outcome": "over", "message": "", "job_ids": job_ids}

    def started(self, hook, kind):
        if kind == "sql":
            return hook.submit_sql_job("select 1").id
        if kind == "spark":
            work = SparkWork(file="group/job.jar", class_name="Main", spark_version="2.4.5", queue_name="general")
            return hook.send(spark.create(work, name="nightly")).id
        definition = FlinkDefinition(job_type="flink_jar_job", entrypoint="obs://b/job.jar", queue_name="general")
        job_id = hook.send(flink.create(definition, name="rates", description="")).id
        hook.send(flink.run(job_id))
        return job_id


class TestDeferrals:
    """What crosses a deferral; what the triggers themselves do is in `test_trigger.py`."""

    @pytest.mark.parametrize("each", kept("deferrals.json"), ids=lambda each: each["what"])
    def test_a_task_that_was_deferred_is_resumed(self, connect, dli_local, airflow_says, each):
        hook = connect()
        dli_local.will(run_for=0)
        job_id = hook.wait_for_job(hook.submit_sql_job("select 1").id, poll_interval=0.1).id
        airflow_says("running", job_id)
        filled = json.loads(json.dumps(each).replace("JOB", job_id))
        cls = getattr(operators, each["operator"], DliJobSensor)
        interval = {} if cls is DliJobSensor else {"poll_interval": 0.1}
        task = cls(task_id="load", deferrable=True, **interval, **filled["arguments"])
        event = {**OVER, "job_ids": [job_id]}
        assert (
            task.resume_execution("execute_complete", {**filled["crossed"], "event": event}, context_of())
            == filled["result"]
        )
        assert len(dli_local.jobs()) == 1

    def test_this_release_keeps_no_other_fields(self):
        known = {name for each in kept("deferrals.json") for name in each["crossed"]} | {"start_by"}
        assert {each.name for each in dataclasses.fields(Deferral)} <= known, "add a deferral that has the new ones"

    def test_more_than_this_release_understands_is_said(self, connect, dli_local, airflow_says):
        dli_local.will(run_for=0)
        job_id = connect().submit_sql_job("select 1").id
        airflow_says("running", job_id)
        task = DliSubmitSqlJobOperator(task_id="load", sql="select 1", deferrable=True)
        crossed = {"job_ids": [job_id], "novelty": 1, "event": OVER}
        with pytest.raises(DliError, match=f"newer release .* does not understand novelty. The next try .* {job_id}"):
            task.resume_execution("execute_complete", crossed, context_of())
        assert len(dli_local.jobs()) == 1

    def test_a_trigger_of_a_newer_release_is_not_made_and_its_task_sees_to_the_job(
        self, connect, dli_local, airflow_says
    ):
        """Airflow ends the deferral then: what the argument means is not known, so that it cannot be left out."""
        with pytest.raises(TypeError, match="novelty"):
            DliJobTrigger(**json.loads((KEPT.parent / "triggers.json").read_text())[0]["arguments"], novelty=1)
        dli_local.will(run_for=60)
        job_id = connect().submit_sql_job("select 1").id
        airflow_says("running", job_id)
        task = DliSubmitSqlJobOperator(task_id="load", sql="select 1", deferrable=True)
        with pytest.raises(Exception, match="Trigger failure"):
            task.resume_execution("__fail__", {"error": "Trigger failure"}, context_of())
        assert dli_local.job(job_id).cancel_requests


class TestXComs:
    def test_they_are_read(self, monkeypatch):
        found = kept("xcoms.json")
        monkeypatch.setattr(compat, "xcom", lambda key, name: found.get(name))
        key = TaskInstanceKey("sales", "run 1", "load", -1)
        assert xcoms.announced_job_id(key) == found["job_id"]
        assert xcoms.is_foreign(key)
        assert xcoms.announced_statement(key) == xcoms.Place(2, 3)

    def test_this_release_pushes_the_same(self):
        ti, found = TaskInstance(), kept("xcoms.json")
        xcoms.announce(ti, found["job_id"], found["_link_DliJobLink"], is_foreign=True, place=xcoms.Place(2, 3))
        assert ti.xcoms == found


@pytest.mark.parametrize("each", kept("connections.json"), ids=lambda each: each["extra"].get("auth_type", "none"))
def test_a_connection_is_understood(monkeypatch, each):
    for name, value in (("AK", "ak"), ("SK", "sk"), ("PROJECT_ID", "p2")):
        monkeypatch.setenv(f"HUAWEICLOUD_SDK_{name}", value)
    fields, expected = dict(each), each["expected"]
    del fields["expected"]
    fields["extra"] = json.dumps(fields["extra"])
    found = DliConnection.from_airflow(Connection(conn_id="dli_default", conn_type="dli", **fields))
    assert {name: getattr(found, name) for name in expected} == expected


class TestNamesInUse:
    """What DAG files and configurations name: it is added to only."""

    @pytest.mark.parametrize(("path", "recorded"), kept("public.json").items())
    def test_a_parameter_stays(self, path, recorded):
        module, _, name = path.rpartition(".")
        cls = getattr(importlib.import_module(module), name)
        methods = {each: parameters_of(getattr(cls, each, None)) for each in recorded.get("methods", ())}
        for now, then in (
            (parameters_of(cls), recorded["parameters"]),
            *zip(methods.values(), recorded.get("methods", {}).values(), strict=False),
        ):
            lost = {each: default for each, default in then.items() if each not in now or now[each] != default}
            assert not lost, f"{name}: {lost} of 0.1.0 is gone or has another default. {HOW_TO_DEPRECATE}"
            new = {each for each in now.keys() - then.keys() if now[each] is None}
            assert not new, f"{name}: {new} must have a default, for DAGs of 0.1.0 do not give it."
        assert set(recorded.get("template_fields", ())) <= set(getattr(cls, "template_fields", ()))

    def test_the_public_operators_stay(self):
        recorded = {path.rpartition(".")[2] for path in kept("public.json") if ".operators." in path}
        assert recorded <= set(operators.__all__)

    def test_what_airflow_reads_of_the_provider_stays(self):
        def lost(then, now, path=""):
            if isinstance(then, dict) and isinstance(now, dict):
                for key, value in then.items():
                    yield from lost(value, now.get(key), f"{path}.{key}")
            elif isinstance(then, list) and isinstance(now, list):
                for value in then:
                    if not any(not list(lost(value, each)) for each in now):
                        yield f"{path}: {value}"
            # Texts for people may change.
            elif then != now and path.rpartition(".")[2] not in ("description", "label", "version", "version_added"):
                yield f"{path}: {then}"

        assert not list(lost(kept("provider_info.json"), get_provider_info()))
