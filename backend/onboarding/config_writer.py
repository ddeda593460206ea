"""Write a labeling config for a job and labels, from a template in ``label_config/``."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from backend.domain import Label
from backend.errors import ConfigError
from backend.label_studio.labeling_config import read_config
from backend.onboarding.label_order import assign_hotkeys
from backend.onboarding.labeling_job import LabelingJob

CONFIG_FOLDER = Path(__file__).parents[2] / "label_config"
SEARCH_LABEL_COUNT = 20
"""Number of labels above which the config has a search field, and less room for the labels."""
LABEL_ROW_CHARACTERS = 100
"""Characters of labels in a row above the image, in a window of 1280 pixels."""
LABEL_MARGIN_CHARACTERS = 7
"""Width of a label's box, hotkey and margin, in characters."""
LABEL_ROW_PIXELS = 40
LABEL_LIST_ROWS = 4
"""Height of many labels and their search field, in rows."""
LABEL_LIST_STYLE = "max-height: 120px; overflow-y: auto; margin-bottom: 8px"
CHOSEN_FIRST_STYLE = (
    ".label-list .lsf-choices { display: flex; flex-wrap: wrap } "
    ".label-list .lsf-choice:has(input:checked) { order: -1 }"
)
"""Class names of Label Studio 1.23; with other ones the labels keep their order."""
SCREEN_PIXELS_AROUND_IMAGE = 210
"""Height of what Label Studio shows above and below the labels and the image."""
LABEL_COLOURS = (
    *("#1677ff", "#d4380d", "#389e0d", "#722ed1", "#faad14"),
    *("#13c2c2", "#eb2f96", "#7c5c3e", "#5b8c00", "#2f54eb"),
)
GOLDEN_RATIO = 0.618034
"""Step between hues as a share of the colour circle: the golden ratio keeps them apart."""
TAG_BY_JOB = {
    **dict.fromkeys(
        (LabelingJob.BINARY, LabelingJob.SINGLE_CHOICE, LabelingJob.MULTIPLE_CHOICE), "Choices"
    ),
    LabelingJob.BOXES: "RectangleLabels",
    LabelingJob.POINTS: "KeyPointLabels",
}


def write_config(job: LabelingJob, labels: Sequence[Label]) -> str:
    """Return the XML of a labeling config.

    Args:
        job: labeling job, which selects the template.
        labels: labels in display order; names may contain any text.

    Raises:
        ConfigError: parsing the XML does not result in the same labels.
    """
    from defusedxml.ElementTree import parse

    file = CONFIG_FOLDER / f"{job.value.replace('-', '_')}.xml"
    view = parse(file).getroot()
    assert view is not None  # noqa: S101 - a template has a root
    control = next(view.iter(TAG_BY_JOB[job]))
    for template_label in list(control):
        control.remove(template_label)
    hotkeys = assign_hotkeys([label.name for label in labels])
    for index, label in enumerate(labels):
        SubElement(
            control,
            "Label" if job.is_region_job else "Choice",
            _label_attributes(job, index, label, hotkeys[index]),
        )
    row_count = _count_rows(labels)
    if len(labels) > SEARCH_LABEL_COUNT:
        _add_label_search(view, control)
        row_count = LABEL_LIST_ROWS
    image = next(view.iter("Image"))
    pixels = SCREEN_PIXELS_AROUND_IMAGE + LABEL_ROW_PIXELS * row_count
    image.set("maxHeight", f"calc(100vh - {pixels}px)")
    indent(view)
    xml = tostring(view, encoding="unicode")
    if [c.labels for c in read_config(xml).controls] != [tuple(labels)]:
        raise ConfigError("A labeling config cannot contain these labels unchanged.")
    return xml


def label_colour(index: int) -> str:
    """Return the colour of a label as ``#rrggbb``, from a palette for the first ten labels."""
    if index < len(LABEL_COLOURS):
        return LABEL_COLOURS[index]
    rgb = colorsys.hls_to_rgb(index * GOLDEN_RATIO % 1, 0.45, 0.7)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)


def _label_attributes(job: LabelingJob, index: int, label: Label, hotkey: str) -> dict[str, str]:
    attributes = {"value": label.name}
    if hotkey:
        attributes["hotkey"] = hotkey
    if job.is_region_job:
        attributes["background"] = label_colour(index)
    if label.hint:
        attributes["hint"] = label.hint
    return attributes


def _count_rows(labels: Sequence[Label]) -> int:
    """Return how many rows the labels fill above the image."""
    width = sum(len(label.name) + LABEL_MARGIN_CHARACTERS for label in labels)
    return -(-width // LABEL_ROW_CHARACTERS)


def _add_label_search(view: Element, control: Element) -> None:
    """Put a search field above a control with many labels, which scrolls below it.

    Chosen labels come first, so that a suggestion is visible without scrolling.
    """
    search = Element("Filter", name="filter", toName=control.get("name", ""), minlength="0")
    search.set("placeholder", "Search the labels")
    label_list = Element("View", className="label-list", style=LABEL_LIST_STYLE)
    index = list(view).index(control)
    view.remove(control)
    label_list.append(control)
    view.insert(index, search)
    view.insert(index + 1, label_list)
    if control.tag == "Choices":
        style = SubElement(view, "Style")
        style.text = CHOSEN_FIRST_STYLE
