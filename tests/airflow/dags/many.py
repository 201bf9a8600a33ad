"""As many deferred DLI jobs at once as the configuration of a DAG run says."""

from airflow.providers.common.compat.sdk import DAG, BaseOperator

from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator


class Statements(BaseOperator):
    """Returns one statement for each of the jobs."""

    def execute(self, context):
        run = context["dag_run"]
        return [f"SELECT 'many {run.run_id}', {number}" for number in range(run.conf["jobs"])]


with DAG("many", schedule=None, max_active_tasks=1000):
    statements = Statements(task_id="statements")
    DliSubmitSqlJobOperator.partial(task_id="job", deferrable=True).expand(sql=statements.output)
