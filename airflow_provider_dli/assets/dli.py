"""Assets that are tables of DLI: ``dli://host/project/database/table``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from openlineage.client.event_v2 import Dataset as OpenLineageDataset

_FORM = "dli://<host of DLI>/<project id>/<database>/<table>"


def create_asset(*, host: str, project_id: str, database: str, table: str, extra: dict[str, Any] | None = None) -> Any:
    """
    Return the asset of a table.

    :param host: Host of DLI, such as ``dli.eu-de.otc.t-systems.com``.
    :param project_id: The project.
    :param database: The database.
    :param table: The table.
    :param extra: What Airflow keeps with the asset. Default: nothing.
    """
    from airflow.providers.common.compat.assets import Asset

    return Asset(uri=f"dli://{host}/{project_id}/{database}/{table}", extra=extra)


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """
    Return the address of an asset as Airflow compares it. Called by Airflow.

    :raises ValueError: It is not of the form ``dli://host/project/database/table``.
    """
    parts = uri.path.strip("/").split("/")
    if not uri.hostname or len(parts) != 3 or not all(parts) or uri.query or uri.fragment:
        raise ValueError(f"the address of a table of DLI is {_FORM}, not {uri.geturl()}")
    project, database, table = parts
    # DLI does not distinguish upper and lower case in names.
    return uri._replace(netloc=uri.netloc.lower(), path=f"/{project}/{database.lower()}/{table.lower()}")


def convert_asset_to_openlineage(asset: Any, lineage_context: object) -> OpenLineageDataset:
    """Return the same table as OpenLineage names it. Called by Airflow's OpenLineage provider."""
    from openlineage.client.event_v2 import Dataset

    uri = urlsplit(asset.uri)
    project, database, table = uri.path.strip("/").split("/")
    return Dataset(namespace=f"dli://{uri.netloc}/{project}", name=f"{database}.{table}")
