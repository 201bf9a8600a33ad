"""Airflow's task instances: their keys, their states, and how many one question to Airflow can hold. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple
from urllib.parse import quote

#: States of a task instance that has ended, and will not run again unless somebody clears it.
OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
#: The state of a task instance that Airflow does not know: it was deleted, alone, with its run or with its DAG.
GONE = "gone"

#: Younger jobs are no orphans: what has just ended a task instance may be about to cancel its job.
OLDER_THAN = timedelta(minutes=5)

# How many characters of ids one question holds: it becomes a URL, and some proxies take no more than 8 KB.
_CHARACTERS = 4000


class TaskInstanceKey(NamedTuple):
    """
    A task instance, whatever its try.

    :param dag_id: Airflow's DAG id.
    :param run_id: Airflow's run id.
    :param task_id: Airflow's task id.
    :param map_index: Index of a mapped task, -1 when it is not mapped.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int

    @classmethod
    def of(cls, ti: Any) -> TaskInstanceKey:
        """Return the key of one of Airflow's task instances."""
        return cls(ti.dag_id, ti.run_id, ti.task_id, -1 if ti.map_index is None else int(ti.map_index))


def portions(ids: Iterable[str], share: float = 1) -> Iterator[list[str]]:
    """
    Part ids into as many as one question can hold, in their order; at least one each.

    :param share: How much of the question they may take, when it also holds others. Default all.
    """
    portion: list[str] = []
    room = _CHARACTERS * share
    for each in ids:
        needed = len(f"&task_ids={quote(each, safe='')}")
        if portion and needed > room:
            yield portion
            portion, room = [], _CHARACTERS * share
        portion.append(each)
        room -= needed
    if portion:
        yield portion


def told_apart(task_ids: Iterable[str]) -> list[list[str]]:
    """
    Part task ids into groups in which no two can be mistaken for each other.

    Airflow names a mapped task instance by its task id and its map index, ``load_1``, as another task may be named.
    """
    known = set(task_ids)
    alone = [task_id for task_id in known if without_number(task_id) in known]
    together = sorted(known.difference(alone))
    return [group for group in (together, *([task_id] for task_id in sorted(alone))) if group]


def without_number(name: str) -> str:
    """Return the task id of a mapped task instance by its name, ``load`` of ``load_1``; empty without a number."""
    head, _, number = name.rpartition("_")
    return head if number.isdecimal() else ""
