"""The pictures of the README: a demo is played, and a real browser looks at what it made.

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

from tests.support.browser import PATIENCE, chromium

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
WINDOW = (1280, 860)
COLOURS = 128
"""Of a picture; as many as one cannot tell from all."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    played = play()
    try:
        look(played, folder)
    finally:
        for pid in played["pids"]:
            os.kill(pid, signal.SIGTERM)
        shutil.rmtree(played["folder"], ignore_errors=True)


def play() -> dict[str, Any]:
    """Strawberries are found; Label Studio and the backend stay."""
    command = [sys.executable, "-m", "backend.cli", "demo", "--task", "boxes", "--keep", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    played: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return played


def look(played: dict[str, Any], folder: Path) -> None:
    width, height = WINDOW
    with chromium() as browser:
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        studio = played["label_studio"]
        page.goto(f"{studio}/user/login/")
        page.fill("input[name=email]", played["user"])
        page.fill("input[name=password]", played["password"])
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "/user/login" not in url)
        (project, *_) = httpx.get(f"{played['backend']}/api/projects", trust_env=False).json()
        task = busiest(studio, project, page)
        page.goto(f"{studio}/projects/{project['number']}/data?task={task}")
        page.get_by_text("Submit", exact=True).wait_for()
        page.wait_for_timeout(3000)  # boxes are drawn after the image has come
        save(page, folder / "label-studio.png")
        page.goto(f"{played['backend']}/projects/{project['id']}")
        page.wait_for_load_state("networkidle")
        save(page, folder / "dashboard.png")


def busiest(studio: str, project: dict[str, Any], page: Page) -> int:
    """The open task for which most is suggested."""
    rows = page.request.get(
        f"{studio}/api/predictions/", params={"project": str(project["number"])}
    ).json()
    live = [row for row in rows if row["model_version"] == project["version"]]
    return int(max(live, key=lambda row: len(row["result"]))["task"])


def save(page: Page, file: Path) -> None:
    """What the window shows, small enough to lie in a repository."""
    page.screenshot(path=file)
    with Image.open(file) as image:
        image.convert("RGB").quantize(COLOURS).save(file, optimize=True)


if __name__ == "__main__":
    main()
