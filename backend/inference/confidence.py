"""Confidence of a whole answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.arrays import Floats
from backend.vision.detection.detections import MIN_DETECTION_CONFIDENCE


def choice_confidence(row: Floats, multiple: bool) -> float:
    """Confidence of a whole answer: of the best label, or of the least decided of several."""
    if not len(row):
        return 0.0
    return float(np.maximum(row, 1 - row).min() if multiple else row.max())


def detection_confidence(confidence: Sequence[float], min_confidence: float) -> float:
    """Confidence that all finds are right and nothing is missing: of the least decided find.

    Args:
        confidence: of everything found, shown or not.
        min_confidence: from which a find counts.
    """
    return min(
        (c if c >= min_confidence else 1 - c for c in confidence),
        default=1 - MIN_DETECTION_CONFIDENCE,
    )
