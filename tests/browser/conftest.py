"""A Chromium that is logged in to the Airflow of the tests, and reaches nothing but this machine."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.airflow import LocalAirflow
from lab.jobs_page import chromium, log_in
from playwright.sync_api import Browser, Page

IMAGES = Path(__file__).parents[2] / "docs" / "images"


# Not for the whole session: as long as Playwright runs, no other test of the process could run an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser: Browser, airflow: LocalAirflow) -> Page:
    """One tab, logged in."""
    return log_in(browser, airflow)


@pytest.fixture
def photograph(request: pytest.FixtureRequest) -> Callable[[Page, str, int, int], None]:
    """Return a function that takes a picture for docs/images, where pytest was told to; with Pillow, of the group `peers`.

    What it takes is a tab, the name of the file, and the width and the height of the window.
    """

    def take(page: Page, name: str, width: int, height: int) -> None:
        if request.config.getoption("--write-screenshots"):
            from PIL import Image

            before = page.viewport_size
            page.set_viewport_size({"width": width, "height": height})
            picture = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
            picture.quantize(256, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)
            if before:
                page.set_viewport_size(before)

    return take
