"""A person's answer, sent by an application → regions as Label Studio takes them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from backend.domain import Choice, Control, Finding, ImageSize, Place, Prediction
from backend.endpoint.functions import Loaded
from backend.endpoint.problems import Problem
from backend.label_studio.task_results import prediction_json

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=500)]


class Point(BaseModel):
    """0 to 1 from the top left corner."""

    model_config = ConfigDict(extra="forbid")

    x: Share
    y: Share


class Box(Point):
    """0 to 1; x and y are those of the top left corner."""

    width: Share
    height: Share


class MarkedObject(BaseModel):
    """An object: a box, or its centre."""

    model_config = ConfigDict(extra="forbid")

    labelName: Name
    boundingBox: Box | None = None
    center: Point | None = None


class Correction(BaseModel):
    """The right answer: one label, several, or all objects; what the function answers decides."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"labelName": "wilting"}]}
    )

    labelName: Name | None = None
    labelNames: list[Name] | None = None
    predictions: Annotated[list[MarkedObject], Field(max_length=10_000)] | None = None
    control: str = ""
    data: str | None = Field(
        default=None,
        description="The image (base64 or data URI), where the endpoint did not keep it.",
    )


def regions_of(loaded: Loaded, correction: Correction, size: ImageSize) -> list[dict[str, Any]]:
    """The regions of a correction.

    Args:
        loaded: the version whose controls are answered.
        correction: the answer.
        size: of the image, pixels.

    Raises:
        Problem: it does not answer what the function asks.
    """
    named = {control.name: control for control in loaded.controls}
    control = named.get(correction.control) if correction.control else loaded.controls[0]
    if control is None:
        raise Problem(422, "no-control", f"There are these controls: {', '.join(named)}.")
    if control.kind == "choices":
        labels = _labels(control, correction)
        choice = Choice(control.name, dict.fromkeys(labels, 1.0), size)
        prediction = Prediction(0, (choice,), 1.0)
    else:
        places = tuple(_place(control, one) for one in _objects(control, correction))
        finding = Finding(control.name, places, (1.0,) * len(places), size)
        prediction = Prediction(0, (), 1.0, (finding,))
    result = prediction_json(prediction, {control.name: control}, "")["result"]
    return [{k: v for k, v in region.items() if k != "score"} for region in result]


def _labels(control: Control, correction: Correction) -> list[str]:
    labels = list(correction.labelNames or [])
    labels += [correction.labelName] if correction.labelName else []
    answered = correction.labelName or correction.labelNames is not None
    if not answered or (not control.multiple and len(labels) != 1):
        wanted = "labelNames, a list" if control.multiple else "labelName, one label"
        raise Problem(422, "no-answer", f"This function is answered with {wanted}.")
    for label in labels:
        _known(control, label)
    return labels


def _objects(control: Control, correction: Correction) -> list[MarkedObject]:
    if correction.predictions is None:
        what = "boundingBox" if control.kind == "boxes" else "center"
        raise Problem(
            422,
            "no-answer",
            f'This function is answered with predictions: [{{"labelName": …, "{what}": …}}], all '
            "objects of the image.",
        )
    return correction.predictions


def _place(control: Control, one: MarkedObject) -> Place:
    label = _known(control, one.labelName)
    if control.kind == "points":
        if one.center is None:
            raise Problem(422, "no-answer", "Each object of this function needs its center.")
        return Place(label, one.center.x, one.center.y, one.center.x, one.center.y)
    if one.boundingBox is None:
        raise Problem(422, "no-answer", "Each object of this function needs its boundingBox.")
    box = one.boundingBox
    return Place(label, box.x, box.y, min(1.0, box.x + box.width), min(1.0, box.y + box.height))


def _known(control: Control, label: str) -> str:
    if label not in control.label_names:
        known = ", ".join(control.label_names)
        raise Problem(422, "no-label", f"There is no label {label[:80]!r}; there is: {known}.")
    return label
