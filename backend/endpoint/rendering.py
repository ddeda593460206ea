"""A response for eyes: marks to draw on the image, and a line of words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backend.domain import Region
from backend.endpoint.functions import LoadedVersion
from backend.endpoint.invoker import read_image
from backend.endpoint.responses import ResponseOptions, build_response
from backend.vision.images.decode import DecodedImage
from backend.vision.images.draw import RegionMark, draw_marks

if TYPE_CHECKING:
    from PIL import Image

ResponseJson = Mapping[str, Any]


@dataclass(frozen=True)
class EndpointResult:
    """An image that a version looked at.

    Attributes:
        response: as the endpoint gives it.
        decoded_image: that was looked at.
        labels: all of the version's.
    """

    response: dict[str, Any]
    decoded_image: DecodedImage
    labels: tuple[str, ...]

    def draw_marks(self) -> Image.Image:
        """The answer on a copy of the picture."""
        return draw_marks(self.decoded_image.image, response_marks(self.response), self.labels)


def invoke_locally(loaded: LoadedVersion, content: bytes, max_pixels: int) -> EndpointResult:
    """Let a version look at an image, the way the endpoint does.

    Raises:
        ImageError: it cannot be read.
    """
    decoded_image = read_image(content, max_pixels, loaded.min_pixels)
    (prediction,) = loaded.predict([decoded_image])
    labels = (name for control in loaded.controls for name in control.label_names)
    return EndpointResult(
        build_response(loaded, prediction, ResponseOptions()), decoded_image, tuple(labels)
    )


def response_marks(response: ResponseJson) -> list[RegionMark]:
    """What to draw of a response to one image, see ``answers.response``."""
    controls = response.get("controls") or {"": response}
    return [
        mark for control_response in controls.values() for mark in _control_marks(control_response)
    ]


def summarize_response(response: ResponseJson) -> str:
    """A response in a line.

    Example:
        >>> summarize_response({"labelName": "red", "confidence": 0.981})
        'red 98%'
        >>> summarize_response({"predictions": [...], "counts": {"apple": 3, "pear": 0}})
        '3 apple'
    """
    controls = response.get("controls")
    if controls:
        return "; ".join(
            f"{name}: {_summarize_control(control_response)}"
            for name, control_response in controls.items()
        )
    return _summarize_control(response)


def _summarize_control(response: ResponseJson) -> str:
    if "predictions" in response:
        counts = [f"{count} {name}" for name, count in response["counts"].items() if count]
        return ", ".join(counts) or "nothing found"
    if "labels" in response:
        return ", ".join(map(_format_label, response["labels"])) or "none of the labels"
    return _format_label(response) if response["labelName"] else "not certain of any label"


def _format_label(label_row: ResponseJson) -> str:
    return f"{label_row['labelName']} {label_row['confidence']:.0%}"


def _control_marks(response: ResponseJson) -> Iterator[RegionMark]:
    if response.get("labelName"):
        yield RegionMark(response["labelName"], response["confidence"])
    for row in response.get("labels", []):
        yield RegionMark(row["labelName"], row["confidence"])
    for row in response.get("predictions", []):
        yield RegionMark(row["labelName"], row["confidence"], _object_region(row))


def _object_region(object_row: ResponseJson) -> Region:
    if "center" in object_row:
        x, y = object_row["center"]["x"], object_row["center"]["y"]
        return Region(object_row["labelName"], x, y, x, y)
    box = object_row["boundingBox"]
    x, y = box["x"], box["y"]
    return Region(object_row["labelName"], x, y, x + box["width"], y + box["height"])
