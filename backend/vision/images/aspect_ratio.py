"""Images so slim that scaling their shorter edge up would fill the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MOST = 64
"""Longer edge by shorter edge; a 1 × 50,000 image scaled to 224 pixels would take 7 GB."""


def not_too_slim(image: Image.Image) -> Image.Image:
    """The image, or its middle where one edge is more than ``MOST`` times the other."""
    width, height = image.size
    most = MOST * min(width, height)
    if max(width, height) <= most:
        return image
    left, top = max(0, width - most) // 2, max(0, height - most) // 2
    return image.crop((left, top, left + min(width, most), top + min(height, most)))
