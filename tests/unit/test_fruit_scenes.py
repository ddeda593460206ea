"""The drawn fruits: the truth lies where the pixels are, and colour alone does not find it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from demo.scenes.apple_scenes import apple_scenes
from demo.scenes.fruit_scene import (
    MIN_VISIBLE_SHARE,
    Fruit,
    FruitScene,
    SceneItem,
    drop_hidden_fruits,
    locate_fruits,
)
from demo.scenes.strawberry_scenes import strawberry_scenes

Series = Callable[[int, int], Iterator[FruitScene]]
SERIES: tuple[Series, ...] = (strawberry_scenes, apple_scenes)
COUNT = 30


@pytest.fixture(scope="module")
def berries() -> list[FruitScene]:
    return list(strawberry_scenes(COUNT, 3))


@pytest.fixture(scope="module")
def apples() -> list[FruitScene]:
    return list(apple_scenes(COUNT, 3))


@pytest.fixture(params=["berries", "apples"])
def scenes(request: pytest.FixtureRequest) -> list[FruitScene]:
    found: list[FruitScene] = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("series", SERIES)
def test_the_same_seed_draws_the_same_however_many_are_asked_for(series: Series) -> None:
    for again, first in zip(series(2, 5), series(4, 5), strict=False):
        assert (again.name, again.objects) == (first.name, first.objects)
        assert again.image.tobytes() == first.image.tobytes()


@pytest.mark.parametrize("series", SERIES)
def test_another_seed_draws_other_scenes(series: Series) -> None:
    (one,), (other,) = series(1, 5), series(1, 6)
    assert one.image.tobytes() != other.image.tobytes()


def test_names_are_unique_and_have_one_hyphen(scenes: list[FruitScene]) -> None:
    assert len({scene.name for scene in scenes}) == COUNT
    assert all(scene.name.count("-") == 1 for scene in scenes)
    assert scenes[7].name.endswith("-0007")


def test_photos_are_320_by_240(scenes: list[FruitScene]) -> None:
    assert {(scene.image.size, scene.image.mode) for scene in scenes} == {((320, 240), "RGB")}


def _all(scenes: list[FruitScene]) -> list[Fruit]:
    return [found for scene in scenes for found in scene.objects]


def test_boxes_lie_in_the_picture_and_hold_their_centers(scenes: list[FruitScene]) -> None:
    for found in _all(scenes):
        assert 0 <= found.x0 < found.x1 <= 1
        assert 0 <= found.y0 < found.y1 <= 1
        assert found.x0 < found.center[0] < found.x1
        assert found.y0 < found.center[1] < found.y1


def _lengths(scenes: list[FruitScene]) -> npt.NDArray[np.float64]:
    """The longer side of every box, by the picture's longer side."""
    return np.array([max(f.x1 - f.x0, (f.y1 - f.y0) * 0.75) for f in _all(scenes)])


def test_strawberries_are_small_and_few(berries: list[FruitScene]) -> None:
    counts = {len(scene.objects) for scene in berries}
    assert min(counts) == 0
    assert 5 <= max(counts) <= 8
    assert {found.label for found in _all(berries)} == {"strawberry"}
    assert _lengths(berries).min() > 0.02
    assert _lengths(berries).max() < 0.16
    assert 0.05 < np.median(_lengths(berries)) < 0.13


def test_apples_are_small_and_many(apples: list[FruitScene]) -> None:
    counts = {len(scene.objects) for scene in apples}
    assert min(counts) == 0
    assert 1 not in counts
    assert 15 <= max(counts) <= 25
    assert {found.label for found in _all(apples)} == {"apple"}
    assert _lengths(apples).min() > 0.018
    assert _lengths(apples).max() < 0.085


def test_empty_pictures_exist_but_are_rare(scenes: list[FruitScene]) -> None:
    assert 0 < sum(not scene.objects for scene in scenes) < COUNT / 4


def _redness(scene: FruitScene) -> npt.NDArray[np.float64]:
    """Red over green ``(rows, columns)``."""
    pixels = np.asarray(scene.image, float)
    return np.asarray(pixels[..., 0] - pixels[..., 1])


def _inside(scene: FruitScene) -> npt.NDArray[np.bool_]:
    """Which pixels ``(rows, columns)`` lie in a box."""
    inside = np.zeros((240, 320), bool)
    for f in scene.objects:
        rows, columns = slice(int(f.y0 * 240), int(f.y1 * 240)), slice(int(f.x0 * 320), None)
        inside[rows, columns.start : int(f.x1 * 320)] = True
    return inside


def test_the_truth_lies_where_the_red_pixels_are(scenes: list[FruitScene]) -> None:
    inside = np.concatenate([_redness(scene)[_inside(scene)] for scene in scenes])
    outside = np.concatenate([_redness(scene)[~_inside(scene)] for scene in scenes])
    assert inside.mean() > outside.mean() + 25


def test_redness_alone_does_not_find_strawberries(berries: list[FruitScene]) -> None:
    """Of the red spots as large as a small berry, many are flowers and leaves."""
    hits = spots = 0
    for scene in berries:
        marks, count = ndimage.label(_redness(scene) > 60)
        for mark in range(1, count + 1):
            spot = marks == mark
            if spot.sum() >= 60:
                spots += 1
                hits += bool(_inside(scene)[spot].mean() > 0.5)
    assert hits / spots < 0.75


def _square(x: int, y: int, side: int, label: str = "") -> SceneItem:
    corners = [float(n) for n in (x, y, x + side, y, x + side, y + side, x, y + side)]
    return SceneItem((corners,), lambda picture, pen: None, label)


def test_a_fruit_that_is_hidden_too_much_does_not_count() -> None:
    fruit = _square(100, 100, 40, "apple")
    little, much = _square(80, 100, 30), _square(80, 60, int(40 * (2 - MIN_VISIBLE_SHARE)))
    assert drop_hidden_fruits([fruit, little]) == [fruit, little]
    assert drop_hidden_fruits([fruit, much]) == [much]
    assert drop_hidden_fruits([much, fruit]) == [much, fruit]


def test_a_box_holds_only_what_can_be_seen() -> None:
    fruit, leaf = _square(100, 100, 39, "apple"), _square(90, 90, 59)
    half = _square(60, 90, 59)
    (whole,) = locate_fruits([leaf, fruit])
    assert (whole.x0, whole.y0, whole.x1, whole.y1) == (
        100 / 640,
        100 / 480,
        140 / 640,
        140 / 480,
    )
    (part,) = locate_fruits([fruit, half])
    assert (part.x0, part.x1) == (120 / 640, 140 / 640)


def test_a_fruit_half_outside_is_clipped_at_the_border() -> None:
    (found,) = locate_fruits(drop_hidden_fruits([_square(-15, 200, 39, "apple")]))
    assert found.x0 == 0
    assert found.x1 == 25 / 640
    assert drop_hidden_fruits([_square(-30, 200, 39, "apple")]) == []
