"""Boxes of label files → fractions of the upright image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from backend.domain import ImageSize, Region
from backend.onboarding.label_sources.source import ImageLabels, SourceBox

ASPECT_TOLERANCE = 0.02
"""Relative difference of aspect ratios up to which an image counts as resized."""
OTHER_SIZE_REASON = "image of another shape than its label file says"
NO_COORDINATES_REASON = "box without coordinates"
OUTSIDE_REASON = "box outside the image"
EMPTY_BOX_REASON = "box without area"


@dataclass(frozen=True)
class ImageFrame:
    """How an image is stored.

    Attributes:
        size: size of the upright image.
        orientation: EXIF orientation of the file, 1 to 8.
    """

    size: ImageSize
    orientation: int = 1


def to_upright_region(box: SourceBox, labels: ImageLabels, frame: ImageFrame) -> Region | str:
    """Return a box as fractions of the upright image, or why it cannot be used.

    Pixels of a label file refer to the upright image, unless the file says that the image has the
    size of the stored, turned pixels. A box is clipped at the image's edges.

    Args:
        box: box in the units of the label file.
        labels: the labels of the image that the box belongs to.
        frame: frame of the image.
    """
    corners = (box.x0, box.y0, box.x1, box.y1)
    if not all(map(math.isfinite, corners)):
        return NO_COORDINATES_REASON
    if labels.in_pixels:
        size = labels.size or frame.size
        corners = (
            box.x0 / size.width,
            box.y0 / size.height,
            box.x1 / size.width,
            box.y1 / size.height,
        )
        if not _has_same_aspect(size, frame.size):
            turned = ImageSize(frame.size.height, frame.size.width)
            if frame.orientation < 5 or not _has_same_aspect(size, turned):
                return OTHER_SIZE_REASON
            corners = _turn_corners(corners, frame.orientation)
    return _clip_region(box.label, corners)


def _has_same_aspect(first: ImageSize, second: ImageSize) -> bool:
    ratio = (first.width * second.height) / (first.height * second.width)
    # a pixel of a small image is more than the tolerance
    rounding = 1 / min(first.width, first.height) + 1 / min(second.width, second.height)
    return abs(ratio - 1) <= max(ASPECT_TOLERANCE, rounding if rounding < 0.1 else 0.0)


def _turn_corners(
    corners: tuple[float, float, float, float], orientation: int
) -> tuple[float, float, float, float]:
    """Turn a box of stored pixels upright; EXIF orientations 5 to 8 swap the axes."""
    x0, y0, x1, y1 = corners
    right_to_left, bottom_to_top = orientation in (6, 7), orientation in (7, 8)
    left, right = (1 - y1, 1 - y0) if right_to_left else (y0, y1)
    top, bottom = (1 - x1, 1 - x0) if bottom_to_top else (x0, x1)
    return left, top, right, bottom


def _clip_region(label: str, corners: tuple[float, float, float, float]) -> Region | str:
    x0, y0, x1, y1 = corners
    if x1 <= x0 or y1 <= y0:
        return EMPTY_BOX_REASON
    if x0 >= 1 or y0 >= 1 or x1 <= 0 or y1 <= 0:
        return OUTSIDE_REASON
    return Region(label, max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0))
