"""Tokens, projects, and who is let in."""

import time

import pytest
import requests

from .conftest import Wire, get_token, token_request


def test_a_token_is_long_and_names_the_project_asked_for_by_name(dli_local):
    answer = get_token(dli_local)
    assert answer.status_code == 201
    assert len(answer.headers["X-Subject-Token"]) > 2000
    token = answer.json()["token"]
    assert token["project"]["id"] == dli_local.project_id
    assert token["expires_at"] > token["issued_at"]
    assert token["catalog"][0]["type"] == "identity"


def test_the_catalog_can_be_left_out(dli_local):
    url = f"{dli_local.url}/v3/auth/tokens?nocatalog=true"
    assert "catalog" not in requests.post(url, json=token_request(dli_local), timeout=10).json()["token"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"name": "nobody"}, 401),
        ({"password": "wrong"}, 401),
        ({"domain": {"name": "elsewhere"}}, 401),
        ({"scope": {"project": {"name": "eu-nl"}}}, 404),
        ({"scope": {"project": {"id": "0" * 32}}}, 404),
        ({"scope": {"domain": {"name": "elsewhere"}}}, 404),
    ],
)
def test_what_is_wrong_is_refused_in_iams_shape(dli_local, changes, status):
    answer = get_token(dli_local, **changes)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == status
    assert "X-Subject-Token" not in answer.headers


def test_a_body_that_is_no_token_request(dli_local):
    answer = requests.post(f"{dli_local.url}/v3/auth/tokens", json={"auth": {}}, timeout=10)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "IAM.0011")


def test_a_domain_token_is_not_for_dli(dli_local):
    token = get_token(dli_local, scope={"domain": {"name": dli_local.domain}}).headers["X-Subject-Token"]
    answer = Wire(dli_local, token).get("jobs")
    assert (answer.status_code, answer.json()["error_code"]) == (403, "APIG.0310")


@pytest.mark.parametrize(("name", "found"), [("eu-de", 1), ("eu-nl", 0)])
def test_projects_by_name(dli_local, token, name, found):
    headers = {"X-Auth-Token": token}
    answer = requests.get(f"{dli_local.url}/v3/projects", params={"name": name}, headers=headers, timeout=10)
    assert [project["id"] for project in answer.json()["projects"]] == [dli_local.project_id] * found


def test_without_credentials(dli_local):
    answer = requests.get(f"{dli_local.url}/v1.0/{dli_local.project_id}/jobs", timeout=10)
    assert (answer.status_code, answer.json()["error_code"]) == (401, "DLI.0013")


def test_a_made_up_token(dli_local):
    answer = Wire(dli_local, "MIImadeup").get("jobs")
    assert (answer.status_code, answer.json()["error_code"]) == (401, "APIG.0301")


def test_an_expired_token(dli_local):
    dli_local.settings(token_lifetime=0.3)
    wire = Wire(dli_local)
    assert wire.get("jobs").status_code == 200
    time.sleep(0.4)
    answer = wire.get("jobs")
    assert (answer.status_code, answer.json()["error_code"]) == (401, "APIG.0307")


def test_a_new_token_does_not_end_an_older_one(dli_local):
    older = Wire(dli_local)
    Wire(dli_local)
    assert older.get("jobs").status_code == 200


def test_another_project_is_forbidden(wire, dli_local):
    answer = wire.http.get(f"{dli_local.url}/v1.0/{'0' * 32}/jobs", timeout=10)
    assert (answer.status_code, answer.json()["error_code"]) == (403, "APIG.0310")


@pytest.mark.parametrize("path", ["v1.0/{}/nothing", "v3/nothing/{}"])
def test_an_unknown_path_is_told_before_anything_else(dli_local, path):
    answer = requests.get(f"{dli_local.url}/{path.format(dli_local.project_id)}", timeout=10)
    assert (answer.status_code, answer.json()["error_code"]) == (404, "APIG.0101")
