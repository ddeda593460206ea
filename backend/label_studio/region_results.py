"""Convert regions from and to Label Studio's boxes and points: percent ↔ 0 to 1."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from backend.domain import Control, Region, RegionPrediction, Regions
from backend.label_studio import Json
from backend.label_studio.json_values import read_object, read_strings

RESULT_TYPES = {"boxes": "rectanglelabels", "points": "keypointlabels"}
POINT_WIDTH_PERCENT = 0.5
"""Displayed width of a point, a percentage of the image's width."""
MAX_ROTATION_DEGREES = 0.01
"""Rotation up to which a box counts as upright, to allow for rounding errors."""
NO_LABEL_REASON = "region without a label"
REMOVED_LABEL_REASON = "label no longer in the labeling config"
NEGATIVE_CLICK_REASON = "negative click of a smart tool"
UNSERVED_SHAPES = frozenset(("rectangle", "polygon", "ellipse", "brush", "bitmask", "vector"))
"""Shapes that mark an object; key points are missing because they may only prompt a smart tool."""


def format_regions(
    task: int, region_prediction: RegionPrediction, control: Control, salt: str = ""
) -> list[Json]:
    """Format predicted regions; leave out those below ``model_score_threshold``.

    Args:
        task: task id.
        region_prediction: prediction of the control.
        control: control of boxes or points.
        salt: distinguishes the ids of the regions from those of the task's pre-annotation and of
            other suggestions; the labeling screen replaces a region by an accepted suggestion with
            the same id.
    """
    pairs = zip(region_prediction.regions, region_prediction.confidence, strict=True)
    visible = [
        (region, probability) for region, probability in pairs if probability >= control.threshold
    ]
    return [
        {
            "id": _item_id(task, control, number, salt),
            "from_name": control.name,
            "to_name": control.to_name,
            "type": RESULT_TYPES[control.kind],
            "original_width": region_prediction.size.width,
            "original_height": region_prediction.size.height,
            "image_rotation": 0,
            "value": _format_value(region, control),
            "score": round(probability, 6),
        }
        for number, (region, probability) in enumerate(visible)
    ]


def complete_regions(
    result: Sequence[Json],
    control: Control,
    skipped_counts: Counter[str],
    served: Collection[str] = (),
) -> Regions | None:
    """Return all regions of one annotation for a control, if they are complete.

    Args:
        result: result of the annotation.
        control: control of boxes or points.
        skipped_counts: receives the number of skipped regions by reason.
        served: names of all served controls.

    Returns:
        the regions; None if an object has an unusable region, because training would treat that
        object as background. Objects of removed labels and negative clicks may be missing.
    """
    reasons: Counter[str] = Counter()
    own_items = [item for item in result if _belongs_to(item, control)]
    regions = tuple(
        region for item in own_items for region in _parse_regions(item, control, reasons)
    )
    skipped_counts.update(reasons)
    has_unusable = reasons.keys() - {REMOVED_LABEL_REASON, NEGATIVE_CLICK_REASON} or (
        reasons and not regions
    )
    return None if has_unusable or _has_unserved_object(result, control, served) else regions


def drawn_regions(result: Sequence[Json], control: Control) -> Regions:
    """Return the usable regions of an unfinished annotation, for smart tools."""
    own_items = [item for item in result if _belongs_to(item, control)]
    return tuple(
        region for item in own_items for region in _parse_regions(item, control, Counter())
    )


def repeat_drawn(result: Sequence[Json], control: Control) -> list[Json]:
    """Return the regions of a control that a person drew, as suggestions with the same ids.

    When all suggestions are accepted, the labeling screen deletes what a smart tool drew. A region
    that is suggested under its own id stays. Regions with a score are accepted suggestions or
    predictions, which it does not delete.

    Args:
        result: the regions of the request, also those that cannot be used as examples.
        control: control that the smart tool belongs to.

    Returns:
        the regions with score 1, and what else is stored under their ids.
    """
    drawn_ids = {
        item["id"]
        for item in result
        if _belongs_to(item, control)
        and item.get("id")
        and item.get("score") is None
        and item.get("is_positive") is not False
    }
    return [{**item, "score": 1.0} for item in result if item.get("id") in drawn_ids]


def count_unserved(
    result: Sequence[Json], served: Iterable[str], skipped_counts: Counter[str]
) -> None:
    """Count the regions of controls that are not served, such as polygons, by reason."""
    served_names = frozenset(served)
    for item in result:
        result_type = str(item.get("type") or "")
        if "from_name" in item and str(item["from_name"]) not in served_names and result_type:
            skipped_counts[f"region of type {result_type}, which is not served"] += 1


def _belongs_to(item: Json, control: Control) -> bool:
    """Return whether a region was drawn with a control, on its image."""
    same_image = item.get("to_name") in (None, control.to_name)
    return item.get("from_name") == control.name and same_image


def _has_unserved_object(result: Sequence[Json], control: Control, served: Collection[str]) -> bool:
    """Return whether an object with a label of a control was drawn as an unserved shape."""
    names = frozenset(control.label_names)
    served_names = {*served, control.name}
    unserved_items = (
        item
        for item in result
        if str(item.get("from_name")) not in served_names
        and item.get("to_name") in (None, control.to_name)
        and str(item.get("type") or "").removesuffix("labels") in UNSERVED_SHAPES
    )
    return any(not names.isdisjoint(_item_labels(item, result)) for item in unserved_items)


def _item_labels(item: Json, result: Sequence[Json]) -> Iterator[str]:
    """Yield the labels of a region, also from results of other tags, which share its id."""
    id = item.get("id")
    for linked_item in (
        candidate for candidate in result if candidate is item or (id and candidate.get("id") == id)
    ):
        for key, names in read_object(linked_item, "value").items():
            if key.endswith(("labels", "choices")) and isinstance(names, list):
                yield from map(str, names)


def _parse_regions(item: Json, control: Control, skipped_counts: Counter[str]) -> Iterator[Region]:
    value = read_object(item, "value")
    corners = _parse_corners(value, control)
    labels = read_strings(value, RESULT_TYPES[control.kind])
    reason = _unusable_reason(item, value, corners, control) or ("" if labels else NO_LABEL_REASON)
    if reason:
        skipped_counts[reason] += 1
        return
    for label in labels:
        if label in control.label_names:
            yield Region(label, *corners)
        else:
            skipped_counts[REMOVED_LABEL_REASON] += 1


def _unusable_reason(
    item: Json, value: Json, corners: tuple[float, float, float, float], control: Control
) -> str:
    if item.get("is_positive") is False:
        return NEGATIVE_CLICK_REASON
    rotation = _rotation_degrees(value.get("rotation"))
    if not all(map(math.isfinite, (*corners, rotation))):
        return "region without coordinates"
    if rotation > MAX_ROTATION_DEGREES:
        return "rotated box"
    if not _rotation_degrees(item.get("image_rotation")) <= MAX_ROTATION_DEGREES:
        return "region drawn on a rotated image"
    x0, y0, x1, y1 = corners
    if x1 < x0 or y1 < y0 or max(x0, y0) > 1 or min(x1, y1) < 0:
        return "region outside the image"
    if control.kind == "boxes" and (x0 == x1 or y0 == y1):
        return "box without area"
    return ""


def _rotation_degrees(rotation: Any) -> float:
    """Return the absolute rotation in degrees, 0 to 180; NaN if it is not a number."""
    try:
        angle = float(rotation or 0) % 360
    except (OverflowError, TypeError, ValueError):
        return math.nan
    return min(angle, 360 - angle)


def _parse_corners(value: Json, control: Control) -> tuple[float, float, float, float]:
    """Return x0 y0 x1 y1, 0 to 1; boxes are clipped to the image, points have no extent.

    The ``width`` of a key point is ignored: it is the size of the dot on the screen.
    """
    x, y = _parse_fraction(value, "x"), _parse_fraction(value, "y")
    if control.kind == "points":
        return x, y, x, y
    w, h = _parse_fraction(value, "width"), _parse_fraction(value, "height")
    return max(x, 0.0), max(y, 0.0), min(x + w, 1.0), min(y + h, 1.0)


def _parse_fraction(value: Mapping[str, Any], name: str) -> float:
    try:
        return float(value[name]) / 100
    except (KeyError, OverflowError, TypeError, ValueError):
        return math.nan


def _format_value(region: Region, control: Control) -> Json:
    labels = {RESULT_TYPES[control.kind]: [region.label]}
    if control.kind == "points":
        x, y = region.center
        return {"x": _to_percent(x), "y": _to_percent(y), "width": POINT_WIDTH_PERCENT, **labels}
    x0, y0 = max(region.x0, 0.0), max(region.y0, 0.0)
    x1, y1 = min(region.x1, 1.0), min(region.y1, 1.0)
    return {
        "x": _to_percent(x0),
        "y": _to_percent(y0),
        "width": _to_percent(x1 - x0),
        "height": _to_percent(y1 - y0),
        "rotation": 0,
        **labels,
    }


def _to_percent(fraction: float) -> float:
    return round(100 * fraction, 6)


def _item_id(task: int, control: Control, number: int, salt: str) -> str:
    return hashlib.sha256(f"{task}/{control.name}/{number}{salt}".encode()).hexdigest()[:10]
