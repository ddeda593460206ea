"""Which finds are which objects: the matching that all figures of detection rest on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles

Pairs = list[tuple[int, int]]
UNMATCHABLE_COST = 1e6


def match_boxes(
    detected: npt.ArrayLike, ground_truth: npt.ArrayLike, min_iou: float = 0.5
) -> Pairs:
    """Match boxes one to one so that as many as possible overlap enough.

    Args:
        detected: (n, 4) x0 y0 x1 y1.
        ground_truth: (m, 4), the same unit.
        min_iou: intersection over union from which two are the same, 0 to 1.

    Returns:
        (index in found, index in truth), in the order of ``detected``.

    Example:
        >>> match_boxes([[0, 0, 2, 2], [5, 5, 6, 6]], [[5, 5, 6, 6]])
        [(1, 0)]
    """
    iou = pairwise_iou(detected, ground_truth)
    return _solve_assignment(1 - iou, 1 - min_iou)


def match_points(
    detected: npt.ArrayLike, ground_truth: npt.ArrayLike, max_distance: float
) -> Pairs:
    """Match points one to one so that as many as possible are close enough (Hungarian method).

    Args:
        detected: (n, 2) x y.
        ground_truth: (m, 2), the same unit, equal in both directions.
        max_distance: distance up to which two are the same.

    Returns:
        (index in found, index in truth), in the order of ``detected``.

    Example:
        >>> match_points([[0, 0], [9, 9]], [[1, 0], [4, 4]], max_distance=2)
        [(0, 0)]
    """
    detected_points = np.asarray(detected, dtype=np.float64).reshape(-1, 1, 2)
    true_points = np.asarray(ground_truth, dtype=np.float64).reshape(1, -1, 2)
    return _solve_assignment(
        np.hypot(*np.moveaxis(detected_points - true_points, 2, 0)), max_distance
    )


def pairwise_iou(detected: npt.ArrayLike, ground_truth: npt.ArrayLike) -> Doubles:
    """Intersection over union of each with each: (n, m), 0 to 1."""
    detected_boxes = np.asarray(detected, dtype=np.float64).reshape(-1, 1, 4)
    true_boxes = np.asarray(ground_truth, dtype=np.float64).reshape(1, -1, 4)
    lower_corner = np.maximum(detected_boxes[..., :2], true_boxes[..., :2])
    upper_corner = np.minimum(detected_boxes[..., 2:], true_boxes[..., 2:])
    intersection = np.clip(upper_corner - lower_corner, 0, None).prod(axis=2)
    areas = [(b[..., 2:] - b[..., :2]).prod(axis=2) for b in (detected_boxes, true_boxes)]
    return np.asarray(intersection / np.maximum(areas[0] + areas[1] - intersection, 1e-12))


def average_precision(
    confidence: npt.ArrayLike, is_correct: npt.ArrayLike, object_count: int
) -> float:
    """Area under precision against recall, at 101 recalls (COCO's definition).

    Args:
        confidence: (n,) of all finds of one label in all images.
        is_correct: (n,) bool, whether each is an object that no surer find is.
        object_count: how many objects there are, at least 1.

    Example:
        >>> round(average_precision([0.9, 0.8, 0.7], [True, False, True], object_count=2), 3)
        0.835
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    true_positives = np.asarray(is_correct, dtype=bool)[order].cumsum()
    if not len(true_positives):
        return 0.0
    recall = true_positives / object_count
    precision = true_positives / np.arange(1, len(true_positives) + 1)
    precision_envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall_indices = np.searchsorted(recall, np.linspace(0, 1, 101) - 1e-12)
    return float(np.append(precision_envelope, 0.0)[recall_indices].mean())


def match_greedily(iou: Doubles, min_iou: float) -> npt.NDArray[np.bool_]:
    """Of finds in descending confidence, which are an object that no surer one is.

    Args:
        iou: (n, m) IoU of finds with objects.
        min_iou: from which two are the same.
    """
    is_correct = np.zeros(len(iou), dtype=bool)
    is_unmatched = np.ones(iou.shape[1], dtype=bool)
    for i, row in enumerate(iou):
        candidate_iou = np.where(is_unmatched, row, -1.0)
        if len(candidate_iou) and candidate_iou.max() >= min_iou:
            is_unmatched[candidate_iou.argmax()] = False
            is_correct[i] = True
    return is_correct


def _solve_assignment(cost: Doubles, max_cost: float) -> Pairs:
    from scipy.optimize import linear_sum_assignment

    if not cost.size:
        return []
    is_allowed = cost <= max_cost + 1e-12
    rows, columns = linear_sum_assignment(np.where(is_allowed, cost, UNMATCHABLE_COST))
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(i, j) for i, j in pairs if is_allowed[i, j]]
