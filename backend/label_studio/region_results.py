"""Label Studio's boxes and points ↔ places: percent ↔ 0 to 1."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from backend.domain import Control, Region, RegionPrediction, Regions
from backend.label_studio import Json

RESULT_TYPES = {"boxes": "rectanglelabels", "points": "keypointlabels"}
POINT_WIDTH_PERCENT = 0.5
"""Width of a drawn point where no size is known, percent of the image's width."""
MAX_ROTATION_DEGREES = 0.01
"""Degrees below which a rotation is a rounding error."""
NO_LABEL_REASON = "region without a label"
REMOVED_LABEL_REASON = "label no longer in the labeling config"
NEGATIVE_CLICK_REASON = "click on what is not meant"
UNSERVED_SHAPES = frozenset(("rectangle", "polygon", "ellipse", "brush", "bitmask", "vector"))
"""In which objects are drawn by controls that are not served; a key point may be a mere hint."""


def format_regions(
    task: int, region_prediction: RegionPrediction, control: Control, salt: str = ""
) -> list[Json]:
    """The regions of a finding; objects below ``model_score_threshold`` are left out.

    Args:
        task: the task's number.
        region_prediction: of the control.
        control: of boxes or points.
        salt: makes the regions' ids differ from those of the same task's pre-annotation, and
            from those of other suggestions. The labeling screen replaces a region by an accepted
            suggestion with the same id.
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
    """All objects that one annotation marks for a control.

    Args:
        result: its regions.
        control: of boxes or points.
        skipped_counts: counts what is left out, by reason.
        served: the names of all controls that are.

    Returns:
        all places; None where not all are known: an object that was drawn and cannot be used would
        pass for background. A label that left the config makes no object one of the others.
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
    """The usable places of a drawing that need not be complete: what a smart tool was used on."""
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
        control: that the smart tool belongs to.

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
    """Count the regions of controls that are not served: polygons, brushes, ellipses."""
    served_names = frozenset(served)
    for item in result:
        result_type = str(item.get("type") or "")
        if "from_name" in item and item["from_name"] not in served_names and result_type:
            skipped_counts[f"region of type {result_type}, which is not served"] += 1


def _belongs_to(item: Json, control: Control) -> bool:
    """Whether a region was drawn with a control, on its image."""
    same_image = item.get("to_name") in (None, control.to_name)
    return item.get("from_name") == control.name and same_image


def _has_unserved_object(result: Sequence[Json], control: Control, served: Collection[str]) -> bool:
    """Whether an object of a control's labels was drawn in a shape that is not served."""
    names = frozenset(control.label_names)
    served_names = {*served, control.name}
    unserved_items = (
        item
        for item in result
        if item.get("from_name") not in served_names
        and item.get("to_name") in (None, control.to_name)
        and str(item.get("type") or "").removesuffix("labels") in UNSERVED_SHAPES
    )
    return any(not names.isdisjoint(_item_labels(item, result)) for item in unserved_items)


def _item_labels(item: Json, result: Sequence[Json]) -> Iterator[str]:
    """Its labels, also where the config has a tag of its own for them: then its id is shared."""
    id = item.get("id")
    for linked_item in (
        candidate for candidate in result if candidate is item or (id and candidate.get("id") == id)
    ):
        for key, names in _item_value(linked_item).items():
            if key.endswith(("labels", "choices")) and isinstance(names, list):
                yield from map(str, names)


def _parse_regions(item: Json, control: Control, skipped_counts: Counter[str]) -> Iterator[Region]:
    value = _item_value(item)
    corners = _parse_corners(value, control)
    label_list = value.get(RESULT_TYPES[control.kind])
    labels = label_list if isinstance(label_list, list) else []
    reason = _unusable_reason(item, value, corners, control) or ("" if labels else NO_LABEL_REASON)
    if reason:
        skipped_counts[reason] += 1
        return
    for label in labels:
        if label in control.label_names:
            yield Region(str(label), *corners)
        else:
            skipped_counts[REMOVED_LABEL_REASON] += 1


def _item_value(item: Json) -> Json:
    value = item.get("value")
    return value if isinstance(value, dict) else {}


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
        return "region drawn on a turned image"
    x0, y0, x1, y1 = corners
    if x1 < x0 or y1 < y0 or max(x0, y0) > 1 or min(x1, y1) < 0:
        return "region outside the image"
    if control.kind == "boxes" and (x0 == x1 or y0 == y1):
        return "box without area"
    return ""


def _rotation_degrees(rotation: Any) -> float:
    """How far something is turned either way, 0 to 180; NaN where that cannot be read."""
    try:
        angle = float(rotation or 0) % 360
    except (TypeError, ValueError):
        return math.nan
    return min(angle, 360 - angle)


def _parse_corners(value: Json, control: Control) -> tuple[float, float, float, float]:
    """x0 y0 x1 y1, 0 to 1; a box is cut off at the image's edge. A point has no extent.

    The ``width`` of a key point is that of the dot on the screen, not of the object.
    """
    x, y = _parse_fraction(value, "x"), _parse_fraction(value, "y")
    if control.kind == "points":
        return x, y, x, y
    w, h = _parse_fraction(value, "width"), _parse_fraction(value, "height")
    return max(x, 0.0), max(y, 0.0), min(x + w, 1.0), min(y + h, 1.0)


def _parse_fraction(value: Mapping[str, Any], name: str) -> float:
    try:
        return float(value[name]) / 100
    except (KeyError, TypeError, ValueError):
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
