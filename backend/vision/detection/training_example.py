"""What a detector learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.arrays import Floats, Ints

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class DetectionExample:
    """An image that a person looked through; without boxes it teaches what is not meant.

    Attributes:
        read_image: gives the upright RGB image; called when needed, perhaps often.
        width: pixels of the upright image, or of what ``read_image`` gives: only the ratio counts.
        height: pixels.
        boxes: (n, 4) float32 x0 y0 x1 y1, 0 to 1.
        labels: (n,) int64, index into the label names.
    """

    read_image: Callable[[], Image.Image]
    width: int
    height: int
    boxes: Floats
    labels: Ints
