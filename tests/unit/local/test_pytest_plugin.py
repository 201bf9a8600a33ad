"""The pytest plugin, as a project of somebody else meets it."""

import os
import subprocess
import sys

import pytest

PROJECT_TESTS = """
import json, os
import requests

def test_first(dli_local):
    connection = json.loads(os.environ["AIRFLOW_CONN_DLI_DEFAULT"])
    assert connection["conn_type"] == "dli" and connection["host"] == dli_local.url
    dli_local.will(then="FAILED")
    requests.get(dli_local.url, timeout=5)
    assert len(dli_local.requests()) == 1

def test_second(dli_local):
    assert dli_local.requests() == [], "fresh state for every test"

def test_without():
    assert "AIRFLOW_CONN_DLI_DEFAULT" not in os.environ
"""


def run_pytest(folder, *options, **env):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), *options]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTEST"))}
    return subprocess.run(command, cwd=folder, env=environ | env, capture_output=True, text=True, timeout=60)


@pytest.mark.matrix
def test_the_fixture_in_another_project(tmp_path):
    (tmp_path / "test_dags.py").write_text(PROJECT_TESTS)
    ended = run_pytest(tmp_path)
    assert "3 passed" in ended.stdout, ended.stdout + ended.stderr


def test_it_costs_nothing_until_it_is_used(tmp_path):
    (tmp_path / "test_nothing.py").write_text(
        "import sys\n"
        "def test_nothing():\n"
        "    heavy = {'airflow', 'duckdb', 'fastapi', 'pydantic', 'requests', 'sqlglot'}\n"
        "    assert not heavy & set(sys.modules)\n"
    )
    ended = run_pytest(
        tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTEST_PLUGINS="airflow_provider_dli.local.pytest_plugin"
    )
    assert "1 passed" in ended.stdout, ended.stdout + ended.stderr


@pytest.mark.matrix
def test_without_the_extra_only_the_fixture_fails_and_says_why(tmp_path):
    (tmp_path / "conftest.py").write_text(
        "import importlib.util\n"
        "find_spec = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'duckdb' else find_spec(name, *rest)\n"
    )
    (tmp_path / "test_dags.py").write_text("def test_a(dli_local): ...\ndef test_b(): ...\n")
    ended = run_pytest(tmp_path)
    assert "1 passed, 1 error" in ended.stdout, ended.stdout + ended.stderr
    assert "pip install 'airflow-provider-dli[local]'" in ended.stdout
