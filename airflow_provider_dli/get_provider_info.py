"""What Airflow reads about this package when it starts. A literal: every Airflow process imports it."""

from __future__ import annotations

from typing import Any

_ASSET_URIS = [
    {
        "schemes": ["dli"],
        "handler": "airflow_provider_dli.assets.dli.sanitize_uri",
        "factory": "airflow_provider_dli.assets.dli.create_asset",
        "to_openlineage_converter": "airflow_provider_dli.assets.dli.convert_asset_to_openlineage",
    }
]


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
                "python-modules": ["airflow_provider_dli.hooks.dli", "airflow_provider_dli.hooks.dli_sql"],
            }
        ],
        "sensors": [
            {
                "integration-name": "Data Lake Insight (DLI)",
                "python-modules": ["airflow_provider_dli.sensors.dli"],
            }
        ],
        "triggers": [
            {
                "integration-name": "Data Lake Insight (DLI)",
                "python-modules": ["airflow_provider_dli.triggers.dli"],
            }
        ],
        "asset-uris": _ASSET_URIS,
        # The name of the same in Airflow 2.
        "dataset-uris": _ASSET_URIS,
        "connection-types": [
            {
                "connection-type": "dli",
                "hook-class-name": "airflow_provider_dli.hooks.dli_sql.DliSqlHook",
                "hook-name": "Data Lake Insight (DLI)",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "extra"],
                    "relabeling": {
                        "login": "IAM user or access key (AK)",
                        "password": "Password or secret key (SK)",
                        "host": "DLI endpoint",
                        "port": "DLI port",
                    },
                    "placeholders": {
                        "host": "leave empty: follows from the region, under Extra Fields",
                        "port": "only with a DLI endpoint",
                    },
                },
                "conn-fields": {
                    "auth_type": {
                        "label": "Authentication",
                        "schema": {
                            "type": ["string", "null"],
                            "enum": ["password", "ak_sk", "agency", "metadata", "environment"],
                            "values_display": {
                                "password": "IAM user and password",
                                "ak_sk": "Access key and secret key (AK/SK)",
                                "agency": "An agency, assumed with other credentials",
                                "metadata": "The agency of the machine or pod",
                                "environment": "Access key in the environment",
                            },
                            "default": "password",
                        },
                        "description": "What the user and the password of this connection are.",
                    },
                    "region": {
                        "label": "Region",
                        "schema": {"type": ["string", "null"]},
                        "description": "Such as eu-de (Open Telekom Cloud) or cn-north-4 (Huawei Cloud).",
                    },
                    "project_id": {
                        "label": "Project ID",
                        "schema": {"type": ["string", "null"]},
                        "description": "This or the project name. In the console under My Credentials.",
                    },
                    "project_name": {
                        "label": "Project name",
                        "schema": {"type": ["string", "null"]},
                        "description": "Instead of the project ID. A region's main project is named like the region.",
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
                    "agency_name": {
                        "label": "Agency",
                        "schema": {"type": ["string", "null"]},
                        "description": "Only with an agency: its name.",
                    },
                    "agency_domain_name": {
                        "label": "Account of the agency",
                        "schema": {"type": ["string", "null"]},
                        "description": "Only with an agency: the account that has it.",
                    },
                    "agency_source": {
                        "label": "Agency assumed with",
                        "schema": {
                            "type": ["string", "null"],
                            "enum": ["ak_sk", "password", "metadata", "environment"],
                            "values_display": {
                                "ak_sk": "Access key and secret key (AK/SK)",
                                "password": "IAM user and password",
                                "metadata": "The agency of the machine or pod",
                                "environment": "Access key in the environment",
                            },
                            "default": "ak_sk",
                        },
                        "description": "Only with an agency: the credentials that assume it.",
                    },
                    "metadata_endpoint": {
                        "label": "Metadata endpoint",
                        "schema": {"type": ["string", "null"]},
                        "description": "Leave empty: every machine in the cloud finds it at http://169.254.169.254.",
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
                        "description": "Leave empty: follows from the region.",
                    },
                    "verify": {
                        "label": "Verify TLS certificates",
                        "schema": {"type": ["string", "null"]},
                        "description": "true (the default), false, or the path of a CA bundle.",
                    },
                    "timeout": {
                        "label": "Timeout (seconds)",
                        # No text: Airflow warns in every task's log of a text of an extra that is as short as "60".
                        "schema": {"type": ["number", "null"], "minimum": 1},
                        "description": "How long to wait for an answer of DLI. Default 60.",
                    },
                },
            }
        ],
        "task-decorators": [
            {"name": "dli_sql", "class-name": "airflow_provider_dli.decorators.dli.dli_sql_task"},
        ],
        "extra-links": ["airflow_provider_dli.links.dli.DliJobLink"],
        "config": {
            "dli": {
                "description": "Options of the Data Lake Insight (DLI) provider.",
                "options": {
                    "deployment": {
                        "description": (
                            "A name for this Airflow, unlike that of every other Airflow that uses the same DLI "
                            "projects. Written as tag ``airflow_deployment`` on every job, by which later tries and "
                            "``DliCancelOrphanJobsOperator`` tell the jobs of this Airflow from those of another one; "
                            "that operator refuses to run without it."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "production",
                        "default": None,
                    },
                    "server_bound": {
                        "description": (
                            "What DLI counts the time limit of a SQL job (``dli.sql.job.timeout``) in: ``seconds``, or "
                            "``milliseconds``; ``off`` gives it none. A job of a task with ``execution_timeout`` gets "
                            "that and a minute, so that it ends even if no Airflow is left. ``dli-local probe`` "
                            "measures the unit."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "milliseconds",
                        "default": "seconds",
                    },
                    "jobs_page": {
                        "description": (
                            "Whether Airflow's UI has the page *DLI jobs*, in the menu *Browse* (Airflow 3.1 or newer)."
                        ),
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": None,
                        "default": "True",
                    },
                },
            }
        },
    }
