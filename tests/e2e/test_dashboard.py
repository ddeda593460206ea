"""The dashboard and Label Studio as a person sees them: a real browser on the real thing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload, Page, expect

from backend.cli.main import main
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.local_server import LabelStudioServer, find_free_port
from backend.label_studio.tab_views import task_list_view
from backend.label_studio.tabs import (
    LABEL_ERRORS_TAB,
    LABEL_NEXT_TAB,
    SIMILAR_TAB,
    ProjectTabs,
)
from backend.learning.audit import is_audit
from backend.store.api_keys import ApiKeyStore
from backend.store.queue_front import QueueFront, StoredLabelError, StoredLabelErrors
from backend.store.versions import VersionStore
from tests.support.browser import (
    BROWSER_TIMEOUT_MS,
    horizontal_overflow,
    next_images,
    save_screenshot,
)
from tests.support.detection_projects import BOXES_CONFIG, make_box_region
from tests.support.drawings import SHAPE_LABELS, DrawnObject, make_drawing
from tests.support.harness import (
    BackendServer,
    EndpointServer,
    Json,
    LabelStudioUser,
    MakeBackend,
    make_data_uri,
    make_png,
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
    later = {
        "PRELABEL_RETRAIN_AFTER": "1000",
        "PRELABEL_DETECTOR": "builtin",
        "PRELABEL_DETECTOR_SIZE": "160",
    }
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
    assert images.evaluate_all("all => all.every(i => i.complete && i.naturalWidth > 0)")
    assert garden.lab.http.headers["Authorization"].split()[1] not in page.content()


def list_tabs(lab: LabelStudioUser, project: int) -> dict[str, Json]:
    """The tabs of a project by their titles."""
    rows = lab.request("GET", "/api/dm/views/", params={"project": project})
    tabs: dict[str, Json] = {row["data"]["title"]: row for row in rows}
    assert len(tabs) == len(rows), "no two tabs have the same title"
    return tabs


def tabs_of(lab: LabelStudioUser, project: int) -> ProjectTabs:
    token = lab.http.headers["Authorization"].split()[1]
    return ProjectTabs(LabelStudioClient(lab.url, token), project)


def record_errors(page: Page) -> list[str]:
    """Errors of a page's scripts; the list grows."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "response",
        lambda answer: errors.append(answer.url) if answer.status >= 500 else None,
    )
    return errors


def open_tab(page: Page, lab: LabelStudioUser, project: int, tab: int) -> list[int]:
    """Open a tab of the Data Manager, and return the tasks that it lists.

    The frontend saves a tab that it opens, so the tasks are read from Label Studio afterwards.
    """
    errors = record_errors(page)
    page.goto(f"{lab.url}/projects/{project}/data?tab={tab}")
    expect(page.get_by_text("Label All Tasks")).to_be_visible()
    page.wait_for_load_state("networkidle")
    parameters: Json = {"view": tab, "project": project, "page_size": 500}
    tasks = [t["id"] for t in lab.request("GET", "/api/tasks/", params=parameters)["tasks"]]
    expect(page.get_by_text(re.compile(rf"^Tasks: {len(tasks)} / "))).to_be_visible()
    assert errors == []
    return tasks


def test_every_tab_of_prelabel_opens_and_lists_its_tasks_also_those_that_were_broken(
    garden: Garden, page: Page, shots: Path
) -> None:
    lab, project = garden.lab, garden.project
    checked = garden.backend.home / "projects" / str(project) / "suspects.json"
    wait_until("the server checks the labels, and updates its tab", checked.exists)
    suspects, similar = garden.tasks[1:4], garden.tasks[5:7]

    def add(title: str, operator: str, type_name: str, value: object) -> None:
        item = {"filter": "filter:tasks:id", "operator": operator, "type": type_name}
        filters = {"conjunction": "and", "items": [item | {"value": value}]}
        data = {"title": title, "filters": filters, "ordering": ["tasks:predictions_score"]}
        body = {"project": project, "data": data}
        lab.request("POST", "/api/dm/views/", json=body)

    assert list(list_tabs(lab, project)) == ["Default", LABEL_NEXT_TAB]
    add("Mine", "equal", "Number", garden.tasks[0])
    add(LABEL_ERRORS_TAB, "in_list", "List", suspects)  # as earlier releases wrote them
    add(SIMILAR_TAB, "in_list", "List", similar)
    mine = list_tabs(lab, project)["Mine"]
    with page.expect_event("pageerror") as failure:
        page.goto(f"{lab.url}/projects/{project}/data?tab={mine['id']}")
    assert "No matching type for union" in str(failure.value)
    lab.import_colours(project, 1, start=1000)  # a round starts, which trains nothing
    known = {row["id"] for row in lab.list_tasks(project)}
    wait_until("both are repaired", lambda: not tabs_of(lab, project).find_broken())
    tabs = list_tabs(lab, project)
    assert tabs["Mine"] == mine, "what people made is not changed"
    page = page.context.new_page()
    assert sorted(open_tab(page, lab, project, tabs[SIMILAR_TAB]["id"])) == similar
    listed = task_list_view(suspects, by_score=True)  # the server's check may have emptied it
    tabs_of(lab, project).ensure(LABEL_ERRORS_TAB, listed)
    assert sorted(open_tab(page, lab, project, tabs[LABEL_ERRORS_TAB]["id"])) == suspects
    assert set(open_tab(page, lab, project, tabs["Default"]["id"])) == known
    open_tasks = {row["id"] for row in lab.list_tasks(project) if not row["is_labeled"]}
    assert set(open_tab(page, lab, project, tabs[LABEL_NEXT_TAB]["id"])) == open_tasks
    expect(page.locator("img[src*='data:image']").first).to_be_visible()
    save_screenshot(page, shots, "label-studio-label-next")
    tabs_of(lab, project).update(LABEL_ERRORS_TAB, task_list_view(()))
    assert open_tab(page, lab, project, tabs[LABEL_ERRORS_TAB]["id"]) == []
    page.close()


def test_a_tab_of_hundreds_of_tasks_opens_sorts_and_labels_as_displayed(
    lab: LabelStudioUser, page: Page
) -> None:
    project = lab.create_project()
    tasks = lab.import_colours(project, 200)
    chosen_tasks = tasks[40:340]
    tab = tabs_of(lab, project).ensure(SIMILAR_TAB, task_list_view(chosen_tasks))
    assert open_tab(page, lab, project, tab) == chosen_tasks
    page.evaluate("localStorage.setItem('dm:labelstream:mode', 'filtered')")
    with page.expect_response(lambda answer: "id=next_task" in answer.url) as answer:
        page.goto(f"{lab.url}/projects/{project}/data?tab={tab}&labeling=1")
    assert answer.value.json()["id"] == chosen_tasks[0]
    page.evaluate("localStorage.removeItem('dm:labelstream:mode')")


def test_the_button_serves_the_images_in_the_order_of_the_dashboard(
    garden: Garden, page: Page
) -> None:
    def promised() -> list[int]:
        page.goto(garden.url)
        return next_images(page)

    wanted, second, *_ = promised()
    with page.expect_response(re.compile("id=next_task")) as answer:
        page.get_by_role("link", name="Label in Label Studio").click()
    assert answer.value.json()["id"] == wanted
    (suggested,) = chosen(page)
    assert suggested == garden.lab.true_labels[wanted]
    with page.expect_response(re.compile("id=next_task")) as answer:
        page.get_by_test_id("bottombar-submit-button").click()
    follower = answer.value.json()["id"]
    assert follower in (second, promised()[0]), "the label may have changed the order already"

    def served() -> object:
        with page.expect_response(re.compile("id=next_task")) as answer:
            page.get_by_role("link", name="Label in Label Studio").click()
        return answer.value.json()["id"]

    wait_until("the stream follows the page, after a round", lambda: promised()[0] == served())


class LabelingScreen:
    """A task that somebody labels with smart tools."""

    def __init__(self, page: Page, lab: LabelStudioUser, project: int, task: int) -> None:
        self._page, self._lab, self._task = page, lab, task
        # At 1280 pixels, Label Studio's side panel covers a part of its own submit button.
        page.set_viewport_size({"width": 1440, "height": 900})
        page.goto(f"{lab.url}/projects/{project}/data?task={task}")
        expect(page.get_by_test_id("bottombar-submit-button")).to_be_visible()
        self.turn_on("Auto-Annotation", "auto-annotation")

    def turn_on(self, text: str, name: str) -> None:
        """Turn a switch below the image on; Label Studio keeps it for the next task."""
        switch = self._page.get_by_test_id(f"bottombar-{name}-toggle")
        if not switch.is_checked():
            self._page.get_by_text(text, exact=True).click()
        expect(switch).to_be_checked()

    def draw(self, thing: DrawnObject) -> list[str]:
        """Draw a box with the smart tool; return the ids of the suggestions."""
        page = self._page
        page.get_by_text(re.compile(rf"^{thing.label}")).first.click()
        smart_tool = page.locator(".lsf-tool_smart:visible").first
        smart_tool.click()
        expect(smart_tool).to_have_class(re.compile("lsf-tool_active"))
        image = page.locator("canvas").first.bounding_box()
        assert image is not None
        x0, y0, x1, y1 = (
            image["xy"[i % 2]] + corner * image[("width", "height")[i % 2]]  # type: ignore[literal-required]
            for i, corner in enumerate(thing.box)
        )
        with page.expect_response(re.compile("interactive-annotating"), timeout=SLOW) as answer:
            page.mouse.move(x0, y0)
            page.mouse.down()
            page.mouse.move(x1, y1, steps=4)
            page.mouse.up()
        return [row["id"] for row in answer.value.json()["data"]["result"]]

    def accept_all(self) -> None:
        self._page.get_by_test_id("bottombar-accept-suggestions-button").click()
        expect(self._page.get_by_test_id("bottombar-auto-accept-toggle")).to_be_attached()

    def accept(self, id: str) -> None:
        """Accept one suggestion, as its button does, which is painted on a canvas."""
        self._page.evaluate(
            "id => { const a = Htx.annotationStore.selected;"
            " a.acceptSuggestion([...a.suggestions.keys()].find(k => k.startsWith(id))); }",
            id,
        )

    def submit(self) -> dict[str, str]:
        """Submit, and return the labels of the annotation's boxes by their ids."""
        with self._page.expect_response(re.compile(r"/annotations")):
            self._page.get_by_test_id("bottombar-submit-button").click()
        (annotation,) = self._lab.request("GET", f"/api/tasks/{self._task}/annotations/")
        rows = annotation["result"]
        assert len({row["id"] for row in rows}) == len(rows)
        return {row["id"]: row["value"]["rectanglelabels"][0] for row in rows}


def test_accepted_suggestions_of_two_labels_and_what_was_drawn_are_all_submitted(
    garden: Garden, lab: LabelStudioUser, page: Page, shots: Path
) -> None:
    smart = BOXES_CONFIG.replace('toName="image"', 'toName="image" smart="true"')
    project = lab.create_project(smart, title="smart tools")
    drawing = make_drawing(3, (640, 480), max_objects=10, radius=(18, 26))
    first = {label: next(o for o in drawing.objects if o.label == label) for label in SHAPE_LABELS}
    images = [make_data_uri(drawing.to_png())] * 3
    tasks = lab.import_images(project, images)
    lab.connect_backend(project, garden.backend.url, is_interactive=True)
    garden.backend.wait_for_round(project)
    errors = record_errors(page)

    screen = LabelingScreen(page, lab, project, tasks[0])
    expected: dict[str, str] = {}
    for label in SHAPE_LABELS:
        suggested = screen.draw(first[label])
        assert len(suggested) > 2, "the drawn one and similar ones"
        expected |= dict.fromkeys(suggested, label)
        save_screenshot(page, shots, f"label-studio-suggestions-{label}")
        screen.accept_all()
    assert screen.submit() == expected, "all are accepted at once"

    screen = LabelingScreen(page, lab, project, tasks[1])
    expected = {}
    for label in SHAPE_LABELS:
        drawn, one, *_ = screen.draw(first[label])
        screen.accept(one)
        expected |= dict.fromkeys((drawn, one), label)
    assert screen.submit() == expected, "one of each label is accepted"

    screen = LabelingScreen(page, lab, project, tasks[2])
    screen.turn_on("Auto-Accept Suggestions", "auto-accept")
    expected = {}
    for label in SHAPE_LABELS:
        expected |= dict.fromkeys(screen.draw(first[label]), label)
    assert screen.submit() == expected, "all are accepted automatically"
    assert errors == []
    page.evaluate("localStorage.clear()")


def test_roll_back_and_promote_buttons_reach_label_studio_and_are_recorded(
    garden: Garden, page: Page, shots: Path
) -> None:
    names = garden.versions.names()
    first, newest = names[-1], str(garden.versions.live())

    def follows(version: str) -> bool:
        return bool(garden.lab.fetch_project(garden.project)["model_version"] == version)

    page.goto(garden.url)
    page.get_by_role("link", name=f"Roll back to {first}").click()
    expect(page.get_by_role("heading")).to_have_text(f"Roll back to {first}?")
    expect(page.locator("main")).to_contain_text("Your labels stay unchanged.")
    save_screenshot(page, shots, "dashboard-confirm")
    page.get_by_role("link", name="Cancel").click()
    expect(page.locator("#version")).to_have_text(newest)
    page.get_by_role("link", name=f"Roll back to {first}").focus()
    page.keyboard.press("Enter")  # a mouse is not needed
    expect(page.get_by_role("button", name="Roll back")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".notice")).to_contain_text("The earlier version is live")
    expect(page.locator("#version")).to_have_text(first)
    wait_until("Label Studio follows the roll-back", lambda: follows(first))
    page.get_by_role("link", name=f"Promote {newest}").click()
    page.get_by_role("button", name=f"Promote {newest}").click()
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


RECORD_NOTIFICATIONS = """
    window.Notification = new Proxy(window.Notification, {
        construct(target, given) {
            localStorage.setItem("shown", JSON.stringify(given));
            return Reflect.construct(target, given);
        },
    });
"""


GIVE_IMAGE = """
    ([way, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
        const options = { bubbles: true, dataTransfer: data, clipboardData: data };
        const kind = way === "drop" ? DragEvent : ClipboardEvent;
        document.getElementById("try").dispatchEvent(new kind(way, options));
    }
"""


def test_a_wrong_audit_image_is_shown_and_its_label_is_fixed_in_place(
    garden: Garden, page: Page, shots: Path
) -> None:
    lab, project = garden.lab, garden.project
    identity = lab.audit_identity(project)
    rows = [row for row in lab.list_tasks(project) if row["is_labeled"]]
    task = next(row["id"] for row in rows if is_audit(identity, row["id"]))
    truth = lab.true_labels[task]
    wrong = {"red": "blue", "blue": "red"}[truth]
    (annotation,) = lab.request("GET", f"/api/tasks/{task}/annotations/")
    body = {"result": [lab.make_choice_region([wrong])]}
    lab.request("PATCH", f"/api/annotations/{annotation['id']}/", json=body)
    before = str(garden.versions.live())
    page.context.grant_permissions(["notifications"], origin=garden.backend.url)
    page.add_init_script(RECORD_NOTIFICATIONS)
    page.goto(garden.url)
    page.get_by_role("button", name="Notify me when a version goes live").click()
    expect(page.get_by_role("button", name="Stop notifications")).to_be_visible()
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("#version")).not_to_have_text(before)  # nobody reloads the page
    title, shown = page.evaluate("JSON.parse(localStorage.getItem('shown'))")
    live = str(garden.versions.live())
    assert (title, shown["body"]) == ("Reds & <b>blues</b>", f"Version {live} is live.")

    suspect = StoredLabelError(task, wrong, truth, 0.1, "wrong label", "colour")
    folder = garden.backend.home / "projects" / str(project)
    QueueFront(folder).save_label_errors(StoredLabelErrors(live, (suspect,)))
    page.reload()
    page.get_by_role("button", name=f"Change to {truth}: task {task}").click()
    expect(page.locator(".notice")).to_contain_text("The label is changed in Label Studio")
    expect(page.get_by_role("button", name="Label is right")).to_have_count(0)
    (annotation,) = lab.request("GET", f"/api/tasks/{task}/annotations/")
    assert [item["value"] for item in annotation["result"]] == [{"choices": [truth]}]
    save_screenshot(page, shots, "dashboard-changed-label")
    page.get_by_role("button", name=f"Undo: task {task}").click()
    expect(page.locator(".notice")).to_contain_text("The former label is restored")
    (annotation,) = lab.request("GET", f"/api/tasks/{task}/annotations/")
    assert [item["value"] for item in annotation["result"]] == [{"choices": [wrong]}]
    change = page.get_by_role("button", name=f"Change to {truth}: task {task}")
    change.click()
    expect(page.locator(".notice")).to_contain_text("The label is changed in Label Studio")
    lab.request("PATCH", f"/api/annotations/{annotation['id']}/", json=body)
    undo = page.get_by_role("button", name=f"Undo: task {task}")
    undo.click()
    expect(page.locator("body")).to_contain_text(f"The label of task {task} has changed")
    page.goto(garden.url)
    expect(undo).to_have_count(0)
    QueueFront(folder).add_label_error(suspect)
    page.reload()
    change.click()
    expect(page.locator(".notice")).to_contain_text("The label is changed in Label Studio")

    accuracy = page.get_by_role("region", name="Accuracy")
    expect(accuracy.get_by_role("heading", name="Wrong predictions on 1 of")).to_be_visible()
    shot = accuracy.get_by_role("link", name=f"Task {task}", exact=True)
    assert str(shot.get_attribute("href")).endswith(f"/projects/{project}/data?task={task}")
    assert shot.locator("img").evaluate("i => i.decode().then(() => i.naturalWidth)") > 0
    expect(accuracy).to_contain_text(f"labeled {wrong}, predicted {truth}")
    page.get_by_role("link", name=f"1 of {wrong} predicted as {truth}", exact=True).click()
    expect(page.locator(".shots a")).to_have_attribute("href", re.compile(f"task={task}$"))
    save_screenshot(page, shots, "dashboard-pair")
    page.go_back()

    page.get_by_text("Examples of each label").click()
    save_screenshot(page, shots, "dashboard-wrong")
    page.set_input_files("#try input[type=file]", files=[make_upload(truth)])
    expect(page.locator("#try .answers li").first).to_contain_text(f"{truth} ")
    expect(page.locator("#try canvas")).to_be_visible()
    for way in ("drop", "paste"):
        page.evaluate(GIVE_IMAGE, [way, list(make_png(wrong, 5))])
        expect(page.locator("#try .answers li").first).to_contain_text(f"{wrong} ")
        page.evaluate(GIVE_IMAGE, [way, list(make_png(truth, 5))])
        expect(page.locator("#try .answers li").first).to_contain_text(f"{truth} ")
    page.get_by_role("button", name="Show both on the audit images").click()
    expect(page.locator("#difference")).to_contain_text("audit images")
    save_screenshot(page, shots, "dashboard-comparison")


def make_upload(colour: str) -> FilePayload:
    """Return an image as a person chooses it."""
    return {"name": "photo.png", "mimeType": "image/png", "buffer": make_png(colour, 5)}


def test_the_page_of_the_endpoint_predicts_with_the_key_that_a_visitor_types(
    garden: Garden, page: Page, shots: Path
) -> None:
    _, key = ApiKeyStore(garden.backend.home).create("visitor")
    endpoint = EndpointServer(garden.backend.home, {"PRELABEL_ENCODER": "builtin"})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    try:
        page.goto(endpoint.url)
        page.get_by_label("API key").fill(key)
        page.get_by_label("API key").blur()
        expect(page.get_by_label("Function")).to_have_value(str(garden.project))
        expect(page.get_by_label("Function")).to_contain_text("Reds & <b>blues</b>")
        page.set_input_files("input[type=file]", files=[make_upload("red")])
        expect(page.locator(".answers li").first).to_contain_text("red ")
        page.get_by_text("curl", exact=True).click()
        address = f"{endpoint.url}/v1/functions/{garden.project}/invoke"
        expect(page.locator("#code-curl")).to_contain_text(address)
        assert key not in page.locator("#code-curl").inner_text()
        page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=endpoint.url)
        page.get_by_role("button", name="Copy").first.click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        assert address in page.evaluate("navigator.clipboard.readText()")
        assert complaints == []
        save_screenshot(page, shots, "endpoint")
        page.reload()
        assert page.get_by_label("API key").input_value() == ""
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0
    finally:
        endpoint.stop()


def test_start_training_in_label_studio_shows_as_a_running_round_that_can_be_cancelled(
    lab: LabelStudioUser,
    make_backend: MakeBackend,
    annotator: BrowserContext,
    page: Page,
    shots: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
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
    lab.submit_regions(tasks[12], [make_box_region(thing) for thing in drawings[12].objects])
    expect(board.locator("#labels")).to_have_text("13 of 14 1 since this round began")
    for name, value in backend.environment.items():
        monkeypatch.setenv(name, value)
    nobody = f"http://127.0.0.1:{find_free_port()}"
    for address in ([], ["--backend", nobody]):  # a server that cannot be reached trains, too
        assert main(["status", str(project), *address, "--json"]) == 0
        output = capsys.readouterr()
        (told,) = json.loads(output.out)["projects"]
        assert told["round"]["state"] == "training", address
        assert "epoch" in told["round"]["detail"]
        if not address:
            assert (told["labels"], told["new_in_round"]) == (13, 1)
            assert "13 of 14 tasks labeled, 13 of them new since the last version, 1" in output.err
    expect(board.locator("#now").get_by_role("button")).to_have_text(["Cancel training"])
    board.get_by_role("button", name="Cancel training").click()
    expect(board.locator(".notice")).to_contain_text("cancelled")
    expect(board.locator("#now .state")).to_contain_text("Idle", timeout=SLOW)
    assert backend.project(project)["version"] == before
    board.close()


def test_a_label_that_vanished_and_a_deleted_project_are_asked_about(
    garden: Garden, lab: LabelStudioUser, browser: Browser, shots: Path
) -> None:
    backend, project = garden.backend, lab.create_project(title="Reds & <b>blues</b>")
    tasks = lab.import_colours(project, 2)
    for task in tasks:
        lab.submit_annotation(task)
    lab.connect_backend(project, backend.url)
    backend.wait_for_round(project, 4)
    config = lab.fetch_project(project)["label_config"].replace('"red"', '"crimson"')
    lab.request("PATCH", f"/api/projects/{project}/", json={"label_config": config})
    wait_until("noticed", lambda: backend.project(project).get("removed_labels"))

    context = browser.new_context(locale="de-DE", timezone_id="Asia/Tokyo")
    context.set_default_timeout(BROWSER_TIMEOUT_MS)
    page = context.new_page()
    page.goto(f"{backend.url}/projects/{project}")
    expect(page.locator("h1")).to_have_text(f"Reds & <b>blues</b> project {project}")
    created = page.locator(".versions time").first
    utc = datetime.fromisoformat(str(created.get_attribute("datetime")))
    local = f"{utc.astimezone(ZoneInfo('Asia/Tokyo')):%d.%m.%Y, %H:%M}"
    expect(created).to_have_text(local)
    question = page.get_by_role("region", name="Labels that were removed")
    expect(question).to_contain_text("2 annotations use “red”, which the labeling config no longer")
    save_screenshot(page, shots, "dashboard-removed-label")
    question.get_by_role("combobox").select_option("rename to crimson")
    question.get_by_role("button", name="Save").click()
    expect(page.locator(".notice")).to_contain_text("Saved.")
    status = backend.wait_for_round(project, 4)
    assert "removed_labels" not in status
    answers = [lab.request("GET", f"/api/tasks/{task}/annotations/")[0] for task in tasks]
    chosen = [answer["result"][0]["value"]["choices"] for answer in answers]
    assert chosen == [["crimson"], ["blue"]] * 2
    expect(question).to_have_count(0)  # the page follows the new version

    page.evaluate("document.addEventListener('submit', event => event.preventDefault())")
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_role("button", name="Starting …")).to_be_disabled()  # not sent yet
    page.goto(backend.url)
    lab.request("DELETE", f"/api/projects/{project}/")
    event = {"action": "PROJECT_UPDATED", "project": {"id": project}}
    backend.http.post("/webhook", json=event)
    card = page.get_by_role("listitem").filter(has_text=f"project {project}")
    expect(card).to_contain_text(
        "was deleted in Label Studio and will be removed from this page on"
    )
    save_screenshot(page, shots, "dashboard-deleted")
    card.get_by_role("button").click()
    expect(page.locator(".notice")).to_contain_text("removed from this page")
    expect(card).to_have_count(0)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways_in_light_and_dark(
    garden: Garden, browser: Browser, shots: Path, scheme: str
) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme, has_touch=True)  # type: ignore[arg-type]
    context.set_default_timeout(BROWSER_TIMEOUT_MS)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    project = f"/projects/{garden.project}"
    for path, name in (
        ("/", "overview"),
        (f"{project}/audit", "audit"),
        (f"{project}/compare", "comparison"),
        (project, "project"),
    ):
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
    page.set_input_files("#try input[type=file]", files=[make_upload("blue")])
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("main li").first).to_contain_text("blue ")
    context.close()


def test_another_sites_form_is_refused_and_changes_nothing(
    garden: Garden, browser: Browser, studio: LabelStudioServer
) -> None:
    promoted = promotions_by_hand(garden)
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
    assert promotions_by_hand(garden) == promoted
    context.close()


def promotions_by_hand(garden: Garden) -> list[str]:
    """The versions that somebody made live; a round may make others live at any time."""
    history = garden.versions.history()
    return [event.version for event in history if event.by == "the dashboard"]


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
