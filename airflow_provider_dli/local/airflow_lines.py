"""What differs between Airflow 2 and 3 for whoever starts one, in one place."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_provider_dli.local.airflow_client import Airflow2Client, AirflowClient

if TYPE_CHECKING:
    from airflow_provider_dli.local.airflow import LocalAirflow


class Airflow3:
    """Airflow 3: tasks talk to an API, and the users are in a file."""

    client = AirflowClient
    components: Sequence[str] = ("api-server", "scheduler", "dag-processor", "triggerer")
    old_names: Mapping[str, str] = {}
    """Older names of settings, by those of 3.3."""

    def settings(self, airflow: LocalAirflow) -> dict[str, object]:
        return {
            "api.base_url": airflow.url,
            "api.host": "127.0.0.1",
            "api.port": airflow.port,
            "api.secret_key": airflow.secret,
            "api.workers": 1,
            "api_auth.jwt_secret": airflow.secret,
            "core.execution_api_server_url": f"http://127.0.0.1:{airflow.task_port}/execution/",
            "core.simple_auth_manager_passwords_file": airflow.home / "passwords.json",
            "core.simple_auth_manager_users": f"{airflow.username}:admin",
            "logging.namespace_levels": "http.access=WARNING",
        }

    def create_user(self, airflow: LocalAirflow) -> None:
        (airflow.home / "passwords.json").write_text(json.dumps({airflow.username: airflow.password}))


class Airflow2(Airflow3):
    """Airflow 2: tasks talk to the database, and the users are in it."""

    client = Airflow2Client
    components = ("webserver", "scheduler", "dag-processor", "triggerer")
    old_names = {
        "dag_processor.min_file_process_interval": "scheduler.min_file_process_interval",
        "dag_processor.refresh_interval": "scheduler.dag_dir_list_interval",
        "scheduler.task_instance_heartbeat_timeout": "scheduler.scheduler_zombie_task_threshold",
        "scheduler.task_instance_heartbeat_timeout_detection_interval": "scheduler.zombie_detection_interval",
    }

    def settings(self, airflow: LocalAirflow) -> dict[str, object]:
        return {
            "api.auth_backends": "airflow.providers.fab.auth_manager.api.auth.backend.basic_auth",
            "scheduler.standalone_dag_processor": True,
            "webserver.base_url": airflow.url,
            "webserver.secret_key": airflow.secret,
            "webserver.web_server_host": "127.0.0.1",
            "webserver.web_server_port": airflow.port,
            "webserver.workers": 1,
        }

    def create_user(self, airflow: LocalAirflow) -> None:
        user = {
            "username": airflow.username,
            "password": airflow.password,
            "role": "Admin",
            "email": "admin@localhost",
            "firstname": "Local",
            "lastname": "Admin",
        }
        airflow.run("users", "create", *(f"--{name}={value}" for name, value in user.items()), to="create its user")


def line_of(python: str) -> Airflow3:
    """What to know of the Airflow in the environment of this interpreter.

    :raises subprocess.CalledProcessError: there is none; its standard error says it.
    """
    ask = "from importlib.metadata import version; print(version('apache-airflow'))"
    answer = subprocess.run([python, "-I", "-c", ask], stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    return Airflow2() if answer.stdout.startswith("2.") else Airflow3()
