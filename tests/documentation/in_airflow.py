"""
The DAGs that users copy, those of the README and the example DAGs, as an Airflow of any line sees them.

``python tests/dag_files.py FOLDER`` prints as JSON what that Python's Airflow makes of the DAGs in a folder: the errors,
and for each DAG its start, its schedule, and the statements of a scheduled run and of one that a user starts by hand.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]


def write_dags(folder: Path) -> Path:
    """Fill a folder with every DAG of the README and every example DAG, and return it."""
    shutil.copytree(PROJECT / "example_dags", folder, dirs_exist_ok=True)
    blocks = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    dags = [block for block in blocks if "with DAG(" in block]
    for number, block in enumerate(dags, start=1):
        (folder / f"readme_{number}.py").write_text(block)
    return folder


def read(folder: Path, home: Path, python: str = sys.executable, **settings: str) -> dict[str, Any]:
    """
    Return what this file prints for a folder.

    :param home: A folder for Airflow.
    :param python: The interpreter of an Airflow.
    :param settings: Variables of its environment.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    env |= {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **settings}
    command = [python, __file__, str(folder)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def check(found: dict[str, Any]) -> None:
    """Assert that all DAGs work as they stand, and that the first of the README loads the day that has just ended."""
    assert found["errors"] == {}
    assert {"sales", "daily_load", "dli_sql", "dli_cancel", "dli_deferred", "dli_queue", "dli_sweep"} <= set(
        found["dags"]
    )
    for name, dag in found["dags"].items():
        assert dag["start_date"] or not dag["scheduled"], f"{name} has a schedule and no start_date"
        assert not (dag["scheduled"] and dag["catchup"]), f"{name} runs for all days since its start"
    for run in (found["dags"]["sales"]["run"], found["dags"]["sales"]["manual_run"]):
        [statement] = run["statements"]
        assert re.findall(r"\d{4}-\d\d-\d\d", statement) == [run["day_before"]] * 2


def _print_dags(folder: str) -> None:
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # before Airflow 3.2
        from airflow.models.dagbag import DagBag

    bag = DagBag(folder)
    dags = {dag_id: _facts(dag) for dag_id, dag in bag.dags.items()}
    print(json.dumps({"errors": bag.import_errors, "dags": dags}))


def _facts(dag: Any) -> dict[str, Any]:
    import pendulum
    from airflow.serialization import serialized_objects
    from airflow.timetables.base import TimeRestriction

    # The scheduler knows DAGs only by what is stored of them.
    serialization = getattr(serialized_objects, "DagSerialization", None) or serialized_objects.SerializedDAG
    timetable = serialization.from_dict(serialization.to_dict(dag)).timetable
    start = dag.start_date
    facts = {"start_date": start and start.isoformat(), "scheduled": timetable.can_be_scheduled, "catchup": dag.catchup}
    if timetable.can_be_scheduled and start:
        restriction = TimeRestriction(earliest=pendulum.instance(start), latest=None, catchup=dag.catchup)
        info = timetable.next_dagrun_info(last_automated_data_interval=None, restriction=restriction)
        facts["run"] = _run_of(dag, info.run_after, info.data_interval, info.logical_date)
        now = pendulum.now("UTC")
        facts["manual_run"] = _run_of(dag, now, timetable.infer_manual_data_interval(run_after=now), now)
    return facts


def _run_of(dag: Any, run_after: Any, interval: Any, logical_date: Any) -> dict[str, Any]:
    from types import SimpleNamespace

    try:
        from airflow.sdk.execution_time.macros import ds_add
    except ImportError:  # Airflow 2
        from airflow.macros import ds_add

    context = {
        "ds": f"{logical_date:%Y-%m-%d}",
        "data_interval_start": interval.start,
        "data_interval_end": interval.end,
        "macros": SimpleNamespace(ds_add=ds_add),
    }
    statements = [task.render_template(task.sql, context) for task in dag.tasks if hasattr(task, "sql")]
    return {"day_before": f"{run_after - timedelta(days=1):%Y-%m-%d}", "statements": statements}


if __name__ == "__main__":
    _print_dags(sys.argv[1])
