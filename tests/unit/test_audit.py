"""The step of CI that looks up vulnerabilities: what fails it, and what it says where it can look up nothing."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / ".ci" / "audit.py"


@pytest.fixture
def audit():
    spec = importlib.util.spec_from_file_location("audit", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pip_audit(tmp_path, monkeypatch):
    """Return a function that puts a `uvx` into the path that says this."""

    def say(answer, seconds=0):
        (tmp_path / "uvx").write_text(
            f"#!/bin/sh\nsleep {seconds}\ncat <<'END'\n{answer}\nEND\necho no network >&2\nexit 1\n"
        )
        (tmp_path / "uvx").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return say


def report(*dependencies):
    return json.dumps({"dependencies": list(dependencies), "fixes": []})


def known(name, *fixed):
    return {"name": name, "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": list(fixed), "aliases": []}]}


def skipped(name):
    return {"name": name, "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        ([{"name": "requests", "version": "1.0", "vulns": []}], 0, "1 packages audited\n"),
        ([known("requests", "2.0")], 1, "FAILED requests 1.0: CVE-1, fixed in 2.0\n"),
        ([known("Duckdb", "2.0")], 1, "FAILED duckdb"),
        ([known("apache_airflow.providers_common_sql", "2.0")], 1, "FAILED apache-airflow-providers-common-sql"),
        # Nothing that anybody here could do about it.
        ([known("requests")], 0, "note   requests 1.0: CVE-1, no fix yet\n"),
        ([known("apache-airflow", "2.0")], 0, "note   apache-airflow 1.0: CVE-1, fixed in 2.0\n"),
        ([known("flask", "2.0"), skipped("own")], 0, "1 packages audited, not these: own\nnote   flask 1.0"),
        ([skipped("requests"), skipped("flask")], 0, "NOT AUDITED: no service"),
        ([], 0, "NOT AUDITED: no service"),
    ],
)
def test_what_fails_it(audit, pip_audit, capsys, found, status, said):
    pip_audit(report(*found))
    assert audit.main("requirements.txt") == status
    assert said in capsys.readouterr().out


def test_without_a_network_it_says_so(audit, pip_audit, capsys):
    pip_audit("")
    assert audit.main("requirements.txt") == 0
    said = capsys.readouterr().out
    assert "NOT AUDITED" in said
    assert "pypi: no network" in said
    assert "osv: no network" in said


def test_it_waits_for_a_service_for_a_while_only(audit, pip_audit, capsys, monkeypatch):
    monkeypatch.setattr(audit, "MOST_SECONDS", 0.2)
    pip_audit("", seconds=1)
    assert audit.main("requirements.txt") == 0
    assert "no answer within 0.2 s" in capsys.readouterr().out


def test_without_uv_it_says_so(audit, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert audit.main("requirements.txt") == 0
    assert "NOT AUDITED" in capsys.readouterr().out
