"""A Chromium that is logged in to the Airflow of the tests, and reaches nothing but this machine."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.airflow import LocalAirflow
from lab.jobs_page import chromium, log_in
from playwright.sync_api import Browser, Locator, Page

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
def photograph(request: pytest.FixtureRequest) -> Callable[[Page | Locator, str], None]:
    """Return a function that takes a picture for docs/images, where pytest was told to."""

    def take(what: Page | Locator, name: str) -> None:
        if request.config.getoption("--write-screenshots"):
            (IMAGES / f"{name}.png").write_bytes(packed(what.screenshot()))

    return take


def packed(png: bytes) -> bytes:
    """The same picture, packed as tightly as zlib can: Chromium is in a hurry."""
    signature, position, pixels, chunks = png[:8], 8, b"", []
    while position < len(png):
        (length,) = struct.unpack(">I", png[position : position + 4])
        kind, data = png[position + 4 : position + 8], png[position + 8 : position + 8 + length]
        position += length + 12
        if kind == b"IDAT":
            pixels += data
        else:
            chunks.append((kind, data))
    # All pixels stand right before the end.
    chunks.insert(-1, (b"IDAT", zlib.compress(zlib.decompress(pixels), 9)))
    return signature + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
