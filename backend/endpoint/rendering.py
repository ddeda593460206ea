"""Render a response: marks to draw on the image, and a one-line summary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.endpoint.functions import LoadedVersion
from backend.endpoint.invoker import read_image
from backend.endpoint.responses import DEFAULT_OPTIONS, build_response, to_region
from backend.endpoint.schemas import ControlResponse, HttpJsonObject, ImageResponse, LabelConfidence
from backend.vision.images.decode import DecodedImage
from backend.vision.images.draw import RegionMark, draw_marks

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class EndpointResult:
    """An image with the endpoint's response.

    Attributes:
        response: JSON of the response.
        decoded_image: the image.
        labels: all labels of the version.
    """

    response: HttpJsonObject
    decoded_image: DecodedImage
    labels: tuple[str, ...]

    def draw_marks(self) -> Image.Image:
        """Return a copy of the image with the predictions drawn on it."""
        return draw_marks(self.decoded_image.image, response_marks(self.response), self.labels)


def invoke_locally(loaded: LoadedVersion, content: bytes, max_pixels: int) -> EndpointResult:
    """Predict an image in this process, with the response that the endpoint would return.

    Raises:
        ImageError: the image cannot be read.
    """
    decoded_image = read_image(content, max_pixels, loaded.min_pixels)
    (prediction,) = loaded.predict([decoded_image])
    labels = tuple(name for control in loaded.controls for name in control.label_names)
    response = build_response(loaded, prediction, DEFAULT_OPTIONS)
    return EndpointResult(response, decoded_image, labels)


def response_marks(response: HttpJsonObject) -> list[RegionMark]:
    """Return the marks to draw for a response to one image."""
    parsed = ImageResponse.model_validate(response)
    controls = parsed.controls or {"": parsed}
    return [mark for control in controls.values() for mark in _control_marks(control)]


def _control_marks(response: ControlResponse) -> Iterator[RegionMark]:
    if response.labelName:
        yield RegionMark(response.labelName, response.confidence or 0.0)
    for row in response.labels or []:
        yield RegionMark(row.labelName, row.confidence)
    for item in response.predictions or []:
        region = to_region(item.labelName, item.boundingBox, item.center)
        yield RegionMark(item.labelName, item.confidence, region)


def summarize_response(response: HttpJsonObject) -> str:
    """Return a one-line summary of the response to one image.

    Example:
        >>> summarize_response({"labelName": "red", "confidence": 0.981})
        'red 98%'
        >>> summarize_response({"predictions": [], "counts": {"apple": 3, "pear": 0}})
        '3 apple'
    """
    parsed = ImageResponse.model_validate(response)
    if parsed.controls:
        summaries = {name: _summarize(control) for name, control in parsed.controls.items()}
        return "; ".join(f"{name}: {summary}" for name, summary in summaries.items())
    return _summarize(parsed)


def _summarize(response: ControlResponse) -> str:
    if response.counts is not None:
        counts = [f"{count} {name}" for name, count in response.counts.items() if count]
        return ", ".join(counts) or "no objects"
    if response.labels is not None:
        return ", ".join(map(_format_label, response.labels)) or "none of the labels"
    if not response.labelName:
        return "no label above the threshold"
    best = LabelConfidence(labelName=response.labelName, confidence=response.confidence or 0.0)
    return _format_label(best)


def _format_label(row: LabelConfidence) -> str:
    return f"{row.labelName} {row.confidence:.0%}"
