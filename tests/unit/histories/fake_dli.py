"""
A DLI that is only its table of jobs, and the network in between.

The hook gets a session of it instead of one of ``requests``: answers and failures are those of ``requests``, so all that
the provider makes of them is the real code.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from requests import exceptions
from urllib3.exceptions import NewConnectionError

from airflow_provider_dli import identity
from histories.simulation import Process, Simulation, current_process, current_thread, interruption_point

FOREVER = 1e9
# How long a request takes to DLI, and the answer back, in seconds.
ON_THE_WIRE = 0.05


@dataclass
class FakeJob:
    """A job, and how it will end."""

    id: str
    tags: dict[str, str]
    submitted: float
    ends: float
    then: str
    cancel_takes: float
    submitter: Process
    status: str = "RUNNING"
    over_at: float | None = None
    cancel_asked: bool = False
    by_user: bool = False
    attempt: Any = None
    #: Why only the sweep can cancel it, if that is so.
    excuse: str = ""

    @property
    def is_active(self) -> bool:
        return self.status == "RUNNING"


@dataclass
class Plans:
    """How the jobs will go: the first plan for the first one, and so on; then all is quick."""

    jobs: list[tuple[float, str]] = field(default_factory=list)
    cancel_takes: float = 0.0
    lag: float = 0.0


class FakeDli:
    """Jobs, and what the world does with requests."""

    def __init__(self, simulation: Simulation, plans: Plans, world: Any) -> None:
        self.simulation = simulation
        self.plans = plans
        self.world = world
        self.jobs: dict[str, FakeJob] = {}
        self.tokens = {"token-0"}
        self.password = "secret"
        self.tokens_given = 0
        #: What happens to the next requests, by call: ``lost`` (carried out, the connection breaks), ``silent`` (carried
        #: out, no answer ever), ``unseen`` (not carried out, the connection breaks), ``503``, ``429``, ``refused``, ``slow``,
        #: ``hung`` (not carried out, no answer ever), ``soft`` (not carried out, ``is_success`` is false).
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.away_until = 0.0
        self.away_how = "503"

    def session(self) -> Session:
        return Session(self)

    def leave_behind(self, try_number: int, generation: str, work: str) -> None:
        """Have a job that an earlier try has left running."""
        mine = identity.Identity("sales", "run 1", "load", -1, 0, generation, try_number, "task", work, "ours")
        submitter = Process(f"try {try_number}")
        submitter.alive = False
        submitter.notes.__dict__.update(supervised=False, wish=1, signalled=False, timed_out=False)
        now = self.simulation.now
        job = FakeJob(
            f"job-{try_number}", mine.tags(), now - 60, FOREVER, "FINISHED", self.plans.cancel_takes, submitter
        )
        job.attempt = identity.read_attempt(job.tags)
        self.jobs[job.id] = job

    def finish(self, job: FakeJob, status: str) -> None:
        if job.is_active:
            job.status = status
            job.over_at = self.simulation.now

    def answer(self, call: str, method: str, url: str, body: Any, token: str | None, process: Process) -> Any:
        """Carry out a request, and return status and body."""
        if call == "token":
            if body["auth"]["identity"]["password"]["user"]["password"] != self.password:
                return 401, {"error": {"code": "IAM.0101", "message": "The username or password is wrong."}}, None
            self.tokens_given += 1
            value = f"token-{self.tokens_given}"
            self.tokens.add(value)
            return 201, {"token": {"expires_at": "2099-01-01T00:00:00Z", "project": {"id": "p"}}}, value
        if token not in self.tokens:
            return 401, {"error_code": "APIG.0301", "error_msg": "Incorrect IAM authentication information"}, None
        parts = urlsplit(url)
        if call == "submit":
            return 200, {"is_success": True, "job_id": self._submit(body, process), "job_type": "INSERT"}, None
        if call == "list":
            return 200, self._list(parse_qs(parts.query)), None
        job = self.jobs.get(unquote(parts.path.split("/")[4]))
        if job is None:
            return 400, {"error_code": "DLI.0002", "error_msg": "no such job"}, None
        if call == "status":
            return 200, self._body(job, job.status), None
        if call == "progress":
            return 200, {"is_success": True, "progress": 0.5}, None
        if not job.is_active:
            return 400, {"error_code": "DLI.0001", "error_msg": "the job is over"}, None
        self.world.on_cancel(job, process)
        job.cancel_asked = True
        self.simulation.later(self.plans.cancel_takes, lambda: self.finish(job, "CANCELLED"))
        return 200, {"is_success": True, "message": ""}, None

    def _submit(self, body: dict[str, Any], process: Process) -> str:
        number = len(self.jobs)
        run_for, then = self.plans.jobs[number] if number < len(self.plans.jobs) else (1.0, "FINISHED")
        now = self.simulation.now
        tags = {tag["key"]: tag["value"] for tag in body["tags"]}
        job = FakeJob(f"job-{number + 1}", tags, now, now + run_for, then, self.plans.cancel_takes, process)
        job.attempt = identity.read_attempt(tags)
        self.world.on_submit(job)
        self.jobs[job.id] = job
        if run_for < FOREVER:
            self.simulation.later(run_for, lambda: self.finish(job, then))
        return job.id

    def _list(self, query: dict[str, list[str]]) -> dict[str, Any]:
        # The list shows how things were a while ago.
        then = self.simulation.now - self.plans.lag
        wanted = dict(pair.split("=", 1) for pair in query["tags"][0].split(",")) if "tags" in query else {}
        found = []
        for job in reversed(self.jobs.values()):
            status = "RUNNING" if job.over_at is None or job.over_at > then else job.status
            if job.submitted > then or query.get("job-status", [status]) != [status]:
                continue
            if all(job.tags.get(key) == value for key, value in wanted.items()):
                found.append(self._body(job, status))
        return {"is_success": True, "jobs": found, "job_count": len(found)}

    def _body(self, job: FakeJob, status: str) -> dict[str, Any]:
        return {
            "is_success": True,
            "job_id": job.id,
            "status": status,
            "start_time": int(job.submitted * 1000),
            "statement": "insert into t select 1",
            "tags": [{"key": key, "value": value} for key, value in job.tags.items()],
        }


class Session:
    """Takes the place of a session of ``requests``."""

    def __init__(self, dli: FakeDli) -> None:
        self._dli = dli

    def request(self, method: str, url: str, *, data: bytes | None, auth: Any, timeout: Any, **_: Any) -> Answer:
        dli, simulation, thread, process = self._dli, self._dli.simulation, current_thread(), current_process()
        call = _call_of(method, url)
        token = getattr(auth, "_token", None)
        body = json.loads(data) if data else None
        fault = dli.faults[call].pop(0) if dli.faults[call] else ""
        if not fault and dli.away_until > simulation.now:
            fault = dli.away_how
        if fault == "refused":
            dli.world.on_failed_call(call, fault, process)
            interruption_point()
            raise exceptions.ConnectionError(WrappedError(NewConnectionError(None, "refused")))  # type: ignore[arg-type]
        if fault == "slow":
            dli.world.on_failed_call(call, fault, process)
        arrived: list[tuple[int, Any, str | None]] = []
        broken: list[bool] = []

        def carry_out() -> None:
            if fault in ("503", "429"):
                arrived.append(
                    (int(fault), {"error_code": "APIG.0308" if fault == "429" else "", "error_msg": "later"}, None)
                )
                dli.world.on_failed_call(call, fault, process)
            elif fault == "soft":
                arrived.append((200, {"is_success": False, "message": "not now"}, None))
                dli.world.on_failed_call(call, fault, process)
            elif fault in ("unseen", "hung"):
                dli.world.on_failed_call(call, fault, process)
            else:
                answer = dli.answer(call, method, url, body, token, process)
                if fault in ("lost", "silent"):
                    dli.world.on_failed_call(call, fault, process)
                else:
                    arrived.append(answer)
            if fault in ("lost", "unseen"):
                broken.append(True)
            dli.world.reached(call, "carried out")
            simulation.later(ON_THE_WIRE, arrive)

        def arrive() -> None:
            dli.world.reached(call, "answered")
            thread.wake()

        # On the wire, it goes its way even if who sent it is killed.
        simulation.later(7.0 if fault == "slow" else ON_THE_WIRE, carry_out)
        dli.world.reached(call, "sent")
        end = simulation.now + timeout[1]
        while not arrived and (left := end - simulation.now) > 1e-6:
            if broken:
                raise exceptions.ConnectionError("Connection aborted")
            thread.wait(left)
        if not arrived:
            raise exceptions.ReadTimeout("timed out")
        status, answer_body, new_token = arrived[0]
        return Answer(status, answer_body, url, new_token)


class WrappedError(Exception):
    """The way in which ``requests`` wraps a reason of ``urllib3``."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason


class Answer:
    """What the code under test uses of a ``requests.Response``."""

    def __init__(self, status: int, body: Any, url: str, token: str | None) -> None:
        self.status_code = status
        self.url = url
        self.headers = {"X-Subject-Token": token} if token else {}
        self._content = json.dumps(body).encode()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def iter_content(self, size: int) -> list[bytes]:
        return [self._content]


def _call_of(method: str, url: str) -> str:
    path = urlsplit(url).path
    if path.endswith("/auth/tokens"):
        return "token"
    if method == "POST":
        return "submit"
    if method == "DELETE":
        return "cancel"
    last = path.rsplit("/", 1)[1]
    return {"jobs": "list"}.get(last, last)
