"""A bare client of the local DLI: what goes over the wire, without the code of the provider."""

from __future__ import annotations

import time

import pace
import pytest
import requests


def pytest_ignore_collect(collection_path, config):
    """Do not even read what generates requests from the contract, where it is not run: that takes each worker long."""
    return True if collection_path.name == "test_contract.py" and config.option.markexpr == "not matrix" else None


class Wire:
    """Calls of one user with a token."""

    def __init__(self, dli, token=None):
        self.dli = dli
        # So that not every test needs a queue of its own.
        dli.settings(preview_on_default="works")
        self.http = requests.Session()
        self.http.headers["X-Auth-Token"] = token or get_token(dli).headers["X-Subject-Token"]

    def call(self, method, path, version="v1.0", **options):
        options.setdefault("timeout", 20)
        url = f"{self.dli.url}/{version}/{self.dli.project_id}/{path}"
        return self.http.request(method, url, allow_redirects=False, **options)

    def get(self, path, **options):
        return self.call("GET", path, **options)

    def submit(self, sql, **fields):
        return self.call("POST", "jobs/submit-job", json={"sql": sql, **fields})

    def start(self, sql, **fields):
        """Submit and return the job id."""
        answer = self.submit(sql, **fields)
        assert answer.status_code == 200, answer.text
        return answer.json()["job_id"]

    def cancel(self, job_id):
        return self.call("DELETE", f"jobs/{job_id}")

    def status(self, job_id):
        return self.get(f"jobs/{job_id}/status").json()

    def until(self, job_id, *states, timeout=10):
        """Wait for one of the states, by default for an end, and return the status."""
        deadline = time.monotonic() + pace.seconds(timeout)
        while True:
            found = self.status(job_id)
            if found["status"] in (states or ("FINISHED", "FAILED", "CANCELLED")):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.01)

    def run(self, sql, **fields):
        """Submit, wait for the end and return the status."""
        return self.until(self.start(sql, **fields))

    def rows(self, sql, **fields):
        """Rows of a query that must finish."""
        done = self.run(sql, **fields)
        assert done["status"] == "FINISHED", done["message"]
        return self.get(f"jobs/{done['job_id']}/preview").json()["rows"]


def token_request(dli, **changes):
    user = {"name": dli.user, "password": dli.password, "domain": {"name": dli.domain}}
    scope = changes.pop("scope", {"project": {"name": dli.project_name}})
    return {"auth": {"identity": {"methods": ["password"], "password": {"user": user | changes}}, "scope": scope}}


def get_token(dli, **changes):
    return requests.post(f"{dli.url}/v3/auth/tokens", json=token_request(dli, **changes), timeout=10)


@pytest.fixture(scope="module")
def token(dli_server):
    """Tokens outlive a reset, so that one is enough; but not a restart, which is part of other modules."""
    # Without the settings of an earlier test, such as the lifetime of tokens.
    dli_server.reset()
    return get_token(dli_server).headers["X-Subject-Token"]


@pytest.fixture
def wire(dli_local, token):
    return Wire(dli_local, token)
