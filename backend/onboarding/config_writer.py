"""A job and labels → a labeling config, from the ready one of ``label_config/``."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from backend.domain import Label
from backend.errors import ConfigError
from backend.label_studio.labeling_config import read_config
from backend.onboarding.labeling_job import Job

CONFIGS = Path(__file__).parents[2] / "label_config"
MANY = 20
"""Labels above which there is a field to search them by."""
HOTKEYS = "1234567890"
COLOURS = (
    *("#1677ff", "#d4380d", "#389e0d", "#722ed1", "#faad14"),
    *("#13c2c2", "#eb2f96", "#7c5c3e", "#5b8c00", "#2f54eb"),
)
GOLDEN = 0.618034
"""Steps of this part of the colour circle never come near each other (the golden ratio)."""
CONTROLS = {
    **dict.fromkeys((Job.BINARY, Job.ONE, Job.SEVERAL), "Choices"),
    Job.BOXES: "RectangleLabels",
    Job.POINTS: "KeyPointLabels",
}


def write_config(job: Job, labels: Sequence[Label]) -> str:
    """The labeling config.

    Args:
        job: decides the ready config whose labels are replaced.
        labels: in the order they are shown; any text.

    Returns:
        XML.

    Raises:
        ConfigError: what was written would not be read as the same labels.
    """
    from defusedxml.ElementTree import parse

    file = CONFIGS / f"{job.value.replace('-', '_')}.xml"
    view = parse(file).getroot()
    assert view is not None  # noqa: S101 - a ready config has a root
    control = next(view.iter(CONTROLS[job]))
    for example in list(control):
        control.remove(example)
    for place, label in enumerate(labels):
        SubElement(control, "Label" if job.marks else "Choice", _attributes(job, place, label))
    if len(labels) > MANY:
        _add_search(view, control)
    indent(view)
    xml = tostring(view, encoding="unicode")
    if [c.labels for c in read_config(xml).controls] != [tuple(labels)]:
        raise ConfigError("These labels cannot be written into a labeling config as they are.")
    return xml


def colour(place: int) -> str:
    """The colour of a label, ``#rrggbb``; the first ten are chosen, the others far apart."""
    if place < len(COLOURS):
        return COLOURS[place]
    shade = colorsys.hls_to_rgb(place * GOLDEN % 1, 0.45, 0.7)
    return "#" + "".join(f"{round(255 * part):02x}" for part in shade)


def _attributes(job: Job, place: int, label: Label) -> dict[str, str]:
    found = {"value": label.name}
    if place < len(HOTKEYS):
        found["hotkey"] = HOTKEYS[place]
    if job.marks:
        found["background"] = colour(place)
    if label.hint:
        found["hint"] = label.hint
    return found


def _add_search(view: Element, control: Element) -> None:
    search = Element("Filter", name="filter", toName=control.get("name", ""), minlength="0")
    search.set("placeholder", "Search the labels")
    view.insert(list(view).index(control), search)
