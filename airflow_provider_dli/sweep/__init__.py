"""
The sweep: finds the active jobs of a deployment that no task waits for any more, and cancels them.

``verdict.py`` decides, ``walk.py`` asks DLI and Airflow and cancels, ``report.py`` reports.
"""
