"""Fixtures: a real browser, and a folder for screenshots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from backend.label_studio.local_server import LabelStudioServer
from tests.support.browser import BROWSER_TIMEOUT_MS, log_in, open_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; a missing browser is an error, never a skipped test."""
    expect.set_options(timeout=BROWSER_TIMEOUT_MS)
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def annotator(browser: Browser, studio: LabelStudioServer) -> Iterator[BrowserContext]:
    """A browser session of a user who is logged in to Label Studio."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(BROWSER_TIMEOUT_MS)
    log_in(context.new_page(), studio)
    yield context
    context.close()


@pytest.fixture
def page(annotator: BrowserContext) -> Iterator[Page]:
    """A tab of that session."""
    page = annotator.new_page()
    yield page
    page.close()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """The folder for screenshots: PRELABEL_SCREENSHOTS, or a temporary one."""
    folder = os.environ.get("PRELABEL_SCREENSHOTS", "")
    return Path(folder) if folder else tmp_path
