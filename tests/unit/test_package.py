"""The package as a whole: what it is made of, and what Airflow reads of it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import airflow
import pytest

import airflow_provider_dli
from airflow_provider_dli.get_provider_info import get_provider_info

PACKAGE = Path(airflow_provider_dli.__file__).parent

# Each may import those after it, never one before.
LAYERS = [
    "operators",
    "sensors",
    "deferral",
    "triggers",
    "links",
    "hooks",
    "questions",
    "compat",
    "cancelling",
    "credentials",
    "exchange",
    "transport",
    "connection",
    "auth",
    "earlier",
    "sweep",
    "identity",
    "kill",
    "threads",
    "api",
    "exceptions",
    "text",
]


def imports_of(path):
    tree = ast.parse(path.read_text())
    # What only a type checker sees is no dependency.
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom) and node.module == "airflow_provider_dli":
            names = [f"airflow_provider_dli.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from names


def layer_of(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "airflow_provider_dli" else None


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    found = {layer_of(name) for name in imports_of(path)} - {None}
    if own in LAYERS:
        allowed = {own, *LAYERS[LAYERS.index(own) :], "__version__", "get_provider_info"}
        assert found <= allowed, f"{own} imports {found - allowed}"
    if own == "local":
        # The local DLI is the other side: it must not take the client's word for anything.
        assert found <= {"local", "__version__"}
    if own in ("api", "exceptions", "identity", "auth", "local") and path.stem not in ("airflow", "demo"):
        assert not any(name.split(".")[0] == "airflow" for name in imports_of(path))


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
    assert issubclass(sys.modules["airflow_provider_dli.operators.dli"].DliSubmitSqlJobOperator, BaseOperator)


def test_importing_the_operators_does_not_import_the_http_client():
    code = (
        "import sys, airflow.sdk; before = set(sys.modules); import airflow_provider_dli.operators.dli;"
        "print(sorted({'requests', 'urllib3', 'duckdb', 'fastapi'} & (set(sys.modules) - before)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"
