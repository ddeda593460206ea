"""What a detector finds in one image, and how overlapping finds become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats, Ints


@dataclass(frozen=True)
class Detections:
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

    def select(self, rows: npt.NDArray[Any]) -> Detections:
        """Some of them, by mask or index."""
        return Detections(self.boxes[rows], self.confidence[rows], self.labels[rows])

    @property
    def centres(self) -> Floats:
        """(n, 2) float32 x y, 0 to 1."""
        return np.asarray((self.boxes[:, :2] + self.boxes[:, 2:]) / 2, dtype=np.float32)


NO_DETECTIONS = Detections(
    np.zeros((0, 4), dtype=np.float32),
    np.zeros(0, dtype=np.float32),
    np.zeros(0, dtype=np.int64),
)


def merge_detections(first: Detections, second: Detections) -> Detections:
    """The objects of two detectors that look for different labels."""
    confidence = np.concatenate([first.confidence, second.confidence])
    merged = Detections(
        np.concatenate([first.boxes, second.boxes]),
        confidence,
        np.concatenate([first.labels, second.labels]),
    )
    return merged.select(np.argsort(-confidence, kind="stable"))


def iou(box: Floats, other_boxes: Floats) -> Floats:
    """Intersection over union.

    Args:
        box: (4,) x0 y0 x1 y1.
        other_boxes: (n, 4), the same unit.

    Returns:
        (n,) 0 to 1; 0 where both are without area.

    Example:
        >>> iou(np.array([0, 0, 2, 2.]), np.array([[1, 0, 3, 2.]])).round(3).tolist()
        [0.333]
    """
    top_left = np.maximum(box[:2], other_boxes[:, :2])
    bottom_right = np.minimum(box[2:], other_boxes[:, 2:])
    overlap_area = np.clip(bottom_right - top_left, 0, None).prod(axis=1)
    union_area = (
        (box[2:] - box[:2]).prod()
        + (other_boxes[:, 2:] - other_boxes[:, :2]).prod(axis=1)
        - overlap_area
    )
    return np.asarray(overlap_area / np.maximum(union_area, 1e-12))


def suppress_per_label(
    boxes: Floats, confidence: Floats, labels: Ints, iou_threshold: float
) -> Ints:
    """Non-maximum suppression within each label.

    Args:
        boxes: (n, 4) x0 y0 x1 y1.
        confidence: (n,).
        labels: (n,).
        iou_threshold: overlap (IoU) above which the less certain of two is dropped.

    Returns:
        (k,) indices of those that stay, most certain first.
    """
    if not len(boxes):
        return np.zeros(0, dtype=np.int64)
    label_offsets = (labels * (float(np.abs(boxes).max()) * 2 + 1)).astype(np.float32)
    return greedy_nms(boxes + label_offsets[:, None], confidence, iou_threshold, len(boxes))


def greedy_nms(
    boxes: Floats,
    scores: Floats,
    iou_threshold: float,
    max_boxes: int,
    containment_threshold: float = 1.0,
) -> Ints:
    """Greedy non-maximum suppression; torchvision has one too, but takes seconds to import.

    Args:
        boxes: (n, 4) x0 y0 x1 y1.
        scores: (n,).
        iou_threshold: IoU above which the lower of two boxes goes.
        max_boxes: the most boxes that stay.
        containment_threshold: it also goes where the smaller box has more than this share in common.

    Returns:
        places of those that stay, best first.
    """
    areas = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
    remaining = np.argsort(-scores, kind="stable")
    keep: list[int] = []
    while len(remaining) and len(keep) < max_boxes:
        best, remaining = remaining[0], remaining[1:]
        keep.append(int(best))
        top_left = np.maximum(boxes[best, :2], boxes[remaining, :2])
        bottom_right = np.minimum(boxes[best, 2:], boxes[remaining, 2:])
        intersection = np.maximum(bottom_right - top_left, 0).prod(axis=1)
        union = areas[best] + areas[remaining] - intersection
        smaller_areas = np.minimum(areas[best], areas[remaining])
        remaining = remaining[
            (intersection <= iou_threshold * union)
            & (intersection <= containment_threshold * smaller_areas)
        ]
    return np.array(keep, dtype=np.int64)


def suppress_close_centres(
    centres: Floats, confidence: Floats, labels: Ints, min_distances: Floats
) -> Ints:
    """Of centres that are too close, only the most certain stays.

    Boxes of one size s shifted by d overlap by (s − d) / (s + d), so the usual IoU of 0.7 would
    merge only what is closer than 0.18 s; for points s / 2 is meant.

    Args:
        centres: (n, 2) x y, pixels.
        confidence: (n,).
        labels: (n,); only equal labels suppress each other.
        min_distances: (n,) distance in pixels below which one of two is dropped.

    Returns:
        (k,) indices of those that stay, most certain first.
    """
    remaining = np.argsort(-confidence, kind="stable")
    keep: list[int] = []
    while len(remaining):
        best, remaining = remaining[0], remaining[1:]
        keep.append(int(best))
        distances = np.hypot(*(centres[remaining] - centres[best]).T)
        remaining = remaining[
            (distances >= min_distances[remaining]) | (labels[remaining] != labels[best])
        ]
    return np.array(keep, dtype=np.int64)
