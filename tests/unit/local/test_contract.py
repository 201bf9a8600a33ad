"""The contract, with generated requests: whatever comes in, the answer is one that the contract knows."""

import hypothesis
import pytest
import schemathesis
from contract import contract
from schemathesis.checks import CHECKS

from airflow_provider_dli.local.dli.account.identity import Identity

from .conftest import Wire

pytestmark = pytest.mark.matrix

SERVED = [
    "createToken",
    "listProjects",
    "submitSqlJob",
    "checkSql",
    "listSqlJobs",
    "cancelSqlJob",
    "getSqlJobStatus",
    "getSqlJobDetail",
    "getSqlJobProgress",
    "previewSqlJobResult",
    "exportSqlJobResult",
    "listQueues",
    "getQueue",
    "createQueue",
    "deleteQueue",
    "listElasticResourcePools",
    "createElasticResourcePool",
    "deleteElasticResourcePool",
]
ABOUT_A_JOB = [
    "cancelSqlJob",
    "getSqlJobStatus",
    "getSqlJobDetail",
    "getSqlJobProgress",
    "previewSqlJobResult",
    "exportSqlJobResult",
]
# The gateway answers 404 APIG.0101 to a method that it does not know, where the usual answer is 405;
# and well-formed requests may still name a queue, a job or a table that does not exist.
NOT_HERE = ["unsupported_method", "positive_data_acceptance"]


def schema_of_contract():
    """The contract without the headers of the key pair, which nobody reads next to a token."""
    whole = contract()
    for path in whole["paths"].values():
        kept = [
            item for item in path.get("parameters", []) if not item.get("$ref", "").rpartition("/")[2].startswith("X")
        ]
        path["parameters"] = kept
    # Any other project is refused before a call gets anywhere.
    whole["components"]["parameters"]["ProjectId"]["schema"]["enum"] = [Identity().project_id]
    return schemathesis.openapi.from_dict(whole)


schema = schema_of_contract().include(operation_id=SERVED)
well_formed = schema_of_contract().include(operation_id=ABOUT_A_JOB)
well_formed.config.generation.update(modes=[schemathesis.GenerationMode.POSITIVE])
quick = hypothesis.settings(
    max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)
)


@pytest.fixture(scope="module")
def finished(dli_server):
    """A server with a finished query, whose preview and export have something to give."""
    dli_server.reset()
    wire = Wire(dli_server)
    return wire, wire.run("SELECT id FROM range(3)")["job_id"]


@schema.parametrize()
@quick
def test_any_request(case, finished):
    wire, _ = finished
    send(case, wire)


@well_formed.parametrize()
@quick
def test_requests_about_a_job_that_exists(case, finished):
    wire, job_id = finished
    case.path_parameters["job_id"] = job_id
    send(case, wire)


def send(case, wire):
    headers = {"X-Auth-Token": wire.http.headers["X-Auth-Token"]}
    case.call_and_validate(
        base_url=wire.dli.url, headers=headers, excluded_checks=CHECKS.get_by_names(NOT_HERE), timeout=20
    )


def test_all_served_calls_are_in_the_contract():
    operations = {operation.ok().definition.raw["operationId"] for operation in schema.get_all_operations()}
    assert operations == set(SERVED)


FLINK = [
    "createFlinkSqlJob",
    "createFlinkJarJob",
    "listFlinkJobs",
    "runFlinkJobs",
    "stopFlinkJobs",
    "getFlinkJob",
    "deleteFlinkJob",
]
flink = schema_of_contract().include(operation_id=FLINK)
well_formed_flink = schema_of_contract().include(operation_id=["runFlinkJobs", "stopFlinkJobs", "getFlinkJob"])
well_formed_flink.config.generation.update(modes=[schemathesis.GenerationMode.POSITIVE])


@pytest.fixture(scope="module")
def flink_job(dli_server):
    """A server with a Flink job that can be run and stopped, in whatever state it is."""
    dli_server.reset()
    wire = Wire(dli_server)
    body = {"name": "jar", "queue_name": "default", "entrypoint": "obs://bucket/a.jar"}
    return wire, wire.call("POST", "streaming/flink-jobs", json=body).json()["job"]["job_id"]


@flink.parametrize()
@quick
def test_any_flink_request(case, flink_job):
    wire, _ = flink_job
    send(case, wire)


@well_formed_flink.parametrize()
@quick
def test_requests_about_a_flink_job_that_exists(case, flink_job):
    wire, job_id = flink_job
    if "job_id" in (case.path_parameters or {}):
        case.path_parameters["job_id"] = job_id
    else:
        case.body["job_ids"] = [job_id]
    send(case, wire)


def test_all_flink_calls_are_in_the_contract():
    operations = {operation.ok().definition.raw["operationId"] for operation in flink.get_all_operations()}
    assert operations == set(FLINK)


SPARK = ["createBatch", "listBatches", "getBatch", "cancelBatch", "getBatchState", "getBatchLog"]
spark = schema_of_contract().include(operation_id=SPARK)
well_formed_spark = schema_of_contract().include(
    operation_id=["getBatch", "cancelBatch", "getBatchState", "getBatchLog"]
)
well_formed_spark.config.generation.update(modes=[schemathesis.GenerationMode.POSITIVE])


@pytest.fixture(scope="module")
def batch(dli_server):
    """A server with a batch, which one of the requests will cancel."""
    dli_server.reset()
    wire = Wire(dli_server)
    return wire, wire.call("POST", "batches", version="v2.0", json={"file": "group/a.jar"}).json()["id"]


@spark.parametrize()
@quick
def test_any_request_about_batches(case, batch):
    wire, _ = batch
    send(case, wire)


@well_formed_spark.parametrize()
@quick
def test_requests_about_a_batch_that_exists(case, batch):
    wire, batch_id = batch
    case.path_parameters["batch_id"] = batch_id
    send(case, wire)


def test_all_spark_calls_are_in_the_contract():
    operations = {operation.ok().definition.raw["operationId"] for operation in spark.get_all_operations()}
    assert operations == set(SPARK)
