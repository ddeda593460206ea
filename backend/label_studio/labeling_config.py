"""Parse a labeling config (XML) into the served controls, with reasons for the others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from xml.etree.ElementTree import Element, ParseError

from backend.domain import Control, ControlKind, Label
from backend.errors import ConfigError
from backend.label_studio.visibility import (
    TagTree,
    hidden_reason,
    is_shown_per_region,
    read_conditions,
)

PER_REGION_REASON = "applies to each region, not to the whole image"
CHOICE_MODES = {"single": False, "single-radio": False, "multiple": True}
SERVED_TAGS: Mapping[str, ControlKind] = {
    "Choices": "choices",
    "RectangleLabels": "boxes",
    "KeyPointLabels": "points",
}
LABELING_TAGS = frozenset(
    """
    BitMask BitMaskLabels Brush BrushLabels Chat Choices DateTime Ellipse EllipseLabels
    HyperTextLabels KeyPoint KeyPointLabels Labels MagicWand Number Pairwise ParagraphLabels
    Polygon PolygonLabels Ranker Rating Rectangle RectangleLabels Taxonomy TextArea
    TimeSeriesLabels TimelineLabels Vector VectorLabels VideoRectangle
    """.split()
)


@dataclass(frozen=True)
class LabelingConfig:
    """A parsed labeling config.

    Attributes:
        controls: served controls, in the order of the config.
        unserved: name of another control → reason why it is not served.
        keeps_settings: Prelabel must not change the project's model version and task sampling.
    """

    controls: tuple[Control, ...]
    unserved: Mapping[str, str]
    keeps_settings: bool = False


def read_config(xml: str) -> LabelingConfig:
    """Parse a labeling config.

    Args:
        xml: untrusted text that Label Studio stores.

    Raises:
        ConfigError: the text is not XML, or an attribute has an invalid value.
    """
    root = _parse_xml(xml)
    tree = TagTree.of_root(root)
    images = {tag.get("name", ""): tag for tag in root.iter("Image")}
    controls: list[Control] = []
    left_out: dict[str, str] = {}
    for tag in _iter_labeling_tags(root):
        reason = _unserved_reason(tag, images, tree)
        if reason:
            left_out[tag.get("name") or tag.tag] = f"{tag.tag}: {reason}"
        else:
            control = _parse_control(tag, images[tag.get("toName", "")])
            controls.append(replace(control, conditions=read_conditions(tag, tree)))
    controls = _without_never_shown(controls, left_out)
    keeps_settings = _is_enabled(root, "model_keep_settings")
    return LabelingConfig(tuple(controls), left_out, keeps_settings)


def _without_never_shown(controls: list[Control], left_out: dict[str, str]) -> list[Control]:
    """Return the controls that can be shown, and add the reasons of the others."""
    reasons = {control.name: hidden_reason(control, controls) for control in controls}
    shown = [control for control in controls if not reasons[control.name]]
    if len(shown) == len(controls):
        return controls
    left_out |= {name: f"it {reason}" for name, reason in reasons.items() if reason}
    return _without_never_shown(shown, left_out)  # others may depend on those


def _parse_xml(xml: str) -> Element:
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root: Element = fromstring(xml)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise ConfigError(f"The labeling config cannot be read: {error}.") from error
    return root


def _iter_labeling_tags(root: Element) -> Iterator[Element]:
    """Yield all tags that create results, including those without labels such as Rectangle."""
    return (tag for tag in root.iter() if tag.tag in LABELING_TAGS)


def _unserved_reason(tag: Element, images: Mapping[str, Element], tree: TagTree) -> str:
    """Return why a tag is not served; empty if it is."""
    if tag.tag not in SERVED_TAGS:
        return f"not served, only {', '.join(SERVED_TAGS)} are"
    if _is_enabled(tag, "model_skip"):
        return 'left out by model_skip="true"'
    if not tag.get("name"):
        return "has no name"
    if tag.tag == "Choices" and is_shown_per_region(tag, tree):
        return PER_REGION_REASON
    find_reason = _unserved_choices_reason if tag.tag == "Choices" else _unserved_region_reason
    return find_reason(tag) or _unserved_image_reason(tag.get("toName", ""), images)


def _unserved_region_reason(tag: Element) -> str:
    if _is_enabled(tag, "smartOnly"):
        return 'is only for smart tools (smartOnly="true")'
    if tag.get("value"):
        return "takes its labels from the task's data"
    return "" if _parse_labels(tag) else "has no labels"


def _unserved_choices_reason(tag: Element) -> str:
    if _is_enabled(tag, "perRegion"):
        return PER_REGION_REASON
    if _is_enabled(tag, "perItem"):
        return "applies to each item, not to the whole image"
    if _is_enabled(tag, "allowNested") or any(choice.find("Choice") is not None for choice in tag):
        return "has nested choices"
    if tag.get("choice", "single") not in CHOICE_MODES:
        return f'has choice="{tag.get("choice")}", which is none of {", ".join(CHOICE_MODES)}'
    if tag.get("value"):
        return "takes its choices from the task's data"
    if len({label.name for label in _parse_labels(tag)}) < 2:
        return "has fewer than two choices"
    return ""


def _unserved_image_reason(to_name: str, images: Mapping[str, Element]) -> str:
    if to_name not in images:
        return f'has toName="{to_name}", which is not the name of an Image tag'
    image = images[to_name]
    if image.get("valueList"):
        return f"Image {to_name} shows a list of images"
    if not _image_key(image):
        return f'Image {to_name} has no value="$field"'
    return ""


def _parse_control(tag: Element, image: Element) -> Control:
    return Control(
        name=tag.get("name", ""),
        to_name=tag.get("toName", ""),
        image_key=_image_key(image),
        labels=_parse_labels(tag),
        kind=SERVED_TAGS[tag.tag],
        multiple=tag.tag == "Choices" and CHOICE_MODES[tag.get("choice", "single")],
        threshold=_fraction(tag, "model_score_threshold") or 0.0,
        precision=_fraction(tag, "model_precision"),
        accept_error=_fraction(tag, "model_accept_error", exclude_one=True),
        smart=tag.tag != "Choices" and _is_enabled(tag, "smart"),
    )


def _parse_labels(tag: Element) -> tuple[Label, ...]:
    """Return the labels of a control without duplicates."""
    labels_by_name: dict[str, Label] = {}
    for label_tag in tag.iter("Choice" if tag.tag == "Choices" else "Label"):
        name = label_tag.get("alias") or label_tag.get("value")
        if name and name not in labels_by_name:
            hint = label_tag.get("hint", "").strip()
            labels_by_name[name] = Label(
                name, _prompt_words(label_tag), hint, _object_size(label_tag, tag)
            )
    return tuple(labels_by_name.values())


def _object_size(label: Element, tag: Element) -> float:
    """Return ``model_object_size``, a percentage of the image's longer edge, as 0 to 1."""
    text = label.get("model_object_size") or tag.get("model_object_size") or "0"
    size = _parse_number(text)
    if not 0 <= size <= 100:
        raise ConfigError(
            f'model_object_size="{text}" of {tag.get("name")} must be a number from 0 to 100, '
            "a percentage of the image's longer edge."
        )
    return size / 100


def _prompt_words(choice: Element) -> tuple[str, ...]:
    """Return ``predicted_values``; without them, the displayed value of a label with an alias."""
    words = [word.strip() for word in choice.get("predicted_values", "").split(",")]
    if choice.get("alias") and not any(words):
        words = [choice.get("value", "")]
    return tuple(word for word in words if word)


def _fraction(tag: Element, attribute: str, *, exclude_one: bool = False) -> float | None:
    """Return an attribute from 0 to 1, optionally without 1; None if it is missing."""
    text = tag.get(attribute)
    fraction = None if text is None else _parse_number(text)
    if fraction is not None and not (0 <= fraction < 1 or (fraction == 1 and not exclude_one)):
        allowed_range = "from 0 to below 1, such as 0.01 for 1%" if exclude_one else "from 0 to 1"
        raise ConfigError(
            f'{attribute}="{text}" of {tag.get("name")} must be a number {allowed_range}.'
        )
    return fraction


def _parse_number(text: str) -> float:
    """Parse a number; return −1, which no attribute allows, for any other text."""
    try:
        return float(text)
    except ValueError:
        return -1.0


def _image_key(image: Element) -> str:
    """Return the field of the task data in ``value="$field"``; empty if there is none."""
    match = re.fullmatch(r"\$([\w.\- \[\]]+)", image.get("value", "").strip())
    return match.group(1) if match else ""


def _is_enabled(tag: Element, attribute: str) -> bool:
    return tag.get(attribute, "").strip().lower() in ("true", "1", "yes")
