"""What a model says, drawn on the image so that people can judge it at a glance."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.domain import Region

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

REGION_COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#6A3D9A", "#B15928", "#1B7837", "#C51B7D"),
)
"""By label in the order of the config; the first can be told apart without red or green
(Okabe and Ito 2008)."""
LINE_WIDTH_SHARE = 1 / 300
"""Width of lines, of the image's longer edge."""
TEXT_HEIGHT_LINES = 5.0
"""Height of letters, in widths of a line; at least 12 pixels."""
MIN_EDGE_PX = 320
"""Pixels of the longer edge that writing needs; smaller images are drawn larger."""
DARK_TEXT_COLOUR, LIGHT_TEXT_COLOUR = "#111111", "#ffffff"


@dataclass(frozen=True)
class RegionMark:
    """Something to draw.

    Attributes:
        label: names it, and gives it its colour.
        confidence: 0 to 1.
        region: a box, or a point, which is a box without extent; None: of the whole image.
    """

    label: str
    confidence: float
    region: Region | None = None


def draw_marks(
    image: Image.Image, marks: Sequence[RegionMark], labels: Sequence[str]
) -> Image.Image:
    """A copy with the marks on it.

    Args:
        image: RGB, upright.
        marks: the surest is drawn last, on top.
        labels: all there are; the colour goes by the place among them.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    longest = max(image.size)
    factor = max(1, -(-MIN_EDGE_PX // longest))
    size = (image.width * factor, image.height * factor)
    canvas = image.resize(size, Pillow.Resampling.NEAREST) if factor > 1 else image.copy()
    painter = _MarkPainter(
        ImageDraw.Draw(canvas), canvas.size, {n: i for i, n in enumerate(labels)}
    )
    for mark in sorted(marks, key=lambda one: one.confidence):
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
        self._line_width = max(2, round(max(size) * LINE_WIDTH_SHARE))
        self._font = _load_font(max(12, round(self._line_width * TEXT_HEIGHT_LINES)))

    def draw_region(self, mark: RegionMark, region: Region) -> None:
        """A box or a dot, and what it is."""
        width, height = self._size
        x0, y0, x1, y1 = (
            region.x0 * width,
            region.y0 * height,
            region.x1 * width,
            region.y1 * height,
        )
        colour = self._colour(mark.label)
        if (x0, y0) == (x1, y1):
            dot_radius = self._line_width * 2
            dot = (x0 - dot_radius, y0 - dot_radius, x0 + dot_radius, y0 + dot_radius)
            self._draw.ellipse(
                dot, fill=colour, outline=LIGHT_TEXT_COLOUR, width=max(1, self._line_width // 2)
            )
            self._draw_tag(_mark_text(mark), x0 + dot_radius, y0 - dot_radius, colour)
        else:
            self._draw.rectangle((x0, y0, x1, y1), outline=colour, width=self._line_width)
            self._draw_tag(_mark_text(mark), x0, y0, colour)

    def draw_image_labels(self, marks: Sequence[RegionMark]) -> None:
        """Labels of the whole image, one below the other."""
        y = float(self._line_width)
        for mark in marks:
            text = _mark_text(mark)
            text_height = self._text_size(text)[1]
            self._draw_tag(text, self._line_width, y + text_height, self._colour(mark.label))
            y += text_height + self._line_width

    def _draw_tag(self, text: str, x: float, bottom: float, colour: str) -> None:
        """Writing on a background that ends at ``bottom``, kept inside the image."""
        text_width, text_height = self._text_size(text)
        x = max(0.0, min(x, self._size[0] - text_width))
        y = max(0.0, min(bottom - text_height, self._size[1] - text_height))
        self._draw.rectangle((x, y, x + text_width, y + text_height), fill=colour)
        middle = (x + text_width / 2, y + text_height / 2)
        self._draw.text(middle, text, fill=_text_colour(colour), font=self._font, anchor="mm")

    def _text_size(self, text: str) -> tuple[float, float]:
        """Width and height with a rim."""
        ascent, descent = self._font.getmetrics()
        text_padding = self._line_width
        return self._draw.textlength(
            text, font=self._font
        ) + 2 * text_padding, ascent + descent + text_padding

    def _colour(self, label: str) -> str:
        return REGION_COLOURS[self._label_order.get(label, 0) % len(REGION_COLOURS)]


def _mark_text(mark: RegionMark) -> str:
    return f"{mark.label} {mark.confidence:.0%}"


def _text_colour(colour: str) -> str:
    """Black or white, whatever stands out (W3C's relative luminance, roughly)."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return (
        DARK_TEXT_COLOUR
        if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.3
        else LIGHT_TEXT_COLOUR
    )


@lru_cache(maxsize=8)
def _load_font(height: int) -> Any:
    """DejaVu, which knows most alphabets and comes with matplotlib; else Pillow's own."""
    from PIL import ImageFont

    matplotlib_spec = importlib.util.find_spec("matplotlib")
    if matplotlib_spec and matplotlib_spec.origin:
        file = Path(matplotlib_spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), height)
    return ImageFont.load_default(height)
