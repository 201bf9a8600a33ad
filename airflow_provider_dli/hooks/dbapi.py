"""DLI as a database of Python (PEP 249). Each statement is a DLI job; there are no transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_dli.api import checks, script
from airflow_provider_dli.api.rows import MOST_ROWS
from airflow_provider_dli.exceptions import DliError, DliValueError

if TYPE_CHECKING:
    from airflow_provider_dli.api.rows import Form, Rows
    from airflow_provider_dli.job import Job

apilevel = "2.0"
#: Threads may share the module, but no connection.
threadsafety = 1
#: ``:name``; a list of values goes to each ``?`` in order.
paramstyle = "named"

# The names that PEP 249 wants, for what the provider raises.
Error = DatabaseError = OperationalError = InternalError = DataError = IntegrityError = DliError
InterfaceError = ProgrammingError = NotSupportedError = DliValueError

Parameters = Mapping[str, Any] | Sequence[Any]
Description = list[tuple[str, str | None, None, None, None, None, None]]


class Connection:
    """
    A connection of PEP 249.

    :param run: Runs a statement to its end; returns its job.
    :param fetch: Returns the first rows of a job's result.
    :param form: Whom the values are for; see :class:`.Form`. Default: Python code.
    :param conf: The settings with which a statement runs, to be checked. Default: none.
    """

    def __init__(
        self,
        run: Callable[[str], Job],
        fetch: Callable[[Job], Rows],
        form: Form | None = None,
        conf: Mapping[str, Any] | None = None,
    ) -> None:
        self._run = run
        self._fetch = fetch
        self._form = form
        self._conf = conf
        #: Without an effect: each statement is done when it has run.
        self.autocommit = True

    def cursor(self) -> Cursor:
        """Return a new cursor."""
        return Cursor(self._run, self._fetch, self._form, self._conf)

    def commit(self) -> None:
        """Do nothing: each statement is done when it has run."""

    def rollback(self) -> None:
        """Do nothing: what has run cannot be taken back. Pandas calls it after an error."""

    def close(self) -> None:
        """Do nothing: the hook keeps its connection to DLI."""


class Cursor:
    """
    A cursor of PEP 249.

    :param run: See :class:`Connection`.
    :param fetch: See :class:`Connection`.
    :param form: See :class:`Connection`.
    :param conf: See :class:`Connection`.
    """

    def __init__(
        self,
        run: Callable[[str], Job],
        fetch: Callable[[Job], Rows],
        form: Form | None = None,
        conf: Mapping[str, Any] | None = None,
    ) -> None:
        self._run = run
        self._fetch = fetch
        self._form = form
        self._conf = conf
        self._job: Job | None = None
        self._rows: list[tuple[Any, ...]] | None = None
        self._columns: list[tuple[str, str]] | None = None
        self._position = 0
        #: How many rows :meth:`fetchmany` returns by default.
        self.arraysize = 1

    @property
    def description(self) -> Description | None:
        """Name and DLI's type of each column; None when the statement has no rows."""
        self._read()
        if self._columns is None:
            return None
        rows = self._rows or []
        types = [
            None if self._form and self._form.hides_type(kind, (row[position] for row in rows)) else kind
            for position, (_, kind) in enumerate(self._columns)
        ]
        return [
            (name, kind, None, None, None, None, None) for (name, _), kind in zip(self._columns, types, strict=True)
        ]

    @property
    def rowcount(self) -> int:
        """Number of rows returned or inserted; -1 when DLI does not say."""
        found = self._job.result_count if self._job else None
        return -1 if found is None else found

    @property
    def query_id(self) -> str | None:
        """The id of the DLI job that ran last. Airflow's lineage reads it."""
        return self._job.id if self._job else None

    def execute(self, operation: str, parameters: Parameters | None = None) -> Cursor:
        """
        Run a statement, or the statements of a script one after the other; the rows are those of the last one.

        :param operation: The statements.
        :param parameters: Values for ``:name`` by name, some of which may be unused; or a list, for each ``?``.
        :raises DliValueError: A statement or a parameter cannot be used; nothing was submitted.
        :raises DliJobError: The job failed or was cancelled.
        """
        self._job, self._rows, self._columns, self._position = None, None, None, 0
        if parameters:
            checks.conf_with_parameters(self._conf)
        # Airflow's operators hand the parameters of a whole script to each of its statements.
        for statement in script.statements(operation, parameters or None, may_be_unused=True):
            self._job = self._run(statement)
        return self

    def executemany(self, operation: str, seq_of_parameters: Sequence[Parameters]) -> Cursor:
        """Run a statement once for each set of parameters, each time as a DLI job of its own."""
        for parameters in seq_of_parameters:
            self.execute(operation, parameters)
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row; None when there is none."""
        return next(iter(self.fetchmany(1)), None)

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        """Return the next rows, at most so many."""
        rows = self._read()
        end = self._position + (self.arraysize if size is None else size)
        if end > len(rows):
            self._require_all(rows)
        found = rows[self._position : end]
        self._position += len(found)
        return found

    def fetchall(self) -> list[tuple[Any, ...]]:
        """
        Return all rows that are left.

        :raises DliError: The result has more rows than DLI shows.
        """
        rows = self._read()
        self._require_all(rows)
        found, self._position = rows[self._position :], len(rows)
        return found

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Go through the rows that are left."""
        return iter(self.fetchone, None)

    def close(self) -> None:
        """Forget the rows."""
        self._job, self._rows, self._columns = None, None, None

    def setinputsizes(self, sizes: object) -> None:
        """Do nothing, as PEP 249 allows."""

    def setoutputsize(self, size: object, column: object = None) -> None:
        """Do nothing, as PEP 249 allows."""

    def _read(self) -> list[tuple[Any, ...]]:
        """Return the rows; read them when they are asked for first."""
        if self._rows is None:
            found = self._job.rows if self._job else None
            if found is None and self._job and self._job.job_type.upper() == "QUERY":
                found = self._fetch(self._job)
            if found is None and self._job and script.shows(self._job.statement):
                raise DliError(f"DLI has not sent the rows of {self._job}, or its answer was lost: run it again.")
            self._columns = found.columns if found else None
            self._rows = [tuple(row) for row in found.typed(self._form)] if found else []
        return self._rows

    def _require_all(self, rows: list[tuple[Any, ...]]) -> None:
        """Refuse to pass a part of a result for the whole."""
        count = self.rowcount
        if len(rows) >= MOST_ROWS and count != len(rows) and self._job:
            there_are = f"has {count:,} rows" if count > len(rows) else "may have more rows"
            raise DliError(
                f"The result of {self._job} {there_are}, and DLI shows the first {MOST_ROWS:,}. Add a LIMIT, aggregate "
                "in SQL, or export the result (DliExportResultOperator)."
            )
