"""Do the labels that came lately contradict what a model learned before them?

A model that never saw them says how likely each answer was. Hard images, which active learning asks
for, contradict it more than easy ones, and its belief says by how much: what counts is not how many
answers differ, but whether they are what comes out where some answers are given at random. The test
is the likelihood ratio of "WRONG of them are" against "none is" (Neyman and Pearson 1933), its null
distribution drawn from the belief itself. How far a belief can be trusted is learned from earlier
labels, believed in the same way: by the version that was live when they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.arrays import Doubles, Indices

WRONG = 0.3
"""Share of wrong answers that the test is best at noticing."""
DRAWS = 2000
SOFTER = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0)
"""Temperatures that a belief may need: at 1 it is as certain as it ought to be."""
SLIPS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.25)
"""Shares of answers that people may give at random, whatever the model believes."""
USUAL = (1.3, 0.03)
"""Temperature and slips where nothing is known yet."""
ENOUGH = 30
"""Images from which on their spread is believed."""
SPREAD = 4.0
"""Variance of an image's cells at most, in units of independent ones."""
IMPOSSIBLE = 1e-9
"""Belief at least in a label that there are examples of."""


@dataclass(frozen=True)
class Believed:
    """Answers and what a model that had not seen them believed: one row a question.

    One of many: one question an image, with a column a label. Several of many: a question for each
    label, with the columns no and yes.

    Attributes:
        belief: (n, K) confidence, rows sum to 1; 0 for what the model had no example of.
        given: (n,) column that a person answered with; its belief is above 0.
        image: (n,) which questions belong to the same image.
    """

    belief: Doubles
    given: Indices
    image: Indices

    @classmethod
    def of_one(cls, belief: npt.ArrayLike, given: npt.ArrayLike, image: npt.ArrayLike) -> Believed:
        """Of answers with one label each; those that the model had no example of are left out.

        Args:
            belief: (n, K) confidence; rows sum to 1.
            given: (n,) column of the label that a person gave.
            image: (n,) task numbers.
        """
        p, told = np.asarray(belief, dtype=np.float64), np.asarray(given, dtype=np.intp)
        known = p[np.arange(len(p)), told] > 0
        return cls(p[known], told[known], np.asarray(image, dtype=np.intp)[known])

    @classmethod
    def of_several(
        cls, belief: npt.ArrayLike, given: npt.ArrayLike, image: npt.ArrayLike
    ) -> Believed:
        """Of answers with several labels.

        Args:
            belief: (n, K) confidence, 0 to 1 each; 0 of labels that the model had no example of.
            given: (n, K) 1 chosen, 0 not, NaN nobody was asked.
            image: (n,) task numbers.
        """
        p, told = np.asarray(belief, dtype=np.float64), np.asarray(given, dtype=np.float64)
        asked = ~np.isnan(told) & (p > 0)
        rows = np.asarray(image, dtype=np.intp)[:, None] + np.zeros(p.shape, dtype=np.intp)
        yes = np.clip(p[asked], IMPOSSIBLE, 1 - IMPOSSIBLE)
        return cls(
            np.stack([1 - yes, yes], axis=1), (told[asked] > 0.5).astype(np.intp), rows[asked]
        )

    @classmethod
    def all_of(cls, parts: Sequence[Believed]) -> Believed:
        """Several together; all of the same labels."""
        return cls(
            np.concatenate([part.belief for part in parts]),
            np.concatenate([part.given for part in parts]),
            np.concatenate([part.image for part in parts]),
        )

    @property
    def images(self) -> int:
        """How many."""
        return len(np.unique(self.image))


@dataclass(frozen=True)
class Trust:
    """How far a belief about labels to come can be trusted.

    Attributes:
        temperature: by which it is softened, at least 1.
        slips: share of answers that are given at random, 0 to 1.
        spread: by how much the questions of one image are wrong together: variance of an image's
            score, in units of that of independent questions, at least 1.
    """

    temperature: float = USUAL[0]
    slips: float = USUAL[1]
    spread: float = 1.0

    @classmethod
    def learned(cls, earlier: Believed) -> Trust:
        """From earlier labels, judged by what was live when they came; the most likely of a grid.

        A weak prior around USUAL decides while they are few.
        """
        grid = [(t, e) for t in SOFTER for e in SLIPS]
        temperature, slips = max(grid, key=lambda pair: _likelihood(earlier, *pair))
        found = cls(temperature, slips)
        if earlier.images < ENOUGH:
            return found
        return cls(temperature, slips, _spread(earlier, found))


@dataclass(frozen=True)
class Contradiction:
    """What a window of labels shows.

    Attributes:
        images: how many were answered.
        against: answers that are not what the model believed most.
        expected: how many of these its belief makes likely.
        chance: of so much contradiction or more where people answer as before, 0 to 1.
    """

    images: int
    against: int
    expected: float
    chance: float


def contradiction(
    window: Believed, trust: Trust, rng: np.random.Generator, draws: int = DRAWS
) -> Contradiction:
    """Whether answers contradict a belief by more than its own doubt explains.

    Args:
        window: the answers, and what a model believed that did not see them.
        trust: how far that belief can be trusted.
        rng: draws the null distribution.
        draws: how many; the chance is known to 1 / (draws + 1).

    Example:
        >>> sure = np.tile([0.97, 0.01, 0.01, 0.01], (20, 1))
        >>> few, many = ([1] * wrong + [0] * (20 - wrong) for wrong in (1, 8))
        >>> random = np.random.default_rng(0)
        >>> contradiction(Believed.of_one(sure, few, range(20)), Trust(), random).chance > 0.05
        True
        >>> contradiction(Believed.of_one(sure, many, range(20)), Trust(), random).chance < 0.01
        True
    """
    if not len(window.given):
        return Contradiction(0, 0, 0.0, 1.0)
    belief = _softened(window.belief, trust.temperature, trust.slips)
    scores = _scores(belief)
    rows = np.arange(len(belief))
    seen = float(scores[rows, window.given].sum())
    middle = float((belief * scores).sum())
    bar = middle + (seen - middle) / np.sqrt(trust.spread)
    drawn = np.zeros(draws)
    for row, steps in zip(scores, belief.cumsum(axis=1), strict=True):
        at = np.searchsorted(steps, rng.random(draws) * steps[-1], side="right")
        drawn += row[np.minimum(at, len(row) - 1)]
    worse = int((drawn >= bar - 1e-9).sum())
    return Contradiction(
        images=window.images,
        against=len(np.unique(window.image[belief.argmax(axis=1) != window.given])),
        expected=_expected(belief, window.image),
        chance=(1 + worse) / (1 + draws),
    )


def _softened(belief: Doubles, temperature: float, slips: float) -> Doubles:
    """(n, K), rows sum to 1; what had no example stays 0."""
    known = belief > 0
    powers = np.where(known, np.maximum(belief, IMPOSSIBLE) ** (1 / temperature), 0.0)
    shares = powers / np.maximum(powers.sum(axis=1, keepdims=True), IMPOSSIBLE)
    some = np.maximum(known.sum(axis=1, keepdims=True), 1)
    return np.asarray((1 - slips) * shares + slips * known / some)


def _scores(belief: Doubles) -> Doubles:
    """(n, K) log likelihood ratio of each answer: WRONG of them at random among the others."""
    others = np.maximum((belief > 0).sum(axis=1, keepdims=True) - 1, 1)
    mixed = (1 - WRONG) * belief + WRONG * (1 - belief) / others
    return np.where(belief > 0, np.log(mixed / np.maximum(belief, IMPOSSIBLE)), 0.0)


def _likelihood(earlier: Believed, temperature: float, slips: float) -> float:
    prior = -2 * np.log(temperature / USUAL[0]) ** 2 - 0.5 * np.log(slips / USUAL[1]) ** 2
    belief = _softened(earlier.belief, temperature, slips)
    told = belief[np.arange(len(belief)), earlier.given]
    return float(prior + np.log(np.maximum(told, IMPOSSIBLE)).sum())


def _spread(earlier: Believed, trust: Trust) -> float:
    belief = _softened(earlier.belief, trust.temperature, trust.slips)
    scores = _scores(belief)
    middle = (belief * scores).sum(axis=1)
    off = scores[np.arange(len(scores)), earlier.given] - middle
    alone = (belief * scores**2).sum(axis=1) - middle**2
    _, image = np.unique(earlier.image, return_inverse=True)
    together = np.bincount(image, weights=off)
    ratio = float((together**2).sum() / max(alone.sum(), IMPOSSIBLE))
    return float(np.clip(ratio, 1.0, SPREAD))


def _expected(belief: Doubles, image: Indices) -> float:
    """Images of which at least one question is answered against the belief."""
    _, place = np.unique(image, return_inverse=True)
    agree = np.bincount(place, weights=np.log(np.maximum(belief.max(axis=1), IMPOSSIBLE)))
    return float((1 - np.exp(agree)).sum())
