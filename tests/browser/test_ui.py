"""What a user sees of this provider in Airflow's UI, in the order in which a new user comes across it."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Literal
from urllib.parse import quote

import pace
import pytest
from lab.airflow import LocalAirflow
from lab.jobs_page import JobsPage, identity_of, log_in, running
from playwright.sync_api import Browser, Locator, Page, expect

from airflow_provider_dli.api.kinds import KINDS
from airflow_provider_dli.api.spark import SparkWork
from airflow_provider_dli.get_provider_info import get_provider_info
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.local.handle import LocalDli

# A mark, as a fixture would skip only after Airflow has been started.
pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium: apt-get install chromium")

FORM = get_provider_info()["connection-types"][0]


@pytest.fixture(scope="module", autouse=True)
def no_jobs_of_other_tests(dli: LocalDli) -> None:
    """The page DLI jobs shows fifty at a time, and hundreds may have been killed before."""
    dli.reset()


class TestConnectionForm:
    def test_airflows_own_fields(self, page: Page) -> None:
        form = open_form(page, "looked_at")
        labels = [
            "Description",
            "DLI endpoint",
            "IAM user or access key (AK)",
            "Password or secret key (SK)",
            "DLI port",
        ]
        standard = form.get_by_role("region", name="Standard Fields")
        assert [label.strip() for label in standard.locator("label").all_inner_texts()] == labels
        for name, placeholder in FORM["ui-field-behaviour"]["placeholders"].items():
            expect(form.locator(f"input[name={name}]")).to_have_attribute("placeholder", placeholder)
        expect(form.locator("input[name=password]")).to_have_attribute("type", "password")
        expect(form.locator("[name=schema]")).to_have_count(0)

    def test_the_fields_of_dli(self, page: Page, photograph: Callable[[Page, str, int, int], None]) -> None:
        form = open_form(page, "looked_at")
        extra = open_extra_fields(form)
        shown = extra.inner_text()
        for field in FORM["conn-fields"].values():
            assert f"\n{field['label']}\n" in f"\n{shown}\n"
            assert field["description"] in shown
        expect(form.locator("input[name=element_security_token]")).to_have_attribute("type", "password")
        masked = form.locator("input[type=password]").evaluate_all("inputs => inputs.map(input => input.name)")
        assert set(masked) == {"password", "element_security_token"}
        photograph(page, "connection-form", 1000, 760)

    @pytest.mark.matrix
    def test_authentication_is_a_choice(self, page: Page) -> None:
        form = open_form(page, "looked_at")
        extra = open_extra_fields(form)
        expect(form.locator("[name=element_auth_type]")).to_have_value("password")
        # The second one is for what assumes an agency.
        extra.get_by_role("combobox").first.click()
        options = page.get_by_role("option")
        shown = FORM["conn-fields"]["auth_type"]["schema"]["values_display"]
        assert options.all_inner_texts() == list(shown.values())
        options.get_by_text(shown["ak_sk"], exact=True).click()
        expect(form.locator("[name=element_auth_type]")).to_have_value("ak_sk")


class TestButton:
    def test_success(self, page: Page, dli: LocalDli, by_hand: str) -> None:
        press_test(page, by_hand)
        sentence = f"DLI at {dli.url} answers, and '{dli.user}' may list the jobs of project {dli.project_id}."
        expect(page.get_by_text(sentence)).to_be_visible()

    @pytest.mark.matrix
    def test_wrong_password(self, page: Page, dli: LocalDli) -> None:
        fill_form(page, dli, "mistyped", password="mistyped")
        press_test(page, "mistyped")
        sentence = re.compile(rf"IAM at {dli.url}: .*Check login, password, domain_name and project")
        expect(page.get_by_text(sentence)).to_be_visible()


class TestTask:
    """The page of a task that runs with the connection from the form."""

    def test_the_console_is_one_click_away_while_the_task_runs(self, page: Page, task_page: str, dli: LocalDli) -> None:
        # Opened before there is a job: the button must turn up by itself.
        page.goto(f"{task_page}/details")
        link = page.get_by_role("link", name="DLI console")
        expect(link).to_have_attribute("href", f"{dli.url}/_local/jobs")
        [job] = [job for job in dli.jobs() if "browser_sales" in job.statement]
        with page.expect_popup() as popup:
            link.click()
        expect(popup.value.get_by_text(job.job_id)).to_be_visible()
        popup.value.close()
        assert dli.job(job.job_id).status == "RUNNING"

    @pytest.mark.matrix
    def test_sql_and_json_are_readable(self, page: Page, task_page: str) -> None:
        page.goto(f"{task_page}/rendered_templates")
        # Each line is an element. Airflow 3 guesses the language, whatever the operator says, and seldom guesses SQL.
        sql = page.locator("code > span")
        for line in ("FROM browser_sales", "WHERE shop = 'browser'", "GROUP BY product"):
            expect(sql.filter(has_text=re.compile(rf"^\d+\s*{re.escape(line)}\s*$"))).to_have_count(1)
        json = page.locator("code.language-json > span")
        expect(json.filter(has_text='"spark.sql.shuffle.partitions": 200')).to_have_count(1)
        expect(json.filter(has_text='"team": "browser"')).to_have_count(1)

    @pytest.mark.matrix
    def test_the_log_has_no_warning(self, page: Page, task_page: str) -> None:
        page.goto(task_page)
        expect(page.get_by_text(re.compile("SQL job .* is RUNNING"))).to_be_visible()
        # The level's name is also in a menu that is folded up.
        expect(page.get_by_text("WARNING").filter(visible=True)).to_have_count(0)


class TestJobsPage:
    @pytest.mark.matrix
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_it_looks_like_the_page_around(
        self,
        theme: Literal["light", "dark"],
        browser: Browser,
        airflow: LocalAirflow,
        scenery: None,
        orphan: str,
        photograph: Callable[[Page, str, int, int], None],
    ) -> None:
        page = log_in(browser, airflow, color_scheme=theme)
        jobs = JobsPage(page)
        jobs.open()
        expect(jobs.row(orphan)).to_contain_text("orphan")
        background = "() => getComputedStyle(document.body).backgroundColor"
        around = page.evaluate(background.replace("document.body", "document.documentElement"))
        assert jobs.frame.locator("body").evaluate(background) == around
        photograph(page, f"jobs-page-{theme}", 1320, 480)
        page.close()

    @pytest.mark.matrix
    def test_a_run_that_is_marked_as_failed_cancels_its_job(
        self, page: Page, airflow: LocalAirflow, dli: LocalDli, by_hand: str
    ) -> None:
        dli.will(matching="browser_sales", run_for=1000)
        airflow.api.wait_for_dag("browser")
        run_id = airflow.api.trigger("browser")
        job_id = dli.wait_until(lambda dli: running(dli, run_id), timeout=pace.seconds(60))
        jobs = JobsPage(page)
        jobs.open(by_hand)
        row = jobs.row(job_id)
        expect(row).to_contain_text("RUNNING")
        row.get_by_role("link", name=run_id).click()
        page.wait_for_url(f"/dags/browser/runs/{quote(run_id)}")
        page.get_by_role("button", name="Mark Dag Run as...").click()
        page.get_by_role("menuitem", name="failed").click()
        page.get_by_role("button", name="Confirm").click()
        # Opened while the job still runs: its end has to turn up by itself.
        jobs.open(by_hand)
        expect(row).to_contain_text("CANCELLED")
        expect(row.get_by_role("button")).to_have_count(0)

    def test_an_orphan_is_cancelled_with_the_keyboard(self, page: Page, dli: LocalDli, orphan: str) -> None:
        jobs = JobsPage(page)
        jobs.open()
        jobs.show("Orphans")
        row = jobs.row(orphan)
        expect(row).to_contain_text("its task instance is gone from Airflow")
        button = row.get_by_role("button")
        button.focus()
        # It refreshes when somebody comes back to the tab.
        with page.expect_response(lambda answer: "/dli/api/jobs" in answer.url):
            button.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
        expect(jobs.frame.get_by_role("main")).to_have_attribute("aria-busy", "false")
        expect(button).to_be_focused()
        page.keyboard.press("Enter")
        dialog = jobs.frame.get_by_role("dialog", name=f"Cancel SQL job {orphan}?")
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(button).to_be_focused()
        assert dli.job(orphan).status == "RUNNING"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        # It stays in sight, though it is no orphan any more.
        expect(row).to_contain_text("CANCELLED")
        expect(jobs.frame.get_by_role("status")).to_have_text(f"SQL job {orphan} is CANCELLED.")
        # Its button is gone.
        expect(jobs.frame.get_by_role("main")).to_be_focused()
        assert dli.job(orphan).status == "CANCELLED"

    def test_a_viewer_can_look_only(self, browser: Browser, airflow: LocalAirflow, dli: LocalDli, orphan: str) -> None:
        page = log_in(browser, airflow, "viewer")
        jobs = JobsPage(page)
        jobs.open()
        expect(jobs.row(orphan)).to_contain_text("RUNNING")
        expect(jobs.row(orphan).get_by_role("button")).to_have_count(0)
        answer = jobs.frame.locator("body").evaluate(
            """async (_, job) => {
                const answer = await fetch("api/cancel", {
                    method: "POST",
                    headers: {"Content-Type": "application/json", "X-DLI-Jobs-Page": "1"},
                    body: JSON.stringify({connection: "dli_default", kind: "sql", job}),
                });
                return [answer.status, (await answer.json()).detail];
            }""",
            orphan,
        )
        assert answer == [
            403,
            f"You may not cancel SQL job {orphan}: that takes the right to edit the runs of its DAG.",
        ]
        assert dli.job(orphan).status == "RUNNING"
        page.close()

    @pytest.mark.matrix
    @pytest.mark.parametrize("orphan", ["<img src=x onerror=document.title='run'>\n{{ 1 }}"], indirect=True)
    def test_names_are_text(self, page: Page, orphan: str) -> None:
        jobs = JobsPage(page)
        jobs.open()
        expect(jobs.row(orphan)).to_contain_text("<img src=x onerror=document.title='run'> {{ 1 }}")
        expect(jobs.frame.get_by_role("img")).to_have_count(0)

    @pytest.mark.matrix
    def test_a_problem_is_shown_as_a_sentence(self, page: Page) -> None:
        jobs = JobsPage(page)
        jobs.open()
        jobs.choose_connection("Other connection…")
        jobs.frame.get_by_label("Connection id").fill("of_nothing")
        page.keyboard.press("Enter")
        expect(jobs.frame.get_by_role("alert")).to_have_text("There is no connection 'of_nothing' of type dli.")


@pytest.fixture(scope="module")
def scenery(airflow: LocalAirflow, dli: LocalDli, by_hand: str) -> Iterator[None]:
    """A DAG run whose job runs on, and jobs that are over, of several kinds."""
    dli.will(matching="browser_sales", run_for=1000)
    airflow.api.wait_for_dag("browser")
    run_id = airflow.api.trigger("browser")
    dli.wait_until(lambda dli: running(dli, run_id), timeout=pace.seconds(60))
    with dli.as_connection("left_behind"):
        hook = DliHook("left_behind")
        dli.will(kind="spark", run_for=0)
        batch = SparkWork(file="group/sessions.jar", spark_version="2.4.5", queue_name="default")
        hook.send(KINDS["spark"].create(batch, identity_of("clickstream", "sessionise")))
        dli.will(matching="overdrawn", then="FAILED", message="DLI.0005: AnalysisException: Table not found: overdrawn")
        hook.submit_sql_job("SELECT * FROM overdrawn", tags=identity_of("accounts", "check").tags())
        dli.wait_until(lambda dli: all(job.status != "RUNNING" for job in dli.jobs() if "overdrawn" in job.statement))
    yield
    airflow.api.mark_dag_run("browser", run_id, "failed")
    airflow.api.wait_for_state("browser", run_id)


@pytest.fixture
def orphan(request: pytest.FixtureRequest, dli: LocalDli) -> Iterator[str]:
    """A job whose task instance is gone from Airflow, and that is an hour old; a parameter is the name of its DAG."""
    mine = identity_of(getattr(request, "param", "nightly_revenue"), "load")
    dli.will(matching="left behind", run_for=1000)
    with dli.as_connection("left_behind"):
        hook = DliHook("left_behind")
        job_id = hook.submit_sql_job("SELECT 'left behind'", tags=mine.tags()).id
        dli.wait_until(lambda dli: dli.job(job_id).status == "RUNNING")
        dli.fault("list", "field", times=None, field="start_time", value=int((time.time() - 3600) * 1000))
        yield job_id
        dli.clear_faults()
        hook.cancel_job(job_id)


@pytest.fixture(scope="module")
def by_hand(page: Page, dli: LocalDli) -> str:
    """The connection to the local DLI that a user has typed in and saved."""
    fill_form(page, dli, "by_hand", password=dli.password)
    return "by_hand"


@pytest.fixture(scope="class")
def task_page(airflow: LocalAirflow, dli: LocalDli, by_hand: str) -> Iterator[str]:
    """The address of a task that runs with the connection from the form, and is killed in the end."""
    dli.will(matching="browser_sales", run_for=1000)
    airflow.api.wait_for_dag("browser")
    run_id = airflow.api.trigger("browser")
    yield f"/dags/browser/runs/{quote(run_id)}/tasks/revenue"
    task = airflow.api.task_instance("browser", run_id, "revenue")
    airflow.api.mark_dag_run("browser", run_id, "failed")
    airflow.api.wait_for_state("browser", run_id)
    # All tests have looked at a task that was running.
    assert task["state"] == "running"


def open_form(page: Page, conn_id: str) -> Locator:
    page.goto("/connections")
    page.get_by_role("button", name="Add Connection").click()
    form = page.get_by_role("dialog")
    form.locator("input[name=connection_id]").fill(conn_id)
    form.get_by_role("combobox").fill("Data Lake")
    page.get_by_role("option", name="Data Lake Insight (DLI)").click()
    return form


def open_extra_fields(form: Locator) -> Locator:
    form.get_by_role("button", name="Extra Fields", exact=True).click()
    return form.get_by_role("region").filter(has=form.page.locator("[name=element_region]"))


def fill_form(page: Page, dli: LocalDli, conn_id: str, *, password: str) -> None:
    form = open_form(page, conn_id)
    # The port in its own field: Airflow 3.3.1 and 3.3.2 cannot test a saved connection without one
    # (https://github.com/apache/airflow/pull/73298).
    host, port = dli.url.rsplit(":", 1)
    for name, value in {"host": host, "port": port, "login": dli.user, "password": password}.items():
        form.locator(f"input[name={name}]").fill(value)
    open_extra_fields(form)
    extra = {
        "region": dli.region,
        "project_id": dli.project_id,
        "domain_name": dli.domain,
        "iam_endpoint": dli.url,
        "timeout": "20",
    }
    for name, value in extra.items():
        form.locator(f"[name=element_{name}]").fill(value)
    form.get_by_role("button", name="Save").click()
    expect(page.get_by_role("row").filter(has_text=conn_id)).to_be_visible()


def press_test(page: Page, conn_id: str) -> None:
    page.goto("/connections")
    page.get_by_role("row").filter(has_text=conn_id).get_by_role("button", name="Test Connection").click()
