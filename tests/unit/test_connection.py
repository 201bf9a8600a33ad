"""The connection's fields: what is derived, and what a user reads when one is missing or wrong."""

from __future__ import annotations

import json
import re

import certifi
import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_provider_dli.client.connection import DliConnection
from airflow_provider_dli.exceptions import DliValueError

EXTRA = {"region": "eu-de", "project_id": "48cc2c48765f481480c7db940d6409d1", "domain_name": "OTC-1"}


def checked(*, extra=EXTRA, region=None, project_id=None, **fields):
    text = extra if isinstance(extra, str) else json.dumps(extra)
    fields = {"login": "user", "password": "canary-secret", "extra": text, **fields}
    return DliConnection.from_airflow(
        Connection(conn_id="my_dli", conn_type="dli", **fields), region=region, project_id=project_id
    )


@pytest.mark.parametrize(
    ("region", "endpoint", "iam_endpoint"),
    [
        ("eu-de", "https://dli.eu-de.otc.t-systems.com", "https://iam.eu-de.otc.t-systems.com"),
        ("cn-north-4", "https://dli.cn-north-4.myhuaweicloud.com", "https://iam.cn-north-4.myhuaweicloud.com"),
        ("af-north-1", "https://dli.af-north-1.myhuaweicloud.com", "https://iam.myhuaweicloud.com"),
        ("eu-west-101", "https://dli.eu-west-101.myhuaweicloud.eu", "https://iam.myhuaweicloud.com"),
    ],
)
def test_the_region_gives_both_endpoints(region, endpoint, iam_endpoint):
    connection = checked(extra={**EXTRA, "region": region})
    assert (connection.endpoint, connection.iam_endpoint) == (endpoint, iam_endpoint)


@pytest.mark.parametrize(
    ("fields", "endpoint"),
    [
        ({"host": "dli.example.com"}, "https://dli.example.com"),
        ({"host": "https://dli.example.com/"}, "https://dli.example.com"),
        ({"host": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080"),
        ({"host": "127.0.0.1", "port": 8080, "schema": "http"}, "http://127.0.0.1:8080"),
        ({"host": "dli.example.com", "port": 8443}, "https://dli.example.com:8443"),
        ({"host": "[::1]:8080"}, "https://[::1]:8080"),
    ],
)
def test_a_host_takes_the_place_of_the_derived_endpoint(fields, endpoint):
    assert checked(**fields).endpoint == endpoint


@pytest.mark.parametrize("value", ["https://iam.example.com", "https://iam.example.com/v3", "iam.example.com/v3/"])
def test_iam_endpoint_with_or_without_v3(value):
    assert checked(extra={**EXTRA, "iam_endpoint": value}).iam_endpoint == "https://iam.example.com"


def test_operator_fields_take_the_place_of_the_connections():
    connection = checked(extra={**EXTRA, "project_name": "eu-de_sub"}, region="cn-north-4", project_id="other")
    assert connection.region == "cn-north-4"
    assert (connection.project_id, connection.project_name) == ("other", None)


def without(name):
    return {key: value for key, value in EXTRA.items() if key != name}


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"login": None}, "login", "field `login` is missing: the IAM user name"),
        ({"password": ""}, "password", "field `password` is missing: the IAM user's password"),
        (
            {"login": None, "extra": {**EXTRA, "auth_type": "ak_sk"}},
            "login",
            "field `login` is missing: the access key (AK)",
        ),
        (
            {"extra": without("region")},
            "region",
            "extra field `region` is missing: set it, such as eu-de, or set `host`",
        ),
        (
            {"extra": without("region"), "host": "dli.example.com"},
            "region",
            "extra field `region` is missing: set it, such as eu-de, or set `iam_endpoint`",
        ),
        ({"extra": {**EXTRA, "region": "eu-xx"}}, "region", "'eu-xx' is not known. Known: eu-de, eu-nl"),
        (
            {"extra": without("project_id")},
            "project_id",
            "extra field `project_id` is missing. Set it, or `project_name`",
        ),
        ({"extra": without("domain_name")}, "domain_name", "extra field `domain_name` is missing: the account"),
        (
            {"extra": {**EXTRA, "auth_type": "token"}},
            "auth_type",
            "must be one of password, ak_sk, agency, metadata, environment, not 'token'",
        ),
        (
            {"extra": {**EXTRA, "security_token": "canary-secret"}},
            "security_token",
            'contradicts `auth_type` "password"',
        ),
        ({"port": 8080}, "port", "field `port` is set without `host`"),
        ({"host": "dli.example.com:1", "port": 2}, "port", "field `port` is 2 but `host` says 1"),
        ({"host": "dli.example.com/v1.0"}, "host", "must be a host name or base URL"),
        ({"host": "ftp://dli.example.com"}, "host", "must be a host name or base URL"),
        ({"host": "user:canary-secret@dli.example.com"}, "host", "must be a host name or base URL"),
        ({"extra": {**EXTRA, "timeout": "soon"}}, "timeout", "must be a number of seconds above 0, not 'soon'"),
        ({"extra": {**EXTRA, "timeout": float("nan")}}, "timeout", "must be a number of seconds above 0"),
        ({"extra": {**EXTRA, "verify": 3}}, "verify", "must be true, false or the path of a CA bundle"),
        ({"extra": {**EXTRA, "project_id": 12}}, "project_id", "must be text, not int"),
        ({"extra": "[1]"}, "extra", "field `extra` must be a JSON object"),
    ],
)
def test_a_missing_or_contradictory_field_is_named(fields, field, sentence):
    with pytest.raises(DliValueError, match=re.escape(sentence)) as caught:
        checked(**fields)
    assert caught.value.field == field
    assert str(caught.value).startswith("Connection 'my_dli': ")
    assert "canary-secret" not in str(caught.value)


AK_SK = {"region": "eu-de", "project_id": "48cc2c48765f481480c7db940d6409d1", "auth_type": "ak_sk"}


@pytest.mark.parametrize("character", ["\n", "\r\n", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\ud800"])
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"login": "canary{}secret"}, "login"),
        ({"login": "canary-secret{}"}, "login"),
        ({"password": "canary{}secret"}, "password"),
        ({"password": "canary-secret{}"}, "password"),
        ({"login": "canary{}secret", "extra": AK_SK}, "login"),
        ({"extra": {**AK_SK, "security_token": "canary{}secret"}}, "security_token"),
        ({"host": "canary{}secret"}, "host"),
        *(
            ({"extra": {**EXTRA, name: "canary{}secret"}}, name)
            for name in (
                "project_name",
                "project_id",
                "region",
                "domain_name",
                "auth_type",
                "iam_endpoint",
                "default_queue",
                "default_database",
                "verify",
            )
        ),
    ],
)
def test_a_control_character_is_told_without_the_value(fields, field, character):
    def filled(value):
        if isinstance(value, dict):
            return {name: filled(part) for name, part in value.items()}
        return value.replace("{}", character)

    with pytest.raises(DliValueError) as caught:
        checked(**filled(fields))
    assert caught.value.field == field
    assert f"field `{field}` " in str(caught.value)
    assert "canary" not in str(caught.value)


def test_blanks_and_line_breaks_around_an_extra_field_do_no_harm():
    connection = checked(extra={**AK_SK, "security_token": " token\r\n", "project_id": "\tp\n"})
    assert (connection.security_token, connection.project_id) == ("token", "p")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"login": "ключ", "extra": AK_SK}, "login"),
        ({"extra": {**AK_SK, "security_token": "canary\xa0secret"}}, "security_token"),
        ({"extra": {**EXTRA, "project_id": "canary\xa0secret"}}, "project_id"),
        ({"project_id": "canary\nsecret"}, "project_id"),
    ],
)
def test_what_no_header_can_carry_is_refused(fields, field):
    with pytest.raises(DliValueError, match="only printable ASCII characters may") as caught:
        checked(**fields)
    assert caught.value.field == field
    assert "canary" not in str(caught.value)


def test_names_and_passwords_may_have_letters_of_any_language():
    assert checked(login="Jürgen", password="пароль 密码").secret == "пароль 密码"


class TestVerify:
    def test_a_file_of_certificates(self):
        assert checked(extra={**EXTRA, "verify": certifi.where()}).verify == certifi.where()

    def test_a_directory_is_taken_as_requests_does(self, tmp_path):
        assert checked(extra={**EXTRA, "verify": str(tmp_path)}).verify == str(tmp_path)

    @pytest.mark.parametrize(("value", "verify"), [("", True), ("False", False), (" true ", True), (False, False)])
    def test_a_flag_may_be_text(self, value, verify):
        assert checked(extra={**EXTRA, "verify": value}).verify is verify

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (None, "cannot be read: No such file or directory"),
            (b"", "is no file of certificates"),
            (b"no certificate", "is no file of certificates"),
            (b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", "is no file of certificates"),
        ],
    )
    def test_anything_else_is_told(self, tmp_path, content, problem):
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DliValueError, match=problem) as caught:
            checked(extra={**EXTRA, "verify": str(path)})
        assert caught.value.field == "verify"
        assert f"extra field `verify` is {str(path)!r}" in str(caught.value)
        assert "Give the path, on this machine, of a file of CA certificates in PEM format" in str(caught.value)


@pytest.mark.parametrize("host", ["a..example.com", "x" * 64 + ".example.com"])
def test_a_host_that_no_name_server_can_know_is_refused(host):
    with pytest.raises(DliValueError, match="must be a host name or base URL"):
        checked(host=host)


def test_no_secret_in_the_repr():
    extra = {**EXTRA, "auth_type": "ak_sk", "security_token": "canary-secret"}
    assert "canary-secret" not in repr(checked(extra=extra))
