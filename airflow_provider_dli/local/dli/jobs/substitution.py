"""Spark's variables in SQL text, which it replaces before it parses: in names, comments and strings alike."""

from __future__ import annotations

import re
from collections.abc import Mapping

_VARIABLE = re.compile(r"\$\{(?:(\w+?):)?(\S+?)\}")
# What the environment of the driver shows; never that of this machine.
_ENVIRONMENT = {"HOME": "/opt/driver", "SPARK_HOME": "/opt/spark"}


def substituted(sql: str, conf: Mapping[str, str]) -> str:
    """
    The statement as Spark parses it.

    :param conf: The settings of the job.
    """
    if conf.get("spark.sql.variable.substitute", "true").lower() == "false":
        return sql

    def value(found: re.Match[str]) -> str:
        prefix, name = found.groups()
        if prefix == "env":
            return _ENVIRONMENT.get(name, found[0])
        # Spark asks its settings for all of these, and takes nothing for one that is not set.
        return conf.get(name, "") if prefix in (None, "spark", "sparkconf", "hivevar", "hiveconf") else found[0]

    return _VARIABLE.sub(value, sql)
