"""What a user sees of this provider in Airflow's UI, in the order in which a new user comes across it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from lab.airflow import LocalAirflow
from playwright.sync_api import Locator, Page, expect

from airflow_provider_dli.get_provider_info import get_provider_info
from airflow_provider_dli.local.handle import LocalDli

# A mark, as a fixture would skip only after Airflow has been started.
pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium: apt-get install chromium")

FORM = get_provider_info()["connection-types"][0]


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

    def test_the_fields_of_dli(self, page: Page) -> None:
        form = open_form(page, "looked_at")
        extra = open_extra_fields(form)
        shown = extra.inner_text()
        for field in FORM["conn-fields"].values():
            assert f"\n{field['label']}\n" in f"\n{shown}\n"
            assert field["description"] in shown
        expect(form.locator("input[name=element_security_token]")).to_have_attribute("type", "password")
        masked = form.locator("input[type=password]").evaluate_all("inputs => inputs.map(input => input.name)")
        assert set(masked) == {"password", "element_security_token"}

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
