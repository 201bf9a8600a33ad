"""
DLI's REST API as values: what to send and how to read the answer. No I/O and no Airflow.

``call.py`` says what a call is, ``answers.py`` how an answer is read, ``job_kind.py`` what a kind of job is. The
other modules are chapters of the DLI API Reference; ``kinds.py`` lists the kinds.
"""
