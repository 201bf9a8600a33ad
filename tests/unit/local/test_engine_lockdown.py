"""DuckDB itself is locked down: what a statement could do that had got past the translation."""

import duckdb
import pytest

from airflow_provider_dli.local.dli.engine.engine import Engine
from airflow_provider_dli.local.dli.engine.obs import Obs


@pytest.fixture
def cursor(tmp_path):
    for folder in ("results", "obs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    engine = Engine(tmp_path / "results", Obs(tmp_path / "obs"))
    yield engine.cursor()
    engine.close()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{folder}/outside.txt')",
        "SELECT * FROM read_text('{folder}/obs/../outside.txt')",
        "SELECT * FROM glob('{folder}/*')",
        "COPY (SELECT 1) TO '{folder}/evil.csv'",
        "ATTACH '{folder}/evil.db' AS evil",
        "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "SET lock_configuration = false",
    ],
)
def test_it_reaches_nothing_outside(cursor, tmp_path, sql):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(duckdb.Error):
        cursor.execute(sql.format(folder=tmp_path)).fetchall()
    assert sorted(tmp_path.iterdir()) == before


def test_it_reaches_its_own_folders(cursor, tmp_path):
    for folder in ("results", "obs"):
        cursor.execute(f"COPY (SELECT 1 AS a) TO '{tmp_path}/{folder}/x.csv'")
        assert cursor.execute(f"SELECT a FROM read_csv('{tmp_path}/{folder}/x.csv')").fetchall() == [(1,)]
