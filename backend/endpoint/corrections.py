"""Convert corrections that applications send into Label Studio's regions."""

from __future__ import annotations

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
from backend.endpoint.responses import to_region
from backend.endpoint.schemas import CorrectedObject, Correction, HttpJsonObject
from backend.label_studio.task_results import format_prediction


def correction_regions(
    loaded: LoadedVersion, correction: Correction, size: ImageSize
) -> list[HttpJsonObject]:
    """Return the regions of a correction in the format of an annotation's ``result``.

    Args:
        loaded: a version of the function, which defines the controls.
        correction: the correction.
        size: size of the image in pixels.

    Raises:
        ProblemError: the correction does not fit the function.
    """
    control = _find_control(loaded, correction.control)
    if control.kind == "choices":
        labels = _correction_labels(control, correction)
        choice = ChoicePrediction(control.name, dict.fromkeys(labels, 1.0), size)
        prediction = Prediction(0, (choice,), 1.0)
    else:
        regions = _object_regions(control, correction)
        region_prediction = RegionPrediction(control.name, regions, (1.0,) * len(regions), size)
        prediction = Prediction(0, (), 1.0, (region_prediction,))
    result = format_prediction(prediction, {control.name: control}, "")["result"]
    return [{name: value for name, value in row.items() if name != "score"} for row in result]


def _find_control(loaded: LoadedVersion, name: str) -> Control:
    if not name:
        return loaded.controls[0]
    controls_by_name = {control.name: control for control in loaded.controls}
    if name not in controls_by_name:
        names = ", ".join(controls_by_name)
        raise ProblemError(422, "no-control", f"This function has these controls: {names}.")
    return controls_by_name[name]


def _correction_labels(control: Control, correction: Correction) -> list[str]:
    labels = list(correction.labelNames or [])
    labels += [correction.labelName] if correction.labelName else []
    has_labels = correction.labelName or correction.labelNames is not None
    if not has_labels or (not control.multiple and len(labels) != 1):
        expected = "labelNames, a list" if control.multiple else "labelName, one label"
        raise ProblemError(422, "no-answer", f"A correction of this function needs {expected}.")
    for label in labels:
        _check_label(control, label)
    return labels


def _object_regions(control: Control, correction: Correction) -> tuple[Region, ...]:
    geometry = "boundingBox" if control.kind == "boxes" else "center"
    if correction.predictions is None:
        raise ProblemError(
            422,
            "no-answer",
            "A correction of this function needs all objects of the image: predictions: "
            f'[{{"labelName": …, "{geometry}": …}}].',
        )
    return tuple(_object_region(control, item, geometry) for item in correction.predictions)


def _object_region(control: Control, item: CorrectedObject, geometry: str) -> Region:
    _check_label(control, item.labelName)
    box = item.boundingBox if control.kind == "boxes" else None
    center = item.center if control.kind == "points" else None
    if box is None and center is None:
        raise ProblemError(422, "no-answer", f"Each object of this function needs its {geometry}.")
    return to_region(item.labelName, box, center)


def _check_label(control: Control, label: str) -> None:
    if label not in control.label_names:
        names = ", ".join(control.label_names)
        message = f"There is no label {label[:80]!r}; the labels are: {names}."
        raise ProblemError(422, "no-label", message)
