"""The ready labeling configs as an annotator sees them in Label Studio."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from backend.label_studio.labeling_config import read_config
from tests.support.browser import save_screenshot
from tests.support.drawings import make_drawing
from tests.support.harness import LabelStudioUser, make_data_uri

CONFIGS = sorted((Path(__file__).parents[2] / "label_config").glob("*.xml"))


def give(page: Page, kind: str, label: str) -> None:
    """Click on a label, as an annotator does."""
    if kind == "choices":
        box = page.locator(f'input[name="{label}"]')
        box.check()
        expect(box).to_be_checked()
    else:  # its own text, with the key that chooses it
        page.get_by_text(re.compile(rf"^\s*{re.escape(label)}")).first.click()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_label_of_a_ready_config_can_be_given(
    file: Path, lab: LabelStudioUser, page: Page, shots: Path
) -> None:
    config = file.read_text()
    read = read_config(config)
    assert read.controls
    assert not read.unserved
    # the title stands on the page too: it must not be a label
    project = lab.create_project(config, title="Ready config")
    picture = io.BytesIO()
    make_drawing(1, (640, 480)).image.save(picture, "PNG")
    (task,) = lab.import_images(project, [make_data_uri(picture.getvalue())])
    page.goto(f"{lab.url}/projects/{project}/data?task={task}")
    expect(page.get_by_text("Submit", exact=True)).to_be_visible()
    for control in read.controls:
        for label in control.label_names:
            give(page, control.kind, label)
    save_screenshot(page, shots, f"config-{file.stem}")
