"""Label Studio's boxes and points ↔ places: percent ↔ 0 to 1."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from backend.domain import Control, Finding, Place, Places

Json = dict[str, Any]
TYPES = {"boxes": "rectanglelabels", "points": "keypointlabels"}
DOT = 0.5
"""Width of a drawn point where no size is known, percent of the image's width."""
UPRIGHT = 0.01
"""Degrees below which a rotation is a rounding error."""
NO_LABEL = "region without a label"
NO_LABEL_NOW = "label no longer in the labeling config"
NO_OBJECT = "click on what is not meant"
SHAPES = frozenset(("rectangle", "polygon", "ellipse", "brush", "bitmask", "vector"))
"""In which objects are drawn by controls that are not served; a key point may be a mere hint."""


def place_regions(task: int, finding: Finding, control: Control, salt: str = "") -> list[Json]:
    """The regions of a finding; objects below ``model_score_threshold`` are left out.

    Args:
        task: the task's number.
        finding: of the control.
        control: of boxes or points.
        salt: makes the regions' ids differ from those of the same task's pre-annotation.
    """
    pairs = zip(finding.places, finding.confidence, strict=True)
    shown = [(place, belief) for place, belief in pairs if belief >= control.threshold]
    return [
        {
            "id": _id(task, control, number, salt),
            "from_name": control.name,
            "to_name": control.to_name,
            "type": TYPES[control.kind],
            "original_width": finding.size.width,
            "original_height": finding.size.height,
            "image_rotation": 0,
            "value": _value(place, control),
            "score": round(belief, 6),
        }
        for number, (place, belief) in enumerate(shown)
    ]


def marked_by(
    result: Sequence[Json],
    control: Control,
    left: Counter[str],
    served: Collection[str] = (),
) -> Places | None:
    """All objects that one annotation marks for a control.

    Args:
        result: its regions.
        control: of boxes or points.
        left: counts what is left out, by reason.
        served: the names of all controls that are.

    Returns:
        all places; None where not all are known: an object that was drawn and cannot be used would
        pass for background. A label that left the config makes no object one of the others.
    """
    reasons: Counter[str] = Counter()
    own = [region for region in result if _is_own(region, control)]
    found = tuple(place for region in own for place in _places(region, control, reasons))
    left.update(reasons)
    unusable = reasons.keys() - {NO_LABEL_NOW, NO_OBJECT} or (reasons and not found)
    return None if unusable or _drawn_otherwise(result, control, served) else found


def drawn_by(result: Sequence[Json], control: Control) -> Places:
    """The usable places of a drawing that need not be complete: what a smart tool was used on."""
    own = [region for region in result if _is_own(region, control)]
    return tuple(place for region in own for place in _places(region, control, Counter()))


def count_strangers(result: Sequence[Json], served: Iterable[str], left: Counter[str]) -> None:
    """Count the regions of controls that are not served: polygons, brushes, ellipses."""
    known = frozenset(served)
    for region in result:
        kind = str(region.get("type") or "")
        if "from_name" in region and region["from_name"] not in known and kind:
            left[f"region of type {kind}, which is not served"] += 1


def _is_own(region: Json, control: Control) -> bool:
    """Whether a region was drawn with a control, on its image."""
    same_image = region.get("to_name") in (None, control.to_name)
    return region.get("from_name") == control.name and same_image


def _drawn_otherwise(result: Sequence[Json], control: Control, served: Collection[str]) -> bool:
    """Whether an object of a control's labels was drawn in a shape that is not served."""
    names = frozenset(control.label_names)
    known = {*served, control.name}
    strangers = (
        region
        for region in result
        if region.get("from_name") not in known
        and region.get("to_name") in (None, control.to_name)
        and str(region.get("type") or "").removesuffix("labels") in SHAPES
    )
    return any(not names.isdisjoint(_labels_of(region, result)) for region in strangers)


def _labels_of(region: Json, result: Sequence[Json]) -> Iterator[str]:
    """Its labels, also where the config has a tag of its own for them: then its id is shared."""
    id = region.get("id")
    for part in (one for one in result if one is region or (id and one.get("id") == id)):
        for key, names in _value_of(part).items():
            if key.endswith(("labels", "choices")) and isinstance(names, list):
                yield from map(str, names)


def _places(region: Json, control: Control, left: Counter[str]) -> Iterator[Place]:
    value = _value_of(region)
    corners = _corners(value, control)
    given = value.get(TYPES[control.kind])
    labels = given if isinstance(given, list) else []
    reason = _why_not(region, value, corners, control) or ("" if labels else NO_LABEL)
    if reason:
        left[reason] += 1
        return
    for label in labels:
        if label in control.label_names:
            yield Place(str(label), *corners)
        else:
            left[NO_LABEL_NOW] += 1


def _value_of(region: Json) -> Json:
    value = region.get("value")
    return value if isinstance(value, dict) else {}


def _why_not(
    region: Json, value: Json, corners: tuple[float, float, float, float], control: Control
) -> str:
    if region.get("is_positive") is False:
        return NO_OBJECT
    turned = _degrees(value.get("rotation"))
    if not all(map(math.isfinite, (*corners, turned))):
        return "region without coordinates"
    if turned > UPRIGHT:
        return "rotated box"
    if not _degrees(region.get("image_rotation")) <= UPRIGHT:
        return "region drawn on a turned image"
    x0, y0, x1, y1 = corners
    if x1 < x0 or y1 < y0 or max(x0, y0) > 1 or min(x1, y1) < 0:
        return "region outside the image"
    if control.kind == "boxes" and (x0 == x1 or y0 == y1):
        return "box without area"
    return ""


def _degrees(turned: Any) -> float:
    """How far something is turned either way, 0 to 180; NaN where that cannot be read."""
    try:
        angle = float(turned or 0) % 360
    except (TypeError, ValueError):
        return math.nan
    return min(angle, 360 - angle)


def _corners(value: Json, control: Control) -> tuple[float, float, float, float]:
    """x0 y0 x1 y1, 0 to 1; a box is cut off at the image's edge. A point has no extent.

    The ``width`` of a key point is that of the dot on the screen, not of the object.
    """
    x, y = _share(value, "x"), _share(value, "y")
    if control.kind == "points":
        return x, y, x, y
    w, h = _share(value, "width"), _share(value, "height")
    return max(x, 0.0), max(y, 0.0), min(x + w, 1.0), min(y + h, 1.0)


def _share(value: Mapping[str, Any], name: str) -> float:
    try:
        return float(value[name]) / 100
    except (KeyError, TypeError, ValueError):
        return math.nan


def _value(place: Place, control: Control) -> Json:
    labels = {TYPES[control.kind]: [place.label]}
    if control.kind == "points":
        x, y = place.centre
        return {"x": _percent(x), "y": _percent(y), "width": DOT, **labels}
    x0, y0 = max(place.x0, 0.0), max(place.y0, 0.0)
    x1, y1 = min(place.x1, 1.0), min(place.y1, 1.0)
    return {
        "x": _percent(x0),
        "y": _percent(y0),
        "width": _percent(x1 - x0),
        "height": _percent(y1 - y0),
        "rotation": 0,
        **labels,
    }


def _percent(share: float) -> float:
    return round(100 * share, 6)


def _id(task: int, control: Control, number: int, salt: str) -> str:
    return hashlib.sha256(f"{task}/{control.name}/{number}{salt}".encode()).hexdigest()[:10]
