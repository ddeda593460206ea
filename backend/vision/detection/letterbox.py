"""Scale an image of any size to a network's input, and map boxes between the two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles, Floats

if TYPE_CHECKING:
    from PIL import Image

PADDING_GREY = 114
"""Padding value of ultralytics, in training too."""


@dataclass(frozen=True)
class Letterbox:
    """Position of a scaled image in the network's input.

    Attributes:
        resized_size: (width, height) of the scaled image, pixels of the input.
        input_size: (width, height) of the input, pixels.
    """

    resized_size: tuple[int, int]
    input_size: tuple[int, int]

    @property
    def offset(self) -> tuple[int, int]:
        """(x, y) of the image's top left corner in the input, pixels."""
        width, height = self.resized_size
        return (self.input_size[0] - width) // 2, (self.input_size[1] - height) // 2

    def to_image_boxes(self, boxes: Floats) -> Floats:
        """Convert boxes from pixels of the input to 0 to 1 of the image.

        Args:
            boxes: (n, 4) float32 x0 y0 x1 y1; may reach beyond the image, as may the result.
        """
        offset = np.array(self.offset * 2, dtype=np.float32)
        return np.asarray((boxes - offset) / np.array(self.resized_size * 2), dtype=np.float32)

    def to_input_boxes(self, boxes: Floats) -> Doubles:
        """Convert boxes from 0 to 1 of the image to pixels of the input."""
        return np.asarray(boxes * np.array(self.resized_size * 2) + np.array(self.offset * 2))


def letterbox(
    image: Image.Image, longest_edge: int, stride: int, min_edge: int = 1
) -> tuple[Floats, Letterbox]:
    """Scale an image so that its longer edge fits, and pad both edges to multiples of ``stride``.

    Args:
        image: RGB, upright.
        longest_edge: pixels of the input's longer edge, a multiple of ``stride``.
        stride: pixels of a cell of the coarsest feature map.
        min_edge: minimum pixels of the scaled shorter edge.

    Returns:
        (1, 3, h, w) float32 RGB, 0 to 1, and the position of the image in it.
    """
    factor = longest_edge / max(image.size)
    width, height = (max(min_edge, round(edge * factor)) for edge in image.size)
    box = Letterbox((width, height), (-(-width // stride) * stride, -(-height // stride) * stride))
    left, top = box.offset
    pixels = np.full((*box.input_size[::-1], 3), PADDING_GREY, dtype=np.uint8)
    pixels[top : top + height, left : left + width] = np.asarray(
        resize_image(image, (width, height))
    )
    return _to_batch(pixels), box


def stretch(image: Image.Image, input_side: int) -> tuple[Floats, Letterbox]:
    """Scale an image to a square regardless of its aspect ratio, as RT-DETR is trained.

    Args:
        image: RGB, upright.
        input_side: pixels of the input.

    Returns:
        (1, 3, side, side) float32 RGB, 0 to 1, and the position of the image in it.
    """
    size = (input_side, input_side)
    return _to_batch(np.asarray(resize_image(image, size))), Letterbox(size, size)


def _to_batch(pixels: npt.NDArray[np.uint8]) -> Floats:
    batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
    batch /= 255
    return batch


def resize_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize an image with the filter used in training and inference."""
    from PIL import Image as Pillow

    return image if image.size == size else image.resize(size, Pillow.Resampling.BILINEAR)
