"""The ready labeling configs as an annotator sees them in Label Studio."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from backend.domain import Control
from backend.label_studio.labeling_config import read_config
from tests.support.browser import save_screenshot
from tests.support.drawings import make_drawing
from tests.support.harness import LabelStudioUser, make_data_uri, wait_until

CONFIGS = sorted((Path(__file__).parents[2] / "label_config").glob("*.xml"))


LAPTOP = {"width": 1280, "height": 860}
VERSION = "v1-suggested"


def locate(page: Page, kind: str, label: str) -> Locator:
    """Return the element of a label that an annotator clicks on."""
    if kind == "choices":
        return page.locator(f'input[name="{label}"]')
    # its own text, with the key that chooses it
    return page.get_by_text(re.compile(rf"^\s*{re.escape(label)}")).first


def give(page: Page, kind: str, label: str) -> None:
    """Click on a label, as an annotator does."""
    element = locate(page, kind, label)
    if kind == "choices":
        element.check()
        expect(element).to_be_checked()
    else:
        element.click()


def import_suggestions(
    lab: LabelStudioUser, project: int, task: int, controls: Sequence[Control]
) -> None:
    """Import a prediction with the last label of each choices control."""
    regions = [
        lab.make_choice_region([control.label_names[-1]], control.name)
        for control in controls
        if control.is_choices
    ]
    row = {"task": task, "result": regions, "score": 0.5, "model_version": VERSION}
    lab.request("POST", f"/api/projects/{project}/import/predictions", json=[row])
    lab.request("PATCH", f"/api/projects/{project}/", json={"model_version": VERSION})


def assert_above_bottom_bar(page: Page, element: Locator) -> None:
    """Check that an element is in the window, and not behind the bar of the Submit button."""
    box = wait_until("the label is rendered", element.bounding_box)
    bar = wait_until(
        "the button is rendered", page.get_by_role("button", name="Submit").bounding_box
    )
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= LAPTOP["width"]
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= bar["y"]


def assert_needs_a_choice(page: Page, config: str, label: str) -> None:
    """Check that a task without a choice cannot be submitted, after its hotkey deselected it."""
    hotkey = re.search(rf'value="{label}" hotkey="(.)"', config)
    assert hotkey is not None
    page.keyboard.press(hotkey[1])
    expect(locate(page, "choices", label)).not_to_be_checked()
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("Choose a label, or skip the image.")).to_be_visible()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_labels_of_a_ready_config_are_visible_on_a_portrait_image_and_can_be_given(
    file: Path, lab: LabelStudioUser, page: Page, shots: Path
) -> None:
    config = file.read_text()
    read = read_config(config)
    assert read.controls
    assert not read.unserved
    # the title stands on the page too: it must not be a label
    project = lab.create_project(config, title="Ready config")
    picture = io.BytesIO()
    make_drawing(1, (960, 1280)).image.convert("RGB").save(picture, "JPEG")
    (task,) = lab.import_images(project, [make_data_uri(picture.getvalue(), "jpeg")])
    import_suggestions(lab, project, task, read.controls)
    page.set_viewport_size(LAPTOP)  # type: ignore[arg-type]
    page.goto(f"{lab.url}/projects/{project}/data?task={task}")
    expect(page.get_by_text("Submit", exact=True)).to_be_visible()
    for control in read.controls:
        if control.is_choices:
            expect(locate(page, control.kind, control.label_names[-1])).to_be_checked()
        for label in control.label_names:
            assert_above_bottom_bar(page, locate(page, control.kind, label))
    save_screenshot(page, shots, f"config-{file.stem}")
    for control in read.controls:
        for label in control.label_names:
            give(page, control.kind, label)
    for control in read.controls:
        if control.is_choices and not control.multiple:
            assert_needs_a_choice(page, config, control.label_names[-1])


def test_a_box_is_drawn_inside_another_one_while_ctrl_is_held(
    lab: LabelStudioUser, page: Page
) -> None:
    """As label_config/README.md and the dashboard say."""
    file = next(file for file in CONFIGS if file.stem == "boxes")
    project = lab.create_project(file.read_text(), title="Box in a box")
    picture = make_data_uri(make_drawing(1, (640, 480)).to_png())
    (task,) = lab.import_images(project, [picture])
    (control,) = read_config(file.read_text()).controls
    page.goto(f"{lab.url}/projects/{project}/data?task={task}")
    expect(page.get_by_text("Submit", exact=True)).to_be_visible()
    image = wait_until("the image is rendered", page.locator("canvas").first.bounding_box)

    def draw(start: float, end: float) -> int:
        """Draw a box with the first label, and return the number of boxes."""
        page.keyboard.press("Escape")
        give(page, control.kind, control.label_names[0])
        corners = [
            (image["x"] + at * image["width"], image["y"] + at * image["height"])
            for at in (start, end)
        ]
        page.mouse.move(*corners[0])
        page.mouse.down()
        page.mouse.move(*corners[1], steps=5)
        page.mouse.up()
        return int(page.evaluate("Htx.annotationStore.selected.regions.length"))

    assert draw(0.1, 0.9) == 1
    assert draw(0.4, 0.5) == 1, "it moved the first one"
    page.keyboard.press("Control+z")
    page.keyboard.down("Control")
    boxes = draw(0.4, 0.5)
    page.keyboard.up("Control")
    assert boxes == 2
