"""What a task sees of Airflow, for tests that run operators and triggers in their own process."""

from __future__ import annotations

from types import SimpleNamespace

import pace
import pendulum
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_dli import identity
from airflow_provider_dli.api.sql import SqlWork
from airflow_provider_dli.tasks import run as machine
from airflow_provider_dli.tasks.kill import KillSwitch

START = pendulum.datetime(2026, 11, 22)
OVER = {"outcome": "over", "message": ""}


class TaskInstance(SimpleNamespace):
    """
    One try of a task instance, and what it has pushed.

    :param before: The try before this one.
    """

    def __init__(self, before=None, **changes):
        names = {"dag_id": "sales", "run_id": "run 1", "task_id": "load", "map_index": -1}
        super().__init__(**{**names, "try_number": 1, "max_tries": 2, "xcoms": {}, **changes})
        # What Airflow tells a try when it starts.
        self._ti_context_from_server = SimpleNamespace(xcom_keys_to_clear=list(before.xcoms) if before else [])

    def xcom_push(self, key, value):
        self.xcoms[key] = value


def identity_of(**changes):
    """Return the identity that the job of a first try has."""
    known = {"dag_id": "sales", "run_id": "run 1", "task_id": "load", "map_index": -1, "statement_index": 0}
    known |= {"generation": identity.generation(START, 2), "try_number": 1, "owner": "task"}
    return identity.Identity(**{**known, "work": SqlWork("select 1").digest, **changes})


def context_of(ti=None, start=START):
    """Return Airflow's context of a try."""
    return {"ti": ti or TaskInstance(), "dag_run": SimpleNamespace(start_date=start)}


def execute(task, context):
    """Run a task. Airflow guards `execute` against calls from outside its task runner."""
    return type(task).execute.__wrapped__(task, context)


def deferral_of(task, context):
    """Run a task that defers; return what it tells Airflow."""
    with pytest.raises(TaskDeferred) as deferral:
        execute(task, context)
    return deferral.value


def resume(task, deferral, context, event=OVER):
    """Resume a task as Airflow does: by a new operator, with what the deferral said."""
    return task.resume_execution(deferral.method_name, {**deferral.kwargs, "event": event}, context)


def lose_the_worker(try_of_a_task, *, at_wait=1):
    """Have the worker die while a try waits for a job: nothing is left that could cancel it.

    :param at_wait: Number of the wait at which it dies.
    """
    wait, waits = machine.wait_until_over, []

    def lost(*arguments, **named):
        waits.append(arguments)
        if len(waits) == at_wait:
            raise SystemExit
        return wait(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "wait_until_over", lost)
        patch.setattr(KillSwitch, "abandon", lambda self, why: None)
        with pytest.raises(SystemExit):
            try_of_a_task()


def assert_cancelled(dli_local, job_id):
    """DLI has accepted the cancel; wait until the job is over."""
    assert dli_local.job(job_id).cancel_requests
    dli_local.wait_until(lambda dli: dli.job(job_id).status == "CANCELLED", timeout=pace.seconds(5))
