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
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "extra"],
                    "relabeling": {
                        "login": "IAM user or access key (AK)",
                        "password": "IAM password or secret key (SK)",
                        "host": "DLI endpoint",
                    },
                    "placeholders": {"host": "only to override the one that follows from the region"},
                },
                "conn-fields": {
                    "auth_type": {
                        "label": "Authentication",
                        "schema": {"type": ["string", "null"], "enum": ["password", "ak_sk"], "default": "password"},
                        "description": "password: an IAM user. ak_sk: an access key pair.",
                    },
                    "region": {
                        "label": "Region",
                        "schema": {"type": ["string", "null"]},
                        "description": "Such as eu-de (Open Telekom Cloud) or cn-north-4 (Huawei Cloud). "
                        "The endpoints of DLI and IAM follow from it.",
                    },
                    "project_id": {
                        "label": "Project id",
                        "schema": {"type": ["string", "null"]},
                        "description": "Or give the project name.",
                    },
                    "project_name": {
                        "label": "Project name",
                        "schema": {"type": ["string", "null"]},
                        "description": "Of a main project, the region. Needed only without a project id.",
                    },
                    "domain_name": {
                        "label": "Account (domain) name",
                        "schema": {"type": ["string", "null"]},
                        "description": "The account that the IAM user belongs to. Not needed with an access key.",
                    },
                    "security_token": {
                        "label": "Security token",
                        "schema": {"type": ["string", "null"], "format": "password"},
                        "description": "Only with a temporary access key.",
                    },
                    "default_queue": {
                        "label": "Default queue",
                        "schema": {"type": ["string", "null"]},
                        "description": "For operators that name no queue.",
                    },
                    "default_database": {
                        "label": "Default database",
                        "schema": {"type": ["string", "null"]},
                        "description": "For operators that name no database.",
                    },
                    "iam_endpoint": {
                        "label": "IAM endpoint",
                        "schema": {"type": ["string", "null"]},
                        "description": "Only to override the one that follows from the region.",
                    },
                    "verify": {
                        "label": "Verify TLS certificates",
                        "schema": {"type": ["string", "null"]},
                        "description": "true (the default), false, or the path of a CA bundle.",
                    },
                    "timeout": {
                        "label": "Timeout",
                        "schema": {"type": ["string", "null"]},
                        "description": "Seconds to wait for an answer of DLI. Default 60.",
                    },
                },
            }
        ],
        "extra-links": ["airflow_provider_dli.links.dli.DliJobLink"],
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
