"""Drawn pictures with fruits to find, and the truth about where they are.

A picture is a stack of items, back to front. The same outlines that are painted are also drawn on
a map that says which fruit each pixel belongs to, so the truth is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from demo.scenes.greenhouse import Pen

WIDTH, HEIGHT = 320, 240
FINE = 2
"""Everything is drawn this many times larger, then shrunk to smooth its edges."""

WIDE, HIGH = WIDTH * FINE, HEIGHT * FINE

SEEN = 0.42
"""The least share of a fruit that must be visible; one more hidden is taken off the picture."""

Outline = list[float]
"""A polygon as x, y, x, y, … in pixels of the large drawing."""


@dataclass(frozen=True)
class Fruit:
    """One fruit in a picture; what can be seen of it touches all four sides of the box.

    Attributes:
        label: What it is.
        x0: Left side, 0 to 1 of the picture's width.
        y0: Upper side, 0 to 1 of its height.
        x1: Right side.
        y1: Lower side.
    """

    label: str
    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def center(self) -> tuple[float, float]:
        """The middle of what can be seen of it, as x and y of 0 to 1."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2


@dataclass(frozen=True)
class FruitScene:
    """One drawn photo.

    Attributes:
        name: File name stem.
        image: RGB, 320 by 240 pixels.
        objects: The truth: every fruit in the picture.
    """

    name: str
    image: Image.Image
    objects: tuple[Fruit, ...]


@dataclass(frozen=True)
class Item:
    """Something in the stack.

    Attributes:
        outlines: Polygons that together cover exactly what it hides.
        paint: Draws it on a picture, which the pen draws on too.
        label: What to call it if it is a fruit to find; nothing for everything else.
    """

    outlines: tuple[Outline, ...]
    paint: Callable[[Image.Image, Pen], None]
    label: str = ""


def visible(items: Sequence[Item]) -> list[Item]:
    """The items without the fruits that others hide too much.

    Taking a fruit away only uncovers others, so what stays is at least as visible as found here.
    """
    fruits = [item for item in items if item.label]
    seen = _owners(items).histogram()[1 : len(fruits) + 1]
    lost = {
        id(fruit)
        for fruit, pixels in zip(fruits, seen, strict=True)
        if pixels < SEEN * _area(fruit)
    }
    return [item for item in items if id(item) not in lost]


def truth(items: Sequence[Item]) -> tuple[Fruit, ...]:
    """The fruits among the items with their boxes; all of them must be visible."""
    labels = [item.label for item in items if item.label]
    places = ndimage.find_objects(np.asarray(_owners(items)), max_label=len(labels))
    return tuple(
        Fruit(label, across.start / WIDE, down.start / HIGH, across.stop / WIDE, down.stop / HIGH)
        for label, (down, across) in zip(labels, places, strict=True)
    )


def paint(ground: Image.Image, items: Sequence[Item]) -> Image.Image:
    """The items over a ground of the large size, shrunk to the size of the finished picture."""
    pen = ImageDraw.Draw(ground)
    for item in items:
        item.paint(ground, pen)
    return ground.reduce(FINE)


def nameless(item: Item) -> Item:
    """The same thing as a decoy."""
    return replace(item, label="")


def _owners(items: Sequence[Item]) -> Image.Image:
    """Which fruit each pixel shows, counted from 1; 0 is everything else."""
    owners = Image.new("L", (WIDE, HIGH))
    pen, last = ImageDraw.Draw(owners), 0
    # What lies behind the first fruit hides none.
    first = next((place for place, item in enumerate(items) if item.label), len(items))
    for item in items[first:]:
        last += bool(item.label)
        for outline in item.outlines:
            pen.polygon(outline, fill=last if item.label else 0)
    return owners


def _area(item: Item) -> int:
    """Pixels it would cover with nothing before it, those beyond the border included."""
    corners = [np.reshape(outline, (-1, 2)) for outline in item.outlines]
    points = np.concatenate(corners)
    low = np.floor(points.min(0))
    wide, high = (np.ceil(points.max(0)) - low).astype(int).tolist()
    alone = Image.new("1", (wide + 2, high + 2))
    pen = ImageDraw.Draw(alone)
    for polygon in corners:
        pen.polygon((polygon - low).ravel().tolist(), fill=1)
    return int(np.count_nonzero(np.asarray(alone)))
