"""
What triggers ask Airflow, asked once for all of them.

Hundreds of triggers share one narrow channel to Airflow: about 24 answers a second were measured. When all of them ask
at the same moment, as after a mass kill or a hand-over, the last one waits longer than a kill may take. So
while one question is on its way, those who come meanwhile wait for the next, and that is one for all of them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from airflow_provider_dli import compat, machine, xcoms
from airflow_provider_dli.client.connection import DliConnection
from airflow_provider_dli.task_instances import GONE, TaskInstanceKey, portions, told_apart

K = TypeVar("K")
V = TypeVar("V")

# How long Airflow may take for one answer before the question counts as not answered yet, in seconds.
ANSWER_WITHIN = 60.0
# For how long answers are kept that nobody has asked for yet, in seconds.
_KEPT_FOR = 30.0
# How much of a question its tasks, and its runs, may take: a triggerer asks without a proxy between.
_SHARE = 5.0


class ConnectionKey(NamedTuple):
    """A connection, and what a trigger puts in the place of its fields."""

    conn_id: str
    region: str | None
    project_id: str | None


class Questions(Generic[K, V]):
    """
    Puts questions together.

    An answer is never older than the question: one that was on its way already may tell of the time before a kill.
    But some answers never change again: those are kept for who asks next.

    :param ask: Asks for several things at once; what is not in the answer counts as refused. The answer may hold more
        than was asked for.
    :param is_final: Whether an answer that came while the one who asks was there already never changes again.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[K]], Awaitable[Mapping[K, V | Exception]]],
        is_final: Callable[[V], bool] = lambda _: False,
    ) -> None:
        self._ask = ask
        self._is_final = is_final
        self._waiting: dict[K, list[asyncio.Future[V]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._kept: Mapping[K, V] = {}
        self._kept_since = 0.0

    async def answer(self, key: K, since: float | None = None) -> V:
        """
        Return the answer for this key, asked after this call; or a final one, asked after the moment ``since``.

        :raises TimeoutError: Airflow has not answered yet.
        :raises Exception: Airflow refuses to answer.
        """
        if since is not None and key in self._kept and self._kept_since >= since:
            return self._kept[key]
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        if self._task is None or self._task.done():
            self._task = in_background(self._serve())
        return await future

    async def _serve(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            answers: Mapping[K, V | Exception] = {}
            refusal: Exception = LookupError("Airflow gave no answer")
            asked_at = machine.monotonic()
            try:
                answers = await self._ask(list(waiting))
                self._keep(answers, asked_at)
            except Exception as error:  # handed to all who have asked
                refusal = error
            for key, futures in waiting.items():
                answer = answers.get(key, refusal)
                for future in futures:
                    if future.done():
                        continue  # the one who asked was cancelled meanwhile
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)

    def _keep(self, answers: Mapping[K, V | Exception], asked_at: float) -> None:
        known = {key: answer for key, answer in answers.items() if not isinstance(answer, Exception)}
        kept = {key: answer for key, answer in known.items() if self._is_final(answer)}
        self._kept, self._kept_since = kept, asked_at
        if kept:
            asyncio.get_running_loop().call_later(_KEPT_FOR, self._forget, kept)

    def _forget(self, answers: Mapping[K, V]) -> None:
        if self._kept is answers:
            self._kept = {}


class Channel:
    """The way to Airflow that all triggers of an event loop share."""

    def __init__(self) -> None:
        # A task that a trigger waits for is deferred. Once it is not, it never waits for this trigger again.
        self.states: Questions[TaskInstanceKey, str | None] = Questions(_states, _waits_no_more)
        self.job_ids: Questions[TaskInstanceKey, str | None] = Questions(partial(_one_by_one, xcoms.announced_job_id))
        self.taken_over: Questions[TaskInstanceKey, str | None] = Questions(
            partial(_one_by_one, xcoms.taken_over_job_id)
        )
        self.connections: Questions[ConnectionKey, DliConnection] = Questions(partial(_one_by_one, _connection))
        self.is_warm = False


# asyncio itself keeps only weak references to tasks.
_background: set[asyncio.Task[None]] = set()


def in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start a task that continues when the one who started it is cancelled."""
    task = asyncio.create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task


def _waits_no_more(state: str | None) -> bool:
    return state != "deferred"


def _connection(key: ConnectionKey) -> DliConnection:
    # Read here too, for that asks Airflow as well: to mask the secrets.
    return DliConnection.from_airflow(compat.connection(key.conn_id), region=key.region, project_id=key.project_id)


async def _one_by_one(ask: Callable[[K], V], keys: Sequence[K]) -> dict[K, V | Exception]:
    answers: dict[K, V | Exception] = {}
    for key in keys:
        try:
            answers[key] = await compat.ask_airflow(partial(ask, key), ANSWER_WITHIN)
        except Exception as error:  # of this question only
            answers[key] = error
    return answers


async def _states(keys: Sequence[TaskInstanceKey]) -> dict[TaskInstanceKey, str | Exception | None]:
    """Return the states of these task instances, and of others in the same answers; ``gone`` when there is none."""
    answers: dict[TaskInstanceKey, str | Exception | None] = {}
    for dag_id, run_ids, task_ids in _parts(keys):
        asked = [key for key in keys if key.dag_id == dag_id and key.run_id in run_ids and key.task_id in task_ids]
        try:
            states = await compat.ask_airflow(partial(compat.task_states, dag_id, run_ids, task_ids), ANSWER_WITHIN)
        except Exception as error:  # of this question only
            answers.update(dict.fromkeys(asked, error))
        else:
            answers.update({TaskInstanceKey(dag_id, *found): state for found, state in states.items()})
            answers.update({key: GONE for key in asked if key not in answers})
    return answers


def _parts(keys: Sequence[TaskInstanceKey]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Put together what one question can ask for: runs and tasks of one DAG."""
    of_dag: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for key in keys:
        of_dag[key.dag_id][key.task_id].add(key.run_id)
    for dag_id, runs_of in of_dag.items():
        for group in told_apart(runs_of):
            for task_ids in portions(group, share=_SHARE):
                run_ids = sorted(set().union(*(runs_of[task_id] for task_id in task_ids)))
                for portion in portions(run_ids, share=_SHARE):
                    yield dag_id, portion, task_ids
