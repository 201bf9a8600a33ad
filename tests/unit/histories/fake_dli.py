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
from urllib.parse import parse_qs, urlsplit

from requests import exceptions
from urllib3.exceptions import NewConnectionError

from airflow_provider_dli import identity
from histories.dialects import DIALECTS, Sql
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
    #: Seconds that it runs.
    ends: float
    then: str
    cancel_takes: float
    submitter: Process
    status: str = "RUNNING"
    name: str = ""
    launched: float = 0.0
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

    def __init__(self, simulation: Simulation, plans: Plans, world: Any, dialect: Sql) -> None:
        self.simulation = simulation
        self.dialect = dialect
        self.plans = plans
        self.world = world
        self.jobs: dict[str, FakeJob] = {}
        self.tokens = {"token-0"}
        self.password = "secret"
        self.tokens_given = 0
        #: What happens to the next requests, by the general name of the call: ``lost`` (carried out, the connection breaks), ``silent`` (carried
        #: out, no answer ever), ``unseen`` (not carried out, the connection breaks), ``503``, ``429``, ``refused``, ``slow``,
        #: ``hung`` (not carried out, no answer ever), ``soft`` (not carried out, ``is_success`` is false).
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.away_until = 0.0
        self.away_how = "503"

    def session(self) -> Session:
        return Session(self)

    def leave_behind(self, try_number: int, generation: str, kind: Any, works: Any) -> None:
        """Have a job that an earlier try has left running."""
        names, work = ("sales", "run 1", "load", -1, 0), works[0]
        mine = identity.Identity(*names, generation, try_number, "task", work.digest, "ours", of_script=len(works) > 1)
        submitter = Process(f"try {try_number}")
        submitter.alive = False
        submitter.notes.__dict__.update(supervised=False, wish=1, signalled=False, timed_out=False)
        now = self.simulation.now
        name, tags = self.dialect.identity_of(kind.create(work, mine).body)
        job = FakeJob(
            self.dialect.new_id(try_number), tags, now - 60, FOREVER, "FINISHED", self.plans.cancel_takes, submitter
        )
        job.name, job.launched = name, now - 60
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
        parts, speak = urlsplit(url), self.dialect
        if call == "list of another kind":
            return 200, next(each.no_jobs for each in DIALECTS.values() if parts.path.startswith(each.prefix)), None
        if call == "submit":
            name, tags = speak.identity_of(body)
            if speak.is_launched and any(job.name == name for job in self.jobs.values() if job.status != "DELETED"):
                return 400, speak.refused("DLI.0006", "the name is taken"), None
            return 200, speak.submitted(self._submit(name, tags, process)), None
        if call == "list":
            return 200, self._list(parse_qs(parts.query)), None
        job = self.jobs.get(speak.job_id(parts.path, body))
        if job is None or job.status == "DELETED":
            return 400, speak.refused("DLI.0002", "no such job"), None
        if call == "status":
            return 200, speak.shown(job), None
        if call == "detail":
            return 200, speak.described(job, job.status), None
        if call == "progress":
            return 200, {"is_success": True, "progress": 0.5}, None
        if call == "log":
            return 200, {"log": ["the end"]}, None
        if call == "launch":
            if job.is_active:
                return 400, speak.refused("DLI.0007", "the job runs"), None
            self._launch(job, process)
            return 200, speak.accepted(), None
        if call == "discard":
            self.world.on_discard(job, process)
            job.status = "DELETED"
            return 200, {"is_success": "true"}, None
        if not job.is_active:
            return 400, speak.refused("DLI.0001", "the job does not run"), None
        self.world.on_cancel(job, process)
        job.cancel_asked = True
        self.simulation.later(self.plans.cancel_takes, lambda: self.finish(job, "CANCELLED"))
        return 200, speak.accepted(), None

    def _submit(self, name: str, tags: dict[str, str], process: Process) -> FakeJob:
        number = len(self.jobs)
        now = self.simulation.now
        run_for, then = self.plans.jobs[number] if number < len(self.plans.jobs) else (1.0, "FINISHED")
        job_id = self.dialect.new_id(number + 1)
        job = FakeJob(job_id, tags, now, run_for, then, self.plans.cancel_takes, process, name=name)
        job.attempt = identity.read_attempt(tags)
        if self.dialect.is_launched:
            job.status = "CREATED"
            self.jobs[job.id] = job
        else:
            self._launch(job, process)
        return job

    def _launch(self, job: FakeJob, process: Process) -> None:
        job.submitter = process
        self.world.on_submit(job)
        self.jobs[job.id] = job
        job.status, job.launched, job.over_at = "RUNNING", self.simulation.now, None
        if job.ends < FOREVER:
            self.simulation.later(job.ends, lambda: self.finish(job, job.then))

    def _list(self, query: dict[str, list[str]]) -> Any:
        # The list shows how things were a while ago.
        then, speak = self.simulation.now - self.plans.lag, self.dialect
        wanted, found = speak.state_in(query), []
        for job in reversed(self.jobs.values()):
            status = "RUNNING" if job.over_at is None or job.over_at > then else job.status
            if job.status == "DELETED" or job.submitted > then:
                continue
            if job.launched > then or not job.launched:
                status = "CREATED"
            if wanted in (None, speak.states[status]) and speak.is_wanted(job, query):
                found.append(speak.described(job, status))
        return speak.listed(found)


class Session:
    """Takes the place of a session of ``requests``."""

    def __init__(self, dli: FakeDli) -> None:
        self._dli = dli

    def request(self, method: str, url: str, *, data: bytes | None, auth: Any, timeout: Any, **_: Any) -> Answer:
        dli, simulation, thread, process = self._dli, self._dli.simulation, current_thread(), current_process()
        call = _call_of(method, url, dli.dialect)
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


def _call_of(method: str, url: str, dialect: Sql) -> str:
    path = urlsplit(url).path
    if path.endswith("/auth/tokens"):
        return "token"
    # The sweep looks at all kinds.
    if any(path.startswith(other.prefix) for other in DIALECTS.values() if other.prefix != dialect.prefix):
        return "list of another kind"
    return dialect.call_of(method, path)
