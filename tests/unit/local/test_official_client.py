"""The official client works against the local DLI unchanged."""

import time

import pace
import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import ClientRequestException
from huaweicloudsdkcore.http.http_config import HttpConfig
from huaweicloudsdkdli.v1 import model
from huaweicloudsdkdli.v1.dli_client import DliClient

pytestmark = pytest.mark.matrix

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
    # The client cannot name a queue for the preview.
    dli_local.settings(preview_on_default="works")
    return client_of(dli_local)


def submit(client, sql, **fields):
    body = model.CreateSqlJobRequestBody(sql=sql, queue_name="default", **fields)
    return client.create_sql_job(model.CreateSqlJobRequest(body=body)).job_id


def until(client, job_id, *states):
    deadline = time.monotonic() + pace.seconds(10)
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


def test_a_queue_in_a_pool_is_created_listed_shown_and_deleted(client):
    pool = model.CreateElasticResourcePoolRequestBody(elastic_resource_pool_name="big", min_cu=64, max_cu=128)
    client.create_elastic_resource_pool(model.CreateElasticResourcePoolRequest(body=pool))
    found = client.list_elastic_resource_pools(model.ListElasticResourcePoolsRequest(name="big"))
    assert [each.status for each in found.elastic_resource_pools] == ["AVAILABLE"]

    body = model.CreateQueueRequestBody(
        queue_name="Etl",
        queue_type="general",
        cu_count=16,
        elastic_resource_pool_name="big",
        tags=[model.Tag(key="team", value="a")],
    )
    assert client.create_queue(model.CreateQueueRequest(body=body)).queue_name == "etl"
    listed = client.list_queues(model.ListQueuesRequest(queue_type="general", tags="team=a")).queues
    assert [(queue.queue_name, queue.cu_count) for queue in listed] == [("etl", 16)]
    shown = client.show_queue(model.ShowQueueRequest(queue_name="etl"))
    assert (shown.queue_name, shown.queue_type, shown.elastic_resource_pool_name) == ("etl", "general", "big")
    assert client.delete_queue(model.DeleteQueueRequest(queue_name="etl")).is_success is True

    gone = model.DeleteElasticResourcePoolRequest(elastic_resource_pool_name="big")
    assert client.delete_elastic_resource_pool(gone).is_success is True


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


class TestFlink:
    SQL = "CREATE TABLE numbers (id INT) WITH ('connector' = 'datagen'); SELECT count(*) FROM numbers"

    @pytest.fixture
    def job_id(self, client):
        """A SQL job that would run for ever."""
        body = model.CreateFlinkSqlJobRequestBody(
            name="words",
            desc="counts words",
            sql_body=self.SQL,
            queue_name="default",
            run_mode="exclusive_cluster",
            job_type="flink_opensource_sql_job",
            checkpoint_mode=1,
            tags=[model.Tag(key="team", value="a")],
        )
        answer = client.create_flink_sql_job(model.CreateFlinkSqlJobRequest(body=body))
        assert (answer.is_success, answer.job.status_name) == ("true", "job_init")
        return answer.job.job_id

    def until(self, client, job_id, state):
        deadline = time.monotonic() + pace.seconds(10)
        while (found := self.show(client, job_id)).status != state:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        return found

    def show(self, client, job_id):
        return client.show_flink_job(model.ShowFlinkJobRequest(job_id=job_id)).job_detail

    def test_create_run_show_list_stop_and_delete(self, client, job_id):
        body = model.BatchRunFlinkJobsRequestBody(job_ids=[job_id])
        (element,) = client.batch_run_flink_jobs(model.BatchRunFlinkJobsRequest(body=body)).body
        assert element.is_success == "true"
        found = self.until(client, job_id, "job_running")
        assert (found.name, found.desc, found.sql_body) == ("words", "counts words", self.SQL)
        assert (found.job_config.checkpoint_mode, found.job_config.cu_number) == ("exactly_once", 2)
        request = model.ListFlinkJobsRequest(name="words", tags="team=a", status="job_running", show_detail=True)
        listed = client.list_flink_jobs(request).job_list
        assert (listed.total_count, [job.job_id for job in listed.jobs]) == (1, [job_id])
        body = model.StopFlinkJobsRequestBody(job_ids=[job_id], trigger_savepoint=True)
        (element,) = client.batch_stop_flink_jobs(model.BatchStopFlinkJobsRequest(body=body)).body
        assert element.is_success == "true"
        assert self.until(client, job_id, "job_cancel_success").has_savepoint is True
        assert client.delete_flink_job(model.DeleteFlinkJobRequest(job_id=job_id)).is_success == "true"
        with pytest.raises(ClientRequestException) as refused:
            self.show(client, job_id)
        assert refused.value.status_code == 400
        assert "DLI.16001" in str(refused.value)

    def test_a_jar(self, client):
        body = model.CreateFlinkJarJobRequestBody(
            name="jar", queue_name="default", entrypoint="obs://bucket/a.jar", dependency_jars=["obs://bucket/b.jar"]
        )
        answer = client.create_flink_jar_job(model.CreateFlinkJarJobRequest(body=body))
        found = self.show(client, answer.job.job_id)
        assert (found.job_type, found.job_config.dependency_jars) == ("flink_jar_job", ["obs://bucket/b.jar"])

    def test_an_error_in_either_form(self, client, dli_local, job_id):
        for form in ("array", "object"):
            dli_local.settings(flink_errors=form)
            body = model.StopFlinkJobsRequestBody(job_ids=[job_id])
            with pytest.raises(ClientRequestException) as refused:
                client.batch_stop_flink_jobs(model.BatchStopFlinkJobsRequest(body=body))
            assert (refused.value.status_code, "DLI.0007" in str(refused.value)) == (400, True)


@pytest.mark.filterwarnings("ignore:Method 'show_spark_job_log':DeprecationWarning")
def test_a_spark_batch_is_created_shown_listed_and_cancelled(client, dli_local):
    dli_local.will(kind="spark", run_for=60, log=["one", "two"])
    body = model.CreateSparkJobRequestBody(
        file="obs://bucket/job.py",
        class_name="",
        name="nightly",
        queue="default",
        args=["--day", "1"],
        conf={"spark.a": "b"},
        driver_memory="2G",
        auto_recovery=True,
        feature="basic",
        spark_version="3.3.1",
        execution_agency_urn="agency",
    )
    created = client.create_spark_job(model.CreateSparkJobRequest(body=body))
    assert (created.state, created.name, created.sc_type) == ("starting", "nightly", "CUSTOMIZED")

    def state():
        return client.show_spark_job_status(model.ShowSparkJobStatusRequest(batch_id=created.id)).state

    dli_local.wait_until(lambda _: state() == "running")
    shown = client.show_spark_job(model.ShowSparkJobRequest(batch_id=created.id))
    assert (shown.id, shown.log, shown.spark_version) == (created.id, ["one", "two"], "3.3.1")
    request = model.ListSparkJobsRequest(job_name="nightly", queue_name="default", state="running", size=10)
    listed = client.list_spark_jobs(request)
    assert (listed.total, [batch.id for batch in listed.sessions]) == (1, [created.id])
    assert '"spark.a": "b"' in listed.sessions[0].req_body
    log = client.show_spark_job_log(model.ShowSparkJobLogRequest(batch_id=created.id, type="driver", size=1))
    assert (log.total, log.log) == (2, ["two"])
    assert client.cancel_spark_job(model.CancelSparkJobRequest(batch_id=created.id)).msg == "deleted"
    dli_local.wait_until(lambda _: state() == "dead")
