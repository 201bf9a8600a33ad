"""Every module can be imported. Run with the lowest versions of all dependencies, too: see .ci/run."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import airflow_provider_dli
from airflow_provider_dli import compat

MODULES = sorted(each.name for each in pkgutil.walk_packages(airflow_provider_dli.__path__, "airflow_provider_dli."))
# What Airflow itself imports only where there is an API server that can show a page.
OF_THE_PAGE = "airflow_provider_dli.jobs_page."


@pytest.mark.parametrize("name", MODULES)
def test_import(name):
    if name.startswith(OF_THE_PAGE) and not name.endswith(".plugin") and not compat.HAS_EXTERNAL_VIEWS:
        pytest.skip("this Airflow shows no pages of plugins")
    if name == "airflow_provider_dli.lineage.openlineage":
        pytest.importorskip("airflow.providers.openlineage")
    if ".example_dags" in name:
        pytest.skip("run by the tests of the documentation")
    importlib.import_module(name)
