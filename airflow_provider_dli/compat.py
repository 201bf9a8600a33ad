"""
What this package asks of Airflow, and what differs between its versions beyond ``airflow.providers.common.compat.sdk``.

A port, too: a test that simulates Airflow puts its own functions in the place of those that ask. So they are called as
``compat.task_states(...)``, never imported by name.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from airflow import __version__ as airflow_version

from airflow_provider_dli import machine
from airflow_provider_dli.task_instances import TaskInstanceKey, without_number
from airflow_provider_dli.threads import run_in_thread

if TYPE_CHECKING:
    from types import FrameType

    from airflow.providers.common.compat.sdk import Connection, Context, XComArg
    from airflow.triggers.base import BaseTrigger

T = TypeVar("T")
if TYPE_CHECKING:
    #: What a templated parameter takes: a value, or the output of another task. When the task runs, it is the value.
    Templated: TypeAlias = T | XComArg

AIRFLOW = tuple(int(number) for number in airflow_version.split(".")[:2])

#: Whether Airflow calls ``on_kill`` of a trigger; where it does not, the trigger has to find out by itself.
TRIGGERS_ARE_TOLD_OF_KILLS = AIRFLOW >= (3, 3)

#: Whether a task can look up its earlier tries in Airflow's database.
HAS_TRY_HISTORY = AIRFLOW < (3, 0)

#: Whether a task that has lost its supervisor cannot tell Airflow how it ended. Before, a task tells the database.
NEEDS_SUPERVISOR = AIRFLOW >= (3, 0)

#: Whether a plugin can add a page to the UI.
HAS_EXTERNAL_VIEWS = AIRFLOW >= (3, 1)

#: Whether a try with the number 1 is the first. Airflow 2 may lose count when it finds a lost task twice.
TRY_1_IS_THE_FIRST = AIRFLOW >= (3, 0)


def connection(conn_id: str) -> Connection:
    """Ask Airflow for a connection."""
    from airflow.providers.common.compat.sdk import BaseHook

    return BaseHook.get_connection(conn_id)


def current_context() -> Context | None:
    """Return Airflow's context of the task that runs in this process; None outside of tasks."""
    from airflow.providers.common.compat.sdk import AirflowException, get_current_context

    try:
        return get_current_context()
    except (RuntimeError, AirflowException):
        return None


def calling_trigger() -> BaseTrigger | None:
    """
    Return the trigger whose code calls this, in the event loop or in a thread; None outside of triggers.

    No Airflow keeps that anywhere, so it is looked for among the callers.
    """
    module = sys.modules.get("airflow.triggers.base")
    if module is None:
        return None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, module.BaseTrigger):
            return cast("BaseTrigger", caller)
        frame = frame.f_back
    return None


def task_of_trigger(trigger: BaseTrigger) -> asyncio.Task[Any] | None:
    """Return what runs a trigger in the event loop, asked in a thread of it; None where that cannot be known."""
    from asgiref.sync import SyncToAsync

    loop = getattr(SyncToAsync.threadlocal, "main_event_loop", None)
    tasks = asyncio.all_tasks(loop) if loop is not None else ()
    return next((task for task in tasks if task.get_name().endswith(f"(ID {trigger.trigger_id})")), None)


def xcom(key: TaskInstanceKey, name: str) -> Any:
    """Ask Airflow for what a task instance has pushed in its current try; None when it has pushed nothing yet."""
    from airflow.providers.common.compat.sdk import XCom

    return XCom.get_one(key=name, dag_id=key.dag_id, run_id=key.run_id, task_id=key.task_id, map_index=key.map_index)


def xcoms_of_last_try(ti: Any) -> frozenset[str]:
    """
    Return the names of what the try before this one has pushed, also after Airflow has deleted it; of Airflow 3.

    :param ti: Airflow's task instance. None are known of one that is resumed.
    """
    told = getattr(ti, "_ti_context_from_server", None)
    return frozenset(getattr(told, "xcom_keys_to_clear", None) or ())


def last_try_before_clear_in_history(ti: Any) -> int:
    """Return the number of the last try after which the task was cleared, 0 when it was not; of Airflow 2."""
    from airflow.models.taskinstancehistory import TaskInstanceHistory as Tries
    from airflow.utils.session import create_session
    from sqlalchemy import func, or_, select

    wanted = select(func.max(Tries.try_number)).where(
        Tries.dag_id == ti.dag_id,
        Tries.run_id == ti.run_id,
        Tries.task_id == ti.task_id,
        Tries.map_index == ti.map_index,
        Tries.try_number < ti.try_number,
        or_(Tries.state == "success", Tries.max_tries != ti.max_tries),
    )
    with create_session() as session:
        return int(session.scalar(wanted) or 0)


def deployment() -> str | None:
    """Return the option ``[dli] deployment``: the name of this Airflow."""
    from airflow.providers.common.compat.sdk import conf

    return conf.get("dli", "deployment", fallback=None) or None


def server_bound() -> str:
    """
    Return the option ``[dli] server_bound``: what DLI counts the time limit of a SQL job in, or ``off``.

    :raises DliValueError: It is none of those.
    """
    from airflow.providers.common.compat.sdk import conf

    from airflow_provider_dli.exceptions import DliValueError

    found = str(conf.get("dli", "server_bound", fallback="seconds")).strip().lower()
    if found not in (choices := ("seconds", "milliseconds", "off")):
        raise DliValueError(
            f"The option server_bound in section [dli] of Airflow's configuration must be one of {', '.join(choices)}, "
            f"not {found!r}.",
            field="server_bound",
        )
    return found


def ends_before_resuming(ti: Any, execution_timeout: timedelta | None) -> bool:
    """
    Whether Airflow ends a deferred task without resuming it, because its time is over by now.

    Airflow 2 does: it calls ``on_kill`` of an operator that does not know its job.
    """
    if AIRFLOW >= (3, 0) or execution_timeout is None or not ti.next_method:
        return False
    # It looks a moment later.
    return bool(datetime.now(UTC) - ti.start_date > execution_timeout - timedelta(seconds=1))


def supervisor(ti: Any) -> int | None:
    """
    Return the process id of the supervisor of this process; None in ``dag.test()``, where there is none.

    :param ti: Airflow's task instance.
    """
    if AIRFLOW < (3, 0):
        return machine.parent_process_id() if getattr(ti, "job_id", None) else None
    from airflow.sdk.execution_time import task_runner

    channel = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return machine.parent_process_id() if type(channel).__name__ == "CommsDecoder" else None


async def ask_airflow(function: Callable[[], T], within: float) -> T:
    """
    Call a function that asks Airflow for something (a connection, a state, an XCom), from a trigger.

    :param within: Seconds.
    :raises TimeoutError: The time was over.
    """
    if (3, 0) <= AIRFLOW < (3, 2):
        # There, the way to Airflow leads through the event loop, and only asgiref's threads know it.
        from asgiref.sync import sync_to_async

        return await asyncio.wait_for(sync_to_async(function)(), within)
    return await asyncio.wait_for(run_in_thread(function), within)


def task_states(dag_id: str, run_ids: Sequence[str], task_ids: Sequence[str]) -> dict[tuple[str, str, int], str | None]:
    """
    Ask Airflow for the states of some tasks in some runs of a DAG, by run id, task id and map index (-1 if not mapped).

    A task instance that is gone, or whose run is, is not in the answer; a state of None means that it is yet to be
    scheduled. To be called in a task or, through :func:`ask_airflow`, in a trigger.

    :param task_ids: No two of them may be mistaken for each other: see :func:`.task_instances.told_apart`.
    """
    if AIRFLOW < (3, 0):
        return _task_states_in_database(dag_id, run_ids, task_ids)
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    found = RuntimeTaskInstance.get_task_states(dag_id=dag_id, run_ids=list(run_ids), task_ids=list(task_ids))
    return {
        (run_id, *_task_and_map_index(name, task_ids)): state
        for run_id, states in found.items()
        for name, state in states.items()
    }


def _task_and_map_index(name: str, task_ids: Sequence[str]) -> tuple[str, int]:
    if name in task_ids:
        return name, -1
    task_id = without_number(name)
    return task_id, int(name.removeprefix(f"{task_id}_"))


def _task_states_in_database(
    dag_id: str, run_ids: Sequence[str], task_ids: Sequence[str]
) -> dict[tuple[str, str, int], str | None]:
    from airflow.models import TaskInstance
    from airflow.utils.session import create_session

    with create_session() as session:
        rows = session.query(
            TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state
        ).filter(TaskInstance.dag_id == dag_id, TaskInstance.run_id.in_(run_ids), TaskInstance.task_id.in_(task_ids))
        return {(run_id, task_id, map_index): state for run_id, task_id, map_index, state in rows}


def task_states_in_database(keys: Collection[TaskInstanceKey]) -> dict[TaskInstanceKey, str | None]:
    """
    Look up the states of task instances, in a process that may use Airflow's database: the api-server.

    What is gone is not in the answer; a state of None means that it is yet to be scheduled.
    """
    from airflow.models import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select, tuple_

    if not keys:
        return {}
    columns = (TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index)
    wanted = select(*columns, TaskInstance.state).where(tuple_(*columns).in_([tuple(key) for key in keys]))
    with create_session() as session:
        return {TaskInstanceKey(*row[:-1]): row[-1] for row in session.execute(wanted)}


def xcoms_in_database(name: str, keys: Collection[TaskInstanceKey]) -> dict[TaskInstanceKey, Any]:
    """Look up what task instances have pushed in their current try under a name; of the api-server."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select, tuple_

    if not keys:
        return {}
    columns = (XComModel.dag_id, XComModel.run_id, XComModel.task_id, XComModel.map_index)
    wanted = select(XComModel).where(XComModel.key == name, tuple_(*columns).in_([tuple(key) for key in keys]))
    with create_session() as session:
        return {
            TaskInstanceKey(row.dag_id, row.run_id, row.task_id, row.map_index): XComModel.deserialize_value(row)
            for row in session.scalars(wanted)
        }


def connections_in_database(conn_type: str) -> list[str]:
    """Return the ids of the connections of a type that are in Airflow's database, in their order; of the api-server."""
    from airflow.models import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    wanted = select(Connection.conn_id).where(Connection.conn_type == conn_type).order_by(Connection.conn_id)
    with create_session() as session:
        return [str(conn_id) for conn_id in session.scalars(wanted)]


def teams_of_dags(dag_ids: Collection[str]) -> dict[str, str | None]:
    """
    Return the teams that DAGs belong to; None for one that belongs to all, or to nobody in particular.

    With several teams, a DAG that is gone, or whose bundle is, is not in the answer: its team cannot be told any more.
    Of the api-server.
    """
    if not _has_teams() or not dag_ids:
        return dict.fromkeys(dag_ids)
    from airflow.models.dag import DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.team import Team
    from airflow.utils.session import create_session
    from sqlalchemy import select

    # Not `DagModel.get_team_name`, which keeps what it has said, also of a DAG that is about to come.
    wanted = (
        select(DagModel.dag_id, Team.name)
        .join(DagBundleModel, DagModel.bundle_name == DagBundleModel.name)
        .outerjoin(DagBundleModel.teams)
        .where(DagModel.dag_id.in_(dag_ids), DagBundleModel.active.is_(True))
    )
    with create_session() as session:
        return {row.dag_id: row.name for row in session.execute(wanted)}


def team_of_connection(conn_id: str) -> str | None:
    """Return the team that a connection belongs to; None where Airflow has no teams. Of the api-server."""
    from airflow.models import Connection

    return Connection.get_team_name(conn_id) if _has_teams() else None


def connection_of_server(conn_id: str) -> Connection:
    """Ask for a connection as the api-server may: also for one that belongs to a team."""
    team = team_of_connection(conn_id)
    if team is None:
        return connection(conn_id)
    from airflow.models import Connection

    return Connection.get_connection_from_secrets(conn_id, team_name=team)


def _has_teams() -> bool:
    from airflow.providers.common.compat.sdk import conf

    return bool(conf.getboolean("core", "multi_team", fallback=False))


def write_audit_log(event: str, user: str, extra: str, key: TaskInstanceKey | None) -> None:
    """
    Add a line to Airflow's audit log; of the api-server.

    :param event: What was done.
    :param user: Who did it.
    :param extra: More about it.
    :param key: The task instance that it is about; None when it is about none.
    """
    from airflow.models import Log
    from airflow.utils.session import create_session

    about = key._asdict() if key else {}
    with create_session() as session:
        session.add(Log(event, owner=user, owner_display_name=user, extra=extra, **about))


def connection_form(connection_type: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the widgets of a connection form, for Airflow before 3.2.

    :param connection_type: An entry of ``connection-types`` of the provider info, which newer ones read themselves.
    """
    from flask_appbuilder.fieldwidgets import BS3PasswordFieldWidget, BS3TextFieldWidget
    from wtforms import PasswordField, StringField
    from wtforms.validators import Optional

    widgets = {}
    for name, field in connection_type["conn-fields"].items():
        schema, description = field["schema"], field["description"]
        secret = schema.get("format") == "password"
        if "enum" in schema:
            # There is no choice to click on: say what to write.
            choices = [f"{value}: {schema['values_display'][value]}" for value in schema["enum"]]
            description = " ".join([description, *(f"{choice}." for choice in choices)])
        widgets[name] = (PasswordField if secret else StringField)(
            field["label"],
            widget=(BS3PasswordFieldWidget if secret else BS3TextFieldWidget)(),
            description=description,
            validators=[Optional()],
        )
    return widgets


def connection_form_behaviour(connection_type: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the form shows of Airflow's own fields, and how, for Airflow before 3.2."""
    behaviour = connection_type["ui-field-behaviour"]
    return {
        "hidden_fields": behaviour["hidden-fields"],
        "relabeling": behaviour["relabeling"],
        "placeholders": behaviour["placeholders"],
    }
