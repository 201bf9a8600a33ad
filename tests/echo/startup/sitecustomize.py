"""
Python imports this as it starts, so that every process of Airflow knows the kind.

The triggerer makes triggers by the name of their kind and reads no DAG file, so a DAG file is not the place. Nor is the
module of the kind: a test that imports it would have the sweeps of its process ask the local DLI for echoes.
"""

from echo.kind import KIND

from airflow_provider_dli.api.kinds import KINDS

KINDS[KIND.name] = KIND
