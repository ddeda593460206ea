"""Resize images to a network's input size, and convert boxes between image and input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles, Floats

if TYPE_CHECKING:
    from PIL import Image

PADDING_GREY = 114
"""Padding value of ultralytics in training and inference."""


@dataclass(frozen=True)
class Letterbox:
    """Position of a resized image in the padded network input.

    Attributes:
        resized_size: (width, height) of the resized image in pixels.
        input_size: (width, height) of the padded input in pixels.
    """

    resized_size: tuple[int, int]
    input_size: tuple[int, int]

    @property
    def offset(self) -> tuple[int, int]:
        """(x, y) of the top left corner of the image in the input, in pixels."""
        width, height = self.resized_size
        return (self.input_size[0] - width) // 2, (self.input_size[1] - height) // 2

    def to_image_boxes(self, boxes: Floats) -> Floats:
        """Convert boxes from input pixels to image coordinates, 0 to 1, without clipping.

        Args:
            boxes: (n, 4) float32 x0 y0 x1 y1 in pixels of the input.
        """
        offset = np.array(self.offset * 2, dtype=np.float32)
        return np.asarray((boxes - offset) / np.array(self.resized_size * 2), dtype=np.float32)

    def to_input_boxes(self, boxes: Floats) -> Doubles:
        """Convert boxes from image coordinates, 0 to 1, to input pixels."""
        return np.asarray(boxes * np.array(self.resized_size * 2) + np.array(self.offset * 2))


def letterbox(
    image: Image.Image, longest_edge: int, stride: int, min_edge: int = 1
) -> tuple[Floats, Letterbox]:
    """Resize an image to a longer edge and pad both edges to multiples of ``stride``.

    Args:
        image: RGB, upright.
        longest_edge: longer edge of the input in pixels, a multiple of ``stride``.
        stride: maximum stride of the network in pixels.
        min_edge: minimum shorter edge of the resized image in pixels.

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
    """Resize an image to a square, ignoring its aspect ratio, as RT-DETR requires.

    Args:
        image: RGB, upright.
        input_side: side of the input in pixels.

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
    """Resize an image to (width, height) with the filter used in training and inference."""
    from PIL import Image as Pillow

    return image if image.size == size else image.resize(size, Pillow.Resampling.BILINEAR)
