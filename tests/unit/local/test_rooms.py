"""How the files of `local` lean on each other: two houses that do not know each other, and no circle."""

from __future__ import annotations

import ast
import itertools
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from contract import contract

import airflow_provider_dli.local
from airflow_provider_dli.local.dli import routes

LOCAL = "airflow_provider_dli.local"
FOLDER = Path(airflow_provider_dli.local.__file__).parent
LAB = Path(__file__).parents[2] / "lab"


def modules(folder: Path, package: str) -> dict[str, Path]:
    paths = {path.relative_to(folder).with_suffix(""): path for path in folder.rglob("*.py")}
    return {".".join([package, *name.parts]).removesuffix(".__init__"): path for name, path in paths.items()}


MODULES = modules(FOLDER, LOCAL)
GRAPH_OF_LAB = modules(LAB, "lab")


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """The known modules that a file imports, also inside of functions, but not for a type checker only."""
    tree = ast.parse(path.read_text())
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & set(known)


def house_of(name: str) -> str:
    return name.removeprefix(LOCAL).strip(".").partition(".")[0]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_the_houses_do_not_know_each_other_nor_who_uses_them(name: str) -> None:
    house = house_of(name)
    if house in ("dli", "airflow"):
        assert {house_of(imported) for imported in imports_of(MODULES[name], MODULES)} <= {house}


def test_no_circle_of_files() -> None:
    known = MODULES | GRAPH_OF_LAB
    # A package is imported with each of its modules, and all of them are empty.
    graph = {name: imports_of(path, known) for name, path in known.items() if path.stem != "__init__"}
    TopologicalSorter(graph).prepare()


def test_packages_are_empty_and_files_are_short() -> None:
    for path in (MODULES | GRAPH_OF_LAB).values():
        lines = path.read_text().splitlines()
        assert len(lines) <= (0 if path.stem == "__init__" else 500), path


def test_the_package_does_not_need_the_lab() -> None:
    assert not any(
        "lab" in line.split() for path in MODULES.values() for line in path.read_text().splitlines() if "import" in line
    )


def test_each_call_has_one_route_and_the_contract_knows_it() -> None:
    assert len({route.name for route in routes.ROUTES}) == len(routes.ROUTES)
    paths = contract()["paths"]
    # Keys of agencies and of machines are no part of it.
    for route in routes.ROUTES:
        assert route.name in ("agency_keys", "metadata_keys") or route.method.lower() in paths[route.path], route


def test_routes_do_not_hide_each_other() -> None:
    for one, other in itertools.permutations(routes.ROUTES, 2):
        path = other.path.replace("{", "").replace("}", "")
        assert not (one.method == other.method and one.pattern.fullmatch(path)), (one.path, other.path)
