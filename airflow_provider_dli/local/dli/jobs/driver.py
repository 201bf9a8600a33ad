"""The driver of a batch as a real process: a Python file from OBS, run with PySpark where that is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

from airflow_provider_dli.local.dli.bodies_spark import OBS, BatchBody
from airflow_provider_dli.local.dli.engine.obs import Obs, ObsError
from airflow_provider_dli.local.dli.jobs import driver_guard
from airflow_provider_dli.local.dli.jobs.driver_log import MAX_LINE, DriverLog
from airflow_provider_dli.local.dli.jobs.job import JobFailedError, StoppedError

# All that a driver gets of the server's environment: the rest may hold secrets.
KEPT = (
    "HADOOP_HOME",
    "HOME",
    "JAVA_HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYSPARK_PYTHON",
    "PYTHONPATH",
    "SPARK_HOME",
    "SPARK_LOCAL_IP",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "TMPDIR",
    "TZ",
    "VIRTUAL_ENV",
)
#: Exit code of a Python program that ends with a traceback.
TRACEBACK = 1
# Seconds until a guard that does not end is killed.
PATIENCE = driver_guard.GRACE + 2


class Driver:
    """
    One start of the driver, see :class:`airflow_provider_dli.local.dli.jobs.threads.Interruptible`.

    :param folder: Where it works; made, and removed at the end.
    """

    def __init__(self, body: BatchBody, obs: Obs, folder: Path, log: DriverLog) -> None:
        self._body, self._obs, self._folder, self._log = body, obs, folder, log
        self._guard: subprocess.Popen[bytes] | None = None
        self._told_at: float | None = None

    @property
    def can_run(self) -> bool:
        """Whether it is a Python file in OBS: nothing here runs a JAR, or knows the packages of DLI."""
        return self._body.file.startswith(OBS) and self._body.file.lower().endswith(".py")

    def run(self) -> None:
        """
        Run the program to its end. One that cannot be run is only looked for.

        :raises JobFailedError: when a file is missing, or the program cannot be started, or fails.
        :raises StoppedError: when it was interrupted.
        """
        try:
            self._folder.mkdir(parents=True)
            code = self._execute(self._fetch()) if self.can_run else self._pretend()
        except (OSError, ValueError, ObsError) as error:
            raise self._failure(f"The driver cannot be started: {error}") from None
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._told_at is not None:
            raise StoppedError
        if code:
            text = f"The driver ended with exit code {code}."
            # A traceback says more than this.
            raise JobFailedError(text) if code == TRACEBACK else self._failure(text)

    def interrupt(self) -> None:
        """Have the guard end the driver; end both when it does not."""
        guard = self._guard
        if guard is None or guard.stdin is None or guard.poll() is not None:
            return
        if self._told_at is None:
            self._told_at = time.monotonic()
            guard.stdin.close()
        elif time.monotonic() > self._told_at + PATIENCE:
            guard.kill()

    def _pretend(self) -> int:
        if self._body.file.startswith(OBS):
            self._copy(self._body.file)
        self._log.add(
            f"{self._body.file} is not run: the local DLI runs Python files in OBS only.",
            "The batch shows as running until it is cancelled.",
        )
        return 0

    def _failure(self, text: str) -> JobFailedError:
        self._log.add(text)
        return JobFailedError(text)

    def _fetch(self) -> list[str]:
        """
        Bring the files of the batch to where it works, as DLI does.

        :returns: The command that runs the program.
        :raises JobFailedError: when one of them is missing.
        """
        body = self._body
        program = self._copy(body.file)
        for url in (*body.pyFiles, *body.files):
            if url.startswith(OBS):
                self._copy(url)
            else:
                self._log.add(f"{url} is not there: the local DLI has the files of OBS only.")
        if body.jars:
            self._log.add("jars are not used: the local DLI runs Python files only.")
        self._write_settings()
        return [sys.executable, program, *body.args]

    def _copy(self, url: str) -> str:
        source = self._obs.path(url)
        if not source.is_file():
            raise self._failure(f"Cannot download obs object {url}: the object does not exist.")
        shutil.copyfile(source, self._folder / source.name)
        return source.name

    def _write_settings(self) -> None:
        """Keep them in a file, as Spark reads them: some are secrets, and a command line can be seen by others."""
        lines = [f"{name} {_as_property(value)}\n" for name, value in self._body.settings().items()]
        path = self._folder / "spark-defaults.conf"
        path.touch(mode=0o600)
        path.write_text("".join(lines))

    def _execute(self, command: list[str]) -> int:
        if find_spec("pyspark") is None:
            self._log.add(f"PySpark is not installed here: {self._body.file} is run by plain Python.")
        guard = subprocess.Popen(  # noqa: S603 - the user's own program
            [sys.executable, "-P", driver_guard.__file__, *command],
            cwd=self._folder,
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the server, which ends its jobs in order.
            start_new_session=True,
        )
        self._guard = guard
        reader = threading.Thread(target=self._read, args=(guard,), daemon=True)
        reader.start()
        code = guard.wait()
        # Whoever still holds the pipe is none of its descendants.
        reader.join(1)
        with contextlib.suppress(OSError):
            if guard.stdin is not None:
                guard.stdin.close()
        return 128 - code if code < 0 else code

    def _read(self, guard: subprocess.Popen[bytes]) -> None:
        assert guard.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        with guard.stdout as output:
            while line := output.readline(4 * MAX_LINE):
                self._log.add(line.decode(errors="replace").rstrip("\r\n"))

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        archives = [url for url in self._body.pyFiles if url.startswith(OBS) and url.endswith((".zip", ".egg"))]
        path = [*(str(self._folder / Path(url).name) for url in archives), kept.get("PYTHONPATH", "")]
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8",
            "SPARK_CONF_DIR": str(self._folder),
        }


def _as_property(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\r", "\\r").replace("\n", "\\n")
