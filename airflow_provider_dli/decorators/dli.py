"""The decorator ``@task.dli_sql``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import (
    DecoratedOperator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)

from airflow_provider_dli.operators.sql import DliSubmitSqlJobOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, TaskDecorator

    from airflow_provider_dli.api.job_kind import Work
    from airflow_provider_dli.client.connection import DliConnection
    from airflow_provider_dli.tasks.run import JobRun


class _DliSqlDecoratedOperator(DecoratedOperator, DliSubmitSqlJobOperator):
    """A task whose function returns what :class:`.DliSubmitSqlJobOperator` takes as ``sql``."""

    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *DliSubmitSqlJobOperator.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **DliSubmitSqlJobOperator.template_fields_renderers,
    }
    custom_operator_name = "@task.dli_sql"
    shallow_copy_attrs: Sequence[str] = (*DecoratedOperator.shallow_copy_attrs, "_context")
    # So that the UI shows the statement among the rendered fields.
    overwrite_rtif_after_execution = True

    def __init__(
        self,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(python_callable=python_callable, op_args=op_args, op_kwargs=op_kwargs, sql="", **kwargs)
        self._context: Context | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_context": None}  # type: ignore[no-untyped-call]

    def works(self, connection: DliConnection) -> Sequence[Work]:
        """Call the function, and return the statements."""
        context: Any = self._context
        context_merge(context, self.op_kwargs)
        arguments = determine_kwargs(self.python_callable, self.op_args, context)
        self.sql = self.python_callable(*self.op_args, **arguments)
        return super().works(connection)

    def xcom_push(self, context: Context, key: str, value: Any) -> None:
        """Push an XCom. The base class of Airflow 3.0 relies on this, and no operator has it there."""
        context["ti"].xcom_push(key=key, value=value)

    def _run(self, context: Context) -> JobRun:
        self._context = context
        return super()._run(context)


def dli_sql_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """
    Make a function a task that runs the SQL it returns: a statement, a script, or a list of these.

    What the function returns is no template. After a deferral between two statements it is called again, and has to
    return as many statements.

    :param python_callable: The function.
    :param kwargs: All parameters of :class:`.DliSubmitSqlJobOperator` but ``sql``.
    """
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=_DliSqlDecoratedOperator, **kwargs
    )
