"""The connection form, the *Test* button and the ways to store a connection."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings

import pytest
from airflow.providers_manager import ProvidersManager

from airflow_provider_dli.client.connection import DliConnection
from airflow_provider_dli.get_provider_info import get_provider_info

FORM = get_provider_info()["connection-types"][0]


def test_airflow_reads_the_form_without_a_warning(caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manager = ProvidersManager()
        widgets, behaviours = manager.connection_form_widgets, manager.field_behaviours
        assert manager._import_hook("dli", manager.providers["airflow-provider-dli"]).connection_type == "dli"
    mine = {name: widget for name, widget in widgets.items() if name.startswith("extra__dli__")}
    assert [name.removeprefix("extra__dli__") for name in mine] == list(FORM["conn-fields"])
    assert [name for name, widget in mine.items() if widget.is_sensitive] == ["extra__dli__security_token"]
    assert behaviours["dli"]["hidden_fields"] == ["schema", "extra"]
    assert not [record for record in caplog.records if "dli" in record.getMessage().lower()]


def test_every_field_that_is_read_is_in_the_form_and_the_other_way_round():
    fields = set(DliConnection.__dataclass_fields__)
    airflows_own = {"conn_id", "user", "secret", "endpoint"}
    # What assumes an agency is a connection of its own kind.
    assert set(FORM["conn-fields"]) == fields - airflows_own - {"source"} | {"agency_source"}


def test_what_an_empty_form_stores_can_be_used(connect, dli_local):
    # Airflow's form stores the empty text for fields that were left out.
    empty = dict.fromkeys(FORM["conn-fields"], "")
    extra = dli_local.connection()["extra"]
    ok, sentence = connect(extra={**empty, **extra}).test_connection()
    assert ok, sentence


class TestButton:
    def test_success_names_host_user_and_project(self, connect, dli_local):
        assert connect().test_connection() == (
            True,
            f"DLI at {dli_local.url} answers, and 'dli' may list the jobs of project {dli_local.project_id}.",
        )

    @pytest.mark.parametrize(
        ("auth_type", "changes", "sentence"),
        [
            ("password", {"login": ""}, r"Fields: .*`login` is missing: the IAM user name"),
            ("password", {"password": "wrong"}, r"IAM at http.* Check login, password, domain_name and project"),
            ("ak_sk", {"password": "wrong"}, r"DLI at http.* Check login \(access key\) and password \(secret key\)"),
            (
                "password",
                {"extra": {"iam_endpoint": "https://iam.invalid"}},
                r"IAM at https://iam.invalid: .*the host name iam.invalid is not known",
            ),
            (
                "ak_sk",
                {"host": "https://dli.invalid"},
                r"DLI at https://dli.invalid: .*host name dli.invalid is not known",
            ),
            ("ak_sk", {"host": "http://127.0.0.1:9"}, r"DLI at http://127.0.0.1:9: .* [Rr]efused"),
        ],
    )
    def test_the_sentence_says_which_step_failed_and_what_to_change(self, connect, auth_type, changes, sentence):
        ok, said = connect(auth_type, **changes).test_connection()
        assert not ok
        assert re.search(sentence, said), said

    def test_https_to_a_server_that_speaks_http(self, connect, dli_local):
        ok, said = connect("ak_sk", host=dli_local.url.replace("http:", "https:")).test_connection()
        assert not ok
        assert "TLS" in said

    def test_without_the_right_to_list_it_works_and_says_what_needs_it(self, connect, dli_local):
        dli_local.fault("list", "status", status=403, error_code="APIG.0302", error_msg="not authorized")
        ok, said = connect().test_connection()
        assert ok
        assert "'dli', who may not list jobs, which later tries of a task and the sweep need." in said
        assert "needs the IAM action dli:jobs:listAll in project" in said

    def test_another_project_is_no_missing_right(self, connect):
        ok, said = connect("ak_sk", extra={"project_id": "0" * 32}).test_connection()
        assert not ok
        assert "The project is not the one that the credentials are for" in said

    @pytest.mark.parametrize("code", ["APIG.0401", "APIGW.0402", "APIG.0802"])
    def test_nor_is_an_address_or_a_region_that_is_refused(self, connect, dli_local, code):
        dli_local.fault("list", "status", status=403, error_code=code, error_msg="not from here")
        ok, said = connect().test_connection()
        assert not ok
        assert "not from here" in said


def show(env, tmp_path):
    """Resolve the connection in a fresh process, as Airflow would, and list the jobs with it."""
    code = (
        "from airflow_provider_dli.hooks.dli import DliHook; from airflow_provider_dli.api import sql;"
        "print(DliHook('my_dli').send(sql.list_jobs()).job_count)"
    )
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path), **env}
    environment.pop("AIRFLOW_CONN_DLI_DEFAULT", None)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert run.stdout.splitlines()[-1:] == ["0"], run.stdout + run.stderr


class TestStores:
    @pytest.mark.matrix
    def test_json_in_the_environment(self, dli_local, tmp_path):
        show({"AIRFLOW_CONN_MY_DLI": json.dumps(dli_local.connection())}, tmp_path)

    @pytest.mark.matrix
    def test_uri_in_the_environment(self, dli_local, tmp_path):
        host = dli_local.url.removeprefix("http://")
        uri = (
            f"dli://{dli_local.user}:{dli_local.password}@{host}/http?region=eu-de&project_id={dli_local.project_id}"
            f"&domain_name={dli_local.domain}&iam_endpoint=http%3A%2F%2F{host.replace(':', '%3A')}&timeout=20"
        )
        show({"AIRFLOW_CONN_MY_DLI": uri}, tmp_path)

    @pytest.mark.matrix
    def test_a_secrets_backend(self, dli_local, tmp_path):
        connection = dli_local.connection("ak_sk")
        (tmp_path / "connections.json").write_text(json.dumps({"my_dli": connection}))
        show(
            {
                "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
                "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps(
                    {"connections_file_path": str(tmp_path / "connections.json")}
                ),
            },
            tmp_path,
        )


@pytest.mark.parametrize("region", ["evil.example.com/#", "eu-de.evil.example.com", "@evil.example.com"])
def test_a_templated_region_cannot_lead_to_another_host(connect, region):
    from airflow_provider_dli.exceptions import DliValueError

    hook = connect()
    hook.region = region
    assert hook.connect().endpoint.startswith("http://127.0.0.1:")
    bare = connect(extra={"iam_endpoint": None}, host="")
    bare.region = region
    with pytest.raises(DliValueError, match="is not known"):
        bare.connect()
