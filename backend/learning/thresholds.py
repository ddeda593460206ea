"""Confidence thresholds for displaying predictions, chosen by precision or by F1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from backend.learning.detection_metrics import DetectionSample, match_outcomes
from backend.learning.intervals import clopper_pearson_bounds

MIN_THRESHOLD_PREDICTIONS = 10
"""Minimum number of predictions above a threshold (reference/learning.md)."""
UNREACHABLE_THRESHOLD = 1.1
"""Threshold that hides all predictions of a label whose target precision is out of reach."""


def precision_threshold(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, min_precision: float
) -> float:
    """Return the lowest confidence threshold with a proven precision.

    The precision is proven if its one-sided 95 % lower bound (Clopper and Pearson 1934) reaches
    ``min_precision``. The threshold is chosen on the same images, so the guarantee is slightly
    weaker than that of a single bound; auto-accept does not rely on it.

    Args:
        confidence: (n,) confidence of one label's predictions on images not trained on, 0 to 1.
        correct: (n,) bool.
        min_precision: 0 to 1.

    Returns:
        the threshold; 0 (show all) if there are too few predictions for a proof;
        ``UNREACHABLE_THRESHOLD`` if the precision is proven to be too low at every threshold.

    Example:
        >>> right = [True] * 40 + [False] * 10
        >>> precision_threshold([0.9] * 40 + [0.6] * 10, right, min_precision=0.9)
        0.9
        >>> precision_threshold([0.9] * 5, [True] * 5, min_precision=0.9)
        0.0
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    sorted_confidence = np.asarray(confidence, dtype=np.float64)[order]
    counts = np.arange(1, len(order) + 1)
    is_last_of_ties = np.diff(sorted_confidence, append=-1.0) != 0
    is_candidate = is_last_of_ties & (counts >= MIN_THRESHOLD_PREDICTIONS)
    if not is_candidate.any():
        return 0.0
    correct_counts = np.asarray(correct)[order].cumsum()[is_candidate]
    low, high = clopper_pearson_bounds(correct_counts, counts[is_candidate])
    is_proven = low >= min_precision
    if is_proven.any():
        return round(float(sorted_confidence[is_candidate][is_proven][-1]), 6)
    return UNREACHABLE_THRESHOLD if (high < min_precision).all() else 0.0


def best_f1_threshold(
    images: Sequence[DetectionSample], labels: Sequence[str], min_threshold: float = 0.05
) -> float:
    """Return the confidence threshold with the best F1, with boxes matched by IoU.

    Args:
        images: samples with detections of any confidence.
        labels: label names.
        min_threshold: lower limit of the result.
    """
    pairs = [
        pair
        for image in images
        for label in labels
        for pair in match_outcomes(image, label, "boxes", {})
    ]
    object_count = sum(len(image.ground_truth) for image in images)
    if not pairs or not object_count:
        return min_threshold
    pairs.sort(key=lambda pair: -pair[0])
    true_positives = np.cumsum([is_correct for _, is_correct in pairs])
    f1 = 2 * true_positives / (np.arange(1, len(pairs) + 1) + object_count)
    return max(min_threshold, pairs[int(f1.argmax())][0])
