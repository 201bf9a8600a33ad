"""What all operators have in common: a connection, a switch, and for those that run a job, the way to its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator
from airflow.providers.common.compat.sdk import conf as airflow_config

from airflow_provider_dli import DEFAULT_CONN_ID
from airflow_provider_dli.client.patience import watch_nothing
from airflow_provider_dli.exceptions import PERMANENT, DliValueError
from airflow_provider_dli.job import Goal
from airflow_provider_dli.links.dli import DliJobLink
from airflow_provider_dli.tasks.deferral import Deferral
from airflow_provider_dli.tasks.kill import KillSwitch
from airflow_provider_dli.tasks.of_hook import is_in_another_task, killed_with_the_task
from airflow_provider_dli.waiting.watcher import checked_poll_interval

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_dli.api.job_kind import JobKind, Work
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.client.connection import DliConnection
    from airflow_provider_dli.compat import Templated
    from airflow_provider_dli.job import Job
    from airflow_provider_dli.tasks.run import JobRun
    from airflow_provider_dli.xcoms import Place

#: The default of the parameter ``deferrable``.
DEFERRABLE = airflow_config.getboolean("operators", "default_deferrable", fallback=False)
# The method that Airflow resumes a task with when its trigger crashed or was timed out.
_TRIGGER_FAILED = "__fail__"


class DliOperator(BaseOperator):
    """An operator with a connection, which ends soon when it is killed."""

    deferrable = False

    def __init__(
        self,
        *,
        dli_conn_id: Templated[str] = DEFAULT_CONN_ID,
        region: Templated[str] | None = None,
        project_id: Templated[str] | None = None,
        poll_interval: float = 10.0,
        wait_for_completion: bool = True,
        **kwargs: Any,
    ) -> None:
        _refuse_queue(self, kwargs)
        super().__init__(**kwargs)
        self.dli_conn_id: Any = dli_conn_id
        self.region: Any = region
        self.project_id: Any = project_id
        self.poll_interval = poll_interval
        self.wait_for_completion = wait_for_completion

    @property
    def switch(self) -> KillSwitch:
        """What :meth:`on_kill` pulls."""
        # Made on demand, in one step: a kill may come between two.
        switch: KillSwitch = self.__dict__.setdefault("_kill_switch", KillSwitch())
        return switch

    def on_kill(self) -> None:
        """Cancel the job, if this task waits for one, and end the task soon. Called by Airflow, at any moment."""
        self.switch.pull()

    @property
    def may_defer(self) -> bool:
        """Whether to wait in the triggerer. Not in the function of another task, which could not be resumed."""
        if self.deferrable and is_in_another_task(self):
            self.log.info("%s waits in the worker: a task that executes an operator cannot be deferred.", self.task_id)
            return False
        return self.deferrable

    def client(self, watch: Callable[[], None]) -> DliClient:
        """
        Return a client for the connection of this task.

        :param watch: Called at least every 0.25 s in every wait; what it raises ends the wait.
        """
        # Here, for every DAG file that is parsed would pay for it.
        from airflow_provider_dli.hooks.dli import DliHook

        checked_poll_interval(self.poll_interval)
        return DliHook(self.dli_conn_id, region=self.region, project_id=self.project_id).client.watching(watch)

    @contextmanager
    def failing_for_good(self) -> Iterator[None]:
        """
        Keep Airflow from retrying what no retry can fix, or what would lock an account: a wrong field or password.

        Unless a job may still run: then the next try has to take it over. A kill of another task whose function
        executes this operator reaches it meanwhile.
        """
        try:
            with killed_with_the_task(self):
                yield
        except PERMANENT as error:
            if self.switch.may_leave_a_job:
                raise
            # Its sentence says all. The traceback of a wrong field would only hide it.
            raise AirflowFailException(str(error)) from None


class DliJobOperator(DliOperator):
    """An operator that runs a job: it submits or takes up one, waits, and has it cancelled when it is killed."""

    job_kind: ClassVar[JobKind[Any]]
    #: Of kinds that have such things: whether the job is stopped with a savepoint, how long it may take to start, and
    #: how many lines of its log are shown when it fails.
    stop_with_savepoint = False
    start_timeout: timedelta | None = None
    log_tail_lines = 0
    operator_extra_links = (DliJobLink(),)
    #: The template fields whose text may be the path of a file. In all others, ``.sql`` is text like any other.
    file_fields: ClassVar[Collection[str]] = ()
    ui_color = "#e8f4fd"

    def __init__(
        self,
        *,
        cancel_on_kill: bool = True,
        on_earlier_job: Literal["reattach", "cancel", "ignore"] = "reattach",
        deferrable: bool = DEFERRABLE,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cancel_on_kill = cancel_on_kill
        self.on_earlier_job = on_earlier_job
        self.deferrable = deferrable
        #: The job that the task waits for, once it is known.
        self.current_job_id: str | None = None
        #: Address of the jobs in the cloud's console, once it is known; empty when there is none.
        self.console_url: str | None = None
        #: Whether the task was deferred in this try: then it may have told more than this operator knows.
        self.is_resumed = False

    @property
    def goal(self) -> Goal:
        """What the task waits for."""
        return Goal.FINISHED

    @property
    def creates_job(self) -> bool:
        """Whether the task creates its job; else it starts one that exists."""
        return True

    @property
    def statements_before(self) -> int | None:
        """
        How many statements the task has run before those of :meth:`works`, of a task that does not know all of them.

        None for a task that does.
        """
        return None

    def finish(self, client: DliClient, job: Job, ti: Any, place: Place) -> None:
        """
        Do what is left to be done once the job is what the task waits for.

        :param ti: Airflow's task instance.
        :param place: Which statement the job has run, of a task that has several.
        """

    def work(self, connection: DliConnection) -> Work:
        """
        Return what the job does, from the parameters and the defaults of the connection.

        :raises DliValueError: A parameter cannot be used.
        """
        raise NotImplementedError

    def works(self, connection: DliConnection) -> Sequence[Work]:
        """Return what the jobs do, one after the other, of a task that may have several."""
        return [self.work(connection)]

    def execute(self, context: Context) -> str:
        """Submit the job, or take up the one of an earlier try; wait for it; return its id."""
        with self.failing_for_good():
            return self._run(context).begin()

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None, **crossed: Any) -> str:
        """
        Continue after the deferral; return the job id.

        :param event: What the trigger has fired.
        :param crossed: See :class:`.Deferral`.
        """
        with self.failing_for_good():
            return self._run(context).resume(event, Deferral.resumed(event, crossed))

    def pre_execute(self, context: Context) -> None:
        """Take care of the job when its time is over before the task is resumed. Called by Airflow."""
        super().pre_execute(context)
        self._run(context).end_before_resuming()

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Take care of the job when the deferral failed: the trigger crashed, or the scheduler ended it."""
        self.is_resumed = True
        if next_method == _TRIGGER_FAILED:
            with self.failing_for_good():
                if (job_id := self._run(context).resume_without_event()) is not None:
                    return job_id
        return super().resume_execution(next_method, next_kwargs, context)

    def lineage_fields(self) -> dict[str, Any]:
        """Return what OpenLineage is told beside the job: see :func:`.lineage.openlineage.lineage`."""
        return {}

    def get_openlineage_facets_on_start(self) -> OperatorLineage | None:
        """Return the tables, the statements and the job of this task. Called by Airflow's OpenLineage provider."""
        from airflow_provider_dli.lineage.openlineage import lineage

        connection = self.client(watch_nothing).access.connection()
        return lineage(connection, job_id=self.current_job_id, **self.lineage_fields())

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage | None:
        """Return the same, with the job. Called by Airflow's OpenLineage provider."""
        return self.get_openlineage_facets_on_start()

    def resolve_template_files(self) -> None:
        """Read the files that :attr:`file_fields` name. Called by Airflow when it has read the DAG."""
        with self._replaced("template_fields", tuple(self.file_fields)):
            super().resolve_template_files()

    # Airflow calls it of each task, a mapped one included.
    def _do_render_template_fields(self, parent: Any, template_fields: Iterable[str], *rest: Any, **more: Any) -> None:
        extensions = self.template_ext
        for name in template_fields:
            of_a_file = parent is self and name in self.file_fields
            with self._replaced("template_ext", extensions if of_a_file else ()):
                super()._do_render_template_fields(parent, [name], *rest, **more)

    @contextmanager
    def _replaced(self, name: str, value: Any) -> Iterator[None]:
        """Give an attribute of Airflow's another value for a while, past what Airflow does when one is set."""
        before = {name: vars(self)[name]} if name in vars(self) else {}
        vars(self)[name] = value
        try:
            yield
        finally:
            del vars(self)[name]
            vars(self).update(before)

    def _run(self, context: Context) -> JobRun:
        from airflow_provider_dli.tasks.cleared import note_success_of
        from airflow_provider_dli.tasks.run import JobRun

        note_success_of(self)
        return JobRun(self, context)


def _refuse_queue(task: BaseOperator, arguments: Mapping[str, Any]) -> None:
    # A mapped task gets all of Airflow's own arguments, this one too.
    if "queue" in arguments and not getattr(task, "_BaseOperator__from_mapped", False):
        raise DliValueError(
            f"queue={arguments['queue']!r} is Airflow's own parameter: the queue of the worker. The queue of DLI is "
            "queue_name. (Airflow's can be set through default_args.)",
            field="queue",
        )
