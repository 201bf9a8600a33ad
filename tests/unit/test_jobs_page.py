"""
The page *DLI jobs* over HTTP: Airflow's own users, tokens, auth manager and database, and the local DLI.

How it looks and what its buttons do in a browser is in ``tests/browser``.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pace
import pytest
import requests
from fakes import identity_of
from lab.jobs_page import chromium
from playwright.sync_api import expect

from airflow_provider_dli.api.flink import FlinkWork
from airflow_provider_dli.api.flink_definition import FlinkDefinition
from airflow_provider_dli.api.kinds import kind_of
from airflow_provider_dli.api.spark import SparkWork
from airflow_provider_dli.client import credentials
from airflow_provider_dli.hooks.dli import DliHook

MINE = identity_of(deployment="ours")
# All with one server.
pytestmark = pytest.mark.xdist_group("jobs_page")

ROLES = ("viewer", "user", "op", "admin")
OURS = {"X-DLI-Jobs-Page": "1", "Content-Type": "application/json"}
LONG_AGO = int((time.time() - 3600) * 1000)
connections = count()


@pytest.fixture(scope="module")
def served():
    """The page below ``/airflow``, as the api-server mounts it, over real HTTP; its address, and tokens by role."""
    import uvicorn
    from fastapi import FastAPI

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
        patch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "of-these-tests-" * 5)
        patch.setenv("AIRFLOW__DLI__DEPLOYMENT", "ours")
        import airflow.models
        from airflow import settings
        from airflow.api_fastapi.app import create_auth_manager
        from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

        from airflow_provider_dli.jobs_page.plugin import DliJobsPlugin

        airflow.models.import_all_models()
        airflow.models.Base.metadata.create_all(settings.engine)
        manager = create_auth_manager()
        tokens = {role: manager.generate_jwt(SimpleAuthManagerUser(username=role, role=role)) for role in ROLES}
        [mounted] = DliJobsPlugin.fastapi_apps
        outer = FastAPI(root_path="/airflow")
        outer.mount(mounted["url_prefix"], mounted["app"])
        server = uvicorn.Server(uvicorn.Config(outer, port=0, log_level="warning"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        [port] = [socket.getsockname()[1] for each in server.servers for socket in each.sockets]
        yield f"http://127.0.0.1:{port}/airflow/dli", tokens
        server.should_exit = True
        thread.join(10)


class Client:
    """A browser of one user, as far as the server sees it."""

    def __init__(self, url, token, conn_id):
        self.url, self.conn_id = url, conn_id
        self._session = requests.Session()
        self._session.trust_env = False
        if token:
            self._session.cookies.set("_token", token)

    def get(self, path, **query):
        return self._session.get(
            f"{self.url}/{path}", params={"connection": self.conn_id, **query}, timeout=30, allow_redirects=False
        )

    def jobs(self, **query):
        answer = self.get("api/jobs", **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def rows(self, **query):
        return {row["id"]: row for row in self.jobs(**query)["rows"]}

    def cancel(self, job_id, kind="sql", headers=OURS, body=None):
        body = body or {"connection": self.conn_id, "kind": kind, "job": job_id}
        origin = {"Origin": self.url.removesuffix("/airflow/dli")}
        return self._session.post(
            f"{self.url}/api/cancel", data=json.dumps(body), headers={**origin, **headers}, timeout=30
        )


@pytest.fixture
def as_(served, dli_local, monkeypatch):
    """Return a function that gives the client of a role; all look at the same new connection."""
    url, tokens = served
    credentials._known.clear()
    conn_id = f"page_{next(connections)}"
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(dli_local.connection()))
    return lambda role: Client(url, tokens.get(role), conn_id)


@pytest.fixture
def submit(dli_local):
    """Return a function that submits a job that runs on, and gives its id."""

    def submit(run_for=60, mine=MINE, tags=None, **changes):
        tags = dataclasses.replace(mine, **changes).tags() if tags is None else tags
        dli_local.will(run_for=run_for)
        job = DliHook().submit_sql_job("SELECT 1", tags=tags)
        dli_local.wait_until(lambda dli: dli.job(job.id).status == ("RUNNING" if run_for else "FINISHED"))
        return job.id

    return submit


@pytest.fixture
def airflow_has(served):
    """Return a function that gives a task instance of Airflow's database a state."""
    from airflow import settings
    from airflow.models import TaskInstance
    from airflow.models.xcom import XComModel
    from sqlalchemy import text

    table, xcoms = TaskInstance.__table__, XComModel.__table__

    def set_state(state, mine=MINE):
        key = {name: getattr(mine, name) for name in ("dag_id", "run_id", "task_id", "map_index")}
        values = {**key, "state": state, "try_number": 1, "id": uuid.uuid4(), "pool": "default_pool", "pool_slots": 1}
        with settings.engine.begin() as connection:
            connection.execute(text("PRAGMA foreign_keys=OFF"))
            connection.execute(
                table.insert().values({name: value for name, value in values.items() if name in table.c})
            )

    def push(name, value, mine=MINE):
        key = {name: getattr(mine, name) for name in ("dag_id", "run_id", "task_id", "map_index")}
        with settings.engine.begin() as connection:
            connection.execute(text("PRAGMA foreign_keys=OFF"))
            connection.execute(xcoms.insert().values(**key, key=name, value=json.dumps(value), dag_run_id=1))

    set_state.xcom = push
    yield set_state
    with settings.engine.begin() as connection:
        connection.execute(table.delete())
        connection.execute(xcoms.delete())


def old(dli_local):
    """Have DLI list its jobs as an hour old: younger ones are no orphans."""
    dli_local.fault("list", "field", times=None, field="start_time", value=LONG_AGO)


def lists(dli_local):
    return [request.call for request in dli_local.requests() if request.call.endswith("list")]


class TestWhoseTheyAre:
    def test_a_job_with_the_way_to_its_task(self, as_, submit, airflow_has):
        mine = dataclasses.replace(MINE, run_id="manual__2026-11-22T00:00:00+00:00/1", map_index=3, try_number=2)
        job_id = submit(mine=mine)
        airflow_has("running", mine)
        row = as_("viewer").rows()[job_id]
        assert (row["dag"], row["run"], row["task"], row["try"]) == ("sales", mine.run_id, "load[3]", 2)
        run = "dags/sales/runs/manual__2026-11-22T00%3A00%3A00%2B00%3A00%2F1"
        assert row["links"] == {
            "dag": "dags/sales",
            "run": run,
            "task": f"{run}/tasks/load/mapped/3",
            "try": f"{run}/tasks/load/mapped/3?try_number=2",
        }
        assert (row["of_kind"], row["status"], row["queue"]) == ("SQL job", "RUNNING", "default")
        assert row["age"].endswith(" s")

    def test_no_way_to_a_task_instance_that_is_gone(self, as_, submit):
        job_id = submit()
        row = as_("viewer").rows()[job_id]
        assert (row["dag"], row["links"]) == ("sales", {})

    @pytest.mark.parametrize(
        ("tags", "note"),
        [
            ({}, "not submitted by an Airflow with this provider"),
            (identity_of(deployment="ours-2").tags(), "of the Airflow named ours-2"),
            ({**MINE.tags(), "airflow_attempt": "1:cut"}, "its tag airflow_attempt is cut or unreadable"),
            ({**MINE.tags(), "airflow_ti": "0" * 40}, "its tag airflow_ti is not that of its names"),
        ],
        ids=["none", "other-airflow", "unreadable", "forged"],
    )
    def test_what_is_no_job_of_this_airflow_is_for_those_who_may_read_the_connection(self, as_, submit, tags, note):
        job_id = submit(tags=tags)
        for role in ROLES:
            assert as_(role).rows() == {}
        for role in ("viewer", "user"):
            assert as_(role).rows(others=True) == {}
            assert not as_(role).jobs()["may_see_others"]
            assert as_(role).get("api/job", kind="sql", job=job_id).status_code == 403
            assert as_(role).cancel(job_id).status_code == 403
        row = as_("op").rows(others=True)[job_id]
        assert row["note"] == note
        assert row["may_cancel"]

    def test_names_can_hold_anything(self, as_, submit, airflow_has):
        evil = "<img src=x onerror=alert(1)>\n\u202e/../%2e"
        mine = identity_of(deployment="ours", dag_id=evil, run_id=evil, task_id=evil)
        job_id = submit(mine=mine)
        airflow_has("running", mine)
        row = as_("viewer").rows()[job_id]
        assert row["dag"] == r"<img src=x onerror=alert(1)> \u202e/../%2e"
        assert row["links"]["dag"] == "dags/%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%0A%E2%80%AE%2F..%2F%252e"

    def test_of_an_airflow_without_a_name_only_what_it_knows_itself(self, as_, submit, airflow_has, monkeypatch):
        monkeypatch.delenv("AIRFLOW__DLI__DEPLOYMENT")
        known, unknown = (submit(deployment=None, run_id=name) for name in ("known", "unknown"))
        airflow_has("running", dataclasses.replace(MINE, run_id="known"))
        assert list(as_("viewer").rows()) == [known]
        assert set(as_("op").rows(others=True)) == {known, unknown}


class TestOrphans:
    @pytest.mark.parametrize(
        ("state", "why"), [("failed", "its task instance is failed"), (None, "its task instance is gone from Airflow")]
    )
    def test_are_marked_and_can_be_shown_alone(self, as_, submit, airflow_has, dli_local, state, why):
        orphan, healthy = submit(), submit(run_id="run 2")
        if state:
            airflow_has(state)
        airflow_has("running", dataclasses.replace(MINE, run_id="run 2"))
        old(dli_local)
        rows = as_("viewer").rows()
        assert {job_id: row["orphan"] for job_id, row in rows.items()} == {orphan: why, healthy: None}
        assert list(as_("viewer").rows(show="orphans")) == [orphan]

    def test_the_job_beside_which_a_later_try_has_another_one(self, as_, submit, airflow_has, dli_local):
        first, second = submit(), submit(try_number=2)
        airflow_has("running")
        old(dli_local)
        # Anyone can write tags.
        assert as_("viewer").rows(show="orphans") == {}
        airflow_has.xcom("job_id", second)
        row = as_("viewer").rows(show="orphans")[first]
        assert row["orphan"] == "try 2 of its task instance has submitted another job since"

    def test_not_what_is_younger_than_the_sweep_waits(self, as_, submit, airflow_has):
        job_id = submit()
        airflow_has("failed")
        assert as_("viewer").rows()[job_id]["orphan"] is None

    def test_nor_what_is_over(self, as_, submit, airflow_has, dli_local):
        job_id = submit(run_for=0)
        airflow_has("failed")
        old(dli_local)
        assert as_("viewer").rows()[job_id]["orphan"] is None

    @pytest.mark.parametrize(("name", "problem"), [("", "is not set"), ("x" * 300, "is too long for a tag")])
    def test_cannot_be_told_without_a_name_of_this_airflow(self, as_, dli_local, monkeypatch, name, problem):
        monkeypatch.setenv("AIRFLOW__DLI__DEPLOYMENT", name)
        found = as_("viewer").jobs(show="orphans")
        assert found["without_orphans"] == (
            "Which jobs are orphans cannot be told: the option deployment in section [dli] of Airflow's configuration "
            f"{problem}."
        )
        assert found["rows"] == []
        assert lists(dli_local) == []


class TestMany:
    COUNT = 230

    @pytest.fixture
    def many(self, dli_local):
        """Jobs that are over, of many DAGs; newest first."""
        hook = DliHook()
        dli_local.will(times=self.COUNT)
        tags = [
            dataclasses.replace(MINE, dag_id=f"dag_{number % 60}", run_id=f"run {number}").tags()
            for number in range(self.COUNT)
        ]
        return [hook.submit_sql_job("SELECT 1", tags=each).id for each in tags][::-1]

    def test_are_read_page_by_page(self, as_, many, dli_local):
        client, found, calls, places = as_("viewer"), [], [], None
        while True:
            page = client.jobs(kind="sql", **({"places": places} if places else {}))
            found.append([row["id"] for row in page["rows"]])
            calls.append(len(lists(dli_local)))
            places = page["next"]
            if not places:
                break
        assert [job_id for page in found for job_id in page] == many
        assert [len(page) for page in found] == [50, 50, 50, 50, 30]
        # DLI has a hundred on a page: the second answer needs nothing new, the last of a page looks at the next.
        assert calls[:1] == [1]
        assert calls[-1] == 3

    @pytest.mark.matrix  # half a minute, most of it to submit them
    def test_thousands_are_as_quick_as_a_few(self, as_, dli_local):
        dli_local.will(times=5_000)
        hook = DliHook()
        for _ in range(5_000):
            hook.submit_sql_job("SELECT 1", tags=MINE.tags())
        began = time.monotonic()
        assert len(as_("viewer").jobs()["rows"]) == 50
        print(f"{time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < pace.seconds(3)
        assert sorted(lists(dli_local)) == ["flink_list", "list", "spark_list"]

    def test_who_may_see_few_of_them_goes_on_until_there_are_enough(self, as_, many, monkeypatch):
        only(monkeypatch, {"dag_1"})
        found = as_("viewer").jobs(kind="sql")
        assert {row["dag"] for row in found["rows"]} == {"dag_1"}
        assert (len(found["rows"]), found["next"]) == (4, None)

    def test_of_several_kinds_in_one_order(self, as_, submit, dli_local):
        first = submit(run_for=0)
        batch = start(dli_local, "spark")
        last = submit(run_for=0)
        assert list(as_("viewer").rows()) == [last, batch, first]

    def test_many_tabs_are_one_question_to_dli(self, as_, submit, dli_local):
        submit()
        dli_local.fault("list", "latency", seconds=1)
        with ThreadPoolExecutor(40) as tabs:
            found = list(tabs.map(lambda role: as_(role).rows(), ROLES * 10))
        assert all(len(rows) == 1 for rows in found)
        assert sorted(lists(dli_local)) == ["flink_list", "list", "spark_list"]

    def test_nobody_else_waits_for_a_dli_that_is_slow(self, as_, dli_local):
        dli_local.fault("list", "latency", times=None, seconds=4)
        with ThreadPoolExecutor(60) as tabs:
            slow = [tabs.submit(as_("viewer").jobs) for _ in range(60)]
            dli_local.wait_until(lists)
            assert as_("viewer").get("static/page.js").status_code == 200
            assert as_("viewer").get("api/choices").status_code == 200
            assert not any(each.done() for each in slow)

    @pytest.fixture
    def hang(self, dli_local):
        """Return a function that has a client ask for 30 lists of Flink jobs that DLI does not answer."""
        tabs = ThreadPoolExecutor(30)

        def hang(client):
            dli_local.fault("flink_list", "hang", times=None, seconds=60)
            places = [f'[["flink","",7,{number},0]]' for number in range(600, 630)]
            asked = [tabs.submit(client.get, "api/jobs", places=place) for place in places]
            dli_local.wait_until(lists)
            return lambda: not any(each.done() for each in asked)

        yield hang
        dli_local.clear_faults()
        # Whatever hangs is cut off, and answered when it is asked again.
        dli_local.restart()
        tabs.shutdown()

    @pytest.mark.parametrize("where", ["elsewhere", "here"])
    def test_nobody_else_waits_for_lists_that_hang(self, as_, submit, hang, monkeypatch, dli_local, where):
        mine, theirs = as_("admin"), as_("viewer")
        if where == "elsewhere":
            theirs.conn_id = "of_a_dli_that_hangs"
            monkeypatch.setenv(f"AIRFLOW_CONN_{theirs.conn_id.upper()}", json.dumps(dli_local.connection()))
        job_id = submit()
        is_hanging = hang(theirs)
        assert list(mine.rows(kind="sql")) == [job_id]
        assert mine.cancel(job_id).status_code == 200
        assert is_hanging()

    def test_nor_does_a_cancel_of_the_same_user(self, as_, submit, hang):
        job_id = submit()
        is_hanging = hang(as_("admin"))
        assert as_("admin").cancel(job_id).status_code == 200
        assert is_hanging()

    def test_nor_for_ever(self, as_, dli_local, monkeypatch):
        monkeypatch.setattr("airflow_provider_dli.jobs_page.lists.WITHIN", 1)
        dli_local.fault("*", "hang", times=None, seconds=3)
        answer = as_("op").get("api/jobs")
        assert (answer.status_code, answer.json()) == (502, {"detail": "No complete answer within 1 s."})

    @pytest.mark.parametrize(
        "places",
        [
            "x",
            "[]]",
            '[["sql","",0,0,0]]',
            '[["sql","",1,0,-1]]',
            '[["sq","",1,0,0]]',
            "{}",
            "[1]",
            "[" * 1999,
            '[["sql","",1,0,true]]',
            '[["sql","",1,0,9999999]]',
        ],
    )
    def test_a_place_that_is_none(self, as_, places):
        assert as_("viewer").get("api/jobs", places=places).status_code in (200, 400)


class TestProblems:
    def test_what_the_hook_says_of_a_refused_password(self, as_, dli_local, monkeypatch):
        client = as_("op")
        wrong = {**dli_local.connection(), "password": "mistyped-secret"}
        monkeypatch.setenv(f"AIRFLOW_CONN_{client.conn_id.upper()}", json.dumps(wrong))
        for _ in range(3):
            answer = client.get("api/jobs")
            assert answer.status_code == 502
            assert "Check login, password, domain_name and project" in answer.json()["detail"]
            assert "mistyped-secret" not in answer.text
        # Each attempt counts towards the lock of the account.
        assert len(dli_local.requests(call="token")) == 1

    def test_a_refused_key_is_sent_once(self, as_, dli_local, monkeypatch):
        client = as_("op")
        wrong = {**dli_local.connection("ak_sk"), "password": "mistyped"}
        monkeypatch.setenv(f"AIRFLOW_CONN_{client.conn_id.upper()}", json.dumps(wrong))
        assert client.get("api/jobs", show="active").status_code == 502
        # A few wrong signatures lock the key.
        assert len(dli_local.requests()) == 1

    def test_a_kind_that_the_user_of_the_connection_may_not_list_does_not_hide_the_others(self, as_, submit, dli_local):
        job_id = submit()
        dli_local.fault("spark_list", "status", times=None, status=403)
        found = as_("op").jobs()
        assert [row["id"] for row in found["rows"]] == [job_id]
        [problem] = found["problems"]
        assert problem.startswith("list of Spark batches failed")
        assert found["next"] is None
        hidden = as_("viewer").jobs()
        assert [row["id"] for row in hidden["rows"]] == [job_id]
        assert hidden["problems"] == ["Some jobs could not be read. Users who may read the connection see why."]

    @pytest.mark.parametrize(
        "connection", [None, {"conn_type": "http", "host": "https://example.org", "password": "x"}]
    )
    def test_no_connection_of_dli(self, as_, monkeypatch, connection, dli_local):
        client = as_("op")
        name = f"AIRFLOW_CONN_{client.conn_id.upper()}"
        monkeypatch.setenv(name, json.dumps(connection)) if connection else monkeypatch.delenv(name)
        answer = client.get("api/jobs")
        assert answer.status_code == 400
        assert answer.json() == {"detail": f"There is no connection '{client.conn_id}' of type dli."}


class TestAccess:
    @pytest.mark.parametrize("path", ["api/jobs", "api/choices", "api/job?kind=sql&job=1"])
    def test_nothing_without_a_login(self, as_, path):
        assert as_(None).get(path).status_code == 401

    def test_the_page_leads_to_the_login_and_back(self, as_):
        answer = as_(None).get("jobs")
        assert answer.status_code == 307
        assert answer.headers["Location"].startswith("/airflow/api/v2/auth/login?next=http")

    def test_a_forged_token_is_none(self, served):
        url, tokens = served
        assert Client(url, tokens["admin"][:-4] + "AAAA", "dli_default").get("api/jobs").status_code in (401, 403)

    def test_connections_to_choose_from(self, as_, served):
        from airflow.models import Connection
        from airflow.utils.session import create_session

        with create_session() as session:
            session.add_all([Connection("of_dli", "dli"), Connection("of_http", "http")])
        try:
            assert as_("viewer").get("api/choices").json()["connections"] == ["dli_default"]
            assert as_("op").get("api/choices").json()["connections"] == ["dli_default", "of_dli"]
        finally:
            with create_session() as session:
                session.query(Connection).delete()

    def test_of_each_dag_by_itself(self, as_, submit, monkeypatch):
        mine, theirs = submit(dag_id="mine"), submit(dag_id="theirs")
        only(monkeypatch, {"mine"})
        assert list(as_("user").rows()) == [mine]
        assert as_("user").cancel(theirs).status_code == 403
        assert as_("user").get("api/job", kind="sql", job=theirs).status_code == 403

    def test_nothing_of_another_site_runs_or_shows_the_page(self, as_):
        answer = as_("viewer").get("jobs")
        assert answer.status_code == 200
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'self'" in policy
        assert "unsafe" not in policy
        for file in ("jobs", "static/page.js"):
            text = as_("viewer").get(file).text
            assert " on" + "click=" not in text
            assert "innerHTML" not in text
            assert "<script>" not in text
            assert "style=" not in text


# What goes wrong with a connection, and would be told.
BROKEN = {
    "absent": None,
    "of-another-type": {"conn_type": "http", "host": "https://example.org"},
    "empty": {"host": "", "extra": {}, "login": None, "password": None},
    "wrong-password": {"password": "mistyped"},
    "wrong-project": {"extra": {"project_id": "0" * 32}},
    "wrong-field": {"extra": {"auth_type": "magic"}},
    "unreadable": "{",
}


class TestUsersWhoMayNotReadTheConnection:
    """They learn nothing of it but the jobs of DAGs that they may see."""

    @pytest.fixture(params=BROKEN)
    def broken(self, request, as_, dli_local, monkeypatch):
        """Return a function that gives the client of a role, which looks at a connection of no use."""
        conn_id, change = f"broken_{next(connections)}", BROKEN[request.param]
        fields = dli_local.connection()
        if isinstance(change, str):
            monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", change)
        elif change is not None:
            changed = {**fields, **change, "extra": {**fields["extra"], **change.get("extra", {})}}
            monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(changed))

        def make(role):
            client = as_(role)
            client.conn_id = conn_id
            return client

        return make

    @pytest.mark.parametrize("role", ["viewer", "user"])
    def test_every_connection_without_their_jobs_looks_alike(self, as_, broken, submit, role):
        submit(tags={})
        healthy = as_(role)
        for path, query in [
            ("api/jobs", {}),
            ("api/jobs", {"show": "active", "kind": "sql", "others": "true"}),
            ("api/job", {"kind": "sql", "job": "8ecb0777-9c70-4529-9935-29ea0946039c"}),
        ]:
            one, other = (each.get(path, **query) for each in (broken(role), healthy))
            assert (one.status_code, one.text.replace(broken(role).conn_id, "?")) == (
                other.status_code,
                other.text.replace(healthy.conn_id, "?"),
            )
        one, other = (each.cancel("8ecb0777-9c70-4529-9935-29ea0946039c") for each in (broken(role), healthy))
        assert (one.status_code, one.text) == (other.status_code, other.text)

    def test_nothing_tells_whom_it_belongs_to(self, as_, submit, dli_local):
        mine, theirs = submit(), submit(tags={})
        client = as_("user")
        texts = [client.get("api/jobs").text]
        for call in ("flink_list", "cancel"):
            dli_local.fault(call, "status", times=None, status=403)
        texts += [client.get("api/jobs", show="active").text, client.cancel(mine).text]
        texts += [client.get("api/job", kind="sql", job=theirs).text]
        [entry] = audit_log(mine)
        texts.append(entry.extra)
        for text in texts:
            for secret in (
                dli_local.url,
                dli_local.url.rpartition("/")[2],
                dli_local.project_id,
                "DLI.",
                "APIG.",
                "403",
            ):
                assert secret not in text

    def test_a_dli_that_hangs_looks_the_same(self, as_, dli_local, monkeypatch):
        monkeypatch.setattr("airflow_provider_dli.jobs_page.lists.WITHIN", 1)
        client = as_("viewer")
        before = client.get("api/jobs", kind="sql")
        dli_local.fault("*", "hang", times=None, seconds=3)
        after = client.get("api/jobs", kind="flink")
        assert (after.status_code, after.text) == (before.status_code, before.text)

    def test_a_cancel_that_fails(self, as_, submit, dli_local):
        job_id = submit()
        dli_local.fault("cancel", "status", times=None, status=403)
        answer = as_("user").cancel(job_id)
        assert answer.status_code == 502
        assert answer.json()["detail"] == (
            f"SQL job {job_id} may still run: the cancel failed. The api-server's log says why, and so does this page to "
            "users who may read the connection."
        )


class TestTeams:
    """Several teams with one Airflow."""

    @pytest.fixture
    def teams(self, served, monkeypatch):
        """Teams `a` and `b`; return a function that gives a DAG to one of them, or to none."""
        from airflow.models import Connection
        from airflow.models.dag import DagModel
        from airflow.models.dagbundle import DagBundleModel
        from airflow.models.team import Team
        from airflow.utils.session import create_session

        def clear():
            with create_session() as session:
                for model in (DagModel, Connection, DagBundleModel, Team):
                    for each in session.query(model):
                        session.delete(each)
                    session.flush()

        def give(dag_id, team, active=True):
            with create_session() as session:
                bundle = DagBundleModel(name=dag_id)
                bundle.active = active
                bundle.teams = [session.query(Team).filter_by(name=team).one()] if team else []
                session.add(bundle)
                session.flush()
                session.add(DagModel(dag_id=dag_id, bundle_name=dag_id))

        monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
        with create_session() as session:
            session.add_all([Team(name="a"), Team(name="b")])
        yield give
        clear()

    @pytest.fixture
    def of_team(self, served, as_):
        """Return a function that gives the client of a role in a team."""
        from airflow.api_fastapi.app import get_auth_manager
        from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

        def make(role, team):
            client = as_(None)
            user = SimpleAuthManagerUser(username=f"{role} of {team}", role=role, teams=[team])
            client._session.cookies.set("_token", get_auth_manager().generate_jwt(user))
            return client

        return make

    def test_see_and_cancel_what_is_theirs(self, teams, of_team, submit):
        teams("of_a", "a")
        teams("of_all", None)
        mine, common = submit(dag_id="of_a"), submit(dag_id="of_all")
        assert set(of_team("user", "a").rows()) == {mine, common}
        assert set(of_team("user", "b").rows()) == {common}
        assert of_team("user", "b").cancel(mine).status_code == 403
        assert of_team("user", "a").cancel(mine).status_code == 200

    @pytest.mark.parametrize("is_left", [False, True], ids=["deleted", "bundle-removed"])
    def test_a_dag_that_is_gone_is_nobodys(self, teams, of_team, submit, dli_local, is_left):
        if is_left:
            teams("gone", None, active=False)
        job_id = submit(dag_id="gone")
        old(dli_local)
        for team in ("a", "b"):
            assert of_team("user", team).rows(others=True) == {}
            assert of_team("user", team).cancel(job_id).status_code == 403
        assert dli_local.job(job_id).status == "RUNNING"
        # Its rights on the connection are what is left.
        row = of_team("admin", "a").rows(show="orphans")[job_id]
        assert row["orphan"]
        assert row["may_cancel"]

    def test_a_connection_of_a_team(self, teams, of_team, submit, dli_local):
        from airflow.models import Connection
        from airflow.utils.session import create_session

        with create_session() as session:
            fields = {**dli_local.connection(), "extra": json.dumps(dli_local.connection()["extra"])}
            session.add(Connection("of_team_a", **fields, team_name="a"))
        teams("of_a", "a")
        teams("of_all", None)
        job_id = submit(dag_id="of_all")
        mine, theirs, nobodys = of_team("op", "a"), of_team("op", "b"), of_team("op", "b")
        mine.conn_id = theirs.conn_id = "of_team_a"
        nobodys.conn_id = "of_team_c"
        assert "of_team_a" in mine.get("api/choices").json()["connections"]
        assert list(mine.rows()) == [job_id]
        assert "of_team_a" not in theirs.get("api/choices").json()["connections"]
        found = theirs.get("api/jobs")
        assert job_id not in found.text
        assert theirs.cancel(job_id).status_code == 403
        assert mine.cancel(job_id).status_code == 200


class TestCancel:
    def test_is_accepted_and_written_down(self, as_, submit, airflow_has, dli_local, caplog):
        job_id = submit()
        airflow_has("running")
        client = as_("user")
        # What was shown a moment ago must not be shown again.
        assert client.rows()[job_id]["status"] == "RUNNING"
        with caplog.at_level("INFO"):
            answer = client.cancel(job_id)
        assert re.fullmatch(rf"SQL job {job_id}: DLI accepted the cancel after [\d.]+ s\.", answer.json()["outcome"])
        assert dli_local.job(job_id).status == "CANCELLED"
        assert client.rows()[job_id]["status"] == "CANCELLED"
        assert f"User user cancels SQL job {job_id}" in caplog.text
        [entry] = audit_log(job_id)
        assert (entry.event, entry.owner, entry.dag_id, entry.run_id, entry.task_id) == (
            "dli_cancel_job",
            "user",
            "sales",
            "run 1",
            "load",
        )
        assert json.loads(entry.extra)["outcome"].startswith("DLI accepted the cancel after ")

    @pytest.mark.parametrize("kind", ["spark", "flink"])
    def test_of_another_kind(self, as_, dli_local, kind):
        job_id = start(dli_local, kind)
        client = as_("user")
        assert client.rows()[job_id]["may_cancel"]
        assert "DLI accepted the cancel" in client.cancel(job_id, kind).json()["outcome"]
        dli_local.wait_until(lambda dli: client.get("api/job", kind=kind, job=job_id).json()["is_active"] is False)

    def test_of_a_job_that_is_over(self, as_, submit):
        job_id = submit(run_for=0)
        assert as_("viewer").cancel(job_id).json() == {"outcome": f"SQL job {job_id}: it was over before (FINISHED)."}

    def test_who_may_only_look_has_no_button_and_is_refused(self, as_, submit, dli_local):
        job_id = submit()
        assert not as_("viewer").rows()[job_id]["may_cancel"]
        answer = as_("viewer").cancel(job_id)
        assert answer.status_code == 403
        assert answer.json()["detail"] == (
            f"You may not cancel SQL job {job_id}: that takes the right to edit the runs of its DAG."
        )
        assert dli_local.job(job_id).status == "RUNNING"
        assert dli_local.requests(call="cancel") == []

    def test_what_dli_says(self, as_, submit, dli_local):
        job_id = submit()
        dli_local.fault("cancel", "status", times=None, status=403)
        answer = as_("op").cancel(job_id)
        assert answer.status_code == 502
        assert f"cancel of SQL job {job_id} failed" in answer.json()["detail"]
        [entry] = audit_log(job_id)
        assert "failed" in json.loads(entry.extra)["outcome"]

    def test_of_a_job_that_dli_does_not_know(self, as_):
        answer = as_("op").cancel("8ecb0777-9c70-4529-9935-29ea0946039c")
        assert answer.status_code == 404

    @pytest.mark.parametrize(
        "body", [{}, {"connection": 1}, {"connection": "a", "kind": "sql", "job": "x", "dag": "y"}, [], "x"]
    )
    def test_of_nothing(self, as_, body):
        assert as_("user").cancel("", body=body or {"x": 1}).status_code == 422

    def test_of_a_job_id_that_leads_elsewhere(self, as_):
        assert as_("user").cancel("../queues/etl").status_code == 400
        assert as_("user").cancel("x", kind="queue").status_code == 400

    @pytest.mark.parametrize(
        "headers",
        [
            {"Content-Type": "application/json"},
            {**OURS, "X-DLI-Jobs-Page": "0"},
            {**OURS, "Content-Type": "text/plain"},
            {**OURS, "Content-Type": "application/x-www-form-urlencoded"},
            {**OURS, "Origin": "http://127.0.0.1:1"},
            {**OURS, "Origin": "null"},
            {**OURS, "Origin": ""},
            {**OURS, "Sec-Fetch-Site": "same-site"},
            {**OURS, "Sec-Fetch-Site": "cross-site"},
        ],
    )
    def test_only_the_page_itself_can_ask_for_it(self, as_, submit, dli_local, headers):
        job_id = submit()
        answer = as_("admin").cancel(job_id, headers=headers)
        assert answer.status_code == 403
        assert "does not come from the page DLI jobs" in answer.json()["detail"]
        assert dli_local.job(job_id).status == "RUNNING"


# Not for longer: as long as Playwright runs, no other test of the process could run an event loop.
@pytest.fixture(scope="class")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser, served, as_):
    """Return a function that opens the page, as a user who may do all."""
    url, tokens = served

    def open_page():
        tab = browser.new_page()
        tab.context.add_cookies([{"name": "_token", "value": tokens["admin"], "url": url}])
        tab.set_default_timeout(20_000)
        tab.goto(f"{url}/jobs?connection={as_('admin').conn_id}")
        return tab

    return open_page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium: apt-get install chromium")
class TestRowsInABrowser:
    """Every row that is shown belongs to what was chosen."""

    def test_of_each_choice_and_page(self, open_page, submit, dli_local, monkeypatch):
        running = submit()
        hook = DliHook()
        dli_local.will(times=70)
        for _ in range(70):
            hook.submit_sql_job("SELECT 1", tags=MINE.tags())
        tab = open_page()
        see(tab, 50)
        tab.get_by_role("button", name="Older jobs").click()
        see(tab, 21)
        tab.get_by_role("button", name="Newer jobs").click()
        see(tab, 50)
        choose(tab, "Active")
        see(tab, 1)
        choose(tab, "Orphans")
        see(tab, 0)
        choose(tab, "All")
        see(tab, 50)
        tab.get_by_role("combobox", name="Kind").select_option("spark")
        see(tab, 0)
        tab.get_by_role("combobox", name="Kind").select_option("sql")
        see(tab, 50)
        monkeypatch.setenv("AIRFLOW_CONN_OF_NOBODY", json.dumps(dli_local.connection(project_id="0" * 32)))
        tab.get_by_role("combobox", name="Connection").select_option("Other connection…")
        tab.get_by_label("Connection id").fill("of_nobody")
        tab.keyboard.press("Enter")
        see(tab, 0)
        assert dli_local.job(running).status == "RUNNING"

    def test_of_a_choice_that_cannot_be_read(self, open_page, submit, dli_local):
        submit()
        tab = open_page()
        see(tab, 1)
        dli_local.fault("*", "status", times=None, status=403)
        choose(tab, "Active")
        expect(tab.get_by_role("alert")).not_to_be_empty()
        expect(tab.locator("#jobs > tr")).to_have_count(0)

    def test_what_was_cancelled_stays_where_it_was_cancelled(self, open_page, submit, dli_local):
        job_id = submit()
        tab = open_page()
        choose(tab, "Active")
        see(tab, 1)
        tab.get_by_role("button", name=f"Cancel SQL job {job_id}").click()
        tab.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
        expect(tab.get_by_role("status")).to_have_text(f"SQL job {job_id} is CANCELLED.")
        see(tab, 1)
        tab.get_by_role("combobox", name="Kind").select_option("spark")
        see(tab, 0)


def choose(tab, which):
    tab.get_by_role("radio", name=which).check(force=True)


def see(tab, count):
    """See so many rows, once the answer is there."""
    expect(tab.get_by_role("main")).to_have_attribute("aria-busy", "false")
    expect(tab.locator("#jobs > tr")).to_have_count(count, timeout=10_000)
    expect(tab.locator("#empty")).to_be_visible(visible=not count)


def test_behind_a_proxy_that_names_another_host(as_, submit, monkeypatch):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/airflow")
    job_id = submit()
    assert as_("user").cancel(job_id, headers={**OURS, "Origin": "https://airflow.example"}).status_code == 200


def test_the_plugin_imports_next_to_nothing_and_can_be_switched_off():
    code = (
        "import sys, airflow.plugins_manager; from airflow.providers.common.compat.sdk import AirflowPlugin, conf;"
        "before = set(sys.modules); from airflow_provider_dli.jobs_page.plugin import DliJobsPlugin as plugin;"
        "print([plugin.fastapi_apps, plugin.external_views, *sorted(set(sys.modules) - before)])"
    )
    env = {**os.environ, "AIRFLOW__DLI__JOBS_PAGE": "False"}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    apps, views, *modules = ast.literal_eval(output.splitlines()[-1])
    assert (apps, views) == ([], [])
    ours = {name.partition(".")[2] for name in modules if name.startswith("airflow_provider_dli.")}
    assert ours == {"compat", "exceptions", "jobs_page", "jobs_page.plugin", "machine", "task_instances", "threads"}
    assert not {"fastapi", "requests", "sqlalchemy"} & set(modules)


def only(monkeypatch, dag_ids):
    """Have the auth manager allow what it allows for these DAGs only."""
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    allowed = SimpleAuthManager.is_authorized_dag
    monkeypatch.setattr(
        SimpleAuthManager,
        "is_authorized_dag",
        lambda self, *, details, **asked: details.id in dag_ids and allowed(self, details=details, **asked),
    )


def audit_log(job_id):
    from airflow.models import Log
    from airflow.utils.session import create_session

    with create_session() as session:
        return [
            entry for entry in session.query(Log).all() if job_id in (entry.extra or "") and not session.expunge(entry)
        ]


def start(dli_local, kind):
    """Submit a job of another kind that runs on; return its id."""
    dli_local.will(run_for=60)
    chosen = kind_of(kind)
    if kind == "spark":
        work = SparkWork(file="group/a.jar", spark_version="2.4.5", queue_name="default")
    else:
        work = FlinkWork(FlinkDefinition("flink_opensource_sql_job", sql_body="SELECT 1", queue_name="default"))
    hook = DliHook()
    job = hook.send(chosen.create(work, MINE))
    if chosen.launch:
        hook.send(chosen.launch(job.id, work))
    return job.id
