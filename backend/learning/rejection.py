"""Do people deny what a finder finds in the images that they marked lately, which it never saw?

As for answers (see ``contradiction``) hard images explain a part of it: what counts is what people
deny beyond what the confidence of the finds makes likely.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.arrays import Doubles
from backend.learning.contradiction import ContradictionResult

ImageDetections = Sequence[tuple[float, bool]]
"""Of one image, the confidence of each find that is shown, and whether a person marked it."""
MIN_IMAGES_PER_GROUP = 5
"""Images with finds on either side below which nothing is told."""
PROBABILITY_EPSILON = 1e-4


def measure_rejection(
    reference_images: Sequence[ImageDetections], recent_images: Sequence[ImageDetections]
) -> ContradictionResult:
    """Whether people deny finds more often than their confidence explains.

    What a confidence is worth is learned from images before (a logistic line); on hard images finds
    are less certain, so that more wrong ones are expected there. The excess is counted image by
    image, whose finds are wrong together, and compared by Welch's test.

    Args:
        reference_images: images whose labels were judged in the same way and are trusted.
        recent_images: images whose labels came after what found them.

    Example:
        >>> trusted = [[(0.9, True), (0.8, True), (0.6, k % 3 > 0)] for k in range(20)]
        >>> denied = [[(0.9, False), (0.8, k % 2 > 0), (0.6, True)] for k in range(20)]
        >>> measure_rejection(trusted, trusted).p_value > 0.1
        True
        >>> measure_rejection(trusted, denied).p_value < 0.001
        True
    """
    from scipy.stats import t as student

    reference, recent = (
        [image for image in group if image] for group in (reference_images, recent_images)
    )
    if min(len(reference), len(recent)) < MIN_IMAGES_PER_GROUP:
        return ContradictionResult(len(recent), 0, 0.0, 1.0)
    coefficients = _fit_logistic(reference)
    reference_excess, recent_excess = (
        np.array([_excess_rejections(image, coefficients) for image in group])
        for group in (reference, recent)
    )
    detection_counts = np.array([float(len(image)) for image in recent])
    scale = detection_counts.mean() / np.mean([len(image) for image in reference])
    mean_difference = float(recent_excess.mean() - scale * reference_excess.mean())
    rejected = sum(not is_correct for image in recent for _, is_correct in image)
    expected = rejected - float(recent_excess.sum())
    reference_variance = scale**2 * _variance(reference_excess) / len(reference)
    recent_variance = max(
        _variance(recent_excess), _binomial_variance(recent, coefficients) / len(recent)
    ) / len(recent)
    degrees_of_freedom = (reference_variance + recent_variance) ** 2 / max(
        reference_variance**2 / (len(reference) - 1) + recent_variance**2 / (len(recent) - 1),
        PROBABILITY_EPSILON**2,
    )
    p_value = float(
        student.sf(
            mean_difference
            / np.sqrt(max(reference_variance + recent_variance, PROBABILITY_EPSILON)),
            max(degrees_of_freedom, 1.0),
        )
    )
    return ContradictionResult(len(recent), rejected, expected, p_value)


def _fit_logistic(images: Sequence[ImageDetections]) -> tuple[float, float]:
    """Intercept and slope of log odds that a find is right by those of its confidence.

    Priors: right as often as the confidence says, give or take one and 0.3 of log odds.
    """
    log_odds = np.array([_log_odds(confidence) for image in images for confidence, _ in image])
    is_correct = np.array([float(is_hit) for image in images for _, is_hit in image])
    design = np.stack([np.ones_like(log_odds), log_odds], axis=1)
    prior_mean, prior_precision = np.array([0.0, 1.0]), np.diag([1.0, 1 / 0.3**2])
    coefficients = prior_mean.copy()
    for _ in range(25):
        probabilities = 1 / (1 + np.exp(-np.clip(design @ coefficients, -30, 30)))
        gradient = design.T @ (is_correct - probabilities) - prior_precision @ (
            coefficients - prior_mean
        )
        hessian = (
            design.T @ (design * (probabilities * (1 - probabilities))[:, None]) + prior_precision
        )
        coefficients = coefficients + np.linalg.solve(hessian, gradient)
    return float(coefficients[0]), float(coefficients[1])


def _excess_rejections(image: ImageDetections, coefficients: tuple[float, float]) -> float:
    """Denied finds of an image beyond the expected ones."""
    return sum(
        (not is_hit) - _error_probability(confidence, coefficients) for confidence, is_hit in image
    )


def _error_probability(confidence: float, coefficients: tuple[float, float]) -> float:
    return float(
        1
        / (1 + np.exp(np.clip(coefficients[0] + coefficients[1] * _log_odds(confidence), -30, 30)))
    )


def _log_odds(confidence: float) -> float:
    clipped = min(max(confidence, PROBABILITY_EPSILON), 1 - PROBABILITY_EPSILON)
    return float(np.log(clipped / (1 - clipped)))


def _variance(values: Doubles) -> float:
    return float(np.var(values, ddof=1)) if len(values) > 1 else 0.0


def _binomial_variance(
    images: Sequence[ImageDetections], coefficients: tuple[float, float]
) -> float:
    """Variance of the denied finds, were they independent: a few alike images hide theirs."""
    error_probabilities = [
        _error_probability(confidence, coefficients) for image in images for confidence, _ in image
    ]
    return sum(p * (1 - p) for p in error_probabilities)
