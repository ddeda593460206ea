"""Confidence that a whole prediction is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.arrays import Floats
from backend.vision.detection.detections import MIN_DETECTION_CONFIDENCE


def choice_confidence(row: Floats, multiple: bool) -> float:
    """Return the confidence of the best label, or of the least certain label of several.

    Args:
        row: (K,) probabilities, 0 to 1.
        multiple: several labels may be right at once.
    """
    if not len(row):
        return 0.0
    return float(np.maximum(row, 1 - row).min() if multiple else row.max())


def detection_confidence(confidence: Sequence[float], min_confidence: float) -> float:
    """Return the confidence that all regions are right and none is missing.

    It is the confidence of the least certain region.

    Args:
        confidence: of all detections, 0 to 1.
        min_confidence: confidence from which a detection counts.
    """
    return min(
        (c if c >= min_confidence else 1 - c for c in confidence),
        default=1 - MIN_DETECTION_CONFIDENCE,
    )
