"""An email backend for Airflow that notes for which DAG run of the kill matrix it was to send an email."""

import os
import re
from pathlib import Path


def note(to, subject, html_content, **_):
    """Append a line to the file of the callbacks."""
    run_id = re.search(r"/runs/([^/]+)/", html_content)[1]
    with (Path(os.environ["AIRFLOW_HOME"]) / "callbacks.txt").open("a") as notes:
        notes.write(f"{run_id} email\n")
