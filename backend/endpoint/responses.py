"""What a model said → the response, in the form that Nyckel's users know."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from backend.domain import Control
from backend.endpoint.functions import LoadedVersion
from backend.endpoint.problems import ProblemError
from backend.inference.predict_image import ImagePrediction

DEFAULT_LABEL_COUNT = 10
"""Labels in ``labelConfidences`` where the request does not say how many."""
MULTIPLE_LABEL_THRESHOLD = 0.5
"""Confidence from which a label of several of many is given."""
ROUNDING_DIGITS = 4


@dataclass(frozen=True)
class ResponseOptions:
    """What a request wants to know.

    Attributes:
        label_count: how many labels to list.
        threshold: confidence from which an answer is given, 0 to 1; None: the version's own.
        control: name of one control; empty: the first is the answer, the others stand beside it.
    """

    label_count: int = DEFAULT_LABEL_COUNT
    threshold: float | None = None
    control: str = ""


def control_type(control: Control) -> str:
    """What a control answers, in the API's words."""
    if control.kind != "choices":
        return control.kind
    return "several-of-many" if control.multiple else "one-of-many"


def build_response(
    loaded: LoadedVersion, prediction: ImagePrediction, options: ResponseOptions
) -> dict[str, Any]:
    """The response to one image.

    Raises:
        ProblemError: there is no control of that name, or nothing answers it yet.
    """
    available_controls = [
        c
        for c in loaded.controls
        if c.name in prediction.label_probabilities or c.name in prediction.regions
    ]
    requested_controls = (
        [c for c in available_controls if c.name == options.control]
        if options.control
        else available_controls
    )
    if not requested_controls:
        names = ", ".join(c.name for c in available_controls) or "none yet"
        raise ProblemError(404, "no-control", f"This version answers these controls: {names}.")
    response = _control_response(requested_controls[0], prediction, options)
    if len(requested_controls) > 1:
        response["controls"] = {
            control.name: _control_response(control, prediction, options)
            for control in requested_controls
        }
    return response


def _control_response(
    control: Control, prediction: ImagePrediction, options: ResponseOptions
) -> dict[str, Any]:
    if control.kind != "choices":
        return _regions_response(control, prediction, options)
    ranked = prediction.label_probabilities[control.name]
    label_rows = [
        _label_row(name, label_confidence)
        for name, label_confidence in list(ranked.items())[: options.label_count]
    ]
    if control.multiple:
        min_confidence = (
            MULTIPLE_LABEL_THRESHOLD if options.threshold is None else options.threshold
        )
        labels = [
            _label_row(name, label_confidence)
            for name, label_confidence in ranked.items()
            if label_confidence >= min_confidence
        ]
        return {"labels": labels, "labelConfidences": label_rows}
    name, confidence = next(iter(ranked.items()), (None, 0.0))
    is_confident = confidence >= (options.threshold or 0.0)
    return {
        "labelName": name if is_confident else None,
        "confidence": round(confidence, ROUNDING_DIGITS),
        "labelConfidences": label_rows,
    }


def _regions_response(
    control: Control, prediction: ImagePrediction, options: ResponseOptions
) -> dict[str, Any]:
    min_confidence = (
        prediction.thresholds[control.name] if options.threshold is None else options.threshold
    )
    visible_regions = [
        (region, confidence)
        for region, confidence in zip(*prediction.regions[control.name], strict=True)
        if confidence >= min_confidence
    ]
    object_rows = []
    for region, confidence in visible_regions:
        x, y = region.center
        box = {
            "x": round(region.x0, ROUNDING_DIGITS),
            "y": round(region.y0, ROUNDING_DIGITS),
            "width": round(region.x1 - region.x0, ROUNDING_DIGITS),
            "height": round(region.y1 - region.y0, ROUNDING_DIGITS),
        }
        geometry: dict[str, Any] = {"boundingBox": box}
        if control.kind == "points":
            geometry = {"center": {"x": round(x, ROUNDING_DIGITS), "y": round(y, ROUNDING_DIGITS)}}
        object_rows.append({**_label_row(region.label, confidence), **geometry})
    counts = Counter(region.label for region, _ in visible_regions)
    return {
        "predictions": object_rows,
        "counts": {name: counts[name] for name in control.label_names},
    }


def _label_row(name: str, confidence: float) -> dict[str, Any]:
    return {"labelName": name, "confidence": round(confidence, ROUNDING_DIGITS)}
