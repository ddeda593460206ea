"""Draw scenes of fruits, and compute their exact boxes.

A scene is a stack of items, back to front. Their outlines are also drawn on a map with the number
of the visible fruit at each pixel, from which the boxes are computed.
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
"""Factor by which scenes are drawn larger, to smooth edges."""

CANVAS_WIDTH, CANVAS_HEIGHT = SCENE_WIDTH * SUPERSAMPLING, SCENE_HEIGHT * SUPERSAMPLING

MIN_VISIBLE_SHARE = 0.42
"""Visible share below which a fruit is removed from the scene."""


@dataclass(frozen=True)
class Fruit:
    """A fruit and the box of its visible part, 0 to 1 of the width and height."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def center(self) -> tuple[float, float]:
        """The center of the box, x and y."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2


@dataclass(frozen=True)
class FruitScene:
    """A drawn photo: file name stem, RGB image of 320 by 240 pixels, and all visible fruits."""

    name: str
    image: Image.Image
    objects: tuple[Fruit, ...]


@dataclass(frozen=True)
class SceneItem:
    """An item of a scene.

    Attributes:
        outlines: polygons of exactly the pixels that the item covers.
        draw: draws the item; the pen belongs to the image.
        label: class of a fruit; "" for other items.
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
    """Draw one scene as a photo; repeat ``make_items`` until enough fruits are visible."""
    items = make_items()
    while sum(bool(item.label) for item in items) < min_fruits:
        items = make_items()
    image = simulate_camera(render_items(draw_background(), items), rng)
    return FruitScene(name, image, locate_fruits(items))


def drop_hidden_fruits(items: Sequence[SceneItem]) -> list[SceneItem]:
    """Remove fruits whose visible share is below ``MIN_VISIBLE_SHARE``.

    One pass is enough, because removing a fruit can only increase the visible share of others.
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
    """Compute the boxes of all fruits, which must be visible."""
    labels = [item.label for item in items if item.label]
    slices = ndimage.find_objects(np.asarray(_draw_ownership_map(items)), max_label=len(labels))
    width, height = CANVAS_WIDTH, CANVAS_HEIGHT
    return tuple(
        Fruit(label, x.start / width, y.start / height, x.stop / width, y.stop / height)
        for label, (y, x) in zip(labels, slices, strict=True)
    )


def render_items(background: Image.Image, items: Sequence[SceneItem]) -> Image.Image:
    """Draw the items on a supersampled background and shrink it to the final size."""
    pen = ImageDraw.Draw(background)
    for item in items:
        item.draw(background, pen)
    return background.reduce(SUPERSAMPLING)


def _draw_ownership_map(items: Sequence[SceneItem]) -> Image.Image:
    """Return the number of the visible fruit at each pixel, from 1; 0 for no fruit."""
    ownership_map = Image.new("L", (CANVAS_WIDTH, CANVAS_HEIGHT))
    pen, fruit_index = ImageDraw.Draw(ownership_map), 0
    # items behind the first fruit cannot hide a fruit
    first_fruit = next((position for position, item in enumerate(items) if item.label), len(items))
    for item in items[first_fruit:]:
        fruit_index += bool(item.label)
        for outline in item.outlines:
            pen.polygon(outline, fill=fruit_index if item.label else 0)
    return ownership_map


def _outline_area(item: SceneItem) -> int:
    """Count the pixels of an unobstructed item, including those outside of the image."""
    polygons = [np.reshape(outline, (-1, 2)) for outline in item.outlines]
    points = np.concatenate(polygons)
    lower_corner = np.floor(points.min(0))
    mask_width, mask_height = (np.ceil(points.max(0)) - lower_corner).astype(int).tolist()
    mask = Image.new("1", (mask_width + 2, mask_height + 2))
    pen = ImageDraw.Draw(mask)
    for polygon in polygons:
        pen.polygon((polygon - lower_corner).ravel().tolist(), fill=1)
    return int(np.count_nonzero(np.asarray(mask)))
