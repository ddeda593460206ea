"""What a detector finds in one image, and how overlapping finds become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats, Ints


@dataclass(frozen=True)
class Found:
    """Objects of one image, best first.

    Attributes:
        boxes: (n, 4) float32 x0 y0 x1 y1, 0 to 1 of the upright image.
        confidence: (n,) float32, 0 to 1, descending.
        labels: (n,) int64, index into the detector's label names.
    """

    boxes: Floats
    confidence: Floats
    labels: Ints

    def __len__(self) -> int:
        return len(self.boxes)

    def only(self, rows: npt.NDArray[Any]) -> Found:
        """Some of them, by mask or index."""
        return Found(self.boxes[rows], self.confidence[rows], self.labels[rows])

    @property
    def centres(self) -> Floats:
        """(n, 2) float32 x y, 0 to 1."""
        return np.asarray((self.boxes[:, :2] + self.boxes[:, 2:]) / 2, dtype=np.float32)


NOTHING = Found(
    np.zeros((0, 4), dtype=np.float32),
    np.zeros(0, dtype=np.float32),
    np.zeros(0, dtype=np.int64),
)


def both(one: Found, other: Found) -> Found:
    """The objects of two detectors that look for different labels."""
    confidence = np.concatenate([one.confidence, other.confidence])
    together = Found(
        np.concatenate([one.boxes, other.boxes]),
        confidence,
        np.concatenate([one.labels, other.labels]),
    )
    return together.only(np.argsort(-confidence, kind="stable"))


def iou(one: Floats, many: Floats) -> Floats:
    """Intersection over union.

    Args:
        one: (4,) x0 y0 x1 y1.
        many: (n, 4), the same unit.

    Returns:
        (n,) 0 to 1; 0 where both are without area.

    Example:
        >>> iou(np.array([0, 0, 2, 2.]), np.array([[1, 0, 3, 2.]])).round(3).tolist()
        [0.333]
    """
    low = np.maximum(one[:2], many[:, :2])
    high = np.minimum(one[2:], many[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    whole = (one[2:] - one[:2]).prod() + (many[:, 2:] - many[:, :2]).prod(axis=1) - shared
    return np.asarray(shared / np.maximum(whole, 1e-12))


def suppress(boxes: Floats, confidence: Floats, labels: Ints, most: float) -> Ints:
    """Non-maximum suppression within each label.

    Args:
        boxes: (n, 4) x0 y0 x1 y1.
        confidence: (n,).
        labels: (n,).
        most: overlap (IoU) above which the less certain of two is dropped.

    Returns:
        (k,) indices of those that stay, most certain first.
    """
    if not len(boxes):
        return np.zeros(0, dtype=np.int64)
    far = (labels * (float(np.abs(boxes).max()) * 2 + 1)).astype(np.float32)
    return best_apart(boxes + far[:, None], confidence, most, len(boxes))


def best_apart(
    boxes: Floats, scores: Floats, overlap: float, limit: int, inside: float = 1.0
) -> Ints:
    """Greedy non-maximum suppression; torchvision has one too, but takes seconds to import.

    Args:
        boxes: (n, 4) x0 y0 x1 y1.
        scores: (n,).
        overlap: IoU above which the lower of two boxes goes.
        limit: the most boxes that stay.
        inside: it also goes where the smaller box has more than this share in common.

    Returns:
        places of those that stay, best first.
    """
    areas = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(left) and len(kept) < limit:
        best, left = left[0], left[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:], boxes[left, 2:])
        common = np.maximum(high - low, 0).prod(axis=1)
        union = areas[best] + areas[left] - common
        smaller = np.minimum(areas[best], areas[left])
        left = left[(common <= overlap * union) & (common <= inside * smaller)]
    return np.array(kept, dtype=np.int64)


def suppress_centres(centres: Floats, confidence: Floats, labels: Ints, least: Floats) -> Ints:
    """Of centres that are too close, only the most certain stays.

    Boxes of one size s shifted by d overlap by (s − d) / (s + d), so the usual IoU of 0.7 would
    merge only what is closer than 0.18 s; for points s / 2 is meant.

    Args:
        centres: (n, 2) x y, pixels.
        confidence: (n,).
        labels: (n,); only equal labels suppress each other.
        least: (n,) distance in pixels below which one of two is dropped.

    Returns:
        (k,) indices of those that stay, most certain first.
    """
    left = np.argsort(-confidence, kind="stable")
    kept: list[int] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        gaps = np.hypot(*(centres[left] - centres[best]).T)
        left = left[(gaps >= least[left]) | (labels[left] != labels[best])]
    return np.array(kept, dtype=np.int64)
