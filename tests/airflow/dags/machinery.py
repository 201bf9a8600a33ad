import time

from airflow.providers.common.compat.sdk import DAG, task

with DAG("machinery", schedule=None):

    @task
    def nap():
        time.sleep(120)

    nap()

with DAG("quick", schedule=None):

    @task
    def answer():
        return 42

    answer()
