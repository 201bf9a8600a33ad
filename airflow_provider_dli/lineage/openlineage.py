"""The facets of OpenLineage for a DLI job: its tables, its statements and its id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_dli.client.connection import DliConnection

SCHEME = "dli"
#: The database of unqualified names where none is given.
DEFAULT_DATABASE = "default"


def authority(connection: DliConnection) -> str:
    """Return what tells the tables of a project from those of any other: the host of DLI and the project."""
    return f"{urlsplit(connection.endpoint).hostname}/{connection.project_id or connection.project_name}"


def namespace(connection: DliConnection) -> str:
    """Return OpenLineage's namespace of the tables and jobs of a project."""
    return f"{SCHEME}://{authority(connection)}"


def lineage(
    connection: DliConnection,
    *,
    statements: Sequence[str] = (),
    database: str | None = None,
    job_id: str | None = None,
    exported_to: str | None = None,
    columns: Sequence[tuple[str, str]] = (),
) -> OperatorLineage | None:
    """
    Return what OpenLineage is told of a task; None where its provider is not installed.

    :param connection: The connection of the task.
    :param statements: Its SQL statements.
    :param database: Database of unqualified names.
    :param job_id: The DLI job that has run, or ran last; None while there is none.
    :param exported_to: Folder of OBS that the result was exported to.
    :param columns: Name and type of the columns of that.
    """
    try:
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.event_v2 import Dataset
        from openlineage.client.facet_v2 import external_query_run, schema_dataset, sql_job

        from airflow_provider_dli.lineage.tables import tables_of

        found = tables_of(statements, database or DEFAULT_DATABASE)
    except ImportError:
        return None
    where = namespace(connection)
    outputs = [Dataset(namespace=where, name=name) for name in found.written]
    _tell_columns(outputs, found.columns, database or DEFAULT_DATABASE)
    if exported_to:
        bucket, _, folder = exported_to.removeprefix("obs://").partition("/")
        fields = [schema_dataset.SchemaDatasetFacetFields(name=name, type=kind) for name, kind in columns]
        facets = {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)} if fields else {}
        outputs.append(Dataset(namespace=f"obs://{bucket}", name=folder, facets=facets))
    return OperatorLineage(
        inputs=[Dataset(namespace=where, name=name) for name in found.read],
        outputs=outputs,
        run_facets={}
        if job_id is None
        else {"externalQuery": external_query_run.ExternalQueryRunFacet(externalQueryId=job_id, source=where)},
        job_facets={"sql": sql_job.SQLJobFacet(query=";\n".join(statements))} if statements else {},
    )


def _tell_columns(outputs: list[Any], parses: Sequence[Any], database: str) -> None:
    """Tell from which columns those of the written tables come."""
    from airflow.providers.openlineage.sqlparser import SQLParser

    parser = SQLParser(default_schema=database)
    for found in parses:
        names = {f"{table.schema}.{table.name}" for table in found.out_tables}
        parser.attach_column_lineage([output for output in outputs if output.name in names], None, found)
