"""What is decided, without I/O, Airflow or a clock: the same facts give the same decision, each with its reason."""
