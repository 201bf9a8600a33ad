"""Very many deferred tasks at once: written to the database as workers would, who need a quarter of a second for each."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from lab.airflow import LocalAirflow

# Runs with Airflow's own interpreter; for Airflow 3.
_SCRIPT = """
import json, sys
from datetime import datetime, timezone
from airflow.models import DagRun, TaskInstance
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session

dag_id, task_id, run_id = sys.argv[1:4]
jobs, trigger_arguments = json.load(sys.stdin)
task = SerializedDagModel.get(dag_id).dag.get_task(task_id)
now = datetime.now(timezone.utc)
with create_session() as session:
    run = session.query(DagRun).filter_by(dag_id=dag_id, run_id=run_id).one()
    run.state, run.start_date = "running", now
    for each in run.get_task_instances(session=session):
        if each.task_id == task_id:
            version = each.dag_version_id
            session.delete(each)
        else:
            each.state = "success"
    session.flush()
    for index, job_id in enumerate(jobs):
        trigger = Trigger(
            classpath="airflow_provider_dli.triggers.dli.DliJobTrigger",
            kwargs={"job_ids": [job_id], **trigger_arguments},
        )
        session.add(trigger)
        ti = TaskInstance(task, run_id=run_id, map_index=index, dag_version_id=version)
        ti.state, ti.try_number, ti.start_date, ti.trigger = "deferred", 1, now, trigger
        ti.next_method, ti.next_kwargs = "execute_complete", {"job_ids": [job_id]}
        session.add(ti)
"""


def defer(
    airflow: LocalAirflow, dag_id: str, task_id: str, run_id: str, job_ids: Sequence[str], **trigger_arguments: Any
) -> None:
    """
    Let one mapped task instance wait for each job.

    Nothing may schedule the run meanwhile: there is no scheduler, or the DAG is paused.

    :param run_id: A run that was triggered.
    :param trigger_arguments: Arguments of the triggers.
    """
    subprocess.run(
        [airflow.python, "-c", _SCRIPT, dag_id, task_id, run_id],
        input=json.dumps([list(job_ids), {"cancel_on_kill": True, "poll_interval": 10.0, **trigger_arguments}]),
        env=airflow.environment(),
        text=True,
        check=True,
        timeout=120,
    )
