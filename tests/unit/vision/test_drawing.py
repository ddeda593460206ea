"""Answers are drawn where they are, in their label's colour, and can be read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageColor

from backend.domain import Region
from backend.vision.images.draw import MIN_EDGE_PX, REGION_COLOURS, RegionMark, draw_marks

GREY = (128, 128, 128)


def drawn(size: tuple[int, int], *marks: RegionMark) -> Image.Image:
    return draw_marks(Image.new("RGB", size, GREY), marks, ("cat", "dog"))


def colour(label: int) -> tuple[int, ...]:
    return ImageColor.getrgb(REGION_COLOURS[label])


def test_a_box_is_drawn_at_its_coordinates_in_its_colour() -> None:
    image = drawn((800, 600), RegionMark("dog", 0.9, Region("dog", 0.25, 0.5, 0.75, 0.9)))
    assert image.getpixel((400, 300)) == colour(1)
    assert image.getpixel((200, 500)) == colour(1)
    assert image.getpixel((400, 450)) == GREY, "inside it is free"


def test_a_point_is_drawn_as_a_dot() -> None:
    image = drawn((800, 600), RegionMark("cat", 0.5, Region("cat", 0.5, 0.5, 0.5, 0.5)))
    assert image.getpixel((400, 300)) == colour(0)
    assert image.getpixel((400, 330)) == GREY


@pytest.mark.parametrize("size", [(20, 10), (640, 480), (4000, 3000)])
def test_lines_and_letters_grow_with_the_image(size: tuple[int, int]) -> None:
    image = drawn(size, RegionMark("cat", 0.5))
    assert max(image.size) >= MIN_EDGE_PX, "smaller images are drawn larger"
    pixels = np.asarray(image)
    rows = (pixels == colour(0)).all(axis=2).any(axis=1)
    assert rows.sum() >= max(14, max(image.size) / 80)


def test_text_stays_inside_the_image() -> None:
    marks = [
        RegionMark(
            "a label with a long name", 1.0, Region("", x, y, min(1, x + 0.1), min(1, y + 0.1))
        )
        for x in (0.0, 0.95)
        for y in (0.0, 0.95)
    ]
    image = draw_marks(Image.new("RGB", (400, 300), GREY), marks, ["a label with a long name"])
    pixels = (np.asarray(image) == colour(0)).all(axis=2)
    for corner in (pixels[:30, :60], pixels[:30, -60:], pixels[-40:, :60], pixels[-40:, -60:]):
        assert corner.sum() > 300, "each tag is whole"


def test_drawing_does_not_change_the_image() -> None:
    image = Image.new("RGB", (400, 300), GREY)
    draw_marks(image, [RegionMark("cat", 1.0)], ["cat"])
    assert image.getcolors() == [(400 * 300, GREY)]
