"""Deferred tasks beyond the kill matrix."""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_dli.operators.dli import DliCancelJobOperator, DliSubmitSqlJobOperator
from airflow_provider_dli.sensors.dli import DliJobSensor


class SubmitWithLostTrigger(DliSubmitSqlJobOperator):
    """Defers to a trigger that no triggerer can load, as when it has another release of the provider."""

    def defer(self, *, trigger, **kwargs):
        trigger.serialize = lambda: ("airflow_provider_dli.triggers.dli.Lost", {})
        super().defer(trigger=trigger, **kwargs)


with DAG("deferral_lost_trigger", schedule=None):
    SubmitWithLostTrigger(task_id="job", sql="SELECT 'lost trigger'", deferrable=True)

with DAG("deferral_waits", schedule=None):
    submit = DliSubmitSqlJobOperator(task_id="submit", sql="SELECT 'deferral waits'", wait_for_completion=False)
    job_id = "{{ ti.xcom_pull(task_ids='submit') }}"
    # Airflow fails a rescheduled sensor whose next poke is queued before it has read of the end of the last one
    # (https://github.com/apache/airflow/issues/71172): hence no second between two pokes, but five.
    again = {"poke_interval": 5, "retries": 1, "retry_delay": timedelta(seconds=1)}
    waits = [
        DliJobSensor(task_id="poke", job_id=job_id, **again, deferrable=False),
        DliJobSensor(task_id="reschedule", job_id=job_id, **again, mode="reschedule", deferrable=False),
        DliJobSensor(task_id="defer", job_id=job_id, **again, deferrable=True),
    ]
    submit >> waits

with DAG("deferral_cancel", schedule=None):
    submit = DliSubmitSqlJobOperator(task_id="submit", sql="SELECT 'deferral cancel'", wait_for_completion=False)
    cancel = DliCancelJobOperator(
        task_id="cancel",
        job_id="{{ ti.xcom_pull(task_ids='submit') }}",
        deferrable=True,
        poll_interval=1,
    )
    submit >> cancel
