"""Label Studio's boxes and points ↔ places: percent ↔ 0 to 1."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from backend.domain import Control, Finding, Place, Places

Json = dict[str, Any]
TYPES = {"boxes": "rectanglelabels", "points": "keypointlabels"}
DOT = 0.5
"""Width of a drawn point where no size is known, percent of the image's width."""
UPRIGHT = 0.01
"""Degrees below which a rotation is a rounding error."""


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


def marked_by(result: Sequence[Json], control: Control, left: Counter[str]) -> Places | None:
    """What one annotation marks for a control.

    Args:
        result: its regions.
        control: of boxes or points.
        left: counts what is left out, by reason.

    Returns:
        all places; None where every region had to be left out, which is no "there is none".
    """
    own = [region for region in result if region.get("from_name") == control.name]
    own = [region for region in own if region.get("type") == TYPES[control.kind]]
    found = [place for region in own for place in _places(region, control, left)]
    return tuple(found) if found or not own else None


def count_strangers(result: Sequence[Json], served: Iterable[str], left: Counter[str]) -> None:
    """Count the regions of controls that are not served: polygons, brushes, ellipses."""
    known = frozenset(served)
    for region in result:
        kind = str(region.get("type") or "")
        if "from_name" in region and region["from_name"] not in known and kind:
            left[f"region of type {kind}, which is not served"] += 1


def _places(region: Json, control: Control, left: Counter[str]) -> Iterator[Place]:
    value = region.get("value") or {}
    corners = _corners(value, control)
    reason = _why_not(value, corners)
    if reason:
        left[reason] += 1
        return
    for label in value.get(TYPES[control.kind]) or []:
        if label in control.label_names:
            yield Place(str(label), *corners)
        else:
            left["label no longer in the labeling config"] += 1


def _why_not(value: Json, corners: tuple[float, float, float, float]) -> str:
    if not all(map(math.isfinite, corners)):
        return "region without coordinates"
    turned = float(value.get("rotation") or 0) % 360
    if min(turned, 360 - turned) > UPRIGHT:
        return "rotated box"
    x0, y0, x1, y1 = corners
    if x1 < x0 or y1 < y0 or max(x0, y0) > 1 or min(x1, y1) < 0:
        return "region outside the image"
    return ""


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
