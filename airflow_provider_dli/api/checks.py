"""Checks of values before they are sent: each returns the value as DLI takes it, or names the field that is wrong."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from airflow_provider_dli.exceptions import DliValueError
from airflow_provider_dli.job import checked_job_id
from airflow_provider_dli.text import clean, has_control_characters

_QUEUE_NAME = re.compile(r"(?!_)(?![0-9]+\Z)[A-Za-z0-9_]{1,128}")
_MEMORY = re.compile(r"[1-9][0-9]*[kmgtKMGT][bB]?")
# With it, Spark reads a backslash in text as it stands.
_NO_ESCAPES = "spark.sql.parser.escapedStringLiterals"
_OBS = re.compile(r"obs://[^/\s]+/\S.*")
_EXAMPLE = "obs://bucket/folder/job.jar"
# A package that was uploaded to DLI, with or without its group.
_PACKAGE = re.compile(r"[^/\s:\\]+(/[^/\s:\\]+)?")


def refuse(field: str, problem: str) -> DliValueError:
    """Return the error that a field cannot be used as given."""
    return DliValueError(f"{field} {problem}", field=field)


def job_id(value: object) -> str:
    """Check the id of a job that is text, as SQL jobs and Spark batches have."""
    if isinstance(value, str) and value.isdecimal():
        raise refuse("job_id", f"{value} is a number, as Flink jobs have: use kind='flink'.")
    return checked_job_id(value)


def job_number(value: object) -> int:
    """Check the id of a job that is a number, as Flink jobs have."""
    found = str(value) if isinstance(value, int) and not isinstance(value, bool) else checked_job_id(value)
    if not re.fullmatch(r"[0-9]{1,19}", found):
        raise refuse(
            "job_id", f"{clean(repr(value), 100)} is no Flink job: those have numbers, such as 131. Check kind."
        )
    return int(found)


def name(field: str, value: object) -> str | None:
    """Check the name of a queue or a database; an empty one counts as not given."""
    return required_name(field, value) if value else None


def required_name(field: str, value: object) -> str:
    """Check the name of a queue, a pool or a database."""
    if isinstance(value, str) and _QUEUE_NAME.fullmatch(value):
        return value
    raise DliValueError(
        f"{field}: DLI does not take the name {value!r}: 1 to 128 letters, digits and _, not digits only, not starting "
        "with _.",
        field=field,
    )


def text(field: str, value: object, longest: int | None = None) -> str | None:
    """Check a line of text; an empty one counts as not given."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or has_control_characters(value) or not value.strip():
        raise refuse(field, f"must be a line of text, not {value!r}.")
    if longest is not None and len(value) > longest:
        raise refuse(field, f"is too long: {len(value)} characters, of which DLI takes {longest}.")
    return value


def texts(field: str, value: object) -> list[str] | None:
    """Check a list of text."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(each, str) for each in value):
        raise refuse(field, f"must be a list of text, not {value!r}.")
    return list(value)


def objects(field: str, value: object) -> list[dict[str, Any]] | None:
    """Check a list of mappings."""
    if value is None:
        return None
    if (
        isinstance(value, str)
        or not isinstance(value, Sequence)
        or not all(isinstance(each, Mapping) for each in value)
    ):
        raise refuse(field, f"must be a list of mappings, not {value!r}.")
    return [dict(each) for each in value]


def mapping(field: str, value: object) -> dict[str, Any]:
    """Check a mapping; None counts as empty."""
    if value is not None and not isinstance(value, Mapping):
        raise refuse(field, f"must be a mapping of names to values, not {value!r}.")
    return dict(value or {})


def conf_with_parameters(value: object) -> dict[str, Any]:
    """Check the settings of a statement that has values put in: Spark has to read the escapes in text."""
    found = mapping("conf", value)
    for key, setting in found.items():
        if str(key).strip() == _NO_ESCAPES and str(setting).strip().lower() == "true":
            raise refuse(
                "conf",
                f"cannot have {_NO_ESCAPES} together with parameters: Spark would not read the escapes in text values. "
                "Leave the setting out, or the parameters.",
            )
    return found


def choice(field: str, value: Any, choices: Collection[Any]) -> Any:
    """Check that the value is one of a few."""
    if value is not None and (isinstance(value, bool) or value not in choices):
        raise refuse(field, f"must be one of {', '.join(map(repr, choices))}, not {value!r}.")
    return value


def flag(field: str, value: object) -> bool | None:
    """Check a flag."""
    if value is not None and not isinstance(value, bool):
        raise refuse(field, f"must be True or False, not {value!r}.")
    return value


def whole_number(field: str, value: object, least: int = 0, most: int | None = None) -> int | None:
    """Check a whole number; one that a template has written as text will do."""
    if value is None:
        return None
    found = int(value) if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value.strip()) else value
    if not isinstance(found, int) or isinstance(found, bool) or found < least or (most is not None and found > most):
        range_ = f"from {least} to {most}" if most is not None else f"of at least {least}"
        raise refuse(field, f"must be a whole number {range_}, not {value!r}.")
    return found


def memory(field: str, value: object) -> str | None:
    """Check an amount of memory: DLI does not start a job without a unit."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _MEMORY.fullmatch(value):
        raise refuse(field, f"must be a whole number with a unit, such as '4G' or '2048M', not {value!r}.")
    return value


def package(field: str, value: object, *, only_obs: str = "") -> str:
    """
    Check a path to a file that DLI reads.

    :param only_obs: What takes files of OBS only, such as ``Spark 3.3.1``; empty where a package will do.
    """
    if isinstance(value, str) and _OBS.fullmatch(value):
        return value
    if only_obs:
        raise refuse(field, f"must be an OBS path with {only_obs}, such as {_EXAMPLE!r}, not {value!r}.")
    if isinstance(value, str) and _PACKAGE.fullmatch(value):
        return value
    raise refuse(
        field,
        f"{value!r} is neither an OBS path, such as {_EXAMPLE!r}, nor the name of a package in DLI, "
        "such as 'group/job.jar'.",
    )


def packages(field: str, value: object) -> list[str] | None:
    """Check a list of paths to files that DLI reads."""
    found = texts(field, value)
    return None if found is None else [package(field, each) for each in found]


def version(value: str) -> tuple[int, ...]:
    """Return a version for comparison; empty when it is none that we know to read."""
    parts = value.split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() and len(part) < 6 for part in parts) else ()
