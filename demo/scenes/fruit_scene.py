"""Drawn pictures with fruits to find, and the truth about where they are.

A picture is a stack of items, back to front. The same outlines that are painted are also drawn on
a map that says which fruit each pixel belongs to, so the truth is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from demo.scenes.camera import simulate_camera
from demo.scenes.drawing import Outline, Pen

SCENE_WIDTH, SCENE_HEIGHT = 320, 240
SUPERSAMPLING = 2
"""Everything is drawn this many times larger, then shrunk to smooth its edges."""

CANVAS_WIDTH, CANVAS_HEIGHT = SCENE_WIDTH * SUPERSAMPLING, SCENE_HEIGHT * SUPERSAMPLING

MIN_VISIBLE_SHARE = 0.42
"""The least share of a fruit that must be visible; one more hidden is taken off the picture."""


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
class SceneItem:
    """Something in the stack.

    Attributes:
        outlines: Polygons that together cover exactly what it hides.
        draw: Draws it on a picture, which the pen draws on too.
        label: What to call it if it is a fruit to find; nothing for everything else.
    """

    outlines: tuple[Outline, ...]
    draw: Callable[[Image.Image, Pen], None]
    label: str = ""


def draw_fruit_scene(
    name: str,
    make_items: Callable[[], Sequence[SceneItem]],
    min_fruits: int,
    draw_background: Callable[[], Image.Image],
    rng: np.random.Generator,
) -> FruitScene:
    """Draw and photograph one scene; items are made anew until enough fruits are visible."""
    items = make_items()
    while sum(bool(item.label) for item in items) < min_fruits:
        items = make_items()
    image = simulate_camera(render_items(draw_background(), items), rng)
    return FruitScene(name, image, locate_fruits(items))


def drop_hidden_fruits(items: Sequence[SceneItem]) -> list[SceneItem]:
    """The items without the fruits that others hide too much.

    Taking a fruit away only uncovers others, so what stays is at least as visible as found here.
    """
    fruits = [item for item in items if item.label]
    visible_pixels = _draw_ownership_map(items).histogram()[1 : len(fruits) + 1]
    hidden_ids = {
        id(fruit)
        for fruit, pixels in zip(fruits, visible_pixels, strict=True)
        if pixels < MIN_VISIBLE_SHARE * _outline_area(fruit)
    }
    return [item for item in items if id(item) not in hidden_ids]


def locate_fruits(items: Sequence[SceneItem]) -> tuple[Fruit, ...]:
    """The fruits among the items with their boxes; all of them must be visible."""
    labels = [item.label for item in items if item.label]
    slices = ndimage.find_objects(np.asarray(_draw_ownership_map(items)), max_label=len(labels))
    width, height = CANVAS_WIDTH, CANVAS_HEIGHT
    return tuple(
        Fruit(label, x.start / width, y.start / height, x.stop / width, y.stop / height)
        for label, (y, x) in zip(labels, slices, strict=True)
    )


def render_items(background: Image.Image, items: Sequence[SceneItem]) -> Image.Image:
    """The items over a ground of the large size, shrunk to the size of the finished picture."""
    pen = ImageDraw.Draw(background)
    for item in items:
        item.draw(background, pen)
    return background.reduce(SUPERSAMPLING)


def _draw_ownership_map(items: Sequence[SceneItem]) -> Image.Image:
    """Which fruit each pixel shows, counted from 1; 0 is everything else."""
    ownership_map = Image.new("L", (CANVAS_WIDTH, CANVAS_HEIGHT))
    pen, fruit_index = ImageDraw.Draw(ownership_map), 0
    # What lies behind the first fruit hides none.
    first_fruit = next((position for position, item in enumerate(items) if item.label), len(items))
    for item in items[first_fruit:]:
        fruit_index += bool(item.label)
        for outline in item.outlines:
            pen.polygon(outline, fill=fruit_index if item.label else 0)
    return ownership_map


def _outline_area(item: SceneItem) -> int:
    """Pixels it would cover with nothing before it, those beyond the border included."""
    polygons = [np.reshape(outline, (-1, 2)) for outline in item.outlines]
    points = np.concatenate(polygons)
    lower_corner = np.floor(points.min(0))
    mask_width, mask_height = (np.ceil(points.max(0)) - lower_corner).astype(int).tolist()
    mask = Image.new("1", (mask_width + 2, mask_height + 2))
    pen = ImageDraw.Draw(mask)
    for polygon in polygons:
        pen.polygon((polygon - lower_corner).ravel().tolist(), fill=1)
    return int(np.count_nonzero(np.asarray(mask)))
