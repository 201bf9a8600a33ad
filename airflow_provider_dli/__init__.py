"""Apache Airflow provider for Data Lake Insight (DLI) of Open Telekom Cloud and Huawei Cloud."""

__version__ = "0.1.0"
