"""
The page *DLI jobs* with the auth manager of the FAB provider: users and roles in Airflow's database.

``uv run --isolated --group test --group integrations pytest -n 0 -m matrix tests/airflow/test_fab.py``
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

import pace
import pytest
import requests
from lab.jobs_page import identity_of

from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.local.airflow.launcher import AirflowLauncher
from airflow_provider_dli.local.handle import LocalDli

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(300)]
pytest.importorskip("airflow.providers.fab", reason="the group `integrations` is not installed")

# Of the job of a task of this Airflow, and of one that somebody has submitted by hand.
TAGS = {"ours": identity_of("sales", "load").tags(), "foreign": {}}


class AirflowWithFab(AirflowLauncher):
    """The API server alone; users and roles are those of the FAB provider."""

    components = ("api-server",)

    def create_user(self) -> None:
        name = ("--firstname", "A", "--lastname", "B", "--email", "admin@localhost")
        user = ("--username", self.username, f"--password={self.password}", "--role", "Admin")
        self.run("users create", *user, *name, to="create a user")

    def settings(self) -> dict[str, object]:
        manager = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
        return {**super().settings(), "core.auth_manager": manager, "dli.deployment": "tests"}

    def log_in(self, username: str, password: str) -> requests.Session:
        """Return a session like that of a browser in which this user has logged in."""
        session = requests.Session()
        session.trust_env = False
        answer = session.post(f"{self.url}/auth/token", json={"username": username, "password": password}, timeout=60)
        answer.raise_for_status()
        session.cookies.set("_token", answer.json()["access_token"])
        return session


@pytest.fixture(scope="module")
def airflow(dli: LocalDli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowWithFab]:
    with AirflowWithFab(tmp_path_factory.mktemp("dags"), env=dli.connection_env()) as airflow:
        yield airflow


@pytest.fixture(scope="module")
def users(airflow: AirflowWithFab) -> dict[str, requests.Session]:
    """The session of a user of each role."""
    admin = airflow.log_in(airflow.username, airflow.password)
    bearer = {"Authorization": f"Bearer {admin.cookies['_token']}"}
    sessions = {"Admin": admin}
    for role in ("Viewer", "User", "Op"):
        user = {"username": role, "first_name": "A", "last_name": role, "email": f"{role}@localhost"}
        user |= {"password": airflow.password, "roles": [{"name": role}]}
        answer = admin.post(f"{airflow.url}/auth/fab/v1/users", json=user, headers=bearer, timeout=60)
        assert answer.ok, answer.text
        sessions[role] = airflow.log_in(role, airflow.password)
    return sessions


@pytest.mark.parametrize(
    ("role", "sees", "cancels"),
    [
        ("Viewer", {"ours"}, set()),
        ("User", {"ours"}, {"ours"}),
        ("Op", {"ours", "foreign"}, {"ours", "foreign"}),
        ("Admin", {"ours", "foreign"}, {"ours", "foreign"}),
    ],
)
def test_who_may_see_and_cancel_what(
    airflow: AirflowWithFab,
    dli: LocalDli,
    users: dict[str, requests.Session],
    role: str,
    sees: set[str],
    cancels: set[str],
) -> None:
    dli.will(run_for=120, times=2)
    with dli.as_connection():
        jobs = {name: DliHook().submit_sql_job("SELECT 1", tags=tags).id for name, tags in TAGS.items()}
    session = users[role]
    assert session.get(f"{airflow.url}/dli/jobs", timeout=60).ok
    # A list that was read a moment ago is shown again.
    answer = dli.wait_until(lambda dli: listed(airflow, session, jobs.values()), timeout=pace.seconds(20))
    name_of = {job_id: name for name, job_id in jobs.items()}
    assert {name_of[row["id"]] for row in answer} == sees
    assert {name_of[row["id"]] for row in answer if row["may_cancel"]} == cancels

    for name, job_id in jobs.items():
        body = json.dumps({"connection": "dli_default", "kind": "sql", "job": job_id})
        headers = {"X-DLI-Jobs-Page": "1", "Content-Type": "application/json", "Origin": airflow.url}
        answer = session.post(f"{airflow.url}/dli/api/cancel", data=body, headers=headers, timeout=60)
        assert answer.status_code == (200 if name in cancels else 403), answer.text
        assert bool(dli.job(job_id).cancel_requests) == (name in cancels)


def listed(airflow: AirflowWithFab, session: requests.Session, jobs: Collection[str]) -> list[dict[str, Any]]:
    """Return the rows of these jobs on the page."""
    answer = session.get(f"{airflow.url}/dli/api/jobs", params={"show": "active", "others": True}, timeout=60)
    answer.raise_for_status()
    return [row for row in answer.json()["rows"] if row["id"] in jobs]
