"""The contract, with generated requests: whatever comes in, the answer is one that the contract knows."""

from pathlib import Path

import hypothesis
import pytest
import schemathesis
import yaml
from schemathesis.checks import CHECKS

from airflow_provider_dli.local.dli.account.identity import Identity

from .conftest import Wire

CONTRACT = Path(__file__).parents[2] / "contract" / "dli-openapi.yaml"
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
]
NO_JOB = ["createToken", "listProjects", "submitSqlJob", "checkSql", "listSqlJobs", "listQueues", "getQueue"]
# The gateway answers 404 APIG.0101 to a method that it does not know, where the usual answer is 405;
# and well-formed requests may still name a queue, a job or a table that does not exist.
NOT_HERE = ["unsupported_method", "positive_data_acceptance"]


def contract():
    """The contract without the headers of the key pair, which nobody reads next to a token."""
    whole = yaml.safe_load(CONTRACT.read_text())
    for path in whole["paths"].values():
        kept = [
            item for item in path.get("parameters", []) if not item.get("$ref", "").rpartition("/")[2].startswith("X")
        ]
        path["parameters"] = kept
    # Any other project is refused before a call gets anywhere.
    whole["components"]["parameters"]["ProjectId"]["schema"]["enum"] = [Identity().project_id]
    return schemathesis.openapi.from_dict(whole)


schema = contract().include(operation_id=SERVED)
well_formed = contract().include(operation_id=[name for name in SERVED if name not in NO_JOB])
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
