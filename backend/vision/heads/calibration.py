"""Calibrate heads: select ridge and temperature by held-out log-loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.arrays import Floats, Indices
from backend.vision.heads.logistic_regression import IMPOSSIBLE_LOGIT

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Bounds of the fitted temperature."""
TRUSTED_ROW_COUNT = 50
"""Held-out rows from which a fitted temperature is not shrunk (reference/learning.md)."""


@dataclass(frozen=True)
class HeldOutLogits:
    """Logits and targets of held-out rows.

    Attributes:
        logits: (n, K) float32; with one label per row −1e4 for a label that cannot be predicted.
        targets: (n, K) float32, 0 to 1; NaN entries are ignored. Rows of a
            single-label head sum to 1.
        is_multi_label: K sigmoids instead of one softmax.
    """

    logits: Floats
    targets: Floats
    is_multi_label: bool


def assign_folds(targets: Floats, count: int, rng: np.random.Generator) -> Indices:
    """Assign rows to folds, stratified by the rarest label of each row.

    Args:
        targets: (n, K) float32, 0 to 1 or NaN.
        count: number of folds, at least 1.
        rng: random generator for shuffling.

    Returns:
        (n,) fold indices, 0 to count − 1.
    """
    chosen = np.nan_to_num(targets) > 0
    rarity = np.where(chosen, chosen.sum(0), np.inf)
    stratum = np.where(chosen.any(1), rarity.argmin(1), -1)
    order = rng.permutation(len(targets))
    order = order[np.argsort(stratum[order], kind="stable")]
    fold_of_row = np.empty(len(targets), dtype=np.intp)
    fold_of_row[order] = np.arange(len(targets)) % count
    return fold_of_row


def log_loss(held_out: HeldOutLogits, temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood of the targets in nats, per row or per sigmoid.

    Example:
        >>> uniform = HeldOutLogits(np.zeros((1, 2), "f4"), np.eye(2, dtype="f4")[:1], False)
        >>> round(log_loss(uniform), 4)
        0.6931
    """
    logits = held_out.logits / temperature
    is_answered = ~np.isnan(held_out.targets)
    truth = np.nan_to_num(held_out.targets)
    if held_out.is_multi_label:
        losses = (np.logaddexp(0, logits) - truth * logits)[is_answered]
    else:
        losses = np.logaddexp.reduce(logits, axis=1) - (truth * logits).sum(1)
    return float(losses.mean()) if losses.size else 0.0


def fit_temperature(held_out: HeldOutLogits) -> float:
    """Fit the temperature by minimizing the log-loss (Guo et al. 2017).

    The log-loss is convex in 1 / temperature, so its minimum is found by bisection on the slope.
    Targets are smoothed (after Platt 1999); otherwise the temperature would tend to 0 where all
    rows are classified correctly.

    Returns:
        ``MIN_TEMPERATURE`` to ``MAX_TEMPERATURE``; above 1 for overconfident logits.
    """
    truth = _smooth_targets(held_out)
    low, high = math.log(1 / MAX_TEMPERATURE), math.log(1 / MIN_TEMPERATURE)
    for _ in range(24):
        midpoint = (low + high) / 2
        is_rising = _log_loss_slope(held_out, truth, math.exp(midpoint)) > 0
        low, high = (low, midpoint) if is_rising else (midpoint, high)
    return math.exp(-(low + high) / 2)


def shrink_temperature(fitted: float, rows: int, default_temperature: float) -> float:
    """Shrink a temperature fitted on few rows towards the default, on a log scale.

    Example:
        >>> shrink_temperature(4.0, 25, 1.0), shrink_temperature(4.0, 500, 1.0)
        (2.0, 4.0)
    """
    weight = min(1.0, rows / TRUSTED_ROW_COUNT)
    return float(fitted**weight * default_temperature ** (1 - weight))


def select_best_candidate(candidates: Sequence[HeldOutLogits]) -> tuple[int, float]:
    """Return index and temperature of the candidate with the lowest log-loss after calibration."""
    temperatures = [fit_temperature(held_out) for held_out in candidates]
    losses = [log_loss(c, t) for c, t in zip(candidates, temperatures, strict=True)]
    best_index = int(np.argmin(losses))
    return best_index, temperatures[best_index]


def _smooth_targets(held_out: HeldOutLogits) -> Floats:
    """Smooth targets with a uniform distribution, as if by one additional row."""
    possible = held_out.logits > IMPOSSIBLE_LOGIT / 2
    counts = 2 if held_out.is_multi_label else np.maximum(1, possible.sum(axis=1, keepdims=True))
    share = 1 / (len(held_out.targets) + 1)
    smoothed = (1 - share) * held_out.targets + share * (possible / counts)
    return np.asarray(smoothed, dtype=np.float32)


def _log_loss_slope(held_out: HeldOutLogits, truth: Floats, sharpness: float) -> float:
    """Return the derivative of the summed log-loss by sharpness = 1 / temperature."""
    confidence = to_probabilities(held_out.logits * np.float32(sharpness), held_out.is_multi_label)
    return float(np.nansum((confidence - truth) * held_out.logits))


def to_probabilities(logits: Floats, is_multi_label: bool) -> Floats:
    """Return (n, K) float32 probabilities, by sigmoids if ``is_multi_label``, else by softmax.

    Example:
        >>> to_probabilities(np.array([[0.0, 0.0, -1e4]], dtype=np.float32), is_multi_label=False)
        array([[0.5, 0.5, 0. ]], dtype=float32)
    """
    if is_multi_label:
        small = np.exp(-np.abs(logits))
        return np.asarray(np.where(logits >= 0, 1, small) / (1 + small), dtype=np.float32)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)
