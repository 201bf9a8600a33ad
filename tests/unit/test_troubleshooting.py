"""The page on troubleshooting is searched for the words of an error: they are those that the code says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs" / "troubleshooting.md").read_text()
#: Said by Airflow, by DLI or by IAM.
FOREIGN = {
    "The conn_id",
    "isn't defined",
    "wrong version number",
    "The username or password is wrong",
    "verify aksk signature fail",
    "differs from the server's time",
    "Connection refused",
    "DLI.0002",
    "DLI.0007",
    "DLI.0005: AnalysisException",
    "Bad Request",
}


def texts_of_the_package() -> str:
    """All texts in the code, with a gap for each value that is put in."""
    found = []
    for path in (PROJECT / "airflow_provider_dli").rglob("*.py"):
        if "local" in path.parts or "probe" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[sdr]|\{\w*\}", "…", node.value))
    return "\n".join(found)


TEXTS = texts_of_the_package()
ERRORS = [line.split(" | ")[0].removeprefix("| ") for line in PAGE.splitlines() if line.startswith("| `")]


def test_there_are_errors():
    assert len(ERRORS) > 30


@pytest.mark.parametrize("error", ERRORS)
def test_the_words_of_each_error_are_those_of_the_code(error):
    quoted = re.findall(r"``(.+?)``|`(.+?)`(?=[^`\w]|$)", error)
    pieces = [piece.strip(" .,':") for texts in quoted for text in texts for piece in re.split("…", text)]
    pieces = [piece for piece in pieces if len(piece) > 4]
    assert pieces
    unknown = [piece for piece in pieces if piece not in TEXTS and not any(said in piece for said in FOREIGN)]
    assert not unknown
