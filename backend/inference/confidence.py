"""Compute the confidence that a prediction of an image is entirely correct."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.arrays import Floats
from backend.vision.detection.detections import MIN_DETECTION_CONFIDENCE


def choice_confidence(row: Floats, multiple: bool) -> float:
    """Return the probability of the best label; for several labels, that of the least certain one.

    Args:
        row: (K,) probabilities, 0 to 1.
        multiple: whether an image can have several labels.
    """
    if not len(row):
        return 0.0
    return float(np.maximum(row, 1 - row).min() if multiple else row.max())


def detection_confidence(confidence: Sequence[float], min_confidence: float) -> float:
    """Return the confidence that all regions are correct and none is missing.

    It is that of the least certain decision to publish or to drop a detection.

    Args:
        confidence: confidence of all detections, 0 to 1.
        min_confidence: confidence from which a detection is published.
    """
    return min(
        (c if c >= min_confidence else 1 - c for c in confidence),
        default=1 - MIN_DETECTION_CONFIDENCE,
    )
