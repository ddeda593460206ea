"""Convert a prediction into response JSON, in the format of Nyckel's API."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from backend.domain import Control, Region
from backend.endpoint.functions import LoadedVersion
from backend.endpoint.problems import ProblemError
from backend.endpoint.schemas import BoundingBox, HttpJsonObject, ImagePoint
from backend.inference.model import MULTIPLE_LABEL_THRESHOLD
from backend.inference.predict_image import ImagePrediction

DEFAULT_LABEL_COUNT = 10
"""Default number of labels in ``labelConfidences``."""
ROUNDING_DIGITS = 4


@dataclass(frozen=True)
class ResponseOptions:
    """Options of a request.

    Attributes:
        label_count: maximum number of labels in ``labelConfidences``.
        threshold: minimum confidence, 0 to 1; None for the version's threshold.
        control: name of a control; empty for all, with the first at the top level.
    """

    label_count: int = DEFAULT_LABEL_COUNT
    threshold: float | None = None
    control: str = ""


DEFAULT_OPTIONS = ResponseOptions()


def control_type(control: Control) -> str:
    """Return the API's name for the type of a control."""
    if control.kind != "choices":
        return control.kind
    return "several-of-many" if control.multiple else "one-of-many"


def build_response(
    loaded: LoadedVersion, prediction: ImagePrediction, options: ResponseOptions
) -> HttpJsonObject:
    """Return the response to one image.

    Raises:
        ProblemError: the requested control does not exist, or has no model yet.
    """
    predicted = prediction.label_probabilities.keys() | prediction.regions.keys()
    controls = [control for control in loaded.controls if control.name in predicted]
    requested = [c for c in controls if options.control in ("", c.name)]
    if not requested:
        names = ", ".join(control.name for control in controls) or "none yet"
        raise ProblemError(404, "no-control", f"This version predicts these controls: {names}.")
    responses = {c.name: _control_response(c, prediction, options) for c in requested}
    first = responses[requested[0].name]
    return {**first, "controls": responses} if len(responses) > 1 else first


def _control_response(
    control: Control, prediction: ImagePrediction, options: ResponseOptions
) -> HttpJsonObject:
    if control.kind != "choices":
        return _regions_response(control, prediction, options)
    ranked = prediction.label_probabilities[control.name]
    rows = [_label_row(name, confidence) for name, confidence in ranked.items()]
    label_confidences = rows[: options.label_count]
    if control.multiple:
        threshold = MULTIPLE_LABEL_THRESHOLD if options.threshold is None else options.threshold
        above = [confidence >= threshold for confidence in ranked.values()]
        labels = [row for row, is_above in zip(rows, above, strict=True) if is_above]
        return {"labels": labels, "labelConfidences": label_confidences}
    name, confidence = next(iter(ranked.items()), (None, 0.0))
    return {
        "labelName": name if confidence >= (options.threshold or 0.0) else None,
        "confidence": round(confidence, ROUNDING_DIGITS),
        "labelConfidences": label_confidences,
    }


def _regions_response(
    control: Control, prediction: ImagePrediction, options: ResponseOptions
) -> HttpJsonObject:
    default_threshold = prediction.thresholds[control.name]
    threshold = default_threshold if options.threshold is None else options.threshold
    visible = [
        (region, confidence)
        for region, confidence in zip(*prediction.regions[control.name], strict=True)
        if confidence >= threshold
    ]
    counts = Counter(region.label for region, _ in visible)
    return {
        "predictions": [
            {**_label_row(region.label, confidence), **_geometry(control, region)}
            for region, confidence in visible
        ],
        "counts": {name: counts[name] for name in control.label_names},
    }


def _geometry(control: Control, region: Region) -> HttpJsonObject:
    if control.kind == "points":
        x, y = region.center
        return {"center": _rounded(x=x, y=y)}
    width, height = region.x1 - region.x0, region.y1 - region.y0
    return {"boundingBox": _rounded(x=region.x0, y=region.y0, width=width, height=height)}


def _rounded(**values: float) -> dict[str, float]:
    return {name: round(value, ROUNDING_DIGITS) for name, value in values.items()}


def _label_row(name: str, confidence: float) -> HttpJsonObject:
    return {"labelName": name, "confidence": round(confidence, ROUNDING_DIGITS)}


def to_region(label: str, box: BoundingBox | None, center: ImagePoint | None) -> Region:
    """Return an object of the API's JSON, which has a box or a center, as a region.

    Raises:
        ValueError: it has neither.
    """
    if box is not None:
        return Region(
            label, box.x, box.y, min(1.0, box.x + box.width), min(1.0, box.y + box.height)
        )
    if center is None:
        raise ValueError("an object needs a boundingBox or a center")
    return Region(label, center.x, center.y, center.x, center.y)
