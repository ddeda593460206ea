"""Draw predictions on an image for visual inspection."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from backend.domain import Region

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

REGION_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#6A3D9A", "#B15928", "#1B7837", "#C51B7D"),
)
"""Colours in label order; the first six are colour-blind safe (Okabe and Ito 2008)."""
RELATIVE_LINE_WIDTH = 1 / 300
"""Line width as a fraction of the image's longer edge."""
TEXT_HEIGHT_LINES = 5.0
"""Text height as a multiple of the line width; at least 12 pixels."""
MIN_EDGE_PX = 320
"""Minimum longer edge in pixels for readable text; smaller images are upscaled."""
DARK_TEXT_COLOUR, LIGHT_TEXT_COLOUR = "#111111", "#ffffff"


@dataclass(frozen=True)
class RegionMark:
    """A prediction to draw.

    Attributes:
        label: label name; decides text and colour.
        confidence: 0 to 1.
        region: box, or zero-size box for a point; None for an image-level label.
    """

    label: str
    confidence: float
    region: Region | None = None


def draw_marks(
    image: Image.Image, marks: Sequence[RegionMark], labels: Sequence[str]
) -> Image.Image:
    """Return a copy of the image with predictions drawn on it.

    Args:
        image: RGB, upright.
        marks: predictions, drawn in ascending confidence.
        labels: all label names of the control; their order decides the colours.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    longest = max(image.size)
    factor = max(1, -(-MIN_EDGE_PX // longest))
    size = (image.width * factor, image.height * factor)
    canvas = image.resize(size, Pillow.Resampling.NEAREST) if factor > 1 else image.copy()
    order = {name: index for index, name in enumerate(labels)}
    painter = _MarkPainter(ImageDraw.Draw(canvas), canvas.size, order)
    for mark in sorted(marks, key=lambda mark: mark.confidence):
        if mark.region is not None:
            painter.draw_region(mark, mark.region)
    painter.draw_image_labels([mark for mark in marks if mark.region is None])
    return canvas


class _MarkPainter:
    def __init__(
        self, draw_context: ImageDraw.ImageDraw, size: tuple[int, int], order: dict[str, int]
    ) -> None:
        self._draw = draw_context
        self._size = size
        self._label_order = order
        self._line_width = max(2, round(max(size) * RELATIVE_LINE_WIDTH))
        self._font = _load_font(max(12, round(self._line_width * TEXT_HEIGHT_LINES)))

    def draw_region(self, mark: RegionMark, region: Region) -> None:
        """Draw a box, or a dot for a point, with its label."""
        width, height = self._size
        x0, x1 = region.x0 * width, region.x1 * width
        y0, y1 = region.y0 * height, region.y1 * height
        colour = self._colour(mark.label)
        if (x0, y0) == (x1, y1):
            radius, outline = self._line_width * 2, max(1, self._line_width // 2)
            dot = (x0 - radius, y0 - radius, x0 + radius, y0 + radius)
            self._draw.ellipse(dot, fill=colour, outline=LIGHT_TEXT_COLOUR, width=outline)
            self._draw_tag(_mark_text(mark), x0 + radius, y0 - radius, colour)
        else:
            self._draw.rectangle((x0, y0, x1, y1), outline=colour, width=self._line_width)
            self._draw_tag(_mark_text(mark), x0, y0, colour)

    def draw_image_labels(self, marks: Sequence[RegionMark]) -> None:
        """Draw image-level labels in a column at the top left."""
        y = float(self._line_width)
        for mark in marks:
            text = _mark_text(mark)
            text_height = self._text_size(text)[1]
            self._draw_tag(text, self._line_width, y + text_height, self._colour(mark.label))
            y += text_height + self._line_width

    def _draw_tag(self, text: str, x: float, bottom: float, colour: str) -> None:
        """Draw text on a filled background that ends at ``bottom``, shifted into the image."""
        text_width, text_height = self._text_size(text)
        x = max(0.0, min(x, self._size[0] - text_width))
        y = max(0.0, min(bottom - text_height, self._size[1] - text_height))
        self._draw.rectangle((x, y, x + text_width, y + text_height), fill=colour)
        middle = (x + text_width / 2, y + text_height / 2)
        self._draw.text(middle, text, fill=_text_colour(colour), font=self._font, anchor="mm")

    def _text_size(self, text: str) -> tuple[float, float]:
        """Return width and height in pixels, including padding."""
        ascent, descent = self._font.getmetrics()
        text_width = self._draw.textlength(text, font=self._font)
        return text_width + 2 * self._line_width, ascent + descent + self._line_width

    def _colour(self, label: str) -> str:
        return REGION_COLOURS[self._label_order.get(label, 0) % len(REGION_COLOURS)]


def _mark_text(mark: RegionMark) -> str:
    return f"{mark.label} {mark.confidence:.0%}"


def _text_colour(colour: str) -> str:
    """Return the text colour for a background (W3C's relative luminance, approximated)."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    return DARK_TEXT_COLOUR if luminance > 0.3 else LIGHT_TEXT_COLOUR


@lru_cache(maxsize=8)
def _load_font(height: int) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans, which covers most alphabets; fall back to Pillow's default font."""
    from PIL import ImageFont

    file = find_dejavu_font()
    font = ImageFont.truetype(str(file), height) if file else ImageFont.load_default(height)
    return cast("ImageFont.FreeTypeFont", font)


def find_dejavu_font() -> Path | None:
    """Return the path of the DejaVu Sans bundled with matplotlib, without importing matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return file if file.is_file() else None
