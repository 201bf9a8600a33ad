"""The package as a whole: what it is made of, and what Airflow reads of it."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import airflow
import pytest

import airflow_provider_dli
from airflow_provider_dli.get_provider_info import get_provider_info

PACKAGE = Path(airflow_provider_dli.__file__).parent

# The rooms: each may import those after it, never one before.
ROOMS = [
    "jobs_page",
    "probe",
    "decorators",
    "operators",
    "sensors",
    "sweep",
    "tasks",
    "triggers",
    "links",
    "assets",
    "hooks",
    "lineage",
    "xcoms",
    "compat",
    "waiting",
    "client",
    "api",
    "core",
    "identity",
    "story",
    "task_instances",
    "job",
    "threads",
    "machine",
    "exceptions",
    "text",
]
# What is known of Airflow below the hook: nothing.
WITHOUT_AIRFLOW = [*ROOMS[ROOMS.index("waiting") :], "local"]
MOST_LINES = 500


def imports_of(path):
    tree = ast.parse(path.read_text())
    # What only a type checker sees is no dependency.
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("airflow_provider_dli"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from names


def room_of(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "airflow_provider_dli" else None


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(["airflow_provider_dli", *path.relative_to(PACKAGE).with_suffix("").parts]): path for path in FILES}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


@each_file
def test_a_rule_about_security_is_silenced_for_a_reason_only(path):
    bare = [line for line in path.read_text().splitlines() if re.search(r"noqa(: *S[0-9]+)?(?! - |: )\s*$|nosec", line)]
    assert bare == []


def test_no_part_of_the_package_is_without_the_rules_about_security():
    lint = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    spared = [path for path, rules in lint["per-file-ignores"].items() if any(rule.startswith("S") for rule in rules)]
    assert spared == ["tests/**"]
    assert not [rule for rule in lint["ignore"] if rule.startswith("S") and not rule.startswith("SIM")]


@each_file
def test_imports_point_one_way(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    # It runs jobs, as operators do.
    own = "operators" if path.stem == "dli_sql" else own
    found = {room_of(name) for name in imports_of(path)} - {None}
    if own in ROOMS:
        allowed = {own, *ROOMS[ROOMS.index(own) :], "__version__", "DEFAULT_CONN_ID", "get_provider_info"}
        assert found <= allowed, f"{own} imports {found - allowed}"
    elif own == "local":
        # The local DLI is the other side: it must not take the client's word for anything. But its command line is that
        # of the probe too: one console script.
        of_command_line = {"probe"} if path == PACKAGE / "local" / "cli.py" else set()
        assert found <= {"local", "__version__", *of_command_line}
    else:
        assert own in ("__init__", "get_provider_info"), f"{own} is no room: put it into the list"
    if own in WITHOUT_AIRFLOW and "airflow" not in path.relative_to(PACKAGE).parts and path.stem != "demo":
        assert not any(name.split(".")[0] == "airflow" for name in imports_of(path))


def test_no_circle_of_files():
    imported = {}
    for name, path in MODULES.items():
        imported[name] = {_module(each) for each in imports_of(path)} & MODULES.keys()
    assert list(graphlib.TopologicalSorter(imported).static_order())


@each_file
def test_no_file_is_too_long_to_read(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_nothing_but_the_api_and_the_operators_knows_a_kind_by_name():
    """A fourth kind is a new module in `api`, a work type and an operator."""
    for path in FILES:
        own = path.relative_to(PACKAGE).parts[0]
        if own in ("tasks", "waiting", "sweep", "triggers", "client", "jobs_page"):
            assert not re.search(r"\bsql\b|\bspark\b|\bflink\b", _code(path), re.IGNORECASE), path


def _module(name):
    """Return the module in which an imported name is: itself, or that which holds it."""
    return name if name in MODULES else name.rpartition(".")[0]


def _code(path):
    """Return the code of a file without docstrings and comments, and without the default `kind="sql"` of public names."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value.value = ""
    return ast.unparse(tree).replace("kind: str='sql'", "")


def test_the_provider_info_fits_airflows_schema():
    import jsonschema

    schemas = Path(airflow.__file__).parent
    jsonschema.validate(get_provider_info(), json.loads((schemas / "provider_info.schema.json").read_text()))


def test_everything_the_provider_info_names_can_be_imported():
    from airflow.providers.common.compat.sdk import BaseHook, BaseOperator

    info = get_provider_info()
    for section in ("operators", "hooks"):
        for entry in info[section]:
            for module in entry["python-modules"]:
                __import__(module)
    [connection_type] = info["connection-types"]
    module, _, name = connection_type["hook-class-name"].rpartition(".")
    hook = getattr(sys.modules[module], name)
    assert issubclass(hook, BaseHook)
    assert (hook.conn_type, hook.hook_name) == (connection_type["connection-type"], connection_type["hook-name"])
    operators = sys.modules["airflow_provider_dli.operators.dli"]
    assert all(issubclass(getattr(operators, name), BaseOperator) for name in operators.__all__)


def test_importing_the_operators_does_not_import_the_http_client():
    code = (
        "import sys, airflow.sdk; before = set(sys.modules); from airflow_provider_dli.operators.dli import *;"
        "print(sorted({'requests', 'urllib3', 'duckdb', 'fastapi'} & (set(sys.modules) - before)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"
