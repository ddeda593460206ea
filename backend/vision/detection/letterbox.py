"""An image of any size into the network's input, and places back again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats

if TYPE_CHECKING:
    from PIL import Image

GREY = 114
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

    def undo(self, boxes: Floats) -> Floats:
        """Boxes of the input as 0 to 1 of the image; they may reach beyond it.

        Args:
            boxes: (n, 4) float32 x0 y0 x1 y1, pixels of the input.
        """
        offset = np.array([*self.offset, *self.offset], dtype=np.float32)
        whole = np.array([s * w for s, w in zip(self.scale, self.size, strict=True)] * 2)
        return np.asarray((boxes - offset) / whole, dtype=np.float32)


def letterbox(image: Image.Image, longest: int, stride: int) -> tuple[Floats, Letterbox]:
    """Scale an image so that its longer edge fits, and fill up to whole cells.

    Args:
        image: RGB, upright.
        longest: pixels of the input's longer edge, a multiple of ``stride``.
        stride: pixels of the network's largest cell.

    Returns:
        (1, 3, h, w) float32 RGB, 0 to 1, and how to get back.
    """
    width, height = image.size
    factor = longest / max(width, height)
    new = (max(1, round(width * factor)), max(1, round(height * factor)))
    input_size = tuple(-(-edge // stride) * stride for edge in new)
    left, top = ((whole - edge) // 2 for whole, edge in zip(input_size, new, strict=True))
    pixels = np.full((input_size[1], input_size[0], 3), GREY, dtype=np.uint8)
    pixels[top : top + new[1], left : left + new[0]] = np.asarray(scaled(image, new))
    return _batch(pixels), Letterbox(
        (new[0] / width, new[1] / height), (left, top), (width, height)
    )


def stretched(image: Image.Image, side: int) -> tuple[Floats, Letterbox]:
    """Scale an image to a square, each edge by itself, as RT-DETR is trained.

    Args:
        image: RGB, upright.
        side: pixels of the input.

    Returns:
        (1, 3, side, side) float32 RGB, 0 to 1, and how to get back.
    """
    width, height = image.size
    pixels = np.asarray(scaled(image, (side, side)))
    return _batch(pixels), Letterbox((side / width, side / height), (0, 0), (width, height))


def _batch(pixels: npt.NDArray[np.uint8]) -> Floats:
    batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)
    batch /= 255
    return batch


def scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image in another size; the same way in training and afterwards."""
    from PIL import Image as Pillow

    return image if image.size == size else image.resize(size, Pillow.Resampling.BILINEAR)
