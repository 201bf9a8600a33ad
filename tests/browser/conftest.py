"""A Chromium that is logged in to the Airflow of the tests, and reaches nothing but this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from lab.airflow import LocalAirflow
from playwright.sync_api import Browser, Page, expect, sync_playwright

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
SECONDS = 20


# Not for the whole session: as long as Playwright runs, no other test of the process could run an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser: Browser, airflow: LocalAirflow) -> Page:
    """One tab, logged in."""
    page = browser.new_page(base_url=airflow.url, viewport={"width": 1400, "height": 1500})
    page.set_default_timeout(SECONDS * 1000)
    expect.set_options(timeout=SECONDS * 1000)
    page.goto("/")
    page.locator("input[name=username]").fill(airflow.username)
    page.locator("input[name=password]").fill(airflow.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{airflow.url}/")
    return page
