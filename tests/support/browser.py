"""Control a real headless Chromium, as a person would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from backend.label_studio.local_server import LOCAL_EMAIL, LabelStudioServer

CHROMIUM_PATH = "/usr/bin/chromium"
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BROWSER_TIMEOUT_MS = 30_000.0
"""Time limit for things to appear, in milliseconds, on a busy machine."""


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """Start a browser with an empty profile; each context is another person.

    While it runs this thread has a running event loop: no ``asyncio.run`` meanwhile.

    Raises:
        AssertionError: it is not installed.
    """
    assert Path(CHROMIUM_PATH).exists(), (
        f"{CHROMIUM_PATH} is not there: `apt-get install -y chromium`, or let .ci/run do it."
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM_PATH, args=list(CHROMIUM_FLAGS)
        )
        try:
            yield browser
        finally:
            browser.close()


def log_in(page: Page, studio: LabelStudioServer) -> None:
    """Log in on Label Studio's login page."""
    page.goto(f"{studio.url}/user/login/")
    page.fill("input[name=email]", LOCAL_EMAIL)
    page.fill("input[name=password]", studio.password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "/user/login" not in url)


def save_screenshot(page: Page, folder: Path, name: str) -> None:
    """Save a screenshot of the whole page."""
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)


def horizontal_overflow(page: Page) -> int:
    """Return by how many pixels a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


def next_images(page: Page) -> list[int]:
    """Return the tasks that a project's page on the dashboard lists next."""
    links = page.get_by_role("region", name="Next images").get_by_role("link")
    return [int(text.removeprefix("Task ")) for text in links.all_inner_texts()]
