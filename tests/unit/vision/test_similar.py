"""Similar objects of one picture: drawn discs, squares and stars of known places."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image, ImageDraw

from backend.arrays import Floats
from backend.vision.similar_objects import (
    SimilarObjects,
    find_similar_boxes,
    find_similar_points,
)

Colour = tuple[int, int, int]
Draw = Callable[[Image.Image, tuple[float, float], float, Colour], None]
SIZE = (640, 480)
RED, BLUE, GREEN = (200, 40, 40), (50, 60, 190), (60, 120, 50)
PLACES = (
    (80, 90),
    (220, 70),
    (420, 110),
    (560, 80),
    (120, 260),
    (300, 240),
    (500, 300),
    (250, 410),
)


def ground(size: tuple[int, int] = SIZE, seed: int = 0) -> Image.Image:
    """Soft green patches with noise."""
    rng = np.random.default_rng(seed)
    few = (rng.integers(60, 120, (13, 17, 3)) * np.array([0.7, 1.1, 0.6])).astype(np.uint8)
    soft = np.asarray(Image.fromarray(few).resize(size, Image.Resampling.BICUBIC), dtype=float)
    noisy = soft + rng.normal(0, 5, soft.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def square_at(
    place: tuple[float, float], radius: float, size: tuple[int, int] = SIZE
) -> list[float]:
    (x, y), (wide, high) = place, size
    return [(x - radius) / wide, (y - radius) / high, (x + radius) / wide, (y + radius) / high]


def disc(image: Image.Image, place: tuple[float, float], radius: float, colour: Colour) -> None:
    x, y = place
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def square(image: Image.Image, place: tuple[float, float], radius: float, colour: Colour) -> None:
    x, y = place
    ImageDraw.Draw(image).rectangle((x - radius, y - radius, x + radius, y + radius), fill=colour)


def star(image: Image.Image, place: tuple[float, float], radius: float, colour: Colour) -> None:
    turns = np.arange(10) * np.pi / 5 - np.pi / 2
    reach = np.where(np.arange(10) % 2, 0.45, 1.0) * radius
    corners = np.stack([place[0] + reach * np.cos(turns), place[1] + reach * np.sin(turns)], axis=1)
    ImageDraw.Draw(image).polygon([(x, y) for x, y in corners.tolist()], fill=colour)


def array(rows: list[list[float]]) -> Floats:
    return np.array(rows, dtype=np.float32).reshape(-1, 4)


def points_at(places: Sequence[tuple[int, int]]) -> Floats:
    return np.array([(x / SIZE[0], y / SIZE[1]) for x, y in places], dtype=np.float32)


def overlaps(found: Floats, wanted: Floats) -> Floats:
    """IoU: (n, m)."""
    low = np.maximum(found[:, None, :2], wanted[None, :, :2])
    high = np.minimum(found[:, None, 2:], wanted[None, :, 2:])
    common = np.maximum(high - low, 0).prod(axis=2)
    one = (found[:, 2:] - found[:, :2]).prod(axis=1)
    other = (wanted[:, 2:] - wanted[:, :2]).prod(axis=1)
    return np.asarray(common / (one[:, None] + other[None] - common))


def sure(found: SimilarObjects) -> Floats:
    return found.boxes[found.confidence >= 0.5]


def well_formed(found: SimilarObjects) -> None:
    assert found.boxes.dtype == found.confidence.dtype == np.float32
    assert found.boxes.shape == (len(found.confidence), 4)
    assert np.all((found.boxes >= 0) & (found.boxes <= 1))
    assert np.all((found.confidence >= 0) & (found.confidence <= 1))
    assert np.all(np.diff(found.confidence) <= 0)


@pytest.mark.parametrize("draw", [disc, square, star])
def test_all_objects_of_a_kind_are_found_and_no_others(draw: Draw) -> None:
    image = ground()
    for place in PLACES:
        draw(image, place, 26, RED)
    truth = array([square_at(place, 26) for place in PLACES])
    found = find_similar_boxes(image, truth[:1])
    well_formed(found)
    share = overlaps(sure(found), truth[1:])
    assert np.all(share.max(axis=0) > 0.6)
    assert len(share) == len(PLACES) - 1


def test_sizes_between_two_thirds_and_one_and_a_half_are_found() -> None:
    image, radii = ground(), (24, 18, 30, 35, 17, 26, 21, 33)
    for place, radius in zip(PLACES, radii, strict=True):
        disc(image, place, radius, RED)
    truth = array([square_at(p, r) for p, r in zip(PLACES, radii, strict=True)])
    share = overlaps(sure(find_similar_boxes(image, truth[:1])), truth[1:])
    assert np.all(share.max(axis=0) > 0.5)
    assert len(share) == len(PLACES) - 1


def test_other_colours_and_shapes_rank_below_the_right_objects() -> None:
    image = ground()
    for place in PLACES[:4]:
        disc(image, place, 26, RED)
    for place in PLACES[4:6]:
        disc(image, place, 26, BLUE)
    for place in PLACES[6:]:
        star(image, place, 26, (220, 220, 220))
    truth = array([square_at(place, 26) for place in PLACES])
    found = find_similar_boxes(image, truth[:1])
    assert np.all(overlaps(found.boxes[:3], truth[1:4]).max(axis=0) > 0.6)
    assert len(sure(found)) == 3


def test_several_examples_find_both_kinds() -> None:
    image = ground()
    for place in PLACES[:4]:
        disc(image, place, 26, RED)
    for place in PLACES[4:]:
        square(image, place, 26, BLUE)
    truth = array([square_at(place, 26) for place in PLACES])
    found = find_similar_boxes(image, truth[[0, 4]])
    share = overlaps(found.boxes[:6], truth[[1, 2, 3, 5, 6, 7]])
    assert np.all(share.max(axis=0) > 0.6)


def test_few_suggestions_are_made_if_the_example_is_the_only_object() -> None:
    wrong = []
    for seed, draw in enumerate((disc, square, star) * 2):
        image, place = ground(seed=seed), PLACES[seed]
        draw(image, place, 26, RED)
        wrong.append(len(sure(find_similar_boxes(image, array([square_at(place, 26)])))))
    assert sum(wrong) <= 1


def test_a_uniform_image_gives_no_suggestions() -> None:
    for colour in ("white", "black", (90, 90, 90)):
        found = find_similar_boxes(Image.new("RGB", SIZE, colour), array([[0.2, 0.2, 0.3, 0.3]]))
        well_formed(found)
        assert len(sure(found)) == 0


def test_examples_are_not_returned() -> None:
    image = ground()
    for place in PLACES:
        disc(image, place, 26, RED)
    examples = array([square_at(place, 24) for place in PLACES[:3]])
    found = find_similar_boxes(image, examples)
    assert np.all(overlaps(found.boxes, examples) <= 0.31)
    everything = array([square_at(place, 26) for place in PLACES])
    assert len(sure(find_similar_boxes(image, everything))) == 0


def test_objects_at_the_border_are_found_and_may_be_examples() -> None:
    image, places = ground(), ((20, 30), (620, 240), (330, 465), (15, 460), (300, 200))
    for place in places:
        disc(image, place, 26, RED)
    truth = np.clip(array([square_at(place, 26) for place in places]), 0, 1)
    from_inside = find_similar_boxes(image, truth[4:])
    well_formed(from_inside)
    assert np.all(overlaps(from_inside.boxes[:4], truth[:4]).max(axis=0) > 0.5)
    from_border = find_similar_boxes(image, truth[:1])
    assert overlaps(from_border.boxes[:5], truth[4:]).max() > 0.3


def test_the_limit_keeps_the_best() -> None:
    image = ground()
    for place in PLACES:
        disc(image, place, 26, RED)
    example = array([square_at(PLACES[0], 26)])
    all_of_them, few = (
        find_similar_boxes(image, example),
        find_similar_boxes(image, example, limit=3),
    )
    np.testing.assert_array_equal(few.boxes, all_of_them.boxes[:3])


@pytest.mark.parametrize(
    "size", [(1, 1), (2, 2), (9, 5), (3, 700), (700, 3), (20, 2000), (2400, 160), (1500, 1100)]
)
def test_images_of_every_aspect_ratio_are_supported(size: tuple[int, int]) -> None:
    image = ground(size)
    for box in ([0.1, 0.1, 0.4, 0.3], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.51, 0.505]):
        well_formed(find_similar_boxes(image, array([box])))
    well_formed(find_similar_points(image, np.array([[0.5, 0.4]], dtype=np.float32)))


def test_a_large_image_gives_the_same_boxes() -> None:
    small = ground()
    for place in PLACES:
        disc(small, place, 26, RED)
    large = small.resize((1920, 1440), Image.Resampling.BICUBIC)
    truth = array([square_at(place, 26) for place in PLACES])
    share = overlaps(sure(find_similar_boxes(large, truth[:1])), truth[1:])
    assert np.all(share.max(axis=0) > 0.6)
    assert len(share) == len(PLACES) - 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_of_every_mode_are_supported(mode: str) -> None:
    image = ground()
    for place in PLACES:
        disc(image, place, 26, (250, 250, 250))
    found = find_similar_boxes(image.convert(mode), array([square_at(PLACES[0], 26)]))
    truth = array([square_at(place, 26) for place in PLACES[1:]])
    assert np.all(overlaps(found.boxes, truth).max(axis=0) > 0.5)


@pytest.mark.parametrize(
    "examples",
    [[], [[0.2, 0.2, 0.2, 0.4]], [[0.3, 0.3, 0.2, 0.4]], [[1.2, 0.2, 1.4, 0.4]], [[np.nan] * 4]],
)
def test_a_box_without_area_is_refused(examples: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="needs an area"):
        find_similar_boxes(ground(), array(examples))


@pytest.mark.parametrize("radius", [10, 20, 40])
def test_the_object_size_is_estimated_around_a_point(radius: int) -> None:
    image = ground()
    for place in PLACES:
        disc(image, place, radius, RED)
    points = points_at(PLACES[:1])
    truth = array([square_at(place, radius) for place in PLACES[1:]])
    share = overlaps(sure(find_similar_points(image, points)), truth)
    assert np.all(share.max(axis=0) > 0.5)
    assert len(share) == len(PLACES) - 1


def test_a_given_side_is_used() -> None:
    image = ground()
    for place in PLACES:
        disc(image, place, 20, RED)
    points = points_at(PLACES[:2])
    found = find_similar_points(image, points, 40 / 640)
    truth = array([square_at(place, 20) for place in PLACES[2:]])
    assert np.all(overlaps(found.boxes[:6], truth).max(axis=0) > 0.6)


def test_invalid_points_are_refused() -> None:
    with pytest.raises(ValueError, match="At least one point"):
        find_similar_points(ground(), np.zeros((0, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="above 0"):
        find_similar_points(ground(), np.array([[0.5, 0.5]], dtype=np.float32), 0.0)
