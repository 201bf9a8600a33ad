"""The operators that create and delete queues."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import identity, machine, story
from airflow_provider_dli.api import queues
from airflow_provider_dli.api.job_kind import Query
from airflow_provider_dli.api.kinds import KINDS
from airflow_provider_dli.client.patience import URGENT
from airflow_provider_dli.exceptions import (
    PERMANENT,
    DliAuthenticationError,
    DliError,
    DliNotFoundError,
    DliTaskKilledError,
    DliTemporaryError,
    DliValueError,
)
from airflow_provider_dli.operators.base import DliOperator
from airflow_provider_dli.task_instances import TaskInstanceKey
from airflow_provider_dli.text import in_words
from airflow_provider_dli.waiting.watcher import FIRST_POLL_INTERVAL

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dli.api.call import Call
    from airflow_provider_dli.api.job_kind import JobKind
    from airflow_provider_dli.client.client import DliClient, Log
    from airflow_provider_dli.compat import Templated
    from airflow_provider_dli.job import Job

# How often a creation is tried that got lost on its way.
_CREATE_TRIES = 3
# How long a queue may take until DLI shows it, in seconds.
_SHOWN_WITHIN = 30.0
# How long a task that was killed looks for the queue whose creation was not answered, in seconds.
_LOOK_FOR_LOST = 10.0
# How long a busy queue is tried to be deleted by a task without `execution_timeout`, in seconds.
BUSY_BUDGET = 1800.0
# How long the cancel of one job of a queue is repeated, in seconds: all are cancelled again before the next deletion.
_CANCEL_WITHIN = 5.0

_NOT_SHOWN = re.compile(r"[^A-Za-z0-9_.-]")


class DliCreateQueueOperator(DliOperator):
    """
    Create a queue in an elastic resource pool and wait until it takes jobs; return its name.

    Made for a setup task, with :class:`DliDeleteQueueOperator` as its teardown. A later try takes the queue of an
    earlier one, or of a creation whose answer got lost, and waits for the rest of the time. Such a queue is known by
    its description, which names the task instance; any other queue of this name is left alone, and fails the task.

    Airflow runs no teardown after a setup that failed. So a task that is killed, or fails, after it has created the
    queue deletes it again, as far as DLI lets it.

    Follows the pages "Creating a Queue" and "Querying Queue Details" of the DLI API Reference.

    :param queue_name: 1 to 128 letters, digits and ``_``; DLI stores it in lower case. (templated)
    :param elastic_resource_pool_name: Pool to create it in. (templated)
    :param cu_count: Its size in compute units (CUs): at least 8 for type ``sql``, 4 for type ``general``. Between which
        numbers DLI scales it, the scaling policy of the pool says. (templated)
    :param queue_type: ``"sql"`` for SQL jobs, ``"general"`` for Spark and Flink. Default: DLI's, ``sql``. (templated)
    :param tags: Tags of the queue, for cost reports. Default: none. (templated)
    :param wait_usable: How long to wait after the creation: a timedelta, or seconds. No call of DLI tells when a new
        queue takes jobs. Default 4 minutes.
    :param dli_conn_id: Airflow connection of type ``dli``. Default ``dli_default``. (templated)
    :param region: Takes the place of the connection's ``region``. (templated)
    :param project_id: Takes the place of the connection's ``project_id``. (templated)
    :param poll_interval: Seconds between two looks for the queue, at most. Default 10.
    :param wait_for_completion: Whether to wait for ``wait_usable``. Default True.
    :raises DliValueError: A parameter cannot be used, or another queue has this name.
    :raises DliNotFoundError: There is no such pool.
    """

    template_fields: Sequence[str] = (
        "queue_name",
        "elastic_resource_pool_name",
        "cu_count",
        "queue_type",
        "tags",
        "dli_conn_id",
        "region",
        "project_id",
    )
    template_fields_renderers = {"tags": "json"}
    ui_color = "#e6f5ea"

    def __init__(
        self,
        *,
        queue_name: Templated[str],
        elastic_resource_pool_name: Templated[str],
        cu_count: Templated[int],
        queue_type: Templated[str] | None = None,
        tags: Templated[Mapping[str, str]] | None = None,
        wait_usable: timedelta | float = timedelta(minutes=4),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.queue_name: Any = queue_name
        self.elastic_resource_pool_name: Any = elastic_resource_pool_name
        self.cu_count: Any = cu_count
        self.queue_type: Any = queue_type
        self.tags: Any = tags
        self.wait_usable = wait_usable

    def execute(self, context: Context) -> str:
        """Create the queue, or take that of an earlier try; wait until it takes jobs; return its name."""
        with self.failing_for_good():
            self.switch.check()
            wanted, seconds = self._wanted(context), _seconds("wait_usable", self.wait_usable)
            client = self.client(self.switch.check)
            client.connect()
            creation = _Creation(wanted, client, self.log, self.poll_interval)
            try:
                age = creation.create()
                if self.wait_for_completion:
                    self._wait(client, wanted, seconds - min(max(age, 0), seconds))
                self.switch.check()
            except BaseException:
                creation.undo()
                raise
            return wanted.name

    def _wanted(self, context: Context) -> _Wanted:
        ti = TaskInstanceKey.of(context["ti"])
        mine = identity.Identity(
            **ti._asdict(), statement_index=0, generation="", try_number=0, owner="task", work=""
        ).ti
        dag, task = (_NOT_SHOWN.sub("_", name)[:80] for name in (ti.dag_id, ti.task_id))
        pool = queues.checked_name("elastic_resource_pool_name", self.elastic_resource_pool_name)
        call = queues.create(
            self.queue_name,
            self.cu_count,
            elastic_resource_pool_name=pool,
            queue_type=self.queue_type,
            tags=self.tags,
            description=f"Airflow DAG {dag} task {task} {mine}",
        )
        name = queues.checked_name("queue_name", self.queue_name)
        return _Wanted(call, name, self.queue_type or queues.DEFAULT_TYPE, pool, mine)

    def _wait(self, client: DliClient, wanted: _Wanted, seconds: float) -> None:
        if seconds > 0:
            self.log.info(
                "Waiting %s until queue %s takes jobs; DLI does not tell when it does.", in_words(seconds), wanted.name
            )
            client.pause(seconds)


class DliDeleteQueueOperator(DliOperator):
    """
    Delete a queue. One that is gone already satisfies it, so its own retry does no harm.

    Made for a teardown task: ``delete.as_teardown(setups=create)``. DLI does not delete a queue while jobs on it are
    submitted or run; so a refused deletion is tried again, every ``poll_interval``, until ``execution_timeout`` is
    over, or for 30 minutes when the task has none.

    Follows the page "Deleting a Queue" of the DLI API Reference.

    :param queue_name: The queue. The built-in queue ``default`` is refused. (templated)
    :param force: Whether to cancel all active jobs of the queue first, of all kinds and whoever submitted them. A kind
        that the user may not list is left out, with a warning that names the missing right. Default False.
    :param dli_conn_id: Airflow connection of type ``dli``. Default ``dli_default``. (templated)
    :param region: Takes the place of the connection's ``region``. (templated)
    :param project_id: Takes the place of the connection's ``project_id``. (templated)
    :param poll_interval: Seconds between two tries to delete the queue, at most. Default 10.
    :param wait_for_completion: Whether to wait for a busy queue. Default True; otherwise the first refusal fails the
        task.
    :raises DliValueError: DLI does not take such a name, or it is ``default``.
    :raises DliError: DLI still refuses when the time is over; with its own message.
    """

    template_fields: Sequence[str] = ("queue_name", "dli_conn_id", "region", "project_id")
    ui_color = "#fdecea"

    def __init__(self, *, queue_name: Templated[str], force: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.queue_name: Any = queue_name
        self.force = force

    def execute(self, context: Context) -> None:
        """Delete the queue; with ``force``, cancel its jobs first."""
        with self.failing_for_good():
            self.switch.check()
            name = queues.checked_name("queue_name", self.queue_name)
            if name == queues.DEFAULT:
                raise DliValueError(
                    f"queue_name: the queue {name} is built in and cannot be deleted.", field="queue_name"
                )
            client = self.client(self.switch.check)
            client.connect()
            self._delete(client, name)

    def _delete(self, client: DliClient, name: str) -> None:
        # Airflow ends the task when `execution_timeout` is over.
        end = None if self.execution_timeout else machine.monotonic() + BUSY_BUDGET
        jobs = _JobsOfQueue(name, client, self.log) if self.force else None
        interval, said = min(FIRST_POLL_INTERVAL, self.poll_interval), ""
        while True:
            if jobs:
                jobs.cancel()
            try:
                client.send(queues.delete(name))
                self.log.info("Queue %s is deleted.", name)
                return
            except (DliTaskKilledError, *PERMANENT):
                raise
            except DliError as error:
                # Not every "not found" is about the queue: a gateway says it of a wrong endpoint.
                if isinstance(error, DliNotFoundError) and (error.code or "").startswith("DLI."):
                    self.log.info("There is no queue %s (any more).", name)
                    return
                if not self.wait_for_completion or (end is not None and machine.monotonic() >= end):
                    raise
                if str(error) != said:
                    said = str(error)
                    self.log.info("Not deleted yet: %s. Trying again.", said.rstrip("."))
            client.pause(interval)
            interval = min(interval * 1.5, self.poll_interval)


@dataclass(frozen=True)
class _Wanted:
    """
    The queue of a task instance.

    :param mine: What its description ends in, which tells it from all other queues.
    """

    call: Call[str]
    name: str
    type: str
    pool: str
    mine: str

    def is_met_by(self, queue: queues.Queue) -> bool:
        """Whether this task instance has created the queue."""
        return queue.description.endswith(self.mine)

    def require(self, queue: queues.Queue) -> None:
        """
        Check a queue that was there before.

        :raises DliValueError: It is another task's, or somebody else's, or it has another type or pool.
        """
        if not self.is_met_by(queue):
            raise DliValueError(
                f"Queue {self.name} exists already, and this task has not created it (its description: "
                f"{queue.description!r}). Choose another queue_name, or delete the queue if it is a leftover.",
                field="queue_name",
            )
        for field, is_, wanted in [
            ("queue_type", queue.type, self.type),
            ("elastic_resource_pool_name", queue.pool, self.pool),
        ]:
            if is_ and is_ != wanted:
                raise DliValueError(
                    f"An earlier try of this task has created queue {self.name} with {field} {is_!r}, and now it is to "
                    f"be {wanted!r}. Delete the queue, or choose another queue_name.",
                    field=field,
                )


class _Creation:
    """The creation of a queue, which can be undone."""

    def __init__(self, wanted: _Wanted, client: DliClient, log: Log, poll_interval: float) -> None:
        self._wanted = wanted
        self._client = client
        self._log = log
        self._poll_interval = poll_interval
        self._is_answered = True

    def create(self) -> float:
        """
        Create the queue, or take that of an earlier try; return for how long it has been there, in seconds.

        :raises DliValueError: Another queue has this name.
        """
        for tries_left in reversed(range(_CREATE_TRIES)):
            try:
                self._is_answered = False
                self._client.send(self._wanted.call)
                self._is_answered = True
                self._shown()
                self._log.info("Queue %s is created.", self._wanted.name)
                return 0
            except DliTaskKilledError:
                raise
            except DliError as error:
                self._is_answered = not isinstance(error, DliTemporaryError)
                if isinstance(error, (DliNotFoundError, *PERMANENT)):
                    raise
                # The name is taken, or the answer got lost: the queue may be this task's own.
                if (queue := self._look(self._client)) is not None:
                    self._wanted.require(queue)
                    self._is_answered = True
                    self._log.info("Queue %s is there already: this task has created it before.", self._wanted.name)
                    return machine.time() - queue.created.timestamp() if queue.created else 0
                if self._is_answered or not tries_left:
                    raise
                self._log.warning("%s. There is no queue %s; trying again.", str(error).rstrip("."), self._wanted.name)
            self._client.pause(min(1.0, self._poll_interval))
        raise AssertionError("the last try returns or raises")

    def undo(self) -> None:
        """Delete the queue if this task instance has created it. For a task that fails, whatever DLI says."""
        client = self._client.patient(URGENT)
        end = machine.monotonic() + (0 if self._is_answered else _LOOK_FOR_LOST)
        try:
            while (queue := self._look(client)) is None and machine.monotonic() < end:
                client.pause(FIRST_POLL_INTERVAL)
            if queue is not None and self._wanted.is_met_by(queue):
                client.send(queues.delete(queue.name))
                self._log.info("Queue %s is deleted again: a setup that fails has no teardown.", queue.name)
        except DliError as error:
            self._log.warning("Queue %s may be left, and cost: %s", self._wanted.name, error)

    def _shown(self) -> None:
        end = machine.monotonic() + _SHOWN_WITHIN
        while self._look(self._client) is None:
            if machine.monotonic() >= end:
                raise DliError(
                    f"DLI has created queue {self._wanted.name}, but does not show it {in_words(_SHOWN_WITHIN)} later."
                )
            self._client.pause(min(1.0, self._poll_interval))

    def _look(self, client: DliClient) -> queues.Queue | None:
        try:
            return client.send(queues.show(self._wanted.name))
        except DliNotFoundError:
            return None


class _JobsOfQueue:
    """Cancels the active jobs of a queue, of all kinds."""

    def __init__(self, name: str, client: DliClient, log: Log) -> None:
        self._name = name
        self._client = client
        self._log = log
        self._cancelled: set[str] = set()
        self._not_listed: set[str] = set()

    def cancel(self) -> None:
        """Cancel those that are there now, and are not being cancelled already."""
        for kind in KINDS.values():
            for job in self._active(kind):
                if job.id not in self._cancelled:
                    self._cancel(kind, job)

    def _active(self, kind: JobKind[Any]) -> list[Job]:
        try:
            return [
                job
                for status in kind.active
                for job in self._client.jobs(kind, Query(status=status, queue_name=self._name))
                # A filter that DLI does not know would show the jobs of all queues.
                if self._queue_of(kind, job) == self._name
            ]
        except (DliTaskKilledError, DliAuthenticationError):
            raise
        except DliError as error:
            if kind.name not in self._not_listed:
                self._not_listed.add(kind.name)
                self._log.warning("Jobs of kind %s are not cancelled: %s", kind.name, error)
            return []

    def _queue_of(self, kind: JobKind[Any], job: Job) -> str:
        if job.queue_name or job.id in self._cancelled:
            return job.queue_name.lower()
        # The list of Flink jobs does not name it.
        with suppress(DliNotFoundError):
            return self._client.job(kind, job.id).queue_name.lower()
        return ""

    def _cancel(self, kind: JobKind[Any], job: Job) -> None:
        client = self._client.patient(replace(self._client.patience, give_up_after=_CANCEL_WITHIN))
        try:
            cancellation = client.cancel(kind, job.id)
        except DliNotFoundError:
            return
        except (DliTaskKilledError, DliAuthenticationError):
            raise
        except DliError as error:
            self._log.error("%s", story.not_cancelled(str(job), error))
            return
        self._cancelled.add(job.id)
        self._log.info("%s", story.cancelled(f"{job} on queue {self._name}", cancellation))


def _seconds(field: str, value: timedelta | float) -> float:
    with suppress(TypeError, ValueError, OverflowError):
        duration = value if isinstance(value, timedelta) else timedelta(seconds=value)
        if duration >= timedelta():
            return duration.total_seconds()
    raise DliValueError(
        f"{field} must be a timedelta, or a number of seconds, of 0 or more, not {value!r}.", field=field
    )
