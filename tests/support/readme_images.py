"""Make the screenshots of the README from a demo in a real browser.

    uv run python -m tests.support.readme_images [FOLDER]

Writes ``label-studio.png`` (a task as an annotator opens it) and ``dashboard.png``; 5 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Page

from tests.support.browser import BROWSER_TIMEOUT_MS, open_chromium

IMAGE_FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
WINDOW_SIZE = (1280, 860)
PALETTE_SIZE = 128
"""Colours of a screenshot."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=IMAGE_FOLDER)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    demo_result = run_demo()
    try:
        take_screenshots(demo_result, folder)
    finally:
        for pid in demo_result["pids"]:
            os.kill(pid, signal.SIGTERM)
        shutil.rmtree(demo_result["folder"], ignore_errors=True)


def run_demo() -> dict[str, Any]:
    """Run the demo for boxes and leave its servers running."""
    command = [sys.executable, "-m", "backend.cli", "demo", "--task", "boxes", "--keep", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    demo_result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return demo_result


def take_screenshots(demo_result: dict[str, Any], folder: Path) -> None:
    width, height = WINDOW_SIZE
    with open_chromium() as browser:
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(BROWSER_TIMEOUT_MS)
        page = context.new_page()
        studio = demo_result["label_studio"]
        page.goto(f"{studio}/user/login/")
        page.fill("input[name=email]", demo_result["user"])
        page.fill("input[name=password]", demo_result["password"])
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "/user/login" not in url)
        (project, *_) = httpx.get(f"{demo_result['backend']}/api/projects", trust_env=False).json()
        task = task_with_most_regions(studio, project, page)
        page.goto(f"{studio}/projects/{project['number']}/data?task={task}")
        page.get_by_text("Submit", exact=True).wait_for()
        page.wait_for_timeout(3000)  # boxes are drawn after the image has come
        save_screenshot_image(page, folder / "label-studio.png")
        page.goto(f"{demo_result['backend']}/projects/{project['id']}")
        page.wait_for_load_state("networkidle")
        save_screenshot_image(page, folder / "dashboard.png")


def task_with_most_regions(studio: str, project: dict[str, Any], page: Page) -> int:
    """Return the open task with the most predicted regions."""
    rows = page.request.get(
        f"{studio}/api/predictions/", params={"project": str(project["number"])}
    ).json()
    live_predictions = [row for row in rows if row["model_version"] == project["version"]]
    return int(max(live_predictions, key=lambda row: len(row["result"]))["task"])


def save_screenshot_image(page: Page, file: Path) -> None:
    """Save a screenshot, reduced in size for the repository."""
    page.screenshot(path=file)
    with Image.open(file) as image:
        image.convert("RGB").quantize(PALETTE_SIZE).save(file, optimize=True)


if __name__ == "__main__":
    main()
