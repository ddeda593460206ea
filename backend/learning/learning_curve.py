"""How good the model will be with more labels: the learning curve, drawn on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from backend.arrays import Doubles

FEWEST = 3
"""Points a curve needs at least."""
REACH = 3
"""How many times today's labels the curve is drawn on at most (reference/learning.md)."""
DRAWS = 200
MORE = 100
"""Labels that a stop hint looks ahead."""
TOLD = 5
"""Examples of a label that are asked for at least, where any are."""
WORSE = 0.975
"""Share of the draws without any progress from which on the figures are held to get worse."""
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
class Missed:
    """What was missed of one label.

    Attributes:
        wrong: of its examples that were judged, those that were not found.
        n: its examples that were judged, at least 1.
        examples: that the model learned from.
    """

    wrong: int
    n: int
    examples: int

    @property
    def error(self) -> float:
        """The share that was missed."""
        return self.wrong / self.n

    def drawn(self, count: int, rng: np.random.Generator) -> Doubles:
        """The share as it may be in truth, (count,), drawn from Jeffreys' posterior."""
        return rng.beta(self.wrong + 0.5, self.n - self.wrong + 0.5, size=count)


@dataclass(frozen=True)
class Curve:
    """error(labels) = a + b · labels^(−c), as often as it was fitted to points drawn anew.

    Attributes:
        fits: (draws, 3) a ≥ 0, b ≥ 0, 0 < c ≤ 1.
        labels: today's.
    """

    fits: Doubles
    labels: int

    def error(self, labels: float) -> tuple[float, float, float]:
        """Expected error with so many labels, and the band that holds 90 % of the fits.

        Args:
            labels: up to REACH times today's.
        """
        a, b, c = self.fits.T
        low, middle, high = np.quantile(a + b * labels**-c, [0.05, 0.5, 0.95])
        return float(middle), float(low), float(high)

    def times(self, shares: Doubles) -> Doubles:
        """How many times today's labels bring the error down to a share of today's.

        Args:
            shares: (draws,) above 0, one for each fit.

        Returns:
            (draws,) at least 1; infinite where no number of labels does.
        """
        a, b, c = self.fits.T
        now = a + b * self.labels**-c
        room = np.maximum(now * shares - a, 0)
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            at = np.where(room > 0, (b / room) ** (1 / c) / self.labels, np.inf)
        return np.asarray(np.where(shares >= 1, 1.0, np.maximum(at, 1.0)))

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
    drawn anew, each from Jeffreys' posterior of its share, so that no error in few answers is no
    certainty. Where more labels have brought nothing so far the curve is flat, b = 0, and its band
    says what they may bring all the same. Points that were judged on the same images rise
    and fall together, which makes the band of the level a little too narrow and that of the slope
    too wide: it errs on the careful side where it is asked what more labels bring.

    Args:
        points: of versions, in any order; of equal labels the last one counts.
        rng: draws.

    Returns:
        None with fewer than FEWEST points, or where errors grow with the labels by more than
        chance: no learning curve describes that.
    """
    rows = sorted({p.labels: p for p in points if p.labels > 0 and p.n > 0}.values(), key=_labels)
    if len(rows) < FEWEST:
        return None
    labels = np.array([p.labels for p in rows], dtype=float)
    n = np.array([p.n for p in rows], dtype=float)
    error = np.array([p.error for p in rows])
    weights = n / np.maximum(error * (1 - error), 1 / (n + 2))
    wrong = n * np.clip(error, 0, 1)
    draws = rng.beta(wrong + 0.5, n - wrong + 0.5, size=(DRAWS, len(rows)))
    fits = _fit(labels, draws, weights)
    if np.mean(fits[:, 1] <= 0) > WORSE:
        return None
    return Curve(fits, int(labels[-1]))


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
        labels = span(*more)
        gain = f"the accuracy from {now:.0%} to {goal:.0%}"
        return f"{labels.capitalize()} more labels are expected to bring {gain}."
    middle, low, high = curve.error(ahead)
    return (
        f"{goal:.0%} is out of sight; {ahead - curve.labels} more labels are expected to bring "
        f"{1 - middle:.0%} ({1 - high:.0%} to {1 - low:.0%})."
    )


def weakest(
    curve: Curve | None,
    errors: Mapping[str, Missed],
    goal: float,
    rng: np.random.Generator,
    kept: int = 3,
) -> list[tuple[str, int, int | None]]:
    """Which labels need more examples, and how many: fewest and most, by the band.

    A label's error is held to fall as that of the whole project does when its examples become so
    many times as many; both are drawn anew, the label's own from Jeffreys' posterior of its share.

    Args:
        curve: of the project; without one nobody can say.
        errors: by label, what was missed of it.
        goal: share of its examples that should be found, 0 to 1.
        rng: draws.
        kept: how many labels are told at most.

    Returns:
        (label, fewest, most) more examples, the neediest label first; most is None where its end
        is out of sight, beyond REACH times today's examples.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> curve = Curve(np.tile([0.0, 1.0, 0.5], (200, 1)), labels=100)
        >>> weakest(curve, {"wilting": Missed(200, 1000, 40), "fine": Missed(1, 99, 9)}, 0.85, rng)
        [('wilting', 19, 47)]
    """
    allowed = 1 - goal
    needy = {name: one for name, one in errors.items() if one.error > allowed}
    if curve is None:
        return []
    found = []
    for name in sorted(needy, key=lambda name: -needy[name].error)[:kept]:
        one = needy[name]
        times = curve.times(allowed / one.drawn(len(curve.fits), rng))
        ends = np.quantile(times, [0.05, 0.95], method="nearest")
        low, high = (max(TOLD, round((min(t, REACH) - 1) * one.examples)) for t in ends)
        found.append((name, low, high if ends[1] <= REACH else None))
    return found


def span(fewest: int, most: int | None) -> str:
    """A number that lies between two, in words.

    Example:
        >>> span(20, 60), span(20, None), span(20, 20)
        ('about 20 to 60', 'at least 20', 'about 20')
    """
    if most is None:
        return f"at least {fewest}"
    return f"about {fewest} to {most}" if most > fewest else f"about {fewest}"


def enough(curve: Curve | None, agreement: float | None) -> bool:
    """Whether the next MORE labels are not expected to pay; never beyond REACH.

    Args:
        curve: of the project.
        agreement: kappa of the last two versions' answers to the same images; None: not known.
    """
    if curve is None or (agreement is not None and agreement < AGREED):
        return False
    if curve.labels + MORE > REACH * curve.labels:
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


def _fit(labels: Doubles, errors: Doubles, weights: Doubles) -> Doubles:
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
