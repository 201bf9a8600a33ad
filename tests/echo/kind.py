"""A kind of job that the package does not know: all that it takes to have one more, but for the operator."""

from __future__ import annotations

import json
from dataclasses import dataclass

from airflow_provider_dli import identity
from airflow_provider_dli.api import answers
from airflow_provider_dli.api.call import Call, escape
from airflow_provider_dli.api.job_kind import JobKind, JobPage, Work
from airflow_provider_dli.job import Job, JobState, checked_job_id

ECHOES = "/v9/{project_id}/echoes"
STATES = {
    "new": JobState.CREATED,
    "humming": JobState.RUNNING,
    "done": JobState.FINISHED,
    "broken": JobState.FAILED,
}


@dataclass(frozen=True)
class EchoWork(Work):
    """What an echo says."""

    say: str

    @property
    def digest(self):
        return identity.digest([self.say])

    def differences(self, job):
        return "what it says"


def create(work, mine):
    body = {"say": work.say, "note": json.dumps(mine.tags())}
    return Call("create of the echo", "POST", ECHOES, lambda answer: read(answer, answer.body), body=body)


def status(key):
    return Call(f"look at echo {key}", "GET", path(key), lambda answer: read(answer, answer.body), repeatable=True)


def launch(key, work):
    return Call(f"go of echo {key}", "POST", f"{path(key)}/go", lambda answer: None)


def stop(key):
    return Call(f"halt of echo {key}", "POST", f"{path(key)}/halt", lambda answer: None, repeatable=True)


def page(query):
    def read_page(answer):
        return JobPage([read(answer, line) for line in answer.body["echoes"]], answer.body["total"])

    where = {"first": (query.page - 1) * 20, "mood": query.status}
    return Call("list of echoes", "GET", ECHOES, read_page, query=where, repeatable=True)


def path(key):
    return f"{ECHOES}/{escape(checked_job_id(key))}"


def read(answer, line):
    return Job(
        id=answers.job_id(line.get("key"), "the echo has no key"),
        kind="echo",
        title="echo",
        state=STATES.get(line["mood"], JobState.UNKNOWN),
        status=answer.text(line["mood"]),
        start_time=answers.moment(line["since"]),
        tags=json.loads(line["note"]),
    )


KIND = JobKind(
    name="echo",
    title="echo",
    create=create,
    status=status,
    stop=stop,
    page=page,
    page_size=20,
    active=("new", "humming"),
    launch=launch,
    tells_cancelled=False,
)
