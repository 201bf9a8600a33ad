"""
The DAGs that users copy: those of README.md and docs/, and the example DAGs, as files that an Airflow of any line runs.

A block of Python on a page is one of these:

- it has ``with DAG(`` or ``@dag``: a whole file, which is run as it stands
- it has ``def test_``: a test for the user's own CI, run by ``tests/unit/test_docs.py`` as its page says
- anything else: what stands inside of ``with DAG(...):``, with the imports of a usual DAG file (`IMPORTS`) above it. Task
  functions that it does not call are called: a parameter without a default gets its own name as its value.
- right below ``<!-- not run: why -->``: not run. The reason says what it lacks, or where it is run.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import re
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_provider_dli.local.demo import QUEUES
from airflow_provider_dli.local.handle import LocalDli
from documentation.markdown import PROJECT, Block, all_blocks

IMPORTS = """\
from datetime import UTC, date, datetime, timedelta
from typing import Any
from airflow.providers.common.compat.sdk import DAG, Asset, XComArg, dag, task
from airflow.providers.common.sql.operators.sql import BranchSQLOperator, SQLCheckOperator, SQLColumnCheckOperator
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator, SQLInsertRowsOperator
from airflow.providers.common.sql.operators.sql import SQLIntervalCheckOperator, SQLTableCheckOperator
from airflow.providers.common.sql.operators.sql import SQLThresholdCheckOperator, SQLValueCheckOperator
from airflow.providers.common.sql.sensors.sql import SqlSensor
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.hooks.dli_sql import DliSqlHook
from airflow_provider_dli.operators.dli import DliCancelJobOperator, DliCancelOrphanJobsOperator
from airflow_provider_dli.operators.dli import DliCreateQueueOperator, DliDeleteQueueOperator, DliExportResultOperator
from airflow_provider_dli.operators.dli import DliStartFlinkJobOperator, DliStopFlinkJobOperator
from airflow_provider_dli.operators.dli import DliSubmitSparkJobOperator, DliSubmitSqlJobOperator
from airflow_provider_dli.sensors.dli import DliJobSensor
"""
"""What a block that is no whole file may use without importing it."""

WAREHOUSE = Path(__file__).parent / "warehouse.sql"
"""The tables that the pages speak of."""

_TIME_LIMIT = 600


def is_test(block: Block) -> bool:
    """Whether it is a test for the user's own CI."""
    return bool(re.search(r"^ *def test_", block.text, re.MULTILINE))


def is_file(block: Block) -> bool:
    """Whether it is a whole DAG file."""
    return bool(re.search(r"^(with DAG\(|@dag\b)", block.text, re.MULTILINE))


def run_blocks() -> list[Block]:
    """The blocks of all pages that are run as DAGs."""
    return [block for block in all_blocks("python") if block.not_run is None and not is_test(block)]


def missing_names(block: Block) -> set[str]:
    """The names that a block uses, and nothing defines: Airflow could not import it."""
    tree = ast.parse(block.text)
    given = ast.parse("" if is_file(block) else IMPORTS)
    defined = set(dir(builtins)) | {"__file__"}
    for node in (*ast.walk(tree), *ast.walk(given)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                defined.add(name)
            case ast.alias(name=name, asname=asname):
                defined.add(asname or name.partition(".")[0])
            case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)) | ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - defined


def write_dags(folder: Path) -> dict[str, str]:
    """
    Fill a folder with the DAG files.

    :returns: Where each comes from, by the name of the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    origins = {}
    for example in sorted((PROJECT / "example_dags").glob("*.py")):
        (folder / example.name).write_text(example.read_text())
        origins[example.name] = f"example_dags/{example.name}"
    for block in run_blocks():
        page = block.page.relative_to(PROJECT).with_suffix("")
        dag_id = re.sub(r"\W", "_", f"{page}_line_{block.line}").lower()
        (folder / f"{dag_id}.py").write_text(block.text if is_file(block) else _wrapped(block, dag_id))
        origins[f"{dag_id}.py"] = block.where
    return origins


def _wrapped(block: Block, dag_id: str) -> str:
    calls = "".join(f"{call}\n" for call in _calls(ast.parse(block.text)))
    body = textwrap.indent(f"{block.text}\n{calls}", "    ")
    return f'{IMPORTS}\nwith DAG("{dag_id}", schedule=None):\n{body}'


def _calls(tree: ast.Module) -> Iterator[str]:
    """Calls of the task functions that are only defined."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    unused = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name not in used]
    for function in unused:
        if any(ast.unparse(each).startswith("task") for each in function.decorator_list):
            required = function.args.args[: len(function.args.args) - len(function.args.defaults)]
            yield f"{function.name}({', '.join(repr(each.arg) for each in required)})"


@contextmanager
def local_dli(folder: Path) -> Iterator[LocalDli]:
    """
    A local DLI with what the pages speak of: tables, queues, and programs in OBS.

    Jobs that are there to be long are short: queries of pairs, and JARs of Spark, which have no end here.
    """
    from airflow_provider_dli.hooks.dli_sql import DliSqlHook

    put_programs(folder)
    with LocalDli.start(obs=str(folder), queues={**QUEUES, "etl": 16}) as dli:
        with dli.as_connection(default_queue="sql"):
            hook = DliSqlHook(poll_interval=0.1, log_sql=False)
            for statement in DliSqlHook.split_sql_string(WAREHOUSE.read_text()):
                hook.run_statement(statement)
        dli.will(kind="sql", matching="AS pairs", run_for=2, times=1000)
        dli.will(kind="spark", matching=".jar", run_for=2, times=1000)
        yield dli


def put_programs(folder: Path) -> None:
    """
    Write every Python program in OBS that an example or a page names.

    :param folder: The folder behind ``obs://``.
    """
    texts = [path.read_text() for path in (PROJECT / "example_dags").glob("*.py")]
    texts += [block.text for block in run_blocks()]
    for path in {path for text in texts for path in re.findall(r"obs://([\w./-]+\.py)\b", text)}:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("import sys\nprint(sys.argv)\n")


def read(folder: Path, home: Path, python: str = sys.executable, *, run: bool = False, **settings: str) -> Found:
    """
    Return what an Airflow makes of the DAG files in a folder.

    :param home: A folder for Airflow.
    :param python: The interpreter of an Airflow.
    :param run: Whether to run each DAG to its end, too.
    :param settings: Variables of its environment.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHONPATH"))}
    env |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DLI__DEPLOYMENT": "documentation",
        "NO_PROXY": "127.0.0.1",
        **settings,
    }
    if run:
        _succeed([python, "-m", "airflow", "db", "migrate"], env)
    answer = home / "answer.json"
    script = str(Path(__file__).parent / "in_airflow.py")
    log = _succeed([python, script, str(folder), str(answer), *(["--run"] if run else [])], env)
    return Found(json.loads(answer.read_text()), log)


def _succeed(command: list[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=_TIME_LIMIT
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


class Found:
    """
    What an Airflow makes of DAG files.

    :param answer: What ``in_airflow.py`` writes.
    :param log: What it prints.
    """

    def __init__(self, answer: dict[str, Any], log: str) -> None:
        self.errors: dict[str, str] = answer["errors"]
        self.dags: list[dict[str, Any]] = answer["dags"]
        self._log = log

    def check(self, origins: Mapping[str, str]) -> None:
        """
        Assert that Airflow takes all files, and starts the DAGs that have a schedule as a user expects.

        :param origins: What :func:`write_dags` returns.
        """
        errors = {origins[name]: error for name, error in self.errors.items()}
        assert not errors, "\n".join(f"{where}: {error}" for where, error in errors.items())
        assert {dag["file"] for dag in self.dags} == set(origins), "a file without a DAG"
        for name, count in Counter(dag["dag_id"] for dag in self.dags).items():
            files = [origins[dag["file"]] for dag in self.dags if dag["dag_id"] == name]
            assert count == 1, f"{', '.join(files)}: Airflow takes one DAG {name} only"
        dated = 0
        for dag in self.dags:
            where = f"{origins[dag['file']]}: DAG {dag['dag_id']}"
            assert dag["start_date"] or not dag["scheduled"], f"{where} has a schedule and no start_date"
            assert not (dag["scheduled"] and dag["catchup"]), f"{where} runs for all days since its start"
            for run in filter(None, map(dag.get, ("run", "manual_run", "run_without_date"))):
                days = set(re.findall(r"\d{4}-\d\d-\d\d", run["statements"]))
                dated += bool(days)
                assert days <= {run["day_before"]}, f"{where} loads {days}, not the day that has just ended"
        assert dated, "no DAG with a schedule loads a day"

    def check_runs(self, origins: Mapping[str, str]) -> None:
        """Assert that all DAGs have run to a good end, and that each task has, or was skipped by another one."""
        failed = [
            f"{origins[dag['file']]}: DAG {dag['dag_id']} ended {dag['state']}: {dag['tasks']}\n{self._log_of(dag)}"
            for dag in self.dags
            if dag["state"] != "success" or not set(dag["tasks"].values()) <= {"success", "skipped"}
        ]
        assert not failed, "\n\n".join(failed)
        idle = [origins[dag["file"]] for dag in self.dags if dag["tasks"] and "success" not in dag["tasks"].values()]
        assert not idle, f"{', '.join(idle)}: all tasks were skipped"

    def _log_of(self, dag: dict[str, Any]) -> str:
        part = self._log.partition(f"=== {dag['file']} {dag['dag_id']}\n")[2].partition("\n=== ")[0]
        lines = [line for line in part.splitlines() if not re.search(r"\[debug |[│╭╰]", line)]
        return "\n".join(lines)[-3000:]
