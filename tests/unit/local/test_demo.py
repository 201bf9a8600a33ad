"""What `dli-local demo` says when it cannot run, and when the promise was not kept. It runs in tests/airflow."""

from __future__ import annotations

import argparse
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from airflow_provider_dli.local import demo
from airflow_provider_dli.local.dli.admin.views import LocalJob

CANCELLED = LocalJob(
    job_id="8ecb0777",
    status="CANCELLED",
    message="",
    statement="SELECT 1",
    tags={},
    conf=(),
    queue_name="default",
    database="default",
    owner="dli",
    job_type="QUERY",
    submitted_at=1.0,
    started_at=2.0,
    ended_at=4.0,
    cancel_requests=(3.0,),
)


def no_airflow(name: str) -> str:
    raise PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("sys", SimpleNamespace(platform="win32"), "Airflow does not run on Windows; use WSL, macOS or Linux."),
        (
            "find_spec",
            lambda name: name not in ("duckdb", "rich"),
            "the extra [local] is not installed (no duckdb, rich): pip install 'airflow-provider-dli[local]'",
        ),
        (
            "version",
            no_airflow,
            "Airflow is not installed in this environment: pip install 'airflow-provider-dli[local]'",
        ),
        ("version", lambda name: "2.11.2", "it needs Airflow 3, and this environment has 2.11.2."),
    ],
)
def test_what_stands_in_the_way_is_said_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object, said: str
) -> None:
    monkeypatch.setattr(demo, name, value)
    assert demo._obstacle(arguments()) == said


def test_a_port_that_is_none() -> None:
    assert "port 99999 cannot be used" in str(demo._obstacle(arguments("--dli-port", "99999")))


@pytest.mark.parametrize(
    ("jobs", "task", "said"),
    [
        ([replace(CANCELLED, status="RUNNING", ended_at=None)], "failed", "1 job(s) still running in DLI"),
        ([CANCELLED, replace(CANCELLED, status="LAUNCHING", ended_at=None)], "failed", "1 job(s) still running"),
        ([replace(CANCELLED, status="FINISHED")], "failed", "ended FINISHED, not CANCELLED"),
        ([CANCELLED, CANCELLED], "failed", "submitted 2 jobs instead of one"),
        ([CANCELLED], "success", "ended success, not failed"),
    ],
)
def test_a_broken_promise_is_an_error(jobs: list[LocalJob], task: str, said: str) -> None:
    with pytest.raises(demo.DemoError) as raised:
        demo._check(jobs[0], SimpleNamespace(jobs=lambda: jobs), task)
    assert said in str(raised.value)


def test_a_kept_promise() -> None:
    demo._check(CANCELLED, SimpleNamespace(jobs=lambda: [CANCELLED]), "failed")


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(given)
