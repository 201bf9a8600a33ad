"""
The process of a task that a probe kills: it handles the signal as Airflow's task runner does.

``python -m airflow_provider_dli.probe.task_process`` takes its orders as JSON in its only argument, and tells as lines
of JSON what Airflow would be told: the XComs, then how the task ended. It ends, as killed, with the process that
started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from airflow_provider_dli import machine

DAG_ID, TASK_ID = "airflow_probe", "killed_task"


def main(orders: Mapping[str, Any]) -> None:
    """
    Run the task.

    :param orders: ``run_id``, and the arguments of the operator as ``arguments``.
    """
    # What Airflow logs goes elsewhere: the standard output belongs to the process that listens.
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**what: object) -> None:
        told.write(json.dumps(what) + "\n")
        told.flush()

    import pendulum

    from airflow_provider_dli.operators.sql import DliSubmitSqlJobOperator

    task = DliSubmitSqlJobOperator(task_id=TASK_ID, **orders["arguments"])
    ti = SimpleNamespace(
        dag_id=DAG_ID,
        run_id=orders["run_id"],
        task_id=TASK_ID,
        map_index=-1,
        try_number=1,
        max_tries=0,
        xcom_push=lambda key, value: tell(xcom=key, value=value),
    )
    context: Any = {"ti": ti, "dag_run": SimpleNamespace(start_date=pendulum.now("UTC"))}
    signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
    machine.start_thread(_end_with_the_probe)
    # Without Airflow's guard against calls outside of a task runner.
    execute = getattr(type(task).execute, "__wrapped__", type(task).execute)
    try:
        execute(task, context)
    except BaseException as error:  # the edge of the process: how it ended is told
        tell(error=type(error).__name__, message=str(error))
    else:
        tell(error=None, message="")


def _end_with_the_probe() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
