"""What happens to the workers and the broker of Celery, and what must come of it."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psutil
from lab.components import CELERY_WORKER, Component
from lab.redis_server import Redis

from kill_matrix.cases import BY_NAME, MOMENTS, NEXT_TRY, ONLY_A_SWEEP, Case, Path, clear_task, mark_task
from kill_matrix.stage import RUN_FOR, Run, Stage

# Each has one task at a time: what happens to a worker happens to one case only, and cases are played side by side.
WORKERS = tuple(f"{CELERY_WORKER}-{number}" for number in range(1, 7))
SIDE_BY_SIDE = 5
# After this many seconds, Redis gives a message that no worker has acknowledged to another one: at the end of a task,
# that is, or when its worker is lost. A day by default; so short that it happens to most cases.
VISIBILITY_TIMEOUT = 15


class CeleryStage(Stage):
    """A stage with a broker."""

    def __init__(self, *arguments: Any, broker: Redis, **options: Any) -> None:
        super().__init__(*arguments, side_by_side=SIDE_BY_SIDE, **options)
        self.broker = broker


@dataclass(frozen=True)
class CeleryCase(Case):
    """:param seconds: That the first job runs when nobody cancels it."""

    seconds: float = RUN_FOR

    @property
    def run_for(self) -> float:
        return self.seconds


# Paths.


def lose_worker(run: Run) -> None:
    """A machine is gone, with all that ran on it: nothing in between, no last words."""
    worker = worker_of(run)
    family = family_of(worker)
    send(signal.SIGSTOP, family)
    send(signal.SIGKILL, family)
    worker.wait(10)
    worker.start()


def lose_worker_and(act: Callable[[Run], None]) -> Callable[[Run], None]:
    """A user acts before Airflow misses the task."""

    def both(run: Run) -> None:
        lose_worker(run)
        run.killed_at = time.time()
        act(run)

    return both


def kill_main_process(run: Run) -> None:
    """Its supervisors end with it (on Linux); a task runs on, and nobody knows."""
    worker = worker_of(run)
    worker.kill()
    worker.start()
    until_delivered_twice(run)


def warm_shutdown(run: Run) -> None:
    """What `airflow celery stop` does, and Kubernetes: the worker takes no new tasks and ends when it has none."""
    worker = worker_of(run)
    worker.stop(timeout=90)
    worker.start()


def terminate_all_processes(run: Run) -> None:
    """What systemd does by default."""
    worker = worker_of(run)
    send(signal.SIGTERM, family_of(worker))
    worker.wait(90)
    worker.start()


def cold_shutdown(run: Run) -> None:
    worker = worker_of(run)
    worker.process.send_signal(signal.SIGQUIT)
    worker.wait(90)
    worker.start()


def until_delivered_twice(run: Run) -> None:
    """Celery's message is given to another worker, while the task that it has started runs on."""
    run.until(lambda: deliveries(run) > 1, "a second delivery", timeout=60)


def restart_broker(run: Run) -> None:
    broker = broker_of(run)
    broker.stop()
    time.sleep(5)
    broker.start()


def lose_all_workers(run: Run) -> None:
    """The task is deferred; it shall go on when there is no worker, and then there are some again."""
    for worker in workers(run):
        send(signal.SIGKILL, family_of(worker))
    run.until(lambda: run.tasks[0]["state"] == "queued", "the task shall go on")
    for worker in workers(run):
        worker.start()


def broker_of(run: Run) -> Redis:
    assert isinstance(run.stage, CeleryStage)
    return run.stage.broker


def workers(run: Run) -> list[Component]:
    return [run.stage.airflow.component(name) for name in WORKERS]


def worker_of(run: Run) -> Component:
    """The worker that runs the first try: the parent of the supervisor."""
    main = run.supervisor.ppid()
    return next(worker for worker in workers(run) if worker.pid == main)


def family_of(worker: Component) -> list[psutil.Process]:
    return [worker.process, *worker.process.children(recursive=True)]


def send(number: signal.Signals, processes: list[psutil.Process]) -> None:
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker starts and ends processes all the time
            each.send_signal(number)


def deliveries(run: Run) -> int:
    """How often the message of one try has come to a worker."""
    lines = [line for worker in workers(run) for line in worker.log.read_text().splitlines() if f"'{run.id}'" in line]
    return max(Counter(re.findall(r"\[([\w-]{36})\] Executing workload", "\n".join(lines))).values(), default=0)


def path(name: str, title: str, act: Callable[[Run], None], ends: str = "success", **fields: Any) -> Path:
    return Path(f"celery-{name}", title, act, ends, **fields)


RETRIED = {"job": "FINISHED", "who": NEXT_TRY, "tries": 2}
UNTOUCHED = {"job": "FINISHED", "who": "nobody", "kills": False}
DEFERRED = {"dag": "kill_retried_deferred"}
LOST = path("worker-kill", "worker lost (SIGKILL of all its processes)", lose_worker, **RETRIED)
MOMENT = {moment.name: moment for moment in MOMENTS}
WAIT, SUBMIT, RESUME = MOMENT["wait"], MOMENT["submit"], MOMENT["resume"]
AS_ELSEWHERE = [
    replace(BY_NAME[name].path, name=f"celery-{name.partition('.')[0]}")
    for name in ("mark-failed.wait", "clear-task.wait")
]

ALL = [
    *(CeleryCase(each, WAIT) for each in AS_ELSEWHERE),
    # A lost task is missed after 15 seconds.
    CeleryCase(LOST, WAIT, seconds=45),
    CeleryCase(LOST, SUBMIT, seconds=45),
    CeleryCase(
        replace(
            LOST,
            name="celery-worker-kill-last",
            title=f"{LOST.title} in the last try",
            ends="failed",
            job="RUNNING",
            who=ONLY_A_SWEEP,
            tries=1,
            dag="kill_once",
        ),
        WAIT,
        seconds=90,
    ),
    CeleryCase(
        replace(
            LOST, name="celery-worker-kill-deferred", title="worker lost while a deferred task goes on", **DEFERRED
        ),
        RESUME,
        seconds=10,
    ),
    CeleryCase(
        path(
            "worker-kill-clear",
            "worker lost, task cleared before Airflow misses it",
            lose_worker_and(clear_task),
            **RETRIED,
        ),
        WAIT,
        seconds=45,
    ),
    CeleryCase(
        path(
            "worker-kill-failed",
            "worker lost, task marked failed before Airflow misses it",
            lose_worker_and(mark_task("failed")),
            "failed",
            job="RUNNING",
            who=ONLY_A_SWEEP,
        ),
        WAIT,
    ),
    CeleryCase(
        path("main-kill", "SIGKILL of the worker's main process", kill_main_process, **RETRIED), WAIT, seconds=40
    ),
    CeleryCase(path("warm", "SIGTERM to a worker (warm shutdown)", warm_shutdown, **UNTOUCHED), WAIT, seconds=25),
    CeleryCase(path("term-all", "SIGTERM to all processes of a worker", terminate_all_processes, tries=2), WAIT),
    CeleryCase(path("cold", "SIGQUIT to a worker (cold shutdown)", cold_shutdown, tries=2), WAIT),
    CeleryCase(
        path("redelivered", "the task waits for longer than `visibility_timeout`", until_delivered_twice, **UNTOUCHED),
        WAIT,
        seconds=40,
    ),
    CeleryCase(path("broker", "Redis restarted", restart_broker, by_itself=True, **UNTOUCHED), WAIT, seconds=40),
    CeleryCase(
        path(
            "all-workers",
            "all workers lost while the task is deferred",
            lose_all_workers,
            by_itself=True,
            **DEFERRED,
            **UNTOUCHED,
        ),
        WAIT,
        seconds=15,
    ),
]
