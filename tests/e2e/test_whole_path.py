"""The first hour of a person: a folder, one command, labels by keyboard, and what follows."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Response, expect

from backend.label_studio.local_server import LabelStudioServer, find_free_port
from backend.learning.audit import is_audit
from tests.support.browser import horizontal_overflow, next_images, save_screenshot
from tests.support.cli import json_output, run_prelabel
from tests.support.harness import Json, LabelStudioUser, make_png, wait_until

LABELS = ("red", "blue")
"""Labels in the order of their hotkeys, 1 and 2."""
PHOTOS_PER_LABEL, LABELED_COUNT, LABELS_PER_ROUND = 20, 15, 5
VIEWPORTS = ((1280, 860), (1440, 900), (390, 844))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder that is sorted by class."""
    for label in LABELS:
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(PHOTOS_PER_LABEL):
            photo = tmp_path / "photos" / label / f"{number}.png"
            photo.write_bytes(make_png(label, number, size=320))
    return tmp_path / "photos"


@contextmanager
def running_init(photos: Path, url: str, environment: dict[str, str], log: Path) -> Iterator[None]:
    """Run ``prelabel init FOLDER --serve`` until the end of the block."""
    answers = ["--job", "one-of-many", "--labels", ",".join(LABELS), "--import-labels", "none"]
    answers += ["--backend", url, "--serve"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*(sys.executable, "-m", "backend.cli", "init", str(photos), *answers)],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)


class LabelStream:
    """Label Studio's labeling screen, one task after the other, used with the keyboard."""

    def __init__(self, page: Page, audit_identity: str) -> None:
        self._page = page
        self._audit_identity = audit_identity
        self.wrong_task = 0
        self.suggestions: list[bool] = []

    def label(self, task: Json) -> Json:
        """Label a task and return the next one; the first audit task gets a wrong label."""
        page, truth = self._page, task["data"]["file"].partition("/")[0]
        expect(page.get_by_test_id("bottombar-submit-button")).to_be_enabled()
        if not self.wrong_task and is_audit(self._audit_identity, task["id"]):
            self.wrong_task, truth = task["id"], LABELS[1 - LABELS.index(truth)]
        suggested = [label for label in LABELS if self._is_chosen(label)]
        if suggested:
            self.suggestions.append(suggested == [truth])
        if suggested != [truth]:
            page.keyboard.press(str(LABELS.index(truth) + 1))
            expect(page.locator(f"input[name={truth}]")).to_be_checked()
        with page.expect_response(is_next_task) as answer:
            page.keyboard.press("Control+Enter")
        following: Json = answer.value.json()
        return following

    def _is_chosen(self, label: str) -> bool:
        return self._page.locator(f"input[name={label}]").is_checked()


def is_next_task(response: Response) -> bool:
    return "id=next_task" in response.url and response.ok


def take_screenshots(browser: Browser, url: str, folder: Path) -> None:
    """Save the page at each size, light and dark; it never scrolls sideways."""
    for width, height in VIEWPORTS:
        for scheme in ("light", "dark"):
            options: Any = {"color_scheme": scheme}
            context = browser.new_context(viewport={"width": width, "height": height}, **options)
            page = context.new_page()
            page.goto(url)
            assert horizontal_overflow(page) <= 0, (width, scheme)
            save_screenshot(page, folder, f"whole-path-{width}-{scheme}")
            context.close()


def test_a_folder_becomes_a_model_with_one_command_and_the_keyboard(
    studio: LabelStudioServer,
    lab: LabelStudioUser,
    page: Page,
    browser: Browser,
    photos: Path,
    tmp_path: Path,
    shots: Path,
) -> None:
    url = f"http://127.0.0.1:{find_free_port()}"
    environment = {
        "PRELABEL_HOME": str(tmp_path / "home"),
        "LABEL_STUDIO_URL": studio.url,
        "LABEL_STUDIO_API_KEY": studio.token,
        "PRELABEL_ENCODER": "builtin",
        "PRELABEL_RETRAIN_AFTER": str(LABELS_PER_ROUND),
    }
    with running_init(photos, url, environment, tmp_path / "init.log"):
        status = wait_for_status(url, labels=0)
        project, dashboard = status["id"], f"{url}/projects/{status['id']}"
        page.set_viewport_size({"width": 1440, "height": 900})
        page.goto(dashboard)
        expected = next_images(page)[0]
        with page.expect_response(is_next_task) as answer:
            page.get_by_role("link", name="Label in Label Studio").click()
        task = answer.value.json()
        assert task["id"] == expected
        stream = LabelStream(page, lab.audit_identity(project))
        for number in range(LABELED_COUNT):
            if number == LABELED_COUNT - LABELS_PER_ROUND:  # the keys are faster than a round
                wait_for_status(url, labels=number)
                with page.expect_response(is_next_task) as answer:
                    page.reload()  # the task was opened before the version that suggests its label
                task = answer.value.json()
            task = stream.label(task)
        assert stream.wrong_task, "one of ten images is an audit image"
        save_screenshot(page, shots, "whole-path-label-studio")
        status = wait_for_status(url, labels=LABELED_COUNT)
        assert sum(stream.suggestions[-3:]) >= 2, "images come with the right suggestion"

        page.goto(dashboard)
        expected = next_images(page)[0]
        with page.expect_response(is_next_task) as answer:
            page.get_by_role("link", name="Label in Label Studio").click()
        assert answer.value.json()["id"] == expected, "the queue follows the new version"

        page.goto(dashboard)
        expect(page.locator("#figure")).to_have_text("too early to tell")
        wrong = page.get_by_role("region", name="Accuracy").get_by_role("listitem")
        expect(wrong).to_contain_text("labeled")
        picture = wrong.get_by_role("img", name=f"Task {stream.wrong_task}")
        expect(picture).to_have_js_property("complete", True)
        take_screenshots(browser, dashboard, shots)

        page.get_by_role("link", name=re.compile("^Roll back to")).click()
        page.get_by_role("button", name=re.compile("^Roll back to")).click()
        expect(page.locator("#version")).not_to_have_text(status["version"])

        run_prelabel("rename", str(project), "red", "crimson", **environment)
        assert 'value="crimson"' in lab.fetch_project(project)["label_config"]
        wait_for_status(url, labels=LABELED_COUNT)
    folder = tmp_path / "export"
    options = ("--data", "csv", "--output", str(folder), "--json")
    json_output(run_prelabel("export", "--project", str(project), *options, **environment))
    rows = list(csv.DictReader((folder / "label.csv").open()))
    assert len(rows) == LABELED_COUNT
    assert {row["label"] for row in rows} == {"crimson", "blue"}


def wait_for_status(url: str, labels: int) -> Json:
    """Wait until the only project has learned from this many labels and is idle."""

    def check() -> Json:
        try:
            projects = httpx.get(f"{url}/api/projects").json()
        except httpx.TransportError:
            return {}
        for status in projects:
            is_idle = status["version"] and status["round"]["state"] == "idle"
            if is_idle and status["labels"] >= labels and not status["waiting"]:
                return dict(status)
        return {}

    return dict(wait_until(f"a version of {labels} labels", check, 120))
