"""What Airflow reads about this package when it starts. A literal: every Airflow process imports it."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the description of the provider, in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-provider-dli",
        "name": "Data Lake Insight (DLI)",
        "description": (
            "`Data Lake Insight <https://docs.otc.t-systems.com/data-lake-insight/>`__ (DLI), the serverless SQL, "
            "Spark and Flink service of Open Telekom Cloud and Huawei Cloud. Killing a task cancels its DLI job."
        ),
        "integrations": [
            {
                "integration-name": "Data Lake Insight (DLI)",
                "external-doc-url": "https://docs.otc.t-systems.com/data-lake-insight/",
                "tags": ["service"],
            }
        ],
        "operators": [
            {
                "integration-name": "Data Lake Insight (DLI)",
                "python-modules": ["airflow_provider_dli.operators.dli"],
            }
        ],
        "hooks": [
            {
                "integration-name": "Data Lake Insight (DLI)",
                "python-modules": ["airflow_provider_dli.hooks.dli"],
            }
        ],
        "connection-types": [
            {
                "connection-type": "dli",
                "hook-class-name": "airflow_provider_dli.hooks.dli.DliHook",
                "hook-name": "Data Lake Insight (DLI)",
            }
        ],
        "config": {
            "dli": {
                "description": "Options of the Data Lake Insight (DLI) provider.",
                "options": {
                    "deployment": {
                        "description": (
                            "A name for this Airflow, unlike that of every other Airflow that uses the same DLI "
                            "projects. Written as tag ``airflow_deployment`` on every job."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "production",
                        "default": None,
                    }
                },
            }
        },
    }
