"""Requests signed with an access key pair: the vectors of the contract, and the official signer."""

import time
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
import requests
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.sdk_request import SdkRequest

from airflow_provider_dli.local.dli.account.signature import Request, sign

PROJECT = "48cc2c48765f481480c7db940d6409d1"
SECRET = "testsecretkey" + "0" * 27
HEADERS = {
    "content-type": "application/json",
    "host": "dli.eu-de.otc.t-systems.com",
    "x-project-id": PROJECT,
    "x-sdk-date": "20260115T083000Z",
}
SQL = '{"sql":"select * from t1 where stadt = \'Köln\' -- 雪","currentdb":"db1","queue_name":"default"}'
QUERY = (
    "current-page=1&job-status=RUNNING&job_types=QUERY%2CINSERT&order=start_time_desc&page-size=100"
    "&queue_name=default&sql_pattern=select%20%2A%20from%20t~1%20%27%C3%BC%27&tags=k1%3Dv1"
)
JOB = "jobs/8ecb0777-9c70-4529-9935-29ea0946039c"


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "more", "signature"),
    [
        ("DELETE", JOB, "", "", {}, "1a8ea26eabec56cb2f56a57aca6fc541075583f43b80a38d6fd60a1963a454fd"),
        ("POST", "jobs/submit-job", "", SQL, {}, "c77e89fb32649d291978191f03385eaae61bd2fbf647d98d046dd146e80ff4b7"),
        (
            "POST",
            "jobs/submit-job",
            "",
            SQL.replace("ö", "\\u00f6").replace("雪", "\\u96ea"),
            {},
            "a6eed65f12b10388929ac4cfa6e63fac135670cb18907124c3a9bb856b0770ad",
        ),
        ("GET", "jobs", QUERY, "", {}, "cde26075a3f72926c625529b07ea9c8c5bd70aef759e18af449d3a58ca3ebeb5"),
        (
            "DELETE",
            JOB,
            "",
            "",
            {"x-security-token": "TESTSECURITYTOKEN"},
            "d992b6efdae579a0a28c35310f4e9bd16a38ef4b657683184ea8af013e2dd07d",
        ),
    ],
)
def test_the_vectors_of_the_contract(method, path, query, body, more, signature):
    headers = HEADERS | more
    request = Request(method, f"/v1.0/{PROJECT}/{path}".encode(), query.encode(), headers, body.encode())
    assert sign(SECRET, request, sorted(headers)) == signature


class Signed:
    """Sends requests that the official signer has signed."""

    def __init__(self, dli, secret_key=None, security_token=None):
        self.dli = dli
        self.credentials = BasicCredentials(dli.access_key, secret_key or dli.secret_key, dli.project_id)
        if security_token:
            self.credentials.with_security_token(security_token)

    def prepare(self, method, path, query=(), body="", headers=None):
        host = self.dli.url.partition("://")[2]
        request = SdkRequest(
            method=method,
            schema="http",
            host=host,
            resource_path=f"/v1.0/{self.dli.project_id}/{path}",
            query_params=list(query),
            header_params={"Content-Type": "application/json", **(headers or {})},
            body=body,
        )
        return self.credentials.sign_request(request)

    def send(self, *args, tamper=None, **options):
        signed = self.prepare(*args, **options)
        query = "&".join(f"{quote(n, safe='~')}={quote(v, safe='~')}" for n, v in signed.query_params or ())
        path = f"/v1.0/{self.dli.project_id}/{args[1]}"
        url = f"{self.dli.url}{quote(path, safe='/~%')}?{query}"
        headers = signed.header_params | (tamper or {})
        return requests.request(args[0], url, data=signed.body, headers=headers, timeout=10)


@pytest.fixture
def signed(dli_local):
    return Signed(dli_local)


def refused(answer, reason):
    assert answer.status_code == 401, answer.text
    assert answer.json()["error_code"] == "APIG.0301"
    assert reason in answer.json()["error_msg"]


def test_what_the_official_signer_signs_is_let_in(signed):
    tags = [("tags", "k1=v1,k2=ä ~*/+"), ("page-size", "5"), ("sql_pattern", "")]
    assert signed.send("GET", "jobs", tags).json()["jobs"] == []
    body = '{"sql":"select \'K\\u00f6ln 100%\'"}'
    assert signed.send("POST", "jobs/submit-job", body=body).json()["is_success"] is True


def test_a_wrong_secret_key(dli_local):
    refused(Signed(dli_local, secret_key="wrong").send("GET", "jobs"), "verify aksk signature fail")


def test_an_unknown_access_key(dli_local):
    signed = Signed(dli_local)
    signed.credentials.ak = "unknown"
    refused(signed.send("GET", "jobs"), "does not exist")


@pytest.mark.parametrize("tamper", [{"X-Project-Id": "0" * 32}, {"X-Sdk-Date": "20200101T000000Z"}])
def test_a_changed_header(signed, tamper):
    assert signed.send("GET", "jobs", tamper=tamper).status_code == 401


def test_a_changed_body(signed):
    request = signed.prepare("POST", "jobs/submit-job", body='{"sql":"select 1"}')
    url = f"{signed.dli.url}/v1.0/{signed.dli.project_id}/jobs/submit-job"
    answer = requests.post(url, data='{"sql":"select 2"}', headers=request.header_params, timeout=10)
    refused(answer, "verify aksk signature fail")


@pytest.mark.parametrize(("minutes", "status"), [(14, 200), (-14, 200), (16, 401), (-16, 401)])
def test_a_clock_may_be_off_by_fifteen_minutes(signed, dli_local, minutes, status):
    dli_local.settings(clock_skew=minutes * 60)
    assert signed.send("GET", "jobs").status_code == status


def test_the_date_of_the_signature_counts(signed):
    long_ago = datetime.fromtimestamp(time.time() - 3600, UTC).strftime("%Y%m%dT%H%M%SZ")
    refused(signed.send("GET", "jobs", headers={"X-Sdk-Date": long_ago}), "15 minutes")


def test_temporary_keys(dli_local):
    assert Signed(dli_local, security_token=dli_local.security_token).send("GET", "jobs").status_code == 200
    refused(Signed(dli_local, security_token="old").send("GET", "jobs"), "security token")


def test_five_wrong_signatures_in_a_row_lock_the_key(dli_local, signed):
    dli_local.settings(lock_seconds=0.5)
    wrong = Signed(dli_local, secret_key="wrong")
    for _ in range(4):
        wrong.send("GET", "jobs")
    assert signed.send("GET", "jobs").status_code == 200, "four are not enough, and a right one starts afresh"
    for _ in range(5):
        refused(wrong.send("GET", "jobs"), "verify aksk signature fail")
    refused(signed.send("GET", "jobs"), "locked")
    time.sleep(0.6)
    assert signed.send("GET", "jobs").status_code == 200


def test_an_authorization_header_in_another_form(dli_local):
    url = f"{dli_local.url}/v1.0/{dli_local.project_id}/jobs"
    answer = requests.get(url, headers={"Authorization": "Basic ZGxpOmRsaQ=="}, timeout=10)
    refused(answer, "SDK-HMAC-SHA256")
