"""Test whether recent annotations reject a detector's detections too often.

As in :mod:`backend.learning.contradiction`, some rejections are due to hard images. Only rejections
in excess of those predicted by the confidence of the detections count as evidence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.arrays import Doubles, Indices
from backend.learning.contradiction import ContradictionResult

ImageDetections = Sequence[tuple[float, bool]]
"""Confidence of one image's displayed detections, and whether a person annotated each."""
MIN_IMAGES_PER_GROUP = 5
"""Minimum number of images with detections in each group."""
PROBABILITY_EPSILON = 1e-4
CONFIDENCE_PRIOR_MEAN, CONFIDENCE_PRIOR_SCALE = np.array([0.0, 1.0]), np.array([1.0, 0.3])
"""Prior of intercept and slope, centred at perfectly calibrated confidences."""


def measure_rejection(
    reference_images: Sequence[ImageDetections], recent_images: Sequence[ImageDetections]
) -> ContradictionResult:
    """Test whether people reject detections more often than the confidence predicts.

    A logistic regression on the reference images gives the error rate for each confidence. The
    excess of rejections is summed by image, because the errors in one image are correlated, and
    the means of both groups are compared by Welch's t-test.

    Args:
        reference_images: images with trusted annotations that the detector was not trained on.
        recent_images: images annotated after the detector was trained.

    Example:
        >>> trusted = [[(0.9, True), (0.8, True), (0.6, k % 3 > 0)] for k in range(20)]
        >>> rejected = [[(0.9, False), (0.8, k % 2 > 0), (0.6, True)] for k in range(20)]
        >>> measure_rejection(trusted, trusted).p_value > 0.1
        True
        >>> measure_rejection(trusted, rejected).p_value < 0.001
        True
    """
    from scipy.stats import t as student

    reference = [image for image in reference_images if image]
    recent = [image for image in recent_images if image]
    if min(len(reference), len(recent)) < MIN_IMAGES_PER_GROUP:
        return ContradictionResult(len(recent), 0, 0.0, 1.0)
    confidence, is_correct, rows = _flatten_images(reference)
    coefficients = _fit_logistic(_log_odds(confidence), is_correct)
    reference_excess = _excess_rejections(confidence, is_correct, rows, coefficients)
    confidence, is_correct, rows = _flatten_images(recent)
    recent_excess = _excess_rejections(confidence, is_correct, rows, coefficients)
    error_rates = _error_probabilities(confidence, coefficients)
    scale = (len(confidence) / len(recent)) / float(np.mean([len(image) for image in reference]))
    difference = float(recent_excess.mean() - scale * reference_excess.mean())
    rejected = int((1 - is_correct).sum())
    reference_variance = scale**2 * float(np.var(reference_excess, ddof=1)) / len(reference)
    # the sample variance of a few similar images can be lower than that of independent detections
    min_variance = float((error_rates * (1 - error_rates)).sum()) / len(recent)
    recent_variance = max(float(np.var(recent_excess, ddof=1)), min_variance) / len(recent)
    variance = reference_variance + recent_variance
    degrees_of_freedom = variance**2 / max(
        reference_variance**2 / (len(reference) - 1) + recent_variance**2 / (len(recent) - 1),
        PROBABILITY_EPSILON**2,
    )
    statistic = difference / np.sqrt(max(variance, PROBABILITY_EPSILON))
    p_value = float(student.sf(statistic, max(degrees_of_freedom, 1.0)))
    expected = rejected - float(recent_excess.sum())
    return ContradictionResult(len(recent), rejected, expected, p_value)


def _flatten_images(images: Sequence[ImageDetections]) -> tuple[Doubles, Doubles, Indices]:
    """Return confidence, correctness (0 or 1) and image index of all detections, (n,) each."""
    confidence, is_correct = np.array([pair for image in images for pair in image], dtype=float).T
    return confidence, is_correct, np.repeat(np.arange(len(images)), [len(i) for i in images])


def _fit_logistic(log_odds: Doubles, is_correct: Doubles) -> Doubles:
    """Fit P(correct) to the log-odds of the confidence; return intercept and slope."""
    from scipy.special import expit

    design = np.stack([np.ones_like(log_odds), log_odds], axis=1)
    prior_precision = np.diag(1 / CONFIDENCE_PRIOR_SCALE**2)
    coefficients = CONFIDENCE_PRIOR_MEAN
    for _ in range(25):
        rates = expit(np.clip(design @ coefficients, -30, 30))
        prior_gradient = prior_precision @ (coefficients - CONFIDENCE_PRIOR_MEAN)
        gradient = design.T @ (is_correct - rates) - prior_gradient
        hessian = design.T @ (design * (rates * (1 - rates))[:, None]) + prior_precision
        coefficients = coefficients + np.linalg.solve(hessian, gradient)
    return coefficients


def _excess_rejections(
    confidence: Doubles, is_correct: Doubles, image_rows: Indices, coefficients: Doubles
) -> Doubles:
    """Return the number of rejected detections minus the expected number, for each image."""
    excess = (1 - is_correct) - _error_probabilities(confidence, coefficients)
    return np.asarray(np.bincount(image_rows, weights=excess), dtype=np.float64)


def _error_probabilities(confidence: Doubles, coefficients: Doubles) -> Doubles:
    from scipy.special import expit

    log_odds = coefficients[0] + coefficients[1] * _log_odds(confidence)
    return np.asarray(expit(-np.clip(log_odds, -30, 30)))


def _log_odds(confidence: Doubles) -> Doubles:
    from scipy.special import logit

    return np.asarray(logit(np.clip(confidence, PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON)))
