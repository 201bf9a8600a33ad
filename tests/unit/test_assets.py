"""Assets that are tables of DLI."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.assets import Asset

from airflow_provider_dli.assets.dli import create_asset

URI = "dli://dli.eu-de.otc.t-systems.com/0123abcd/sales/daily"


def test_the_address_is_compared_without_regard_to_case():
    assert Asset("dli://DLI.eu-de.otc.t-systems.com/0123abcd/Sales/Daily/").uri == URI


def test_an_asset_of_its_parts():
    asset = create_asset(host="dli.eu-de.otc.t-systems.com", project_id="0123abcd", database="sales", table="daily")
    assert asset.uri == URI


@pytest.mark.parametrize("uri", ["dli://host/project/table", "dli:///p/d/t", "dli://host/p/d/t?x=1", "dli://host/p//t"])
def test_another_form_is_refused(uri):
    with pytest.raises(
        ValueError, match="the address of a table of DLI is dli://<host of DLI>/<project id>/<database>/<table>"
    ):
        Asset(uri)


def test_openlineage_names_the_same_table():
    pytest.importorskip("openlineage", reason="the group `integrations` is not installed")
    from airflow_provider_dli.assets.dli import convert_asset_to_openlineage

    dataset = convert_asset_to_openlineage(Asset(URI), None)
    assert (dataset.namespace, dataset.name) == ("dli://dli.eu-de.otc.t-systems.com/0123abcd", "sales.daily")
