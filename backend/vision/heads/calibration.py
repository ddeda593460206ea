"""How strongly to pull and how sure to be: the ridge and the temperature, from held-out rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.arrays import Floats, Indices
from backend.vision.heads.logistic_regression import NEVER

COLDEST, HOTTEST = 0.05, 20.0
"""Temperatures looked at."""
TRUSTED = 50
"""Held-out rows from which on a measured temperature stands alone (reference/learning.md)."""


@dataclass(frozen=True)
class Judged:
    """Held-out answers that can be judged.

    Attributes:
        logits: (n, K) float32; one of many: −1e4 for a label that was not asked or not known.
        targets: (n, K) float32, 0 to 1; NaN entries are left out. Rows sum to 1 unless
            ``multiple``.
        multiple: K sigmoids instead of one softmax.
    """

    logits: Floats
    targets: Floats
    multiple: bool


def folds(targets: Floats, count: int, rng: np.random.Generator) -> Indices:
    """Deal rows into folds so that each label is spread evenly.

    Args:
        targets: (n, K) float32, 0 to 1 or NaN. A row counts for its rarest label.
        count: number of folds, at least 1.
        rng: deals equal rows.

    Returns:
        (n) the fold of each row, 0 to count − 1.
    """
    chosen = np.nan_to_num(targets) > 0
    rarity = np.where(chosen, chosen.sum(0), np.inf)
    stratum = np.where(chosen.any(1), rarity.argmin(1), -1)
    order = rng.permutation(len(targets))
    order = order[np.argsort(stratum[order], kind="stable")]
    dealt = np.empty(len(targets), dtype=np.intp)
    dealt[order] = np.arange(len(targets)) % count
    return dealt


def log_loss(judged: Judged, temperature: float = 1.0) -> float:
    """Mean −log of the probability given to the truth, nats per row (per answer: ``multiple``).

    Example:
        >>> even = Judged(np.zeros((1, 2), np.float32), np.eye(2, dtype=np.float32)[:1], False)
        >>> round(log_loss(even), 4)
        0.6931
    """
    logits = judged.logits / temperature
    known = ~np.isnan(judged.targets)
    truth = np.nan_to_num(judged.targets)
    if judged.multiple:
        losses = (np.logaddexp(0, logits) - truth * logits)[known]
    else:
        losses = np.logaddexp.reduce(logits, axis=1) - (truth * logits).sum(1)
    return float(losses.mean()) if losses.size else 0.0


def temperature(judged: Judged) -> float:
    """The temperature of least log-loss (Guo et al. 2017), within COLDEST to HOTTEST.

    The loss is convex in 1 / temperature, so the root of its slope is found by bisection. The
    truth is smoothed by one row of equal labels (after Platt 1999): no finite number of right
    answers makes a model certain.

    Returns:
        above 1 where the logits were too sure, below 1 where they were not sure enough.
    """
    truth = _smoothed(judged)
    low, high = math.log(1 / HOTTEST), math.log(1 / COLDEST)
    for _ in range(24):
        middle = (low + high) / 2
        rising = _slope(judged, truth, math.exp(middle)) > 0
        low, high = (low, middle) if rising else (middle, high)
    return math.exp(-(low + high) / 2)


def shrunk(measured: float, rows: int, usual: float) -> float:
    """A temperature measured on few rows, drawn to the usual one in the logarithm.

    Example:
        >>> shrunk(4.0, 25, 1.0), shrunk(4.0, 500, 1.0)
        (2.0, 4.0)
    """
    trust = min(1.0, rows / TRUSTED)
    return float(measured**trust * usual ** (1 - trust))


def best(candidates: Sequence[Judged]) -> tuple[int, float]:
    """The candidate of least log-loss at its own temperature: its place and that temperature."""
    temperatures = [temperature(judged) for judged in candidates]
    losses = [log_loss(j, t) for j, t in zip(candidates, temperatures, strict=True)]
    place = int(np.argmin(losses))
    return place, temperatures[place]


def _smoothed(judged: Judged) -> Floats:
    """The targets, mixed with one row of equal labels."""
    known = judged.logits > NEVER / 2
    even = known / (2 if judged.multiple else np.maximum(1, known.sum(axis=1, keepdims=True)))
    share = 1 / (len(judged.targets) + 1)
    return np.asarray((1 - share) * judged.targets + share * even, dtype=np.float32)


def _slope(judged: Judged, truth: Floats, sharpness: float) -> float:
    """Derivative of the summed log-loss by sharpness = 1 / temperature."""
    confidence = probability(judged.logits * np.float32(sharpness), judged.multiple)
    return float(np.nansum((confidence - truth) * judged.logits))


def probability(logits: Floats, multiple: bool) -> Floats:
    """Logits → confidence, (n, K) float32: a sigmoid each if ``multiple``, else rows sum to 1.

    Example:
        >>> probability(np.array([[0.0, 0.0, -1e4]], dtype=np.float32), multiple=False)
        array([[0.5, 0.5, 0. ]], dtype=float32)
    """
    if multiple:
        small = np.exp(-np.abs(logits))
        return np.asarray(np.where(logits >= 0, 1, small) / (1 + small), dtype=np.float32)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
