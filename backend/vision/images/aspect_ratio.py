"""Images so slim that scaling their shorter edge up would fill the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MAX_ASPECT_RATIO = 64
"""Longer edge by shorter edge; a 1 × 50,000 image scaled to 224 pixels would take 7 GB."""


def crop_extreme_aspect(image: Image.Image) -> Image.Image:
    """The image, or its middle where one edge is more than ``MAX_ASPECT_RATIO`` times the other."""
    width, height = image.size
    max_edge = MAX_ASPECT_RATIO * min(width, height)
    if max(width, height) <= max_edge:
        return image
    left, top = max(0, width - max_edge) // 2, max(0, height - max_edge) // 2
    return image.crop((left, top, left + min(width, max_edge), top + min(height, max_edge)))
