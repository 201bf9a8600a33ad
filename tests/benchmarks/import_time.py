"""
What importing the operators costs a DAG file, on top of ``import airflow.sdk``, which every DAG file pays.

Prints the median and the largest of several fresh processes. Run: ``python tests/benchmarks/import_time.py``
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile

RUNS = 5
IMPORTS = ("DliSubmitSqlJobOperator", "*")
MEASURE = """
import json, sys, time
import airflow.sdk
before, start = set(sys.modules), time.perf_counter()
from airflow_provider_dli.operators.dli import {names}
took = time.perf_counter() - start
print(json.dumps({{"ms": took * 1000, "new": sorted(set(sys.modules) - before)}}))
"""


def main() -> None:
    """Measure and print."""
    # With compiled bytecode, as an installed package has it; the first run compiles and does not count.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": tempfile.mkdtemp(prefix="bytecode-")}
    for names in IMPORTS:
        code = MEASURE.format(names=names)
        outputs = [
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=env).stdout
            for _ in range(RUNS + 1)
        ]
        results = [json.loads(output.splitlines()[-1]) for output in outputs[1:]]
        times = [result["ms"] for result in results]
        print(f"from airflow_provider_dli.operators.dli import {names}, {RUNS} processes:")
        print(f"  median {statistics.median(times):.1f} ms, largest {max(times):.1f} ms  (target: at most 30 ms)")
        print(f"  requests imported: {'requests' in results[0]['new']}")
        print(f"  modules: {len(results[0]['new'])}")


if __name__ == "__main__":
    main()
