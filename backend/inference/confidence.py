"""Confidence of a whole answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.arrays import Floats
from backend.inference.detections import LEAST


def certainty(row: Floats, multiple: bool) -> float:
    """Confidence of a whole answer: of the best label, or of the least decided of several."""
    if not len(row):
        return 0.0
    return float(np.maximum(row, 1 - row).min() if multiple else row.max())


def find_certainty(confidence: Sequence[float], shown: float) -> float:
    """Confidence that all finds are right and nothing is missing: of the least decided find.

    Args:
        confidence: of everything found, shown or not.
        shown: from which a find counts.
    """
    return min((c if c >= shown else 1 - c for c in confidence), default=1 - LEAST)
