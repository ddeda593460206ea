"""Which finds are one object: tables that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from backend.learning.matching import pairwise_iou
from backend.vision.detection.detections import (
    NO_DETECTIONS,
    Detections,
    greedy_nms,
    suppress_close_centres,
    suppress_per_label,
)

OVERLAPS = [
    # x0 y0 x1 y1, and how much of both it shares with (0, 0, 2, 2)
    ((0, 0, 2, 2), 1.0),
    ((1, 0, 3, 2), 1 / 3),  # 2 of 6
    ((1, 1, 3, 3), 1 / 7),  # 1 of 7
    ((0, 0, 1, 1), 1 / 4),  # 1 of 4
    ((2, 0, 4, 2), 0.0),  # they touch
    ((5, 5, 6, 6), 0.0),
    ((1, 1, 1, 1), 0.0),  # a point
]


@pytest.mark.parametrize(("other", "share"), OVERLAPS)
def test_iou_is_the_intersection_divided_by_the_union(
    other: tuple[float, ...], share: float
) -> None:
    one = (0, 0, 2, 2)
    assert pairwise_iou([one], [other]) == pytest.approx(share)
    assert pairwise_iou([other], [one]) == pytest.approx(share)


def test_two_equal_points_have_no_iou() -> None:
    assert pairwise_iou(np.ones((1, 4)), np.ones((1, 4))) == 0


def kept(
    boxes: list[list[float]], confidence: list[float], labels: list[int], most: float
) -> list[int]:
    rows: list[int] = suppress_per_label(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(confidence, dtype=np.float32),
        np.array(labels, dtype=np.int64),
        most,
    ).tolist()
    return rows


A, SHIFTED, APART = [0, 0, 10, 10], [2, 0, 12, 10], [30, 0, 40, 10]  # A and SHIFTED: 8 of 12


@pytest.mark.parametrize(
    ("boxes", "confidence", "labels", "most", "expected"),
    [
        ([], [], [], 0.5, []),
        ([A], [0.2], [0], 0.5, [0]),
        ([A, SHIFTED], [0.6, 0.9], [0, 0], 0.6, [1]),  # the surer one stays
        ([A, SHIFTED], [0.6, 0.9], [0, 0], 0.7, [1, 0]),  # 0.67 is not above 0.7
        ([A, A], [0.6, 0.9], [0, 1], 0.6, [1, 0]),  # two labels may be in one place
        ([A, SHIFTED, APART], [0.5, 0.4, 0.9], [2, 2, 2], 0.6, [2, 0]),
        ([A, [4, 0, 14, 10], [8, 0, 18, 10]], [0.9, 0.8, 0.7], [0] * 3, 0.4, [0, 2]),
        # 6 of 14 = 0.43 for neighbours: the middle goes, and what it would have dropped stays
    ],
)
def test_nms_keeps_the_most_confident_of_overlapping_boxes_of_a_label(
    boxes: list[list[float]],
    confidence: list[float],
    labels: list[int],
    most: float,
    expected: list[int],
) -> None:
    assert kept(boxes, confidence, labels, most) == expected


def test_labels_are_suppressed_separately_in_any_unit_and_beyond_the_edge() -> None:
    boxes = [[-0.2, -0.1, 0.5, 0.5], [-0.2, -0.1, 0.5, 0.5], [0.5, 0.5, 1.2, 1.1]]
    assert kept(boxes, [0.9, 0.8, 0.7], [79, 78, 0], 0.5) == [0, 1, 2]


@pytest.mark.parametrize("side", [10.0, 0.05])
@pytest.mark.parametrize(
    ("distance", "labels", "stay"),
    [
        (0.49, (0, 0), 1),
        (0.51, (0, 0), 2),
        (0.0, (0, 0), 1),
        (0.0, (0, 1), 2),  # a leaf on an apple
        (0.49, (0, 1), 2),
    ],
)
def test_centres_closer_than_half_a_side_are_one(
    side: float, distance: float, labels: tuple[int, int], stay: int
) -> None:
    for direction in ([1, 0], [0, 1], [0.6, -0.8]):
        centres = np.array(
            [[0.5, 0.5], np.array([0.5, 0.5]) + np.multiply(direction, distance * side)]
        )
        rows = suppress_close_centres(
            centres.astype(np.float32),
            np.array([0.4, 0.7], dtype=np.float32),
            np.array(labels, dtype=np.int64),
            np.full(2, side / 2, dtype=np.float32),
        )
        assert rows.tolist() == [1, 0][:stay]


def test_a_chain_of_centres_keeps_every_other() -> None:
    centres = np.array([[0, 0], [4, 0], [8, 0]], dtype=np.float32)
    confidence = np.array([0.9, 0.8, 0.7], dtype=np.float32)
    same = np.zeros(3, dtype=np.int64)
    rows = suppress_close_centres(centres, confidence, same, np.full(3, 5, dtype=np.float32))
    assert rows.tolist() == [0, 2]


def test_suppressing_no_centres_returns_none() -> None:
    none = np.zeros(0, dtype=np.float32)
    assert not len(suppress_close_centres(none.reshape(0, 2), none, NO_DETECTIONS.labels, none))


def test_detections_can_be_selected_by_mask_and_by_index() -> None:
    found = Detections(
        np.array([[0, 0, 0.5, 1], [0.5, 0.5, 1, 1]], dtype=np.float32),
        np.array([0.9, 0.8], dtype=np.float32),
        np.array([3, 4], dtype=np.int64),
    )
    assert found.select(np.array([False, True])).labels.tolist() == [4]
    assert found.select(np.array([1, 0])).confidence.tolist() == pytest.approx([0.8, 0.9])
    np.testing.assert_allclose(found.centres, [[0.25, 0.5], [0.75, 0.75]])
    assert (len(found), len(NO_DETECTIONS)) == (2, 0)


def test_greedy_nms_keeps_the_best_of_nested_boxes() -> None:
    boxes = np.array(
        [[0, 0, 10, 10], [1, 1, 11, 11], [20, 0, 30, 10], [2, 2, 6, 6], [0, 0, 0, 0]],
        dtype=np.float32,
    )
    scores = np.array([0.5, 0.9, 0.1, 0.8, 0.05], dtype=np.float32)
    assert greedy_nms(boxes, scores, 0.3, 9).tolist() == [1, 3, 2, 4]
    assert greedy_nms(boxes, scores, 0.3, 9, 0.6).tolist() == [1, 2, 4]
    assert greedy_nms(boxes, scores, 0.3, 1).tolist() == [1]
    assert greedy_nms(boxes[:0], scores[:0], 0.3, 9).tolist() == []
