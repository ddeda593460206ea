"""An image of any size into the network's input, and places back again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats

if TYPE_CHECKING:
    from PIL import Image

PADDING_GREY = 114
"""What ultralytics fills the rest with, in training too."""


@dataclass(frozen=True)
class Letterbox:
    """How an image was placed in the input.

    Attributes:
        scale: (x, y) input pixels per pixel of the image.
        offset: (x, y) where the image's top left corner lies in the input, pixels.
        size: (width, height) of the image.
    """

    scale: tuple[float, float]
    offset: tuple[int, int]
    size: tuple[int, int]

    def to_image_boxes(self, boxes: Floats) -> Floats:
        """Boxes of the input as 0 to 1 of the image; they may reach beyond it.

        Args:
            boxes: (n, 4) float32 x0 y0 x1 y1, pixels of the input.
        """
        offset = np.array([*self.offset, *self.offset], dtype=np.float32)
        input_extent = np.array([s * w for s, w in zip(self.scale, self.size, strict=True)] * 2)
        return np.asarray((boxes - offset) / input_extent, dtype=np.float32)


def letterbox(image: Image.Image, longest_edge: int, stride: int) -> tuple[Floats, Letterbox]:
    """Scale an image so that its longer edge fits, and fill up to whole cells.

    Args:
        image: RGB, upright.
        longest_edge: pixels of the input's longer edge, a multiple of ``stride``.
        stride: pixels of the network's largest cell.

    Returns:
        (1, 3, h, w) float32 RGB, 0 to 1, and how to get back.
    """
    width, height = image.size
    resize_factor = longest_edge / max(width, height)
    resized_size = (max(1, round(width * resize_factor)), max(1, round(height * resize_factor)))
    input_size = tuple(-(-edge // stride) * stride for edge in resized_size)
    left, top = (
        (input_edge - edge) // 2 for input_edge, edge in zip(input_size, resized_size, strict=True)
    )
    pixels = np.full((input_size[1], input_size[0], 3), PADDING_GREY, dtype=np.uint8)
    pixels[top : top + resized_size[1], left : left + resized_size[0]] = np.asarray(
        resize_image(image, resized_size)
    )
    return _to_batch(pixels), Letterbox(
        (resized_size[0] / width, resized_size[1] / height), (left, top), (width, height)
    )


def stretch(image: Image.Image, input_side: int) -> tuple[Floats, Letterbox]:
    """Scale an image to a square, each edge by itself, as RT-DETR is trained.

    Args:
        image: RGB, upright.
        input_side: pixels of the input.

    Returns:
        (1, 3, side, side) float32 RGB, 0 to 1, and how to get back.
    """
    width, height = image.size
    pixels = np.asarray(resize_image(image, (input_side, input_side)))
    return _to_batch(pixels), Letterbox(
        (input_side / width, input_side / height), (0, 0), (width, height)
    )


def _to_batch(pixels: npt.NDArray[np.uint8]) -> Floats:
    batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
    batch /= 255
    return batch


def resize_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image in another size; the same way in training and afterwards."""
    from PIL import Image as Pillow

    return image if image.size == size else image.resize(size, Pillow.Resampling.BILINEAR)
