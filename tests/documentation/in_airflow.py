"""
What an Airflow of any line makes of DAG files, run by the Python of that line.

``in_airflow.py FOLDER ANSWER [--run]`` writes as JSON to the file ANSWER: the errors by file, and for each DAG its start, its
schedule, and the statements of a scheduled run and of one that a user starts by hand. With ``--run``, it runs each DAG to its
end in this process, and writes its state and those of its tasks.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

# Seconds, of tasks that look at a job or wait by the clock.
_QUICK = {"poll_interval": 0.2, "wait_usable": 0.5, "poke_interval": 1}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--run", action="store_true")
    arguments = parser.parse_args()
    _hurry()
    bags = {file.name: _bag(file) for file in sorted(arguments.folder.glob("*.py"))}
    errors = {name: "\n".join(bag.import_errors.values()) for name, bag in bags.items() if bag.import_errors}
    dags = []
    for name, bag in bags.items():
        for dag in bag.dags.values():
            found = {"file": name, "dag_id": dag.dag_id, **_facts(dag)}
            dags.append(found | (_run(name, dag) if arguments.run else {}))
    arguments.answer.write_text(json.dumps({"errors": errors, "dags": dags}))


def _hurry() -> None:
    """Have `dag.test()` do once what it does for each task or DAG: it makes the API for tasks, and reads all DAG files."""
    with contextlib.suppress(ImportError):  # Airflow 2
        from airflow.sdk.execution_time import supervisor

        supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)
    with contextlib.suppress(ImportError):  # before Airflow 3.2
        from airflow.dag_processing import dagbag

        dagbag.BundleDagBag = functools.cache(dagbag.BundleDagBag)
        dagbag.sync_bag_to_db = functools.cache(dagbag.sync_bag_to_db)


def _bag(file: Path) -> Any:
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # before Airflow 3.2
        from airflow.models.dagbag import DagBag

    return DagBag(str(file))


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
        facts["run"] = _rendered(dag, info.run_after, info.data_interval, info.logical_date)
        now = pendulum.now("UTC")
        facts["manual_run"] = _rendered(dag, now, timetable.infer_manual_data_interval(run_after=now), now)
        if not hasattr(dag, "get_run_data_interval"):  # since Airflow 3, a run may have no date, and so no interval
            facts["run_without_date"] = _rendered(dag, now, None, None)
    return facts


def _rendered(dag: Any, run_after: Any, interval: Any, logical_date: Any) -> dict[str, Any]:
    from types import SimpleNamespace

    try:
        from airflow.sdk.execution_time.macros import ds_add
    except ImportError:  # Airflow 2
        from airflow.macros import ds_add

    context = {"macros": SimpleNamespace(ds_add=ds_add), "dag_run": SimpleNamespace(run_after=run_after)}
    if logical_date is not None:
        context |= {
            "ds": f"{logical_date:%Y-%m-%d}",
            "data_interval_start": interval.start,
            "data_interval_end": interval.end,
        }
    statements = [
        str(task.render_template([task.sql, getattr(task, "parameters", None)], context))
        for task in dag.tasks
        if hasattr(task, "sql")
    ]
    return {"day_before": f"{run_after - timedelta(days=1):%Y-%m-%d}", "statements": "\n".join(statements)}


def _run(file: str, dag: Any) -> dict[str, Any]:
    print(f"\n=== {file} {dag.dag_id}", flush=True)
    for task in dag.tasks:
        for name, seconds in _QUICK.items():
            if hasattr(task, name):
                setattr(task, name, seconds)
    if not dag.tasks:
        return {"state": "success", "tasks": {}}
    _activate_assets(dag)
    try:
        run = dag.test()
    except Exception:
        traceback.print_exc()
        return {"state": "not run", "tasks": {}}
    tasks = {f"{each.task_id}[{each.map_index}]": str(each.state) for each in run.get_task_instances()}
    return {"state": str(run.state), "tasks": tasks}


def _activate_assets(dag: Any) -> None:
    """Do for Airflow 3.0 what its scheduler does for assets: there, `dag.test()` refuses a task with an asset that is not active."""
    import airflow

    if airflow.__version__.startswith("3.0."):
        for task in dag.tasks:
            for asset in (*task.inlets, *task.outlets):
                _activate_asset(asset.name, asset.uri)


@functools.cache
def _activate_asset(name: str, uri: str) -> None:
    from airflow.models.asset import AssetActive, AssetModel
    from airflow.utils.session import create_session

    with create_session() as session:
        asset = AssetModel(name=name, uri=uri)
        session.add_all([asset, AssetActive.for_asset(asset)])


if __name__ == "__main__":
    main()
