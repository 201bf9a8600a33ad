"""Errors of DuckDB and sqlglot, as the messages of failed jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import duckdb
from sqlglot.errors import SqlglotError, UnsupportedError

from airflow_provider_dli.local.dli.engine.obs import ObsError
from airflow_provider_dli.local.dli.engine.spark_sql import NotSupportedError, first_line
from airflow_provider_dli.local.dli.jobs.job import JobFailedError, StoppedError

ERRORS: list[tuple[type[Exception], str]] = [
    (duckdb.ConversionException, "DLI.0018: NumberFormatException"),
    (duckdb.OutOfRangeException, "DLI.0018: ArithmeticException"),
    (duckdb.OutOfMemoryException, "DLI.0009: OutOfMemoryError"),
    (duckdb.NotImplementedException, "DLI.0007: not supported by the local DLI"),
    (duckdb.PermissionException, "DLI.0003: access denied"),
    (duckdb.IOException, "DLI.0001: storage"),
    (duckdb.InternalException, "DLI.0999: the SQL engine broke down, and its tables are gone"),
    (duckdb.FatalException, "DLI.0999: the SQL engine broke down, and its tables are gone"),
    (duckdb.Error, "DLI.0005: AnalysisException"),
]


@contextlib.contextmanager
def dli_errors() -> Iterator[None]:
    """Translate what DuckDB and sqlglot raise into the way a DLI job ends."""
    try:
        yield
    except duckdb.InterruptException:
        raise StoppedError from None
    except (NotSupportedError, UnsupportedError) as error:
        raise JobFailedError(f"DLI.0007: not supported by the local DLI: {error}") from None
    except ObsError as error:
        raise JobFailedError(f"DLI.0001: {error}") from None
    except (SqlglotError, RecursionError) as error:
        raise JobFailedError(f"DLI.0004: ParseException: {first_line(str(error))}") from None
    except duckdb.Error as error:
        reason = first_line(str(error))
        if "already exists" in reason:
            raise JobFailedError(f"DLI.0006: {reason}") from None
        code = next(code for kind, code in ERRORS if isinstance(error, kind))
        raise JobFailedError(f"{code}: {reason}") from None
