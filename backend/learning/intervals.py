"""Confidence intervals of proportions and ratios, and McNemar's exact test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles
from backend.estimate import IntervalEstimate

Z_95_PERCENT = 1.959964
BOUND_CONFIDENCE = 0.95
"""Confidence of one-sided bounds."""


def proportion_estimate(correct_count: int, n: int, metric: str = "accuracy") -> IntervalEstimate:
    """Estimate a proportion, with Wilson's 95 % interval.

    Example:
        >>> proportion_estimate(9, 10)
        IntervalEstimate(n=10, value=0.9, low=0.5958, high=0.9821, metric='accuracy')
    """
    if not n:
        return IntervalEstimate.unknown(metric)
    share = correct_count / n
    return IntervalEstimate.rounded(n, share, wilson_interval(share, n), metric)


def wilson_interval(proportion: float, n: float, z: float = Z_95_PERCENT) -> tuple[float, float]:
    """Return Wilson's score interval without continuity correction (Wilson 1927).

    Args:
        proportion: 0 to 1.
        n: number of independent answers, above 0; may be fractional (an effective sample size).
        z: quantile of the normal or of Student's distribution.
    """
    scale = 1 + z**2 / n
    centre = (proportion + z**2 / (2 * n)) / scale
    variance = proportion * (1 - proportion) / n + z**2 / (4 * n * n)
    half_width = z * math.sqrt(variance) / scale
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def clopper_pearson_bounds(
    correct: npt.ArrayLike, total: npt.ArrayLike, confidence: float = BOUND_CONFIDENCE
) -> tuple[Doubles, Doubles]:
    """Return exact one-sided lower and upper bounds of proportions (Clopper and Pearson 1934).

    Args:
        correct: number of successes, 0 to ``total``, any shape.
        total: number of trials, at least 1, same shape.
        confidence: confidence of each bound, 0 to 1.

    Example:
        >>> low, high = clopper_pearson_bounds(59, 59)
        >>> round(float(low), 4), float(high)
        (0.9505, 1.0)
    """
    from scipy.special import betaincinv

    successes, failures = np.asarray(correct), np.asarray(total) - np.asarray(correct)
    low = betaincinv(np.maximum(successes, 0.5), failures + 1, 1 - confidence)
    high = betaincinv(successes + 1, np.maximum(failures, 0.5), confidence)
    return np.where(successes > 0, low, 0.0), np.where(failures > 0, high, 1.0)


def ratio_of_sums(
    numerators: npt.ArrayLike, denominators: npt.ArrayLike
) -> tuple[Doubles, Doubles]:
    """Return Σ numerator / Σ denominator over images, and its linearised residuals.

    F1 and recall over all objects are such ratios. The errors in one image are correlated, so their
    variance is estimated from the residuals of images (see :func:`variance_from_residuals`), not
    from the number of objects.

    Args:
        numerators: (n,) or (n, K), one row per image.
        denominators: same shape; each column has a positive sum.

    Returns:
        the ratio, () or (K,), and the residuals (numerator − ratio · denominator) / Σ denominator
        (Cochran 1977, section 6.4), (n,) or (n, K).
    """
    parts, wholes = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    total = wholes.sum(axis=0)
    ratio = np.asarray(parts.sum(axis=0) / total)
    return ratio, (parts - ratio * wholes) / total


def variance_from_residuals(residuals: Doubles) -> float:
    """Return the variance of a ratio of sums: n / (n − 1) · Σ residual² (Cochran 1977, 6.4)."""
    n = len(residuals)
    return float((residuals**2).sum()) * n / max(n - 1, 1)


def ratio_estimate(rows: Sequence[tuple[float, float]], metric: str) -> IntervalEstimate:
    """Estimate a ratio of sums between 0 and 1, with its 95 % interval.

    Args:
        rows: numerator and denominator of each image; images with a denominator of 0 are left out.
        metric: name of the metric.
    """
    table = np.array([row for row in rows if row[1] > 0], dtype=np.float64).reshape(-1, 2)
    if not len(table):
        return IntervalEstimate.unknown(metric)
    value, residuals = ratio_of_sums(table[:, 0], table[:, 1])
    variance = variance_from_residuals(residuals)
    max_effective_size = float(table[:, 1].sum()) if variance > 0 else len(table)
    return composite_estimate(float(value), variance, len(table), max_effective_size, metric)


def composite_estimate(
    value: float, variance: float, image_count: int, max_effective_size: float, metric: str
) -> IntervalEstimate:
    """Estimate a metric between 0 and 1 from its variance, with its 95 % interval.

    The interval is Wilson's for the effective sample size: the number of independent answers whose
    proportion would have this variance. It uses Student's quantile, because the variance is
    estimated too.

    Args:
        value: value of the metric, 0 to 1.
        variance: estimated variance of ``value``; 0 if all images are alike.
        image_count: number of independent images.
        max_effective_size: upper limit of the effective sample size.
        metric: name of the metric.
    """
    if image_count < 2:
        return IntervalEstimate.rounded(image_count, value, (0.0, 1.0), metric)
    effective_size = value * (1 - value) / variance if variance > 0 else max_effective_size
    interval = wilson_interval(
        value, max(1.0, min(effective_size, max_effective_size)), student_quantile(image_count - 1)
    )
    return IntervalEstimate.rounded(image_count, value, interval, metric)


def counting_error_estimate(
    count_errors: npt.ArrayLike, object_counts: npt.ArrayLike
) -> IntervalEstimate:
    """Estimate Σ |predicted − true count| / Σ true count over images, with its 95 % interval.

    The error can exceed 1, so the interval is Student's instead of Wilson's, truncated at 0.

    Args:
        count_errors: (n,) absolute counting error of each image.
        object_counts: (n,) true count of each image.
    """
    n, metric = len(np.asarray(object_counts)), "counting error"
    if not np.sum(object_counts):
        return IntervalEstimate.unknown(metric, n)
    ratio, residuals = ratio_of_sums(count_errors, object_counts)
    value = float(ratio)
    if n < 2:
        return IntervalEstimate.rounded(n, value, (0.0, max(1.0, value)), metric)
    margin = student_quantile(n - 1) * math.sqrt(variance_from_residuals(residuals))
    return IntervalEstimate.rounded(n, value, (max(0.0, value - margin), value + margin), metric)


def student_quantile(degrees_of_freedom: int, probability: float = 0.975) -> float:
    """Return a quantile of Student's t distribution."""
    from scipy.stats import t

    return float(t.ppf(probability, degrees_of_freedom))


def mid_p(lost: int, trials: int) -> float:
    """Return the one-sided mid-p value of McNemar's exact test.

    This is the probability of at least ``lost`` losses if wins and losses are equally likely, where
    the probability of exactly ``lost`` losses is counted half.

    Example:
        >>> mid_p(3, 3), mid_p(1, 2)
        (0.0625, 0.5)
    """
    more_extreme = sum(comb(trials, k) for k in range(lost + 1, trials + 1))
    return float((more_extreme + comb(trials, lost) / 2) / 2**trials)
