"""Calibrate heads: choose ridge and temperature by the log-loss on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.arrays import Floats, Indices
from backend.vision.heads.logistic_regression import IMPOSSIBLE_LOGIT

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Limits of the fitted temperature."""
TRUSTED_ROW_COUNT = 50
"""Held-out rows from which a measured temperature is used unshrunk (reference/learning.md)."""


@dataclass(frozen=True)
class HeldOutLogits:
    """Logits of held-out rows, with their targets.

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
    """Return the fold of each row, (n,) 0 to count − 1, stratified by label.

    Args:
        targets: (n, K) float32, 0 to 1 or NaN. A row counts for its rarest label.
        count: number of folds, at least 1.
        rng: shuffles the rows.
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
        >>> even = HeldOutLogits(np.zeros((1, 2), "f4"), np.eye(2, dtype="f4")[:1], False)
        >>> round(log_loss(even), 4)
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
    """Return the temperature with the lowest log-loss (Guo et al. 2017), within the limits.

    A temperature above 1 corrects overconfident logits. The loss is convex in 1 / temperature, so
    the root of its slope is found by bisection. The targets are smoothed by one row of equal labels
    (after Platt 1999), because no finite number of correct rows justifies certainty.
    """
    truth = _smooth_targets(held_out)
    low, high = math.log(1 / MAX_TEMPERATURE), math.log(1 / MIN_TEMPERATURE)
    for _ in range(24):
        midpoint = (low + high) / 2
        is_rising = _log_loss_slope(held_out, truth, math.exp(midpoint)) > 0
        low, high = (low, midpoint) if is_rising else (midpoint, high)
    return math.exp(-(low + high) / 2)


def shrink_temperature(measured: float, rows: int, default_temperature: float) -> float:
    """Shrink a temperature measured on few rows towards the default, in the logarithm.

    Example:
        >>> shrink_temperature(4.0, 25, 1.0), shrink_temperature(4.0, 500, 1.0)
        (2.0, 4.0)
    """
    measured_weight = min(1.0, rows / TRUSTED_ROW_COUNT)
    return float(measured**measured_weight * default_temperature ** (1 - measured_weight))


def select_best_candidate(candidates: Sequence[HeldOutLogits]) -> tuple[int, float]:
    """Return the index and temperature of the candidate with the lowest calibrated log-loss."""
    temperatures = [fit_temperature(held_out) for held_out in candidates]
    losses = [log_loss(j, t) for j, t in zip(candidates, temperatures, strict=True)]
    best_index = int(np.argmin(losses))
    return best_index, temperatures[best_index]


def _smooth_targets(held_out: HeldOutLogits) -> Floats:
    """Mix the targets with one row of equal labels."""
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
