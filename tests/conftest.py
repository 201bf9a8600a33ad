"""What every test needs. The fixture ``dli_local`` comes from the package's own pytest plugin."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# Before anything imports Airflow, which would take the home of whoever runs the tests.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-home-")
sys.path.insert(0, str(Path(__file__).parent))
