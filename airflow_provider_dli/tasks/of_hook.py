"""
Runs jobs in a task whose own operator knows nothing of DLI: for a hook, or for an operator of ours that its function
executes.

The ``on_kill`` of that task is wrapped while it runs, so that a kill cancels the jobs. Each has the identity of the
task. Those of a hook run one after the other; the next try cancels what a lost one has left running, and the sweep
finds the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import compat, machine, story
from airflow_provider_dli.client.patience import watch_nothing
from airflow_provider_dli.exceptions import DliError, DliNotFoundError
from airflow_provider_dli.job import Goal
from airflow_provider_dli.task_instances import TaskInstanceKey
from airflow_provider_dli.tasks.kill import KillSwitch
from airflow_provider_dli.waiting.watcher import wait_until_over

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dli.api.call import Call
    from airflow_provider_dli.api.job_kind import JobKind, Work
    from airflow_provider_dli.client.client import DliClient, Log
    from airflow_provider_dli.client.connection import DliConnection
    from airflow_provider_dli.job import Job
    from airflow_provider_dli.xcoms import Place


class Statement:
    """
    One statement of a task, as a task of its own: see :class:`.JobTask`.

    :param client: Talks to DLI.
    :param kind: Kind of the job.
    :param work: What it does.
    :param index: Index of the statement within the task.
    :param is_first: Whether it is the first of this process.
    :param operator: The operator of the task.
    :param conn_id: Airflow connection of the hook.
    :param poll_interval: Seconds between two status calls, at most.
    """

    current_job_id: str | None = None
    goal = Goal.FINISHED
    creates_job = True
    may_defer = False
    wait_for_completion = True
    cancel_on_kill = True
    stop_with_savepoint = False
    start_timeout: timedelta | None = None
    log_tail_lines = 0
    console_url: str | None = None
    region: str | None = None
    project_id: str | None = None

    def __init__(
        self,
        client: DliClient,
        kind: JobKind[Any],
        work: Work,
        index: int,
        is_first: bool,
        operator: Any,
        conn_id: str,
        poll_interval: float,
    ) -> None:
        self._client = client
        self.job_kind = kind
        self._work = work
        self.statements_before = index
        self.dli_conn_id = conn_id
        self.poll_interval = poll_interval
        self.retries: int | None = operator.retries
        self.execution_timeout: timedelta | None = operator.execution_timeout
        # What an earlier try has left running is cancelled. What it has done is done again: only the operator knows
        # what it makes of the rows.
        self.on_earlier_job = "cancel" if is_first else "ignore"
        self.switch = KillSwitch()
        self.ended: list[Job] = []

    @property
    def log(self) -> Log:
        """Where the hook logs."""
        return self._client.log

    def client(self, watch: Callable[[], None]) -> DliClient:
        """Return a client whose waits this ends."""
        return self._client.watching(watch)

    def works(self, connection: DliConnection) -> Sequence[Work]:
        """Return the statement."""
        return [self._work]

    def finish(self, client: DliClient, job: Job, ti: Any, place: Place) -> None:
        """Keep the job, for its rows."""
        self.ended.append(job)


class RunningTask:
    """
    The task that runs in this process, and what is to be killed with it: statements of hooks, operators of ours.

    :param context: Airflow's context of the task.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._operator = context["ti"].task
        self._key = TaskInstanceKey.of(context["ti"]), context["ti"].try_number
        self._is_killed = False
        # A signal handler goes through them at any moment: one that is added is a new tuple.
        self._switches: tuple[KillSwitch, ...] = ()
        self._last_index = 0
        # One statement at a time: the look for jobs of earlier tries must not meet one of this try.
        self._lock = threading.Lock()
        self._wrap_on_kill()

    def is_of(self, context: Context) -> bool:
        """Whether this is still the task that runs; ``dag.test()`` runs several in one process."""
        key = TaskInstanceKey.of(context["ti"]), context["ti"].try_number
        return self._operator is context["ti"].task and self._key == key

    def run(self, client: DliClient, kind: JobKind[Any], work: Work, *, conn_id: str, poll_interval: float) -> Job:
        """
        Run a job to its end; return it.

        :param client: Talks to DLI.
        :param kind: Kind of the job.
        :param work: What it does.
        :param conn_id: Airflow connection of the hook.
        :param poll_interval: Seconds between two status calls, at most.
        """
        from airflow_provider_dli.tasks.run import JobRun

        with self._lock:
            is_first = self._last_index == 0
            statement = Statement(
                client, kind, work, self._next_index(), is_first, self._operator, conn_id, poll_interval
            )
            with self.killing(statement.switch):
                JobRun(statement, self._context).begin()
        [job] = statement.ended
        return job

    @contextmanager
    def killing(self, switch: KillSwitch) -> Iterator[None]:
        """Pull a switch, too, when the task is killed meanwhile, or was killed before."""
        self._switches = (*self._switches, switch)
        if self._is_killed:
            switch.pull()
        try:
            yield
        finally:
            self._switches = tuple(each for each in self._switches if each is not switch)

    def _next_index(self) -> int:
        # A sensor that is rescheduled begins again in a new process, which does not know how many there were before.
        start = self._context["dag_run"].start_date
        elapsed = machine.time() - (start.timestamp() if start else 0.0)
        self._last_index = max(int(elapsed * 1000), self._last_index + 1)
        return self._last_index

    def _wrap_on_kill(self) -> None:
        of_operator = self._operator.on_kill

        def on_kill() -> None:
            self._is_killed = True
            try:
                for switch in self._switches:
                    switch.pull()
            finally:
                of_operator()

        self._operator.on_kill = on_kill  # type: ignore[method-assign]


_running: RunningTask | None = None


def running_task() -> RunningTask | None:
    """Return the task that runs in this process; None outside of tasks."""
    global _running
    context = compat.current_context()
    if context is None:
        return None
    if _running is None or not _running.is_of(context):
        _running = RunningTask(context)
    return _running


def is_in_another_task(operator: Any) -> bool:
    """Whether the function of another task executes this operator: Airflow knows nothing of it."""
    context = compat.current_context()
    task = None if context is None else getattr(context["ti"], "task", None)
    return task is not None and task is not operator


@contextmanager
def killed_with_the_task(operator: Any) -> Iterator[None]:
    """While the function of another task executes an operator of ours, have a kill of that task reach it."""
    around = running_task() if is_in_another_task(operator) else None
    with nullcontext() if around is None else around.killing(operator.switch):
        yield


def run_outside_of_tasks(
    client: DliClient,
    kind: JobKind[Any],
    submit: Call[Job],
    *,
    poll_interval: float,
    watch: Callable[[], None] = watch_nothing,
) -> Job:
    """
    Run a job to its end where no task runs; return it.

    It is cancelled when the wait is interrupted, unless the whole process is lost.

    :param client: Talks to DLI.
    :param kind: Kind of the job.
    :param submit: Submits it.
    :param poll_interval: Seconds between two status calls, at most.
    :param watch: Called at least every 0.25 s while it waits; what it raises interrupts the wait.
    """
    submitted = client.send(submit)
    try:
        job = wait_until_over(client.watching(watch), kind, submitted.id, poll_interval=poll_interval)
    except BaseException:
        try:
            client.cancel(kind, submitted.id)
        except DliNotFoundError:
            pass  # nothing is left to cancel
        except DliError as error:  # what has interrupted the wait counts
            client.log.error("%s", story.not_cancelled(str(submitted), error))
        raise
    return replace(job.require(), rows=submitted.rows)
