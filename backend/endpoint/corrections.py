"""A person's answer, sent by an application → regions as Label Studio takes them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from backend.domain import (
    ChoicePrediction,
    Control,
    ImageSize,
    Prediction,
    Region,
    RegionPrediction,
)
from backend.endpoint.functions import LoadedVersion
from backend.endpoint.problems import ProblemError
from backend.label_studio.task_results import format_prediction

UnitFloat = Annotated[float, Field(ge=0, le=1)]
LabelName = Annotated[str, Field(min_length=1, max_length=500)]


class CorrectionPoint(BaseModel):
    """0 to 1 from the top left corner."""

    model_config = ConfigDict(extra="forbid")

    x: UnitFloat
    y: UnitFloat


class CorrectionBox(CorrectionPoint):
    """0 to 1; x and y are those of the top left corner."""

    width: UnitFloat
    height: UnitFloat


class CorrectedObject(BaseModel):
    """An object: a box, or its centre."""

    model_config = ConfigDict(extra="forbid")

    labelName: LabelName
    boundingBox: CorrectionBox | None = None
    center: CorrectionPoint | None = None


class Correction(BaseModel):
    """The right answer: one label, several, or all objects; what the function answers decides."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"labelName": "wilting"}]}
    )

    labelName: LabelName | None = None
    labelNames: list[LabelName] | None = None
    predictions: Annotated[list[CorrectedObject], Field(max_length=10_000)] | None = None
    control: str = ""
    data: str | None = Field(
        default=None,
        description="The image (base64 or data URI), where the endpoint did not keep it.",
    )


def correction_regions(
    loaded: LoadedVersion, correction: Correction, size: ImageSize
) -> list[dict[str, Any]]:
    """The regions of a correction.

    Args:
        loaded: the version whose controls are answered.
        correction: the answer.
        size: of the image, pixels.

    Raises:
        ProblemError: it does not answer what the function asks.
    """
    controls_by_name = {control.name: control for control in loaded.controls}
    control = controls_by_name.get(correction.control) if correction.control else loaded.controls[0]
    if control is None:
        raise ProblemError(
            422, "no-control", f"There are these controls: {', '.join(controls_by_name)}."
        )
    if control.kind == "choices":
        labels = _parse_labels(control, correction)
        choice = ChoicePrediction(control.name, dict.fromkeys(labels, 1.0), size)
        prediction = Prediction(0, (choice,), 1.0)
    else:
        regions = tuple(
            _object_region(control, corrected_object)
            for corrected_object in _parse_objects(control, correction)
        )
        region_prediction = RegionPrediction(control.name, regions, (1.0,) * len(regions), size)
        prediction = Prediction(0, (), 1.0, (region_prediction,))
    result = format_prediction(prediction, {control.name: control}, "")["result"]
    return [
        {field_name: value for field_name, value in region.items() if field_name != "score"}
        for region in result
    ]


def _parse_labels(control: Control, correction: Correction) -> list[str]:
    labels = list(correction.labelNames or [])
    labels += [correction.labelName] if correction.labelName else []
    has_answer = correction.labelName or correction.labelNames is not None
    if not has_answer or (not control.multiple and len(labels) != 1):
        expected_fields = "labelNames, a list" if control.multiple else "labelName, one label"
        raise ProblemError(422, "no-answer", f"This function is answered with {expected_fields}.")
    for label in labels:
        _check_label(control, label)
    return labels


def _parse_objects(control: Control, correction: Correction) -> list[CorrectedObject]:
    if correction.predictions is None:
        geometry_field = "boundingBox" if control.kind == "boxes" else "center"
        raise ProblemError(
            422,
            "no-answer",
            f'This function is answered with predictions: [{{"labelName": …, "{geometry_field}": …}}], all '
            "objects of the image.",
        )
    return correction.predictions


def _object_region(control: Control, corrected_object: CorrectedObject) -> Region:
    label = _check_label(control, corrected_object.labelName)
    if control.kind == "points":
        if corrected_object.center is None:
            raise ProblemError(422, "no-answer", "Each object of this function needs its center.")
        return Region(
            label,
            corrected_object.center.x,
            corrected_object.center.y,
            corrected_object.center.x,
            corrected_object.center.y,
        )
    if corrected_object.boundingBox is None:
        raise ProblemError(422, "no-answer", "Each object of this function needs its boundingBox.")
    box = corrected_object.boundingBox
    return Region(label, box.x, box.y, min(1.0, box.x + box.width), min(1.0, box.y + box.height))


def _check_label(control: Control, label: str) -> str:
    if label not in control.label_names:
        known_labels = ", ".join(control.label_names)
        raise ProblemError(
            422, "no-label", f"There is no label {label[:80]!r}; there is: {known_labels}."
        )
    return label
