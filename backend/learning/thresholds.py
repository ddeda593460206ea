"""From which confidence on a label is shown, so that those shown are right often enough."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles

MIN_THRESHOLD_PREDICTIONS = 10
"""Accepted predictions that a threshold rests on at least (reference/learning.md)."""
UNREACHABLE_THRESHOLD = 1.1
"""Threshold of a label whose surest predictions are proven to be wrong too often."""
BOUND_CONFIDENCE = 0.95
"""Confidence of the bounds, one-sided."""


def precision_threshold(
    confidence: npt.ArrayLike, correct: npt.ArrayLike, min_precision: float
) -> float:
    """The confidence from which on a label's predictions reach a precision.

    The smallest one from which the lower bound of the share of right ones (Clopper and Pearson
    1934, one-sided, 95 %) reaches it. It is the best of many thresholds on the same images, so
    the promise is a little weaker than a single bound's; accepting without a person does not rest
    on it.

    Args:
        confidence: (n,) 0 to 1, of predictions of this label on images it never learned from.
        correct: (n,) bool, whether each was right.
        min_precision: precision, 0 to 1.

    Returns:
        the threshold; 0 where nothing is known yet, so that all are shown; NEVER where even the
        surest predictions are proven to be too often wrong.

    Example:
        >>> precision_threshold([0.9] * 40 + [0.6] * 10, [True] * 40 + [False] * 10, min_precision=0.9)
        0.9
        >>> precision_threshold([0.9] * 5, [True] * 5, min_precision=0.9)
        0.0
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    sorted_confidence, is_correct = (
        np.asarray(confidence, dtype=np.float64)[order],
        np.asarray(correct)[order],
    )
    is_last_of_ties = np.append(
        sorted_confidence[1:] != sorted_confidence[:-1], True
    )  # equal confidences stand together
    counts = np.arange(1, len(order) + 1)
    is_candidate = (
        is_last_of_ties & (counts >= MIN_THRESHOLD_PREDICTIONS)
        if len(order)
        else is_last_of_ties[:0]
    )
    if not is_candidate.any():
        return 0.0
    correct_counts, prediction_counts = is_correct.cumsum()[is_candidate], counts[is_candidate]
    is_reached = lower_bound(correct_counts, prediction_counts) >= min_precision
    if is_reached.any():
        return round(float(sorted_confidence[is_candidate][is_reached][-1]), 6)
    return (
        UNREACHABLE_THRESHOLD
        if (upper_bound(correct_counts, prediction_counts) < min_precision).all()
        else 0.0
    )


def lower_bound(correct: npt.ArrayLike, total: npt.ArrayLike) -> Doubles:
    """Lower end of Clopper and Pearson's one-sided 95 % interval of a share; 0 where right is 0."""
    from scipy.stats import beta

    correct, total = np.asarray(correct, dtype=np.float64), np.asarray(total, dtype=np.float64)
    bound = beta.ppf(1 - BOUND_CONFIDENCE, np.maximum(correct, 0.5), total - correct + 1)
    return np.asarray(np.where(correct > 0, bound, 0.0))


def upper_bound(correct: npt.ArrayLike, total: npt.ArrayLike) -> Doubles:
    """Upper end of the same; 1 where all are right.

    Example:
        >>> float(upper_bound(0, 59).round(4))
        0.0495
    """
    from scipy.stats import beta

    correct, total = np.asarray(correct, dtype=np.float64), np.asarray(total, dtype=np.float64)
    bound = beta.ppf(BOUND_CONFIDENCE, correct + 1, np.maximum(total - correct, 0.5))
    return np.asarray(np.where(correct < total, bound, 1.0))
