"""Centre points as boxes and back."""

from __future__ import annotations

import numpy as np
import pytest

from backend.arrays import Floats
from backend.vision.detection.detections import Detections
from backend.vision.detection.pseudo_boxes import estimate_side, make_pseudo_boxes, to_centre_points

SIZE = 640
NONE = np.zeros((0, 2), dtype=np.float32)


def row(gap: float, count: int = 5) -> Floats:
    """Points in a row, so many pixels of the input apart."""
    return np.array([[i * gap / SIZE, 0.5] for i in range(count)], dtype=np.float32)


def real(*sides: tuple[float, float]) -> Floats:
    """Widths and heights in pixels of the input."""
    return np.array(sides, dtype=np.float32) / np.float32(SIZE)


@pytest.mark.parametrize(
    ("points", "boxes", "told", "pixels"),
    [
        ([row(50)], [real((20, 40), (10, 10)), real((90, 110))], 0.1, 30),  # median of 30, 10, 100
        ([row(50)], [], 0.1, 64),  # as told: a tenth of 640
        ([row(50)], [NONE], 0.0, 30),  # six tenths of the gap
        ([row(50), row(500, 2), NONE], [], 0.0, 30),  # a quarter of the gaps is at most 50
        ([row(5)], [], 0.0, 12),  # 3, but never below 12
        ([row(200)], [], 0.0, 64),  # 120, but never above 64
        ([row(0, 2)], [], 0.0, 12),  # two points in one place
        ([row(50, 1), row(90, 1), NONE], [], 0.0, 32),  # nobody has a neighbour
        ([], [], 0.0, 32),
        ([row(5)], [], 0.5, 320),  # what was told is not cut
        ([row(5)], [real((2, 4))], 0.0, 3),  # neither is what was drawn
    ],
)
def test_the_side_comes_from_boxes_then_the_config_then_gaps(
    points: list[Floats], boxes: list[Floats], told: float, pixels: float
) -> None:
    assert estimate_side(points, boxes, told, SIZE) * SIZE == pytest.approx(pixels, rel=1e-4)


@pytest.mark.parametrize("ratio", [1.0, 1.5, 0.4])
def test_a_pseudo_box_has_the_requested_side_in_both_directions(ratio: float) -> None:
    points = np.array([[0.5, 0.5], [0.3, 0.6]], dtype=np.float32)
    boxes = make_pseudo_boxes(points, np.array([0.1, 0.04], dtype=np.float32), ratio)
    edges = np.array([min(ratio, 1), min(1 / ratio, 1)])  # in units of the longer edge
    np.testing.assert_allclose(
        (boxes[:, 2:] - boxes[:, :2]) * edges, [[0.1, 0.1], [0.04, 0.04]], atol=1e-6
    )
    np.testing.assert_allclose((boxes[:, :2] + boxes[:, 2:]) / 2, points, atol=1e-6)


@pytest.mark.parametrize("ratio", [1.0, 1.5, 0.4])
def test_near_the_edge_a_box_shrinks_around_its_point(ratio: float) -> None:
    near = np.array([[0.04, 0.5], [0.5, 0.96], [0.96, 0.04]], dtype=np.float32)
    boxes = make_pseudo_boxes(near, np.full(3, 0.1, dtype=np.float32), ratio)
    np.testing.assert_allclose((boxes[:, :2] + boxes[:, 2:]) / 2, near, atol=1e-6)
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    assert (boxes[0, 2] - boxes[0, 0]) == pytest.approx(0.08)  # all the room there is


def test_a_point_on_the_edge_keeps_a_quarter_of_its_side_each_way() -> None:
    corner = np.array([[0, 0], [1, 1], [0, 0.5]], dtype=np.float32)
    boxes = make_pseudo_boxes(corner, np.full(3, 0.2, dtype=np.float32), 1.0)
    expected = [[0, 0, 0.025, 0.025], [0.975, 0.975, 1, 1], [0, 0.4, 0.025, 0.6]]
    np.testing.assert_allclose(boxes, expected, atol=1e-6)


def test_no_points_make_no_boxes() -> None:
    assert make_pseudo_boxes(NONE, np.zeros(0, dtype=np.float32), 2.0).shape == (0, 4)


def finds(*rows: tuple[float, float, float, int], half: float = 0.05) -> Detections:
    """Boxes around x y, with confidence and label."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 4)
    return Detections(
        np.concatenate([table[:, :2] - half, table[:, :2] + half], axis=1),
        table[:, 2],
        table[:, 3].astype(np.int64),
    )


def test_centres_outside_the_image_are_dropped_even_if_most_confident() -> None:
    found = finds((-0.01, 0.5, 0.9, 0), (0.01, 0.5, 0.8, 0), (0.5, 1.001, 0.7, 0), (1, 1, 0.6, 0))
    kept = to_centre_points(found, {0: 0.1}, 1.0)
    expected = [(0.01, 0.5, 0.01, 0.5), (1.0, 1.0, 1.0, 1.0)]
    np.testing.assert_allclose(kept.boxes, expected, atol=1e-6)
    assert kept.confidence.tolist() == pytest.approx([0.8, 0.6])


@pytest.mark.parametrize(
    ("ratio", "apart", "count"),
    [
        (1.0, (0.049, 0.0), 1),
        (1.0, (0.051, 0.0), 2),
        (2.0, (0.0, 0.098), 1),  # the height is half the longer edge
        (2.0, (0.0, 0.102), 2),
        (2.0, (0.051, 0.0), 2),
        (0.5, (0.098, 0.0), 1),
        (0.5, (0.102, 0.0), 2),
    ],
)
def test_distance_is_measured_in_units_of_the_longer_edge(
    ratio: float, apart: tuple[float, float], count: int
) -> None:
    found = finds((0.5, 0.5, 0.9, 0), (0.5 + apart[0], 0.5 + apart[1], 0.8, 0))
    assert len(to_centre_points(found, {0: 0.1}, ratio)) == count


def test_each_label_has_its_own_side() -> None:
    found = finds((0.2, 0.5, 0.9, 0), (0.24, 0.5, 0.8, 0), (0.7, 0.5, 0.7, 1), (0.74, 0.5, 0.6, 1))
    kept = to_centre_points(found, {0: 0.1, 1: 0.06}, 1.0)
    assert kept.labels.tolist() == [0, 1, 1]


def test_pseudo_boxes_convert_back_to_the_points() -> None:
    random = np.random.default_rng(1)
    points = random.random((40, 2)).astype(np.float32)
    boxes = make_pseudo_boxes(points, np.full(40, 0.02, dtype=np.float32), 1.6)
    inside = np.abs(points - 0.5).max(axis=1) < 0.48
    found = Detections(boxes, np.linspace(1, 0.5, 40, dtype=np.float32), np.arange(40))
    kept = to_centre_points(found, dict.fromkeys(range(40), 0.02), 1.6)
    np.testing.assert_allclose(kept.centres[inside], points[inside], atol=1e-6)
    assert len(kept) == 40
