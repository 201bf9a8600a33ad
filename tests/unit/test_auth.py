"""The signature, against published test vectors and against the signer of the official SDK."""

from __future__ import annotations

import json

import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.sdk_request import SdkRequest
from hypothesis import given
from hypothesis import strategies as st
from requests import Request

from airflow_provider_dli.api import sql
from airflow_provider_dli.client.signing import AkSkAuth, TokenAuth

PROJECT = "48cc2c48765f481480c7db940d6409d1"
HOST = "dli.eu-de.otc.t-systems.com"
JOB = "8ecb0777-9c70-4529-9935-29ea0946039c"
ACCESS_KEY, SECRET_KEY = "TESTACCESSKEY0000001", "testsecretkey" + 27 * "0"
DATE = "20260115T083000Z"


def signed(method, path, body=None, **keys):
    auth = AkSkAuth(ACCESS_KEY, SECRET_KEY, project_id=PROJECT, now=lambda: DATE, **keys)
    headers = {"Content-Type": "application/json"}
    return Request(method, f"https://{HOST}{path}", headers=headers, data=body, auth=auth).prepare()


def signature(request):
    return request.headers["Authorization"].rpartition("Signature=")[2]


BODY = {"sql": "select * from t1 where stadt = 'Köln' -- 雪", "currentdb": "db1", "queue_name": "default"}
FILTER = {
    "page-size": 100,
    "current-page": 1,
    "job-status": "RUNNING",
    "queue_name": "default",
    "job_types": "QUERY,INSERT",
    "sql_pattern": "select * from t~1 'ü'",
    "tags": "k1=v1",
    "order": "start_time_desc",
}


def listing():
    from airflow_provider_dli.api.call import Call

    return Call("list", "GET", "/v1.0/{project_id}/jobs", lambda answer: None, query=FILTER).url_path(PROJECT)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        pytest.param(
            lambda: signed("DELETE", sql.cancel(JOB).url_path(PROJECT)),
            "1a8ea26eabec56cb2f56a57aca6fc541075583f43b80a38d6fd60a1963a454fd",
            id="1 cancel",
        ),
        pytest.param(
            lambda: signed(
                "POST",
                f"/v1.0/{PROJECT}/jobs/submit-job",
                json.dumps(BODY, ensure_ascii=False, separators=(",", ":")).encode(),
            ),
            "c77e89fb32649d291978191f03385eaae61bd2fbf647d98d046dd146e80ff4b7",
            id="2 submit in UTF-8",
        ),
        pytest.param(
            lambda: signed("POST", f"/v1.0/{PROJECT}/jobs/submit-job", json.dumps(BODY, separators=(",", ":"))),
            "a6eed65f12b10388929ac4cfa6e63fac135670cb18907124c3a9bb856b0770ad",
            id="2b submit in ASCII",
        ),
        pytest.param(
            lambda: signed("GET", listing()),
            "cde26075a3f72926c625529b07ea9c8c5bd70aef759e18af449d3a58ca3ebeb5",
            id="3 list",
        ),
        pytest.param(
            lambda: signed("DELETE", sql.cancel(JOB).url_path(PROJECT), security_token="TESTSECURITYTOKEN"),
            "d992b6efdae579a0a28c35310f4e9bd16a38ef4b657683184ea8af013e2dd07d",
            id="4 temporary keys",
        ),
    ],
)
def test_the_published_vectors(request_, expected):
    assert signature(request_()) == expected


def test_the_whole_header_of_vector_1():
    assert signed("DELETE", sql.cancel(JOB).url_path(PROJECT)).headers["Authorization"] == (
        "SDK-HMAC-SHA256 Access=TESTACCESSKEY0000001, SignedHeaders=content-type;host;x-project-id;x-sdk-date, "
        "Signature=1a8ea26eabec56cb2f56a57aca6fc541075583f43b80a38d6fd60a1963a454fd"
    )


# What can stand in a URL or a body: no lone surrogates. A query value of only blanks is another text to both
# signers, a path part of dots leads elsewhere.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
PATH = st.lists(TEXT.filter(lambda part: part.strip(".") and "/" not in part), min_size=1, max_size=4)
QUERY = st.dictionaries(TEXT.filter(bool), TEXT, max_size=5)


@given(method=st.sampled_from(["GET", "POST", "DELETE", "PUT"]), parts=PATH, query=QUERY, body=st.none() | st.binary())
def test_the_official_signer_agrees(method, parts, query, body):
    from airflow_provider_dli.api.call import Call, escape

    call = Call("x", method, "/v1.0/" + "/".join(escape(part) for part in parts), lambda answer: None, query=query)
    ours = signed(method, call.url_path(PROJECT), body or None)
    credentials = BasicCredentials(ACCESS_KEY, SECRET_KEY, PROJECT)
    theirs = credentials.sign_request(
        SdkRequest(
            method=method,
            schema="https",
            host=HOST,
            resource_path="/v1.0/" + "/".join(parts),
            query_params=sorted(query.items()),
            header_params={"X-Sdk-Date": DATE, "Content-Type": "application/json", "X-Project-Id": PROJECT},
            body=body or "",
        )
    )
    assert ours.headers["Authorization"] == theirs.header_params["Authorization"]


def test_no_secret_in_a_repr():
    for auth in (AkSkAuth("ak", "canary-secret", security_token="canary-secret"), TokenAuth("canary-secret")):
        assert "canary-secret" not in repr(auth)
