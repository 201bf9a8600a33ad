"""The official client works against the local DLI unchanged."""

import time

import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException
from huaweicloudsdkcore.http.http_config import HttpConfig
from huaweicloudsdkdli.v1 import model
from huaweicloudsdkdli.v1.dli_client import DliClient

LONG = "SELECT count(*) FROM range(1000000000000)"


def client_of(dli, secret_key=None, project_id=None):
    credentials = BasicCredentials(dli.access_key, secret_key or dli.secret_key, project_id or dli.project_id)
    return (
        DliClient.new_builder()
        .with_http_config(HttpConfig.get_default_config())
        .with_credentials(credentials)
        .with_endpoint(dli.url)
        .build()
    )


@pytest.fixture
def client(dli_local):
    return client_of(dli_local)


def submit(client, sql, **fields):
    body = model.CreateSqlJobRequestBody(sql=sql, queue_name="default", **fields)
    return client.create_sql_job(model.CreateSqlJobRequest(body=body)).job_id


def until(client, job_id, *states):
    deadline = time.monotonic() + 10
    while True:
        found = client.show_sql_job_status(model.ShowSqlJobStatusRequest(job_id=job_id))
        if found.status in (states or ("FINISHED", "FAILED", "CANCELLED")):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def test_submit_poll_preview_detail_and_progress(client):
    job_id = submit(client, "SELECT 'Köln ~*' AS city", tags=[model.Tag(key="run", value="a b")])
    assert until(client, job_id).status == "FINISHED"
    preview = client.preview_sql_job_result(model.PreviewSqlJobResultRequest(job_id=job_id))
    assert preview.rows == [["Köln ~*"]]
    assert client.show_sql_job_detail(model.ShowSqlJobDetailRequest(job_id=job_id)).job_id == job_id
    assert client.show_sql_job_progress(model.ShowSqlJobProgressRequest(job_id=job_id)).progress == 1


def test_list_with_filters(client):
    wanted = submit(client, "SELECT 1", tags=[model.Tag(key="run", value="a b+c")])
    submit(client, "SELECT 2")
    request = model.ListSqlJobsRequest(
        page_size=5,
        current_page=1,
        job_types=["QUERY", "INSERT"],
        tags="run=a b+c",
        sql_pattern="select 1",
        order="start_time_desc",
    )
    answer = client.list_sql_jobs(request)
    assert [job.job_id for job in answer.jobs] == [wanted]


def test_cancel(client):
    job_id = submit(client, LONG)
    until(client, job_id, "RUNNING")
    assert client.cancel_sql_job(model.CancelSqlJobRequest(job_id=job_id)).is_success is True
    assert until(client, job_id).status == "CANCELLED"


def test_export(client):
    job_id = submit(client, "SELECT 1 AS one")
    until(client, job_id)
    body = model.ExportSqlJobResultRequestBody(data_path="obs://bucket/out", data_type="csv", compress="gzip")
    answer = client.export_sql_job_result(model.ExportSqlJobResultRequest(job_id=job_id, body=body))
    assert until(client, answer.job_id).status == "FINISHED"


def test_check_sql_and_queues(client):
    body = model.CheckSqlRequestBody(sql="SELECT 1", currentdb="default")
    assert client.check_sql(model.CheckSqlRequest(body=body)).job_type == "QUERY"
    assert [queue.queue_name for queue in client.list_queues(model.ListQueuesRequest()).queues] == ["default"]
    assert client.show_queue(model.ShowQueueRequest(queue_name="default")).queue_name == "default"


def test_a_wrong_secret_key(dli_local):
    with pytest.raises(ClientRequestException) as refused:
        submit(client_of(dli_local, secret_key="wrong"), "SELECT 1")
    assert (refused.value.status_code, refused.value.error_code) == (401, "APIG.0301")
    assert dli_local.jobs() == []


def test_an_error_arrives_as_the_client_knows_it(client):
    with pytest.raises(ClientRequestException) as refused:
        client.show_queue(model.ShowQueueRequest(queue_name="testqueue"))
    assert (refused.value.status_code, refused.value.error_code) == (400, "DLI.0002")
    assert refused.value.error_msg == "There is no queue named testqueue"
    assert refused.value.request_id
