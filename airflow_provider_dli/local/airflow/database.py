"""The database of an Airflow that is tried out."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path


def number_triggers_once(database: Path) -> None:
    """
    Have SQLite give no new trigger the id of a deleted one, as other databases never do.

    When a deferred task is killed and another one is deferred in the same second, a triggerer would take the trigger
    of the second one for that of the first: it would cancel nothing, and start nothing.

    :param database: A file that Airflow has just created: its table of triggers is made again.
    """
    with closing(sqlite3.connect(database)) as connection:
        of_triggers = (
            "SELECT sql FROM sqlite_master WHERE tbl_name = 'trigger' AND sql IS NOT NULL ORDER BY type = 'index'"
        )
        table, *indexes = [sql for (sql,) in connection.execute(of_triggers)]
        number = "id INTEGER NOT NULL"
        table, ids = re.subn(rf"\b{number},", f"{number} PRIMARY KEY AUTOINCREMENT,", table, count=1)
        table, keys = re.subn(r",\s*(CONSTRAINT \w+ )?PRIMARY KEY \(id\)", "", table)
        if ids == keys == 1:  # or a later Airflow numbers them in another way
            connection.executescript("; ".join(['DROP TABLE "trigger"', table, *indexes]))
