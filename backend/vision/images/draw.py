"""What a model says, drawn on the image so that people can judge it at a glance."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.domain import Place

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#6A3D9A", "#B15928", "#1B7837", "#C51B7D"),
)
"""By label in the order of the config; the first can be told apart without red or green
(Okabe and Ito 2008)."""
SHARE_OF_EDGE = 1 / 300
"""Width of lines, of the image's longer edge."""
TEXT = 5.0
"""Height of letters, in widths of a line; at least 12 pixels."""
LEAST_EDGE = 320
"""Pixels of the longer edge that writing needs; smaller images are drawn larger."""
DARK, LIGHT = "#111111", "#ffffff"


@dataclass(frozen=True)
class Mark:
    """Something to draw.

    Attributes:
        label: names it, and gives it its colour.
        confidence: 0 to 1.
        place: a box, or a point, which is a box without extent; None: of the whole image.
    """

    label: str
    confidence: float
    place: Place | None = None


def draw(image: Image.Image, marks: Sequence[Mark], labels: Sequence[str]) -> Image.Image:
    """A copy with the marks on it.

    Args:
        image: RGB, upright.
        marks: the surest is drawn last, on top.
        labels: all there are; the colour goes by the place among them.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    longest = max(image.size)
    factor = max(1, -(-LEAST_EDGE // longest))
    size = (image.width * factor, image.height * factor)
    canvas = image.resize(size, Pillow.Resampling.NEAREST) if factor > 1 else image.copy()
    pen = _Pen(ImageDraw.Draw(canvas), canvas.size, {n: i for i, n in enumerate(labels)})
    for mark in sorted(marks, key=lambda one: one.confidence):
        if mark.place is not None:
            pen.place(mark, mark.place)
    pen.list([mark for mark in marks if mark.place is None])
    return canvas


class _Pen:
    def __init__(
        self, pen: ImageDraw.ImageDraw, size: tuple[int, int], order: dict[str, int]
    ) -> None:
        self._pen = pen
        self._size = size
        self._order = order
        self._line = max(2, round(max(size) * SHARE_OF_EDGE))
        self._font = _font(max(12, round(self._line * TEXT)))

    def place(self, mark: Mark, place: Place) -> None:
        """A box or a dot, and what it is."""
        width, height = self._size
        x0, y0, x1, y1 = place.x0 * width, place.y0 * height, place.x1 * width, place.y1 * height
        colour = self._colour(mark.label)
        if (x0, y0) == (x1, y1):
            reach = self._line * 2
            dot = (x0 - reach, y0 - reach, x0 + reach, y0 + reach)
            self._pen.ellipse(dot, fill=colour, outline=LIGHT, width=max(1, self._line // 2))
            self._tag(_told(mark), x0 + reach, y0 - reach, colour)
        else:
            self._pen.rectangle((x0, y0, x1, y1), outline=colour, width=self._line)
            self._tag(_told(mark), x0, y0, colour)

    def list(self, marks: Sequence[Mark]) -> None:
        """Labels of the whole image, one below the other."""
        y = float(self._line)
        for mark in marks:
            text = _told(mark)
            high = self._extent(text)[1]
            self._tag(text, self._line, y + high, self._colour(mark.label))
            y += high + self._line

    def _tag(self, text: str, x: float, bottom: float, colour: str) -> None:
        """Writing on a background that ends at ``bottom``, kept inside the image."""
        wide, high = self._extent(text)
        x = max(0.0, min(x, self._size[0] - wide))
        y = max(0.0, min(bottom - high, self._size[1] - high))
        self._pen.rectangle((x, y, x + wide, y + high), fill=colour)
        middle = (x + wide / 2, y + high / 2)
        self._pen.text(middle, text, fill=_readable(colour), font=self._font, anchor="mm")

    def _extent(self, text: str) -> tuple[float, float]:
        """Width and height with a rim."""
        ascent, descent = self._font.getmetrics()
        rim = self._line
        return self._pen.textlength(text, font=self._font) + 2 * rim, ascent + descent + rim

    def _colour(self, label: str) -> str:
        return COLOURS[self._order.get(label, 0) % len(COLOURS)]


def _told(mark: Mark) -> str:
    return f"{mark.label} {mark.confidence:.0%}"


def _readable(colour: str) -> str:
    """Black or white, whatever stands out (W3C's relative luminance, roughly)."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return DARK if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.3 else LIGHT


@lru_cache(maxsize=8)
def _font(height: int) -> Any:
    """DejaVu, which knows most alphabets and comes with matplotlib; else Pillow's own."""
    from PIL import ImageFont

    found = importlib.util.find_spec("matplotlib")
    if found and found.origin:
        file = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), height)
    return ImageFont.load_default(height)
