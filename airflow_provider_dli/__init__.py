"""Apache Airflow provider for Data Lake Insight (DLI) of Open Telekom Cloud and Huawei Cloud."""

__version__ = "0.1.0"
#: The Airflow connection of operators and hooks that name none.
DEFAULT_CONN_ID = "dli_default"
