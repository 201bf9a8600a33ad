"""DLI's API as OpenAPI, which the local DLI and the calls of the package are held to."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import yaml


def contract() -> dict[str, Any]:
    """Return the contract, to be changed at will."""
    return copy.deepcopy(_read())


@cache
def _read() -> dict[str, Any]:
    # The loader in C, which takes a tenth of the time.
    text = (Path(__file__).parent / "dli-openapi.yaml").read_text()
    found: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found
