"""No secret is shown: canary secrets are looked for in everything that a real run writes down."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
from lab.airflow import LocalAirflow

from airflow_provider_dli.local.handle import LocalDli

WORKING = {"works", "works_with_a_key", "each_kind"}


def test_no_secret_in_logs_xcoms_rendered_fields_or_process_lists(airflow: LocalAirflow, dli: LocalDli) -> None:
    airflow.api.wait_for_dag("canaries")
    run_id = airflow.api.trigger("canaries")
    airflow.api.wait_for_state("canaries", run_id)
    states = {found["task_id"]: found["state"] for found in airflow.api.task_instances("canaries", run_id)}
    assert {task for task, state in states.items() if state == "success"} == WORKING
    assert len(states) == 9

    written = dict(files_under(airflow.home))
    assert any("attempt=1.log" in name for name in written)
    assert any(name.endswith(".db") for name in written)
    for process in psutil.process_iter(["pid", "cmdline"]):
        written[f"command line of {process.info['pid']}"] = " ".join(process.info["cmdline"] or []).encode()
    canary = re.compile(rb"canary-[a-z]+-secret|(MII|TMPSK|TMPST)[A-Za-z0-9_-]{30}")
    found = {
        name: [each[0] for each in canary.finditer(content)]
        for name, content in written.items()
        if canary.search(content)
    }
    assert not found
    kinds = airflow.api.xcom("canaries", run_id, "each_kind")
    assert len(kinds) == 7
    assert all(said[0] == "FINISHED" and "There is no queue named nowhere" in said[3] for said in kinds.values())
    # So that this test cannot pass by looking in the wrong place.
    assert any(b"There is no queue named nowhere" in content for content in written.values())


def files_under(directory: Path) -> Iterator[tuple[str, bytes]]:
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):  # Airflow is running: a journal of SQLite comes and goes
                if path.is_file() and "pycache" not in folder:
                    yield str(path), path.read_bytes()
