"""The predictions for an image that a person tries, as the template renders them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from backend.estimate import format_percent
from backend.json_records import JsonObject


@dataclass(frozen=True)
class TriedImage:
    """The endpoint's response to an image.

    Attributes:
        version: the version that predicted.
        controls: control → its predictions in words; the only control has no name.
    """

    version: str
    controls: Mapping[str, Sequence[str]]

    @classmethod
    def from_response(cls, response: JsonObject) -> Self:
        """Return the predictions of a response."""
        controls = response.get("controls") or {"": response}
        return cls(
            str(response["version"]),
            {name: _describe_control(control) for name, control in controls.items()},
        )


def _describe_control(control: JsonObject) -> list[str]:
    if "predictions" in control:
        regions = [_describe_region(region) for region in control["predictions"]]
        return regions or ["no objects"]
    return [_describe_label(row) for row in control["labelConfidences"]]


def _describe_region(region: JsonObject) -> str:
    if "center" in region:
        center = region["center"]
        place = f"at {_place(center['x'], center['y'])}"
    else:
        box = region["boundingBox"]
        far_corner = _place(box["x"] + box["width"], box["y"] + box["height"])
        place = f"from {_place(box['x'], box['y'])} to {far_corner}"
    return f"{_describe_label(region)} {place}"


def _place(x: float, y: float) -> str:
    return f"{format_percent(x)} of the width and {format_percent(y)} of the height"


def _describe_label(row: JsonObject) -> str:
    return f"{row['labelName']} {format_percent(row['confidence'])}"
