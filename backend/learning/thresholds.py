"""From which confidence on a label is shown, so that those shown are right often enough."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles

FEWEST = 10
"""Accepted predictions that a threshold rests on at least (reference/learning.md)."""
NEVER = 1.1
"""Threshold of a label whose surest predictions are proven to be wrong too often."""
SURE = 0.95
"""Confidence of the bounds, one-sided."""


def threshold(confidence: npt.ArrayLike, right: npt.ArrayLike, wanted: float) -> float:
    """The confidence from which on a label's predictions reach a precision.

    The smallest one from which the lower bound of the share of right ones (Clopper and Pearson
    1934, one-sided, 95 %) reaches it. It is the best of many thresholds on the same images, so
    the promise is a little weaker than a single bound's; accepting without a person does not rest
    on it.

    Args:
        confidence: (n,) 0 to 1, of predictions of this label on images it never learned from.
        right: (n,) bool, whether each was right.
        wanted: precision, 0 to 1.

    Returns:
        the threshold; 0 where nothing is known yet, so that all are shown; NEVER where even the
        surest predictions are proven to be too often wrong.

    Example:
        >>> threshold([0.9] * 40 + [0.6] * 10, [True] * 40 + [False] * 10, wanted=0.9)
        0.9
        >>> threshold([0.9] * 5, [True] * 5, wanted=0.9)
        0.0
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    sorted_, hits = np.asarray(confidence, dtype=np.float64)[order], np.asarray(right)[order]
    last = np.append(sorted_[1:] != sorted_[:-1], True)  # equal confidences stand together
    counts = np.arange(1, len(order) + 1)
    kept = last & (counts >= FEWEST) if len(order) else last[:0]
    if not kept.any():
        return 0.0
    good, many = hits.cumsum()[kept], counts[kept]
    reached = lower(good, many) >= wanted
    if reached.any():
        return round(float(sorted_[kept][reached][-1]), 6)
    return NEVER if (upper(good, many) < wanted).all() else 0.0


def lower(right: npt.ArrayLike, n: npt.ArrayLike) -> Doubles:
    """Lower end of Clopper and Pearson's one-sided 95 % interval of a share; 0 where right is 0."""
    from scipy.stats import beta

    right, n = np.asarray(right, dtype=np.float64), np.asarray(n, dtype=np.float64)
    found = beta.ppf(1 - SURE, np.maximum(right, 0.5), n - right + 1)
    return np.asarray(np.where(right > 0, found, 0.0))


def upper(right: npt.ArrayLike, n: npt.ArrayLike) -> Doubles:
    """Upper end of the same; 1 where all are right.

    Example:
        >>> float(upper(0, 59).round(4))
        0.0495
    """
    from scipy.stats import beta

    right, n = np.asarray(right, dtype=np.float64), np.asarray(n, dtype=np.float64)
    found = beta.ppf(SURE, right + 1, np.maximum(n - right, 0.5))
    return np.asarray(np.where(right < n, found, 1.0))
