"""
DLI's REST API as values: what to send and how to read the answer.

No I/O and no Airflow here. One module per chapter of the DLI API Reference; :mod:`.call` says what a call is,
:mod:`.jobs` what a job is.
"""
