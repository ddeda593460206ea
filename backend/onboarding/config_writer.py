"""Write a labeling config for a job and labels, from a template in ``label_config/``."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from backend.domain import Label
from backend.errors import ConfigError
from backend.label_studio.labeling_config import read_config
from backend.onboarding.labeling_job import LabelingJob

CONFIG_FOLDER = Path(__file__).parents[2] / "label_config"
SEARCH_LABEL_COUNT = 20
"""Number of labels above which the config has a search field."""
HOTKEYS = "1234567890"
LABEL_COLOURS = (
    *("#1677ff", "#d4380d", "#389e0d", "#722ed1", "#faad14"),
    *("#13c2c2", "#eb2f96", "#7c5c3e", "#5b8c00", "#2f54eb"),
)
GOLDEN_RATIO = 0.618034
"""Step between hues as a share of the colour circle: the golden ratio keeps them apart."""
CONTROL_TAGS = {
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
    control = next(view.iter(CONTROL_TAGS[job]))
    for template_label in list(control):
        control.remove(template_label)
    for index, label in enumerate(labels):
        SubElement(
            control,
            "Label" if job.is_region_job else "Choice",
            _label_attributes(job, index, label),
        )
    if len(labels) > SEARCH_LABEL_COUNT:
        _add_label_search(view, control)
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


def _label_attributes(job: LabelingJob, index: int, label: Label) -> dict[str, str]:
    attributes = {"value": label.name}
    if index < len(HOTKEYS):
        attributes["hotkey"] = HOTKEYS[index]
    if job.is_region_job:
        attributes["background"] = label_colour(index)
    if label.hint:
        attributes["hint"] = label.hint
    return attributes


def _add_label_search(view: Element, control: Element) -> None:
    search = Element("Filter", name="filter", toName=control.get("name", ""), minlength="0")
    search.set("placeholder", "Search the labels")
    view.insert(list(view).index(control), search)
