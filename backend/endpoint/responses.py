"""What a model said → the response, in the form that Nyckel's users know."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from backend.domain import Control
from backend.endpoint.functions import Loaded
from backend.endpoint.problems import Problem
from backend.inference.predict_image import Said

LABELS = 10
"""Labels in ``labelConfidences`` where the request does not say how many."""
CHOSEN = 0.5
"""Confidence from which a label of several of many is given."""
DIGITS = 4


@dataclass(frozen=True)
class Wish:
    """What a request wants to know.

    Attributes:
        labels: how many labels to list.
        threshold: confidence from which an answer is given, 0 to 1; None: the version's own.
        control: name of one control; empty: the first is the answer, the others stand beside it.
    """

    labels: int = LABELS
    threshold: float | None = None
    control: str = ""


def kind_of(control: Control) -> str:
    """What a control answers, in the API's words."""
    if control.kind != "choices":
        return control.kind
    return "several-of-many" if control.multiple else "one-of-many"


def answer(loaded: Loaded, said: Said, wish: Wish) -> dict[str, Any]:
    """The response to one image.

    Raises:
        Problem: there is no control of that name, or nothing answers it yet.
    """
    answered = [c for c in loaded.controls if c.name in said.chosen or c.name in said.found]
    wanted = [c for c in answered if c.name == wish.control] if wish.control else answered
    if not wanted:
        names = ", ".join(c.name for c in answered) or "none yet"
        raise Problem(404, "no-control", f"This version answers these controls: {names}.")
    first = _one(wanted[0], said, wish)
    if len(wanted) > 1:
        first["controls"] = {control.name: _one(control, said, wish) for control in wanted}
    return first


def _one(control: Control, said: Said, wish: Wish) -> dict[str, Any]:
    if control.kind != "choices":
        return _places(control, said, wish)
    ranked = said.chosen[control.name]
    listed = [_label(name, p) for name, p in list(ranked.items())[: wish.labels]]
    if control.multiple:
        least = CHOSEN if wish.threshold is None else wish.threshold
        labels = [_label(name, p) for name, p in ranked.items() if p >= least]
        return {"labels": labels, "labelConfidences": listed}
    name, confidence = next(iter(ranked.items()), (None, 0.0))
    sure = confidence >= (wish.threshold or 0.0)
    return {
        "labelName": name if sure else None,
        "confidence": round(confidence, DIGITS),
        "labelConfidences": listed,
    }


def _places(control: Control, said: Said, wish: Wish) -> dict[str, Any]:
    least = said.shown[control.name] if wish.threshold is None else wish.threshold
    rows = [
        (place, confidence)
        for place, confidence in zip(*said.found[control.name], strict=True)
        if confidence >= least
    ]
    found = []
    for place, confidence in rows:
        x, y = place.centre
        box = {
            "x": round(place.x0, DIGITS),
            "y": round(place.y0, DIGITS),
            "width": round(place.x1 - place.x0, DIGITS),
            "height": round(place.y1 - place.y0, DIGITS),
        }
        where: dict[str, Any] = {"boundingBox": box}
        if control.kind == "points":
            where = {"center": {"x": round(x, DIGITS), "y": round(y, DIGITS)}}
        found.append({**_label(place.label, confidence), **where})
    counts = Counter(place.label for place, _ in rows)
    return {
        "predictions": found,
        "counts": {name: counts[name] for name in control.label_names},
    }


def _label(name: str, confidence: float) -> dict[str, Any]:
    return {"labelName": name, "confidence": round(confidence, DIGITS)}
