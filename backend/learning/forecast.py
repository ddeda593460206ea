"""How good the model will be with more labels: the learning curve, drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
FEWEST = 3
"""Points a curve needs at least."""
REACH = 3
"""How many times today's labels the curve is drawn on at most (reference/learning.md)."""
DRAWS = 200
MORE = 100
"""Labels that a stop hint looks ahead."""
WORTH = 0.005
"""Gain of the next MORE labels from which on they are worth it."""
AGREED = 0.95
"""Kappa of two successive versions from which on they say the same."""
EXPONENTS = np.linspace(0.1, 1.0, 19)


@dataclass(frozen=True)
class Point:
    """One version's figure.

    Attributes:
        labels: it was trained on, at least 1.
        error: share of wrong answers, 0 to 1.
        n: answers that rests on.
    """

    labels: int
    error: float
    n: int


@dataclass(frozen=True)
class Curve:
    """error(labels) = a + b · labels^(−c), as often as it was fitted to points drawn anew.

    Attributes:
        fits: (draws, 3) a ≥ 0, b ≥ 0, 0 < c ≤ 1.
        labels: today's.
    """

    fits: Numbers
    labels: int

    def error(self, labels: float) -> tuple[float, float, float]:
        """Expected error with so many labels, and the band that holds 90 % of the fits.

        Args:
            labels: up to REACH times today's.
        """
        a, b, c = self.fits.T
        low, middle, high = np.quantile(a + b * labels**-c, [0.05, 0.5, 0.95])
        return float(middle), float(low), float(high)

    def needed(self, error: float) -> tuple[int, int | None] | None:
        """How many more labels bring the error down to a value: fewest and most, by the band.

        Returns:
            None where that is out of sight, beyond REACH times today's labels; most is None where
            only its end is.
        """
        a, b, c = self.fits.T
        room = np.maximum(error - a, 0)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            at = np.where(room > 0, (b / room) ** (1 / c), np.inf)
        low, middle, high = np.quantile(np.maximum(at, 1e-9), [0.05, 0.5, 0.95], method="nearest")
        last = REACH * self.labels
        if middle > last:
            return None
        more = [
            max(0, round(float(value) - self.labels)) if value <= last else None
            for value in (low, high)
        ]
        return more[0] or 0, more[1]


def fitted(points: Sequence[Point], rng: np.random.Generator) -> Curve | None:
    """The power law that most learning curves follow (Viering and Loog 2021, arXiv 2103.10948).

    Least squares, weighted by the binomial variance of each point; for the band the points are
    drawn anew from their binomial distributions. Points that were judged on the same images rise
    and fall together, which makes the band of the level a little too narrow and that of the slope
    too wide: it errs on the careful side where it is asked what more labels bring.

    Args:
        points: of versions, in any order; of equal labels the last one counts.
        rng: draws.

    Returns:
        None with fewer than FEWEST points, or where more labels have not helped so far.
    """
    rows = sorted({p.labels: p for p in points if p.labels > 0 and p.n > 0}.values(), key=_labels)
    if len(rows) < FEWEST:
        return None
    labels = np.array([p.labels for p in rows], dtype=float)
    n = np.array([p.n for p in rows], dtype=float)
    error = np.array([p.error for p in rows])
    weights = n / np.maximum(error * (1 - error), 1 / (n + 2))
    if _fit(labels, error[None], weights)[0, 1] <= 0:
        return None
    draws = rng.binomial(n.astype(int), np.clip(error, 0, 1), size=(DRAWS, len(rows))) / n
    return Curve(_fit(labels, draws, weights), int(labels[-1]))


def outlook(curve: Curve | None, goal: float) -> str:
    """What more labels are expected to bring, in a sentence; empty where nobody can say.

    Args:
        curve: of the project.
        goal: accuracy that is wanted, 0 to 1.
    """
    if curve is None:
        return ""
    now = 1 - curve.error(curve.labels)[0]
    ahead = min(curve.labels + MORE, REACH * curve.labels)
    if now >= goal:
        return ""
    more = curve.needed(1 - goal)
    if more:
        fewest, most = more
        span = f"{fewest} to {most}" if most is not None else f"{fewest} or more"
        gain = f"the accuracy from {now:.0%} to {goal:.0%}"
        return f"About {span} more labels are expected to bring {gain}."
    middle, low, high = curve.error(ahead)
    return (
        f"{goal:.0%} is out of sight; {ahead - curve.labels} more labels are expected to bring "
        f"{1 - middle:.0%} ({1 - high:.0%} to {1 - low:.0%})."
    )


def weakest(
    errors: dict[str, tuple[float, int]], goal: float, kept: int = 3
) -> list[tuple[str, int]]:
    """Which labels need more examples, and about how many.

    An error that is only due to too few examples falls about as 1 / √examples (between the
    exponents 0 and 1 of the power law); a label that should err e times less needs e² times its
    examples, but no more than REACH times are promised.

    Args:
        errors: by label, its error (1 − recall) and its examples.
        goal: share of its examples that should be found, 0 to 1.
        kept: how many labels are told at most.

    Returns:
        (label, more examples), the neediest first.

    Example:
        >>> weakest({"healthy": (0.02, 80), "wilting": (0.2, 20)}, goal=0.9)
        [('wilting', 40)]
    """
    allowed = 1 - goal
    needy = {
        label: min((error / allowed) ** 2, REACH) if allowed > 0 else float(REACH)
        for label, (error, _) in errors.items()
        if error > allowed
    }
    found = [
        (label, max(5, round((times - 1) * errors[label][1]))) for label, times in needy.items()
    ]
    return sorted(found, key=lambda pair: -errors[pair[0]][0])[:kept]


def enough(curve: Curve | None, agreement: float | None) -> bool:
    """Whether the next MORE labels are not expected to pay.

    Args:
        curve: of the project.
        agreement: kappa of the last two versions' answers to the same images; None: not known.
    """
    if curve is None or (agreement is not None and agreement < AGREED):
        return False
    _, b, c = curve.fits.T
    gain = b * (curve.labels**-c - (curve.labels + MORE) ** -c)
    return bool(np.quantile(gain, 0.95) < WORTH)


def kappa(one: Sequence[str], two: Sequence[str]) -> float | None:
    """Cohen's kappa: how far two raters agree beyond chance; None without answers.

    Example:
        >>> kappa(["a", "b", "a", "b"], ["a", "b", "a", "a"])
        0.5
    """
    if not one:
        return None
    agreed = float(np.mean([a == b for a, b in zip(one, two, strict=True)]))
    chance = sum(one.count(x) * two.count(x) for x in set(one) | set(two)) / len(one) ** 2
    return 1.0 if chance == 1 else round((agreed - chance) / (1 - chance), 4)


def _labels(point: Point) -> int:
    return point.labels


def _fit(labels: Numbers, errors: Numbers, weights: Numbers) -> Numbers:
    """The best a, b ≥ 0 for each exponent of a grid, and the best of those.

    Args:
        labels: (n,).
        errors: (draws, n).
        weights: (n,).

    Returns:
        (draws, 3) a, b, c.
    """
    share = weights / weights.sum()
    mean = errors @ share
    best, least = np.zeros((len(errors), 3)), np.full(len(errors), np.inf)
    for c in EXPONENTS:
        power = labels**-c
        middle = float(power @ share)
        spread = float((power - middle) ** 2 @ share)
        slope = (errors - mean[:, None]) @ ((power - middle) * share) / max(spread, 1e-12)
        b = np.clip(slope, 0, mean / middle)  # then a is not negative
        a = mean - b * middle
        loss = (errors - a[:, None] - b[:, None] * power) ** 2 @ share
        better = loss < least
        least = np.where(better, loss, least)
        best[better] = np.stack([a, b, np.full(len(b), c)], axis=1)[better]
    return best
