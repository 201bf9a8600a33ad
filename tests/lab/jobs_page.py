"""The page *DLI jobs* in a browser, as a user finds their way to it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pace
from playwright.sync_api import Browser, FrameLocator, Locator, Page, expect, sync_playwright

from airflow_provider_dli.identity import RUN, Identity, escape
from airflow_provider_dli.local.handle import LocalDli
from lab.airflow import LocalAirflow

# The last two keep it on this machine.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
SECONDS = pace.seconds(20)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium that reaches nothing but this machine."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


def log_in(browser: Browser, airflow: LocalAirflow, username: str = "admin", **options: object) -> Page:
    """One tab, logged in."""
    password = json.loads((airflow.home / "passwords.json").read_text())[username]
    page = browser.new_page(**{"base_url": airflow.url, "viewport": {"width": 1400, "height": 1500}, **options})
    page.set_default_timeout(SECONDS * 1000)
    expect.set_options(timeout=SECONDS * 1000)
    page.goto("/")
    page.locator("input[name=username]").fill(username)
    page.locator("input[name=password]").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{airflow.url}/")
    return page


class JobsPage:
    """The page in its frame in Airflow's UI.

    :param page: A tab that is logged in.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frame: FrameLocator = page.frame_locator("iframe[title='DLI jobs']")

    def open(self, conn_id: str = "dli_default") -> None:
        """Click through to it, and choose the connection."""
        self.page.goto("/")
        self.page.get_by_role("button", name="Browse").click()
        self.page.get_by_role("menuitem", name="DLI jobs").click()
        expect(self.frame.get_by_role("heading", name="DLI jobs")).to_be_visible()
        if conn_id != "dli_default":
            self.choose_connection(conn_id)

    def choose_connection(self, choice: str) -> None:
        self.frame.get_by_role("combobox", name="Connection").select_option(choice)

    def show(self, which: str) -> None:
        """Choose "All", "Active" or "Orphans"."""
        # The button is painted over the field.
        self.frame.get_by_role("radio", name=which).check(force=True)

    def row(self, job_id: str) -> Locator:
        return self.frame.get_by_role("row").filter(has_text=job_id)

    def cancel(self, job_id: str) -> None:
        """Cancel a job by its button."""
        self.row(job_id).get_by_role("button", name=f"Cancel SQL job {job_id}").click()
        self.frame.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()


def check(airflow: LocalAirflow, dli: LocalDli, run_id: str) -> None:
    """See the job of a run of the DAG `sweep_once` on the page, follow it to its task, and cancel it; a viewer cannot."""
    dag_id, task_id = "sweep_once", "job"
    airflow.api.wait_for_dag(dag_id)
    dli.will(matching=f"'sweep {run_id}'", run_for=1000)
    airflow.api.trigger(dag_id, run_id=run_id)
    job_id = dli.wait_until(lambda dli: running(dli, run_id), timeout=pace.seconds(60))
    with chromium() as browser:
        viewer = JobsPage(log_in(browser, airflow, "viewer"))
        viewer.open()
        expect(viewer.row(job_id)).to_contain_text("RUNNING")
        expect(viewer.row(job_id).get_by_role("button")).to_have_count(0)

        jobs = JobsPage(log_in(browser, airflow))
        jobs.open()
        jobs.row(job_id).get_by_role("link", name=task_id, exact=True).click()
        jobs.page.wait_for_url(re.compile(f"/dags/{dag_id}/runs/{re.escape(quote(run_id))}/tasks/{task_id}"))
        jobs.open()
        jobs.cancel(job_id)
        expect(jobs.row(job_id)).to_contain_text("CANCELLED")
        expect(jobs.frame.get_by_role("status")).to_have_text(f"SQL job {job_id} is CANCELLED.")
    assert dli.job(job_id).status == "CANCELLED"
    airflow.api.mark_dag_run(dag_id, run_id, "failed")


def running(dli: LocalDli, run_id: str) -> str | None:
    """The running job of a DAG run."""
    found = [job for job in dli.jobs() if job.tags.get(RUN) == escape(run_id) and job.status == "RUNNING"]
    return found[0].job_id if found else None


def identity_of(dag_id: str, task_id: str) -> Identity:
    """Whose a job is that no task of this Airflow has submitted."""
    return Identity(
        dag_id=dag_id,
        run_id="scheduled__2026-11-22T00:00:00+00:00",
        task_id=task_id,
        map_index=-1,
        statement_index=0,
        generation="1.1",
        try_number=1,
        owner="task",
        work="",
        deployment="tests",
    )
