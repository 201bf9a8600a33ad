"""``dli-local probe`` as a user runs it: a process, which is interrupted, and whose terminal goes away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pace
import pytest

pytestmark = pytest.mark.matrix

COMMAND = [sys.executable, "-m", "airflow_provider_dli.local.cli", "probe", "--yes", "--json"]


@pytest.fixture
def start(dli_local):
    """Return a function that starts the probe, whose long jobs do not burn the CPU."""
    started = []

    def run(**options):
        # LAUNCHING for long enough to be met there.
        dli_local.will(matching="CROSS JOIN", launching_for=4, run_for=60, times=9)
        options = {"stderr": subprocess.PIPE, **options}
        started.append(subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True, env=os.environ, **options))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def wait_for_job(dli_local, what):
    def found(dli):
        return [job for job in dli.jobs() if (job.tags["airflow_probe_job"], job.status) == (what, "LAUNCHING")]

    return dli_local.wait_until(found, timeout=150)[0]


def statuses(dli_local):
    return {job.status for job in dli_local.jobs()}


def test_json_is_all_that_is_printed_and_all_holds(dli_local, start):
    process = start()
    out, err = process.communicate(timeout=200)
    report = json.loads(out)
    assert process.returncode == 0, err
    assert report["holds"]
    assert [check["name"] for check in report["checks"]][-1] == "kill of a real task"
    assert len(dli_local.jobs()) == 7  # as many as it asks about
    assert statuses(dli_local) == {"FINISHED", "FAILED", "CANCELLED"}


def test_ctrl_c_is_obeyed_once_all_is_cancelled(dli_local, start):
    process = start()
    wait_for_job(dli_local, "killed-task")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # of somebody who is impatient
    out, err = process.communicate(timeout=200)
    report = json.loads(out)
    assert (process.returncode, report["ended_by"]) == (128 + signal.SIGINT, "SIGINT")
    assert report["may_be_left_running"] == []
    assert "Ending: what the probe has started is cancelled first." in err
    assert statuses(dli_local) <= {"FINISHED", "FAILED", "CANCELLED"}


def test_a_terminal_that_goes_away(dli_local, start):
    process = start()
    wait_for_job(dli_local, "long")
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=200)
    assert process.returncode == 128 + signal.SIGHUP
    assert statuses(dli_local) <= {"FINISHED", "FAILED", "CANCELLED"}


def test_a_probe_that_is_killed_takes_its_task_with_it(dli_local, start):
    process = start()
    job = wait_for_job(dli_local, "killed-task")
    process.kill()
    process.wait()
    dli_local.wait_until(lambda dli: dli.job(job.job_id).status == "CANCELLED", timeout=pace.seconds(15))
    assert dli_local.job(job.job_id).cancel_requests
