"""
Tells a clear of a task from an automatic retry where the *generation* does not (see :func:`.identity.generation`).

A clear sets ``max_tries`` from the ``retries`` of that day's file. Where those have changed, the sum may be the old
one. But a task that has ended as a success only runs again if somebody clears it. So its success is noted as an XCom,
after Airflow has accepted it. Airflow tells the next try which XComs the one before has left; Airflow 2 has a history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import compat

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dli.tasks.this_try import ThisTry

# XComs. Of those of the try before, Airflow tells the names, not the values.
_SUCCEEDED = "dli_succeeded"
_CLEARED_AFTER = "dli_cleared_after_try_"
_MAX_TRIES = "dli_max_tries_"


def last_try_before_clear(ti: Any) -> int:
    """
    Return the number of the last try after which somebody has cleared the task, as far as is known; 0 when none is.

    :param ti: Airflow's task instance.
    """
    if ti.try_number == 1:
        return 0
    if compat.HAS_TRY_HISTORY:
        return compat.last_try_before_clear_in_history(ti)
    names = compat.xcoms_of_last_try(ti)
    before = _numbers(names, _MAX_TRIES)
    if _SUCCEEDED in names or (before and ti.max_tries not in before):
        return int(ti.try_number) - 1
    return max(_numbers(names, _CLEARED_AFTER), default=0)


def remember(ti: Any, statements: Sequence[ThisTry]) -> None:
    """Let the next try know what only this one can, because the XComs of earlier ones are gone by then."""
    if compat.HAS_TRY_HISTORY:
        return
    if after := statements[0].mine.cleared_after:
        ti.xcom_push(key=f"{_CLEARED_AFTER}{after}", value=True)
    if not all(each.work.is_tagged for each in statements):
        # Tags tell the generation of a job.
        ti.xcom_push(key=f"{_MAX_TRIES}{ti.max_tries}", value=True)


def note_success_of(task: Any) -> None:
    """Have the success of a task noted once Airflow has accepted it; not before, because then it may still fail."""
    if compat.HAS_TRY_HISTORY or task.on_earlier_job != "reattach":
        return
    given = task.on_success_callback or ()
    callbacks = [given] if callable(given) else list(given)
    if _note_success not in callbacks:
        task.on_success_callback = [*callbacks, _note_success]


def _note_success(context: Context) -> None:
    with suppress(Exception):  # the task is done, whatever happens here
        context["ti"].xcom_push(key=_SUCCEEDED, value=True)


def _numbers(names: Iterable[str], prefix: str) -> list[int]:
    found = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return [int(number) for number in found if number.isdecimal()]
