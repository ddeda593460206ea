"""The dashboard and Label Studio as a person sees them: a real browser on the real thing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from backend.learning.audit import is_audit
from backend.store.versions import VersionStore
from demo.label_studio import LabelStudioServer
from tests.support.browser import BROWSER_TIMEOUT_MS, horizontal_overflow, save_screenshot
from tests.support.detection_projects import BOXES_CONFIG, make_box_region
from tests.support.drawings import make_drawing
from tests.support.harness import (
    BackendServer,
    LabelStudioUser,
    MakeBackend,
    make_data_uri,
    wait_until,
)

SLOW = 240_000.0
"""Milliseconds that a training may take."""
PHONE = {"width": 360, "height": 740}


@dataclass(frozen=True)
class Garden:
    """A project that has learned, and the backend that serves it."""

    lab: LabelStudioUser
    backend: BackendServer
    project: int
    tasks: list[int]

    @property
    def url(self) -> str:
        return f"{self.backend.url}/projects/{self.project}"

    @property
    def versions(self) -> VersionStore:
        return VersionStore(self.backend.home / "projects" / str(self.project))


@pytest.fixture(scope="module")
def garden(studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Garden]:
    """A project with two versions, the second of which has learned."""
    lab = LabelStudioUser(studio.url, studio.token)
    known = {"LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": studio.token}
    later = {"PRELABEL_RETRAIN_AFTER": "1000"}
    backend = BackendServer(tmp_path_factory.mktemp("garden") / "home", {**known, **later})
    backend.start()
    project = lab.create_project(title="Reds & <b>blues</b>")
    tasks = lab.import_colours(project, 20)
    while not (audit := [t for t in tasks if is_audit(lab.audit_identity(project), t)]):
        tasks += lab.import_colours(project, 5, start=len(tasks))
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project)
    first = {*tasks[:14], *audit[:4]}
    for task in sorted(first):
        lab.submit_annotation(task)
    backend.train_and_wait(project, len(first))
    yield Garden(lab, backend, project, tasks)
    backend.stop()
    lab.close()


def chosen(page: Page) -> list[str]:
    """What is ticked in the labeling screen."""
    expect(page.locator("input.ant-checkbox-input:checked")).to_have_count(1)
    return [str(page.locator("input.ant-checkbox-input:checked").get_attribute("name"))]


def number(page: Page, id: str) -> int:
    """The first number of an element."""
    found = re.search(r"\d+", page.locator(f"#{id}").inner_text())
    assert found is not None
    return int(found.group())


def test_a_task_opens_pre_annotated_and_its_correction_updates_the_dashboard(
    garden: Garden, annotator: BrowserContext, page: Page, studio: LabelStudioServer, shots: Path
) -> None:
    board = annotator.new_page()
    board.goto(garden.url)
    before = number(board, "labels")
    expect(board.locator("#figure")).to_have_text("too early to tell")
    link = board.locator(".gallery a").first
    page.goto(str(link.get_attribute("href")))
    (suggested,) = chosen(page)
    task = int(str(link.inner_text()).removeprefix("Task "))
    assert suggested == garden.lab.true_labels[task]
    save_screenshot(page, shots, "label-studio-task")
    other = {"red": "blue", "blue": "red"}[suggested]
    page.locator(f"input.ant-checkbox-input[name={other}]").check()
    page.get_by_role("button", name="Submit").click()
    expect(board.locator("#waiting")).to_have_text("1")  # nobody reloads the page
    assert number(board, "labels") == before + 1
    board.reload()
    expect(board.locator(".gallery a", has_text=re.compile(rf"^Task {task}$"))).to_have_count(0)
    save_screenshot(board, shots, "dashboard")
    board.close()


def test_the_front_of_the_queue_is_what_label_studio_serves_next_with_its_image(
    garden: Garden, page: Page
) -> None:
    page.goto(garden.url)
    served = garden.lab.next_task(garden.project)["id"]
    expect(page.locator(".gallery a").first).to_have_text(f"Task {served}")
    images = page.locator(".gallery img")
    assert images.count() == 12
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert garden.lab.http.headers["Authorization"].split()[1] not in page.content()


def test_roll_back_and_promote_buttons_reach_label_studio_and_are_recorded(
    garden: Garden, page: Page, shots: Path
) -> None:
    names = garden.versions.names()
    first, newest = names[-1], str(garden.versions.live())

    def follows(version: str) -> bool:
        return bool(garden.lab.fetch_project(garden.project)["model_version"] == version)

    page.goto(garden.url)
    page.get_by_role("button", name=f"Roll back to {first}").click()
    expect(page.locator(".notice")).to_contain_text("The earlier version is live")
    expect(page.locator("#version")).to_have_text(first)
    wait_until("Label Studio follows the roll-back", lambda: follows(first))
    page.get_by_role("button", name=f"Make {newest} live").click()
    expect(page.locator("#version")).to_have_text(newest)
    wait_until("Label Studio follows the promotion", lambda: follows(newest))
    last = garden.versions.history()[-2:]
    assert [(event.version, event.by) for event in last] == [
        (first, "the dashboard"),
        (newest, "the dashboard"),
    ]
    page.get_by_text("History of promotions").click()
    expect(page.locator(".history li").first).to_contain_text("by the dashboard")
    save_screenshot(page, shots, "dashboard-promoted")


def test_start_training_in_label_studio_shows_as_a_running_round_that_can_be_cancelled(
    lab: LabelStudioUser,
    make_backend: MakeBackend,
    annotator: BrowserContext,
    page: Page,
    shots: Path,
) -> None:
    backend = make_backend(
        PRELABEL_DETECTOR="builtin", PRELABEL_DETECTOR_SIZE="320", PRELABEL_RETRAIN_AFTER="1000"
    )
    project = lab.create_project(BOXES_CONFIG, title="drawn things")
    drawings = [make_drawing(n) for n in range(14)]
    tasks = lab.import_images(project, [make_data_uri(d.to_png()) for d in drawings])
    lab.connect_backend(project, backend.url)
    before = backend.wait_for_round(project)["version"]
    for task, drawn in zip(tasks[:12], drawings, strict=False):
        lab.submit_regions(task, [make_box_region(thing) for thing in drawn.objects])
    board = annotator.new_page()
    board.set_default_timeout(SLOW)
    board.goto(backend.url)
    board.get_by_role("link", name="drawn things").click()
    page.goto(f"{lab.url}/projects/{project}/settings/ml")
    page.get_by_label("Machine learning model options").click()
    page.get_by_text("Start Training", exact=True).click()
    save_screenshot(page, shots, "label-studio-start-training")
    page.get_by_role("button", name="Start Training").click()
    expect(board.locator("#now .state")).to_contain_text("Training", timeout=SLOW)
    expect(board.locator("#now")).to_contain_text("epoch", timeout=SLOW)
    expect(board.locator("#now progress")).to_be_visible()
    save_screenshot(board, shots, "dashboard-training")
    board.get_by_role("button", name="Cancel training").click()
    expect(board.locator(".notice")).to_contain_text("cancelled")
    expect(board.locator("#now .state")).to_contain_text("Idle", timeout=SLOW)
    assert backend.project(project)["version"] == before
    board.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways_in_light_and_dark(
    garden: Garden, browser: Browser, shots: Path, scheme: str
) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme, has_touch=True)  # type: ignore[arg-type]
    context.set_default_timeout(BROWSER_TIMEOUT_MS)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    for path, name in (("/", "overview"), (f"/projects/{garden.project}", "project")):
        page.goto(garden.backend.url + path)
        assert horizontal_overflow(page) <= 0, path
        save_screenshot(page, shots, f"phone-{scheme}-{name}")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", ground)[:3])) > 3 * 128
    assert light == (scheme == "light")
    assert page.locator("h1").inner_text() == "Reds & <b>blues</b>"
    assert complaints == [], "the policy forbids nothing that the page needs"
    context.close()


def test_the_page_works_without_javascript_and_with_the_keyboard(
    garden: Garden, browser: Browser
) -> None:
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(BROWSER_TIMEOUT_MS)
    page = context.new_page()
    page.goto(garden.url)
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    page.get_by_role("button", name="Start training").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".notice")).to_contain_text("A round was requested")
    assert page.url.endswith(f"/projects/{garden.project}?done=train")
    context.close()


def test_another_sites_form_is_refused_and_changes_nothing(
    garden: Garden, browser: Browser, studio: LabelStudioServer
) -> None:
    live = garden.versions.live()
    context = browser.new_context()
    context.set_default_timeout(BROWSER_TIMEOUT_MS)
    page = context.new_page()
    page.goto(f"{studio.url}/user/login/")  # the same host, another port: another origin
    with page.expect_navigation():
        page.evaluate(
            "address => { const form = document.createElement('form'); form.method = 'post';"
            " form.action = address; document.body.append(form); form.submit(); }",
            f"{garden.url}/rollback",
        )
    expect(page.locator("main")).to_contain_text("sent by a page of another site")
    assert garden.versions.live() == live
    context.close()


def test_with_a_password_pages_need_it_and_buttons_work_with_it(
    make_backend: MakeBackend, lab: LabelStudioUser, browser: Browser
) -> None:
    backend = make_backend(PRELABEL_USER="anna", PRELABEL_PASSWORD="open sesame")
    for path in ("/", "/now", "/projects/1", "/static/style.css"):
        assert httpx.get(backend.url + path, trust_env=False).status_code == 401
    assert httpx.post(f"{backend.url}/projects/1/train", trust_env=False).status_code == 401
    secret = (backend.home / "webhook_secret").read_text().strip()
    project = lab.create_project(title="behind a password")
    lab.import_colours(project, 3)
    auth = {
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": "anna",
        "basic_auth_pass": "open sesame",
    }
    lab.connect_backend(project, f"{backend.url}/{secret}", **auth)
    context = browser.new_context(http_credentials={"username": "anna", "password": "open sesame"})
    context.set_default_timeout(BROWSER_TIMEOUT_MS)
    page = context.new_page()
    page.goto(f"{backend.url}/{secret}")
    page.get_by_role("link", name="behind a password").click()
    page.get_by_role("button", name="Start training").click()
    expect(page.locator(".notice")).to_contain_text("A round was requested")
    context.close()
