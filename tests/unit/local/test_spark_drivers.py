"""The drivers of Spark batches as real processes: what they run, what they print, and that they really end."""

import os
import signal
import time
from importlib.util import find_spec

import pace
import psutil
import pytest

from airflow_provider_dli.local.handle import LocalDli

from .conftest import Wire
from .spark import Spark

pytestmark = pytest.mark.matrix

SLEEP = """
import os, subprocess, sys, time

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("pids", os.getpid(), os.getppid(), child.pid)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    obs = tmp_path_factory.mktemp("obs")
    (obs / "bucket").mkdir()
    os.environ["SOME_SECRET"] = "canary"
    with LocalDli.start(obs=obs) as dli:
        yield dli, obs / "bucket"
    del os.environ["SOME_SECRET"]


@pytest.fixture
def put(server):
    """Put a program into OBS and return its path."""

    def put(program, name="job.py"):
        (server[1] / name).write_text(program)
        return f"obs://bucket/{name}"

    return put


@pytest.fixture
def spark(server):
    server[0].reset()
    return Spark(Wire(server[0]))


def test_a_program_runs_to_its_end(spark, put):
    put("GREETING = 'Grüße'", "words.py")
    put("a,b", "data.csv")
    file = put("import sys, words; print(words.GREETING, sys.argv[1:], open('data.csv').read())")
    batch_id = spark.create(
        file=file, args=["--day", "a b"], pyFiles=["obs://bucket/words.py"], files=["obs://bucket/data.csv"]
    )
    found = spark.until(batch_id)
    assert found["state"] == "success", found["log"]
    assert found["log"][-1] == "Grüße ['--day', 'a b'] a,b"


@pytest.mark.skipif(find_spec("pyspark") is not None, reason="PySpark is installed")
def test_it_says_that_there_is_no_pyspark(spark, put):
    batch_id = spark.create(file=put("print(1)"))
    assert spark.until(batch_id)["log"] == [
        "PySpark is not installed here: obs://bucket/job.py is run by plain Python.",
        "1",
    ]


def test_one_that_fails_leaves_its_traceback(spark, server, put):
    batch_id = spark.create(file=put("raise ValueError('no such day')"))
    found = spark.until(batch_id)
    assert (found["state"], found["log"][-1]) == ("dead", "ValueError: no such day")
    assert any(line.startswith("Traceback") for line in found["log"])
    assert server[0].job(batch_id).state == "FAILED"


@pytest.mark.parametrize(
    ("program", "code"), [("import sys; sys.exit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_one_that_ends_in_silence(spark, put, program, code):
    found = spark.until(spark.create(file=put(program)))
    assert (found["state"], found["log"][-1]) == ("dead", f"The driver ended with exit code {code}.")


@pytest.mark.parametrize("missing", ["file", "pyFiles"])
def test_a_missing_object(spark, put, missing):
    body = {"file": put("print(1)"), "pyFiles": []} | {missing: ["obs://bucket/no.py"]}
    if missing == "file":
        body["file"] = "obs://bucket/no.py"
    found = spark.until(spark.create(**body))
    assert (found["state"], found["log"]) == (
        "dead",
        ["Cannot download obs object obs://bucket/no.py: the object does not exist."],
    )


@pytest.mark.parametrize(("file", "args"), [("obs://../job.py", []), ("obs://bucket/job.py", ["\0"])])
def test_what_cannot_be_started(spark, put, file, args):
    put("print(1)")
    found = spark.until(spark.create(file=file, args=args))
    assert found["state"] == "dead"
    assert "The driver cannot be started" in found["log"][-1]


def test_it_gets_no_secrets(spark, put):
    batch_id = spark.create(file=put("import os; print(dict(os.environ))"), conf={"spark.secret": "canary"})
    found = spark.until(batch_id)
    assert found["state"] == "success"
    assert "canary" not in str(found["log"])
    assert "DLI_LOCAL" not in str(found["log"])


def test_a_long_log_is_bounded(spark, put):
    program = "print('x' * 100_000)\nfor number in range(20_000): print(number)"
    batch_id = spark.create(file=put(program))
    spark.until(batch_id, timeout=20)
    assert spark.log(batch_id, size=1)["log"] == ["19999"]
    assert spark.log(batch_id)["total"] == 5000


def test_a_failed_one_recovers(spark, server, put):
    server[0].settings(spark_recovery_delay=0)
    batch_id = spark.create(file=put("import sys; sys.exit(4)"), auto_recovery=True, max_retry_times=1)
    assert spark.until(batch_id)["state"] == "dead"
    assert spark.log(batch_id, index=1)["log"][-1].endswith("exit code 4.")


def pids_of(dli, spark, put, program=SLEEP):
    """Start a batch that sleeps; return its id, and the ids of its processes."""
    batch_id = spark.create(file=put(program))
    dli.wait_until(lambda _: "pids" in str(spark.get(batch_id)["log"]))
    return batch_id, [int(pid) for pid in spark.get(batch_id)["log"][-1].split()[1:]]


def test_a_cancel_kills_it(spark, server, put):
    batch_id, pids = pids_of(server[0], spark, put)
    assert all(map(is_running, pids))
    spark.cancel(batch_id)
    assert spark.until(batch_id)["state"] == "dead"
    assert not any(map(is_running, pids))
    assert server[0].job(batch_id).state == "CANCELLED"


def test_even_one_that_ignores_signals(spark, server, put):
    program = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEP}"
    batch_id, pids = pids_of(server[0], spark, put, program)
    spark.cancel(batch_id)
    assert spark.until(batch_id)["state"] == "dead"
    assert not any(map(is_running, pids))


def test_what_it_has_started_ends_with_it(spark, server, put):
    batch_id, pids = pids_of(server[0], spark, put, SLEEP.rpartition("time.sleep")[0])
    assert spark.until(batch_id)["state"] == "success"
    gone(pids)


def test_a_reset_kills_it(spark, server, put):
    _, pids = pids_of(server[0], spark, put)
    server[0].reset()
    assert not any(map(is_running, pids))


@pytest.mark.parametrize("how", ["stop", signal.SIGTERM, signal.SIGKILL])
def test_it_does_not_outlive_the_server(how, tmp_path):
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / "job.py").write_text(SLEEP)
    with LocalDli.start(obs=tmp_path) as dli:
        spark = Spark(Wire(dli))
        _, pids = pids_of(dli, spark, lambda _: "obs://bucket/job.py")
        if how == "stop":
            dli.stop()
        else:
            os.kill(dli.pid, how)
        gone(pids)


def test_nor_a_guard_that_is_killed(spark, server, put):
    batch_id, pids = pids_of(server[0], spark, put)
    os.kill(pids[1], signal.SIGKILL)
    assert spark.until(batch_id)["state"] == "dead"
    gone(pids[:1])
    psutil.Process(pids[2]).kill()


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pids):
    deadline = time.monotonic() + pace.seconds(5)
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
