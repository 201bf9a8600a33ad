"""The ids of triggers in the database of an Airflow that is tried out."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from airflow.models.trigger import Trigger
from sqlalchemy import create_engine

from airflow_provider_dli.local.airflow.database import number_triggers_once


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A file with Airflow's table of triggers and its indexes."""
    file = tmp_path / "airflow.db"
    Trigger.metadata.create_all(create_engine(f"sqlite:///{file}"), tables=[Trigger.__table__])
    return file


def ids_of_two_triggers(database: Path) -> list[int | None]:
    """The ids of a trigger and of one that is added after the first was deleted."""
    new = """INSERT INTO "trigger" (classpath, kwargs, created_date) VALUES ('a.Trigger', '{}', '2026-11-30')"""
    with closing(sqlite3.connect(database)) as connection:
        first = connection.execute(new).lastrowid
        connection.execute('DELETE FROM "trigger"')
        return [first, connection.execute(new).lastrowid]


def test_sqlite_itself_gives_the_id_of_a_deleted_trigger_to_the_next_one(database: Path) -> None:
    assert ids_of_two_triggers(database) == [1, 1]


def test_no_trigger_gets_the_id_of_a_deleted_one(database: Path) -> None:
    number_triggers_once(database)
    assert ids_of_two_triggers(database) == [1, 2]
