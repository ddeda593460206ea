"""Detections and labeled boxes of an image, and non-maximum suppression (NMS)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backend.arrays import Bools, Floats, Ints

if TYPE_CHECKING:
    from PIL import Image

MIN_DETECTION_CONFIDENCE = 0.02
"""Confidence below which detections are discarded, in evaluation and export too."""


@dataclass(frozen=True)
class Detections:
    """Detections in one image, most confident first.

    Attributes:
        boxes: (n, 4) float32 x0 y0 x1 y1, 0 to 1 of the upright image.
        confidence: (n,) float32, 0 to 1, descending.
        labels: (n,) int64 indices into the detector's label names.
    """

    boxes: Floats
    confidence: Floats
    labels: Ints

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, rows: Ints | Bools) -> Detections:
        """Return the detections selected by a mask or index array."""
        return Detections(self.boxes[rows], self.confidence[rows], self.labels[rows])

    @property
    def centres(self) -> Floats:
        """Box centres: (n, 2) float32 x y, 0 to 1."""
        return np.asarray((self.boxes[:, :2] + self.boxes[:, 2:]) / 2, dtype=np.float32)


NO_DETECTIONS = Detections(
    np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)
)


@dataclass(frozen=True)
class DetectionExample:
    """A fully labeled training image; without boxes it is a background image.

    Attributes:
        read_image: loads the upright RGB image; called at each use.
        width: width of the upright image; only width / height is used.
        height: height of the upright image.
        boxes: (n, 4) float32 x0 y0 x1 y1, 0 to 1.
        labels: (n,) int64 indices into the label names.
    """

    read_image: Callable[[], Image.Image]
    width: int
    height: int
    boxes: Floats
    labels: Ints


def merge_detections(first: Detections, second: Detections) -> Detections:
    """Merge the detections of two detectors with disjoint labels, without NMS."""
    confidence = np.concatenate([first.confidence, second.confidence])
    boxes = np.concatenate([first.boxes, second.boxes])
    labels = np.concatenate([first.labels, second.labels])
    order = np.argsort(-confidence, kind="stable")
    return Detections(boxes, confidence, labels).select(order)


def suppress_per_label(
    boxes: Floats, confidence: Floats, labels: Ints, iou_threshold: float
) -> Ints:
    """Apply NMS per label.

    Args:
        boxes: (n, 4) x0 y0 x1 y1.
        confidence: (n,).
        labels: (n,).
        iou_threshold: IoU above which the less confident of two boxes is dropped.

    Returns:
        (k,) indices of the kept boxes, most confident first.
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
    """Apply greedy NMS without importing torchvision, which takes seconds.

    Args:
        boxes: (n, 4) x0 y0 x1 y1.
        scores: (n,).
        iou_threshold: IoU above which the lower-scored of two boxes is dropped.
        max_boxes: maximum number of kept boxes.
        containment_threshold: intersection / smaller area above which it is dropped too.

    Returns:
        (k,) indices of the kept boxes, highest score first.
    """
    areas = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)

    def is_separate(best: int, others: Ints) -> Bools:
        top_left = np.maximum(boxes[best, :2], boxes[others, :2])
        bottom_right = np.minimum(boxes[best, 2:], boxes[others, 2:])
        intersection = np.maximum(bottom_right - top_left, 0).prod(axis=1)
        union = areas[best] + areas[others] - intersection
        smaller_areas = np.minimum(areas[best], areas[others])
        return np.asarray(
            (intersection <= iou_threshold * union)
            & (intersection <= containment_threshold * smaller_areas)
        )

    return _suppress_greedily(scores, is_separate, max_boxes)


def suppress_close_centres(
    centres: Floats, confidence: Floats, labels: Ints, min_distances: Floats
) -> Ints:
    """Apply NMS per label by the distance between centres instead of IoU.

    Two boxes of side s at distance d have an IoU of (s − d) / (s + d), so NMS at the usual
    threshold of 0.7 would only merge points closer than 0.18 s.

    Args:
        centres: (n, 2) x y.
        confidence: (n,).
        labels: (n,).
        min_distances: (n,) minimum distance to more confident centres of the same label, in the
            units of ``centres``.

    Returns:
        (k,) indices of the kept centres, most confident first.
    """

    def is_separate(best: int, others: Ints) -> Bools:
        distances = np.hypot(*(centres[others] - centres[best]).T)
        return np.asarray((distances >= min_distances[others]) | (labels[others] != labels[best]))

    return _suppress_greedily(confidence, is_separate, len(centres))


def _suppress_greedily(
    scores: Floats, is_separate: Callable[[int, Ints], Bools], max_count: int
) -> Ints:
    """Repeatedly keep the highest-scored row and drop the rows not separate from it."""
    remaining = np.argsort(-scores, kind="stable")
    keep: list[int] = []
    while len(remaining) and len(keep) < max_count:
        best, remaining = int(remaining[0]), remaining[1:]
        keep.append(best)
        remaining = remaining[is_separate(best, remaining)]
    return np.array(keep, dtype=np.int64)
