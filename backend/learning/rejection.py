"""Do people deny what a finder finds in the images that they marked lately, which it never saw?

As for answers (see ``contradiction``) hard images explain a part of it: what counts is what people
deny beyond what the confidence of the finds makes likely.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.arrays import Doubles
from backend.learning.contradiction import Contradiction

Finds = Sequence[tuple[float, bool]]
"""Of one image, the confidence of each find that is shown, and whether a person marked it."""
FEWEST = 5
"""Images with finds on either side below which nothing is told."""
AT_EDGE = 1e-4


def denial(before: Sequence[Finds], since: Sequence[Finds]) -> Contradiction:
    """Whether people deny finds more often than their confidence explains.

    What a confidence is worth is learned from images before (a logistic line); on hard images finds
    are less certain, so that more wrong ones are expected there. The excess is counted image by
    image, whose finds are wrong together, and compared by Welch's test.

    Args:
        before: images whose labels were judged in the same way and are trusted.
        since: images whose labels came after what found them.

    Example:
        >>> trusted = [[(0.9, True), (0.8, True), (0.6, k % 3 > 0)] for k in range(20)]
        >>> denied = [[(0.9, False), (0.8, k % 2 > 0), (0.6, True)] for k in range(20)]
        >>> denial(trusted, trusted).chance > 0.1
        True
        >>> denial(trusted, denied).chance < 0.001
        True
    """
    from scipy.stats import t as student

    old, new = ([image for image in group if image] for group in (before, since))
    if min(len(old), len(new)) < FEWEST:
        return Contradiction(len(new), 0, 0.0, 1.0)
    line = _line(old)
    off_old, off_new = (np.array([_excess(image, line) for image in group]) for group in (old, new))
    size = np.array([float(len(image)) for image in new])
    scale = size.mean() / np.mean([len(image) for image in old])
    gap = float(off_new.mean() - scale * off_old.mean())
    against = sum(not right for image in new for _, right in image)
    expected = against - float(off_new.sum())
    by_old = scale**2 * _variance(off_old) / len(old)
    by_new = max(_variance(off_new), _binomial(new, line) / len(new)) / len(new)
    degrees = (by_old + by_new) ** 2 / max(
        by_old**2 / (len(old) - 1) + by_new**2 / (len(new) - 1), AT_EDGE**2
    )
    chance = float(student.sf(gap / np.sqrt(max(by_old + by_new, AT_EDGE)), max(degrees, 1.0)))
    return Contradiction(len(new), against, expected, chance)


def _line(images: Sequence[Finds]) -> tuple[float, float]:
    """Intercept and slope of log odds that a find is right by those of its confidence.

    Priors: right as often as the confidence says, give or take one and 0.3 of log odds.
    """
    odds = np.array([_odds(sure) for image in images for sure, _ in image])
    right = np.array([float(hit) for image in images for _, hit in image])
    design = np.stack([np.ones_like(odds), odds], axis=1)
    middle, weight = np.array([0.0, 1.0]), np.diag([1.0, 1 / 0.3**2])
    line = middle.copy()
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(design @ line, -30, 30)))
        slope = design.T @ (right - p) - weight @ (line - middle)
        curve = design.T @ (design * (p * (1 - p))[:, None]) + weight
        line = line + np.linalg.solve(curve, slope)
    return float(line[0]), float(line[1])


def _excess(image: Finds, line: tuple[float, float]) -> float:
    """Denied finds of an image beyond the expected ones."""
    return sum((not hit) - _wrong(sure, line) for sure, hit in image)


def _wrong(sure: float, line: tuple[float, float]) -> float:
    return float(1 / (1 + np.exp(np.clip(line[0] + line[1] * _odds(sure), -30, 30))))


def _odds(sure: float) -> float:
    p = min(max(sure, AT_EDGE), 1 - AT_EDGE)
    return float(np.log(p / (1 - p)))


def _variance(values: Doubles) -> float:
    return float(np.var(values, ddof=1)) if len(values) > 1 else 0.0


def _binomial(images: Sequence[Finds], line: tuple[float, float]) -> float:
    """Variance of the denied finds, were they independent: a few alike images hide theirs."""
    chances = [_wrong(sure, line) for image in images for sure, _ in image]
    return sum(p * (1 - p) for p in chances)
