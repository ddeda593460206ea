"""Which finds are which objects: the matching that all figures of detection rest on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles

Pairs = list[tuple[int, int]]
FAR = 1e6


def match_boxes(found: npt.ArrayLike, truth: npt.ArrayLike, least: float = 0.5) -> Pairs:
    """Match boxes one to one so that as many as possible overlap enough.

    Args:
        found: (n, 4) x0 y0 x1 y1.
        truth: (m, 4), the same unit.
        least: intersection over union from which two are the same, 0 to 1.

    Returns:
        (index in found, index in truth), in the order of ``found``.

    Example:
        >>> match_boxes([[0, 0, 2, 2], [5, 5, 6, 6]], [[5, 5, 6, 6]])
        [(1, 0)]
    """
    overlap = overlaps(found, truth)
    return _assigned(1 - overlap, 1 - least)


def match_points(found: npt.ArrayLike, truth: npt.ArrayLike, within: float) -> Pairs:
    """Match points one to one so that as many as possible are close enough (Hungarian method).

    Args:
        found: (n, 2) x y.
        truth: (m, 2), the same unit, equal in both directions.
        within: distance up to which two are the same.

    Returns:
        (index in found, index in truth), in the order of ``found``.

    Example:
        >>> match_points([[0, 0], [9, 9]], [[1, 0], [4, 4]], within=2)
        [(0, 0)]
    """
    one = np.asarray(found, dtype=np.float64).reshape(-1, 1, 2)
    other = np.asarray(truth, dtype=np.float64).reshape(1, -1, 2)
    return _assigned(np.hypot(*np.moveaxis(one - other, 2, 0)), within)


def overlaps(found: npt.ArrayLike, truth: npt.ArrayLike) -> Doubles:
    """Intersection over union of each with each: (n, m), 0 to 1."""
    one = np.asarray(found, dtype=np.float64).reshape(-1, 1, 4)
    other = np.asarray(truth, dtype=np.float64).reshape(1, -1, 4)
    low = np.maximum(one[..., :2], other[..., :2])
    high = np.minimum(one[..., 2:], other[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(b[..., 2:] - b[..., :2]).prod(axis=2) for b in (one, other)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-12))


def average_precision(confidence: npt.ArrayLike, right: npt.ArrayLike, objects: int) -> float:
    """Area under precision against recall, at 101 recalls (COCO's definition).

    Args:
        confidence: (n,) of all finds of one label in all images.
        right: (n,) bool, whether each is an object that no surer find is.
        objects: how many objects there are, at least 1.

    Example:
        >>> round(average_precision([0.9, 0.8, 0.7], [True, False, True], objects=2), 3)
        0.835
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    hits = np.asarray(right, dtype=bool)[order].cumsum()
    if not len(hits):
        return 0.0
    recall = hits / objects
    precision = hits / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101) - 1e-12)
    return float(np.append(best, 0.0)[at].mean())


def greedy(overlap: Doubles, least: float) -> npt.NDArray[np.bool_]:
    """Of finds in descending confidence, which are an object that no surer one is.

    Args:
        overlap: (n, m) IoU of finds with objects.
        least: from which two are the same.
    """
    right = np.zeros(len(overlap), dtype=bool)
    free = np.ones(overlap.shape[1], dtype=bool)
    for i, row in enumerate(overlap):
        candidates = np.where(free, row, -1.0)
        if len(candidates) and candidates.max() >= least:
            free[candidates.argmax()] = False
            right[i] = True
    return right


def _assigned(cost: Doubles, most: float) -> Pairs:
    from scipy.optimize import linear_sum_assignment

    if not cost.size:
        return []
    near = cost <= most + 1e-12
    rows, columns = linear_sum_assignment(np.where(near, cost, FAR))
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return [(i, j) for i, j in pairs if near[i, j]]
