"""Tasks that succeed and tasks that fail in every way that prints something."""

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_dli.exceptions import DliError
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.operators.dli import DliCancelJobOperator, DliSubmitSqlJobOperator

# Of each kind of credentials, a connection.
KINDS = [
    "dli_default",
    "canary_key",
    "canary_temporary_key",
    "short_lived",
    "agency_of_password",
    "of_machine",
    "of_environment",
]


@task
def each_kind():
    """Use each connection, well and badly, and make what comes of it an XCom and a line of the log."""
    said = {}
    for name in KINDS:
        hook = DliHook(name)
        job = hook.wait_for_job(hook.submit_sql_job("select 1").id, poll_interval=0.1)
        _, sentence = hook.test_connection()
        said[name] = [job.status, sentence, repr(hook.connect())]
        try:
            hook.submit_sql_job("select 1", queue_name="nowhere")
        except DliError as error:
            said[name] += [str(error), repr(error)]
            hook.log.exception("It fails.")
    return said


with DAG("canaries", schedule=None):
    each_kind()
    DliSubmitSqlJobOperator(task_id="works", sql="select 1")
    DliSubmitSqlJobOperator(task_id="works_with_a_key", sql="select 1", dli_conn_id="canary_key")
    DliSubmitSqlJobOperator(task_id="unknown_queue", sql="select 1", queue_name="nowhere")
    DliSubmitSqlJobOperator(task_id="bad_sql", sql="select * from no_such_table")
    DliSubmitSqlJobOperator(task_id="wrong_password", sql="select 1", dli_conn_id="canary_wrong_password")
    DliSubmitSqlJobOperator(task_id="wrong_key", sql="select 1", dli_conn_id="canary_wrong_key")
    DliSubmitSqlJobOperator(task_id="bad_field", sql="select 1", dli_conn_id="canary_bad_field")
    DliCancelJobOperator(task_id="unknown_job", job_id="00000000-0000-0000-0000-000000000000")
