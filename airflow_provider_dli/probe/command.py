"""The command ``dli-local probe``."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from airflow_provider_dli import DEFAULT_CONN_ID
from airflow_provider_dli.probe.stop import Stop, Stopped

if TYPE_CHECKING:
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.probe.probe import Check, Options, Probe, Row

_KINDS = ("sql", "spark", "flink")
_NOT_RUN = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dli-local probe``."""
    parser.description = (
        "Finds out whether a DLI keeps what this provider relies on: it runs a few small jobs, cancels some, kills a "
        "task, and shows what was seen. For each question that DLI's documentation leaves open, it shows the answer of "
        "this DLI. Leaves nothing running. Exits with 0 only if all is as expected, with 2 if nothing was run."
    )
    parser.add_argument(
        "--conn-id",
        default=DEFAULT_CONN_ID,
        help=f"Airflow connection, as in AIRFLOW_CONN_{DEFAULT_CONN_ID.upper()} (default: {DEFAULT_CONN_ID})",
    )
    parser.add_argument("--queue", help="queue of the SQL jobs (default: the connection's, then DLI's own)")
    parser.add_argument("--kinds", type=_kinds, default=("sql",), help="sql, and spark, flink (default: sql)")
    parser.add_argument("--general-queue", help="queue of type general, for Flink, and for a batch")
    parser.add_argument("--spark-file", metavar="OBS_PATH", help="a program that runs for minutes, for a batch")
    parser.add_argument("--spark-version", default="3.3.1", help="version for that batch (default: 3.3.1)")
    parser.add_argument("--agency", help="agency for Flink, and for a batch, where the account needs one")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=900.0,
        metavar="SECONDS",
        help="most seconds that it may take, but for the cancels at its end (default: 900; a queue that was idle "
        "needs 5 to 10 minutes to start)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON, and nothing else")
    parser.add_argument("--yes", action="store_true", help="do not ask before jobs are started")


def run(args: argparse.Namespace) -> int:
    """
    Run the probe.

    :returns: 0 if every check has held, 1 if not, 2 if it could not run, 128 + n after signal n.
    """
    with _own_output() as out:
        if obstacle := _obstacle(args):
            return _refuse(obstacle)
        try:
            return _run(args, out)
        except (KeyboardInterrupt, Stopped) as reason:  # before anything was started: later, signals are noted
            _refuse(f"ended{f': {reason}' if str(reason) else ''}; nothing was started.")
            return 128 + signal.SIGINT if isinstance(reason, KeyboardInterrupt) else _NOT_RUN


def _run(args: argparse.Namespace, out: TextIO) -> int:
    from airflow_provider_dli.probe import killed_task, sql
    from airflow_provider_dli.probe.probe import Probe

    try:
        client = _client(args.conn_id)
        options = _options(args, client)
    except Exception as error:  # of another class in every Airflow
        return _refuse(str(error) or type(error).__name__)
    probe = Probe(options, Stop(args.timeout), client)
    for check in sql.FIRST_OF_ALL:
        if not probe.check(check, _tell):
            return _refuse(f"{probe.rows[-1].seen} Nothing was started.")
    checks = [*sql.BEFORE_THE_KILL, killed_task.CHECK, *_checks_of_other_kinds(options)]
    if not args.yes and not _agreed(options, client):
        return _refuse("not agreed; nothing was started.")
    # The time that the user took to answer does not count.
    probe.stop.restart_clock()
    return _carry_out(probe, checks, out, as_json=args.json)


def _carry_out(probe: Probe, checks: Sequence[Check], out: TextIO, *, as_json: bool) -> int:
    from airflow_provider_dli.probe import report, sql

    stopped: Stopped | None = None
    with probe.stop.listening():
        try:
            for check in checks:
                probe.check(check, _tell)
        except Stopped as reason:
            stopped = reason
        finally:
            # Whatever has happened.
            left = probe.jobs.end()
    everything = [*sql.FIRST_OF_ALL, *checks]
    ended_by = str(stopped) if stopped else None
    written = (report.as_json if as_json else report.as_tables)(probe, everything, left, ended_by)
    out.write(f"{written}\n" if as_json else f"\n{written}\n")
    out.flush()
    if stopped is not None:
        return stopped.exit_code
    return 0 if report.holds(probe, everything, left) else 1


def _checks_of_other_kinds(options: Options) -> list[Check]:
    from airflow_provider_dli.probe import flink, spark

    found: list[Check] = []
    if "spark" in options.kinds:
        found += spark.CHECKS if options.spark_file is None else spark.CHECKS_WITH_A_BATCH
    if "flink" in options.kinds:
        found += flink.CHECKS
    return found


def _client(conn_id: str) -> DliClient:
    from airflow_provider_dli import compat
    from airflow_provider_dli.client.access import Access
    from airflow_provider_dli.client.client import DliClient
    from airflow_provider_dli.client.connection import DliConnection

    log = logging.getLogger("airflow_provider_dli.probe")
    log.propagate = False
    log.setLevel(logging.WARNING)
    log.handlers = [logging.StreamHandler(sys.stderr)]
    return DliClient(Access(lambda: DliConnection.from_airflow(compat.connection(conn_id)), log), log)


def _options(args: argparse.Namespace, client: DliClient) -> Options:
    from airflow_provider_dli.probe.probe import Options

    return Options(
        conn_id=args.conn_id,
        queue=args.queue or client.access.connection().default_queue,
        timeout=args.timeout,
        kinds=args.kinds,
        general_queue=args.general_queue,
        spark_file=args.spark_file,
        spark_version=args.spark_version,
        agency=args.agency,
    )


def _obstacle(args: argparse.Namespace) -> str | None:
    """Return why the probe cannot run as asked for; None if it can."""
    if "flink" in args.kinds and not args.general_queue:
        return "--kinds flink needs --general-queue: a queue of type general."
    if args.spark_file and ("spark" not in args.kinds or not args.general_queue):
        return "--spark-file needs --kinds spark, and --general-queue: a queue of type general."
    return None


def _agreed(options: Options, client: DliClient) -> bool:
    queue = f"the queue {options.queue!r}" if options.queue else "DLI's queue 'default'"
    endpoint = client.access.connection().endpoint
    lines = [
        f"The probe is about to start seven SQL jobs on {queue} of {endpoint}.",
        "They read and write no data. Two of them would run for long, and are cancelled after seconds.",
        "On the queue 'default' that is free or costs a few cents. A queue that is billed by the hour is billed as for",
        "any job: if it stands idle, an hour of it begins.",
    ]
    if "flink" in options.kinds:
        lines.append(f"A Flink job is created on the queue {options.general_queue!r}, started, stopped and deleted.")
    if options.spark_file:
        lines.append(f"A batch runs {options.spark_file} on the queue {options.general_queue!r}, and is cancelled.")
    sys.stderr.write("\n".join([*lines, "Go on? [y/N] "]))
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _tell(row: Row) -> None:
    mark = {True: "ok", False: "FAILED" if row.check.is_of_contract else "-", None: "-"}[row.held]
    with suppress(OSError):  # the terminal is gone: the probe still has to end what it has started
        sys.stderr.write(f"{mark:>6}  {row.check.name}  ({row.seconds:.1f} s)\n")
        sys.stderr.flush()


def _refuse(sentence: str) -> int:
    sys.stderr.write(f"dli-local probe: {sentence}\n")
    return _NOT_RUN


@contextmanager
def _own_output() -> Iterator[TextIO]:
    """Keep the standard output for the report: what else goes there, such as Airflow's log, goes to the errors."""
    sys.stdout.flush()
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(out), "w", encoding="utf-8") as report:
            yield report
    finally:
        sys.stdout.flush()
        os.dup2(out, 1)
        os.close(out)


def _kinds(text: str) -> tuple[str, ...]:
    named = {each.strip() for each in text.split(",")}
    if unknown := named - set(_KINDS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: kinds are {', '.join(_KINDS)}")
    # SQL comes first in any case: it tells whether anything works at all.
    return tuple(kind for kind in _KINDS if kind in named | {"sql"})


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 10**6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds
