"""Match detections with annotated objects, as the basis of all detection metrics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backend.arrays import Bools, Doubles

IndexPairs = list[tuple[int, int]]
"""(index of a detection, index of its object), in the order of the detections."""
UNMATCHABLE_COST = 1e6


def match_boxes(
    detected: npt.ArrayLike, ground_truth: npt.ArrayLike, min_iou: float = 0.5
) -> IndexPairs:
    """Match boxes one to one, as many as possible (Hungarian method).

    Args:
        detected: (n, 4) x0 y0 x1 y1.
        ground_truth: (m, 4), in the same unit.
        min_iou: minimum intersection over union of a match, 0 to 1.

    Example:
        >>> match_boxes([[0, 0, 2, 2], [5, 5, 6, 6]], [[5, 5, 6, 6]])
        [(1, 0)]
    """
    return _solve_assignment(1 - pairwise_iou(detected, ground_truth), 1 - min_iou)


def match_points(
    detected: npt.ArrayLike, ground_truth: npt.ArrayLike, max_distance: float
) -> IndexPairs:
    """Match points one to one, as many as possible (Hungarian method).

    Args:
        detected: (n, 2) x y.
        ground_truth: (m, 2), in the same unit, with the same scale on both axes.
        max_distance: maximum distance of a match.

    Example:
        >>> match_points([[0, 0], [9, 9]], [[1, 0], [4, 4]], max_distance=2)
        [(0, 0)]
    """
    detected_points = np.asarray(detected, dtype=np.float64).reshape(-1, 1, 2)
    true_points = np.asarray(ground_truth, dtype=np.float64).reshape(1, -1, 2)
    distance = np.hypot(*np.moveaxis(detected_points - true_points, 2, 0))
    return _solve_assignment(distance, max_distance)


def pairwise_iou(detected: npt.ArrayLike, ground_truth: npt.ArrayLike) -> Doubles:
    """Return the IoU of each detection with each object, (n, m), 0 to 1."""
    detected_boxes = np.asarray(detected, dtype=np.float64).reshape(-1, 1, 4)
    true_boxes = np.asarray(ground_truth, dtype=np.float64).reshape(1, -1, 4)
    lower_corner = np.maximum(detected_boxes[..., :2], true_boxes[..., :2])
    upper_corner = np.minimum(detected_boxes[..., 2:], true_boxes[..., 2:])
    intersection = np.clip(upper_corner - lower_corner, 0, None).prod(axis=2)
    areas = [(b[..., 2:] - b[..., :2]).prod(axis=2) for b in (detected_boxes, true_boxes)]
    return np.asarray(intersection / np.maximum(areas[0] + areas[1] - intersection, 1e-12))


def match_greedily(iou: Doubles, min_iou: float) -> Bools:
    """Match each detection with the best unmatched object; return which detections are correct.

    Args:
        iou: (n, m) IoU of detections, in descending confidence, with objects.
        min_iou: minimum IoU of a correct detection.
    """
    is_correct = np.zeros(len(iou), dtype=bool)
    is_unmatched = np.ones(iou.shape[1], dtype=bool)
    for i, row in enumerate(iou):
        candidate_iou = np.where(is_unmatched, row, -1.0)
        if len(candidate_iou) and candidate_iou.max() >= min_iou:
            is_unmatched[candidate_iou.argmax()] = False
            is_correct[i] = True
    return is_correct


def _solve_assignment(cost: Doubles, max_cost: float) -> IndexPairs:
    from scipy.optimize import linear_sum_assignment

    if not cost.size:
        return []
    is_allowed = cost <= max_cost + 1e-12
    rows, columns = linear_sum_assignment(np.where(is_allowed, cost, UNMATCHABLE_COST))
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(i, j) for i, j in pairs if is_allowed[i, j]]
