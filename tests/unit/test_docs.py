"""What the README shows works as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import dag_files
import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.matrix
def test_the_example_for_ones_own_ci(tmp_path):
    for name, code in re.findall(r"```python\n# (\w+/\w+\.py)\n(.*?)```", README, re.DOTALL):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    [step] = re.findall(r"```bash\npip install 'airflow-provider-dli\[local\]' pytest\n(.*?)```", README, re.DOTALL)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-euc", step],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout


@pytest.mark.parametrize("cron_intervals", ["False", "True"], ids=["moments", "intervals"])
def test_every_dag_loads_and_the_first_one_loads_the_day_that_has_just_ended(tmp_path, cron_intervals):
    """Whichever timetable Airflow 3 is told to make of ``@daily``."""
    settings = {"AIRFLOW__SCHEDULER__CREATE_CRON_DATA_INTERVALS": cron_intervals}
    dag_files.check(dag_files.read(dag_files.write_dags(tmp_path / "dags"), tmp_path, **settings))


def test_every_python_example_compiles():
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) >= 4
    for example in examples:
        compile(example, "README.md", "exec")
