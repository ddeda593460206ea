"""How good a version is, honestly: on the audit slice alone, with the interval it deserves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backend.arrays import Doubles
from backend.domain import LabelSet
from backend.records import IntervalEstimate

Z_95_PERCENT = 1.959964
BOOTSTRAP_DRAW_COUNT = 500
JEFFREYS_PSEUDOCOUNT = 0.5
"""Answers on either side that are held to have been given of every label (Jeffreys)."""


def proportion_estimate(correct_count: int, n: int, metric: str = "accuracy") -> IntervalEstimate:
    """A share with Wilson's 95 % interval (Wilson 1927, score interval without correction).

    Args:
        correct_count: how many were right, 0 to n.
        n: of how many.
        metric: what is counted.

    Example:
        >>> proportion_estimate(9, 10)
        IntervalEstimate(n=10, value=0.9, low=0.5958, high=0.9821, metric='accuracy')
    """
    if not n:
        return IntervalEstimate(0, None, 0.0, 1.0, metric)
    low, high = wilson_interval(correct_count / n, n)
    return IntervalEstimate(n, round(correct_count / n, 4), round(low, 4), round(high, 4), metric)


def wilson_interval(proportion: float, n: float, z: float = Z_95_PERCENT) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    Args:
        proportion: the share, 0 to 1.
        n: independent answers it rests on, above 0; need not be whole.
        z: standard deviations to each side.
    """
    z_squared = z**2
    centre = (proportion + z_squared / (2 * n)) / (1 + z_squared / n)
    half_width = (
        z
        * math.sqrt(proportion * (1 - proportion) / n + z_squared / (4 * n * n))
        / (1 + z_squared / n)
    )
    return max(0.0, centre - half_width), min(1.0, centre + half_width)


def composite_estimate(
    value: float, variance: float, image_count: int, max_effective_size: float, metric: str
) -> IntervalEstimate:
    """A figure from 0 to 1 that is no plain share, with a 95 % interval.

    It is Wilson's, with as many independent answers as would vary that much, and Student's
    quantile because the variance itself is estimated from few images.

    Args:
        value: 0 to 1.
        variance: of ``value``, estimated; 0 where all images are alike.
        image_count: independent images it rests on.
        max_effective_size: independent answers at most, where the images vary too little to tell.
        metric: its name.
    """
    from scipy.stats import t

    if image_count < 2:
        return IntervalEstimate(image_count, round(value, 4), 0.0, 1.0, metric)
    effective_size = value * (1 - value) / variance if variance > 0 else max_effective_size
    z = float(t.ppf(0.975, image_count - 1))
    low, high = wilson_interval(value, max(1.0, min(effective_size, max_effective_size)), z)
    return IntervalEstimate(image_count, round(value, 4), round(low, 4), round(high, 4), metric)


def classification_metrics(
    pairs: Sequence[tuple[LabelSet | None, LabelSet]], labels: Sequence[str]
) -> dict[str, Any]:
    """Everything that is told of the answers to one control, each with its 95 % interval.

    Args:
        pairs: what the model answered (None: nothing) and what a person did.
        labels: the label names.

    Returns:
        ``macro_f1_estimate`` (mean over the labels that somebody gave; its metric says of how many), by
        label ``precision`` and ``recall``, and ``confusion``: truth → answer → how often, several
        labels joined by ``+``.
        What nothing is known of has the value None.
    """
    predicted = [answer or frozenset() for answer, _ in pairs]
    truth = [answer for _, answer in pairs]
    return {
        "macro_f1": macro_f1_estimate(predicted, truth, labels).to_json(),
        "labels": {label: _label_metrics(predicted, truth, label) for label in labels},
        "confusion": _confusion_counts(predicted, truth),
    }


def macro_f1_estimate(
    predicted: Sequence[LabelSet], truth: Sequence[LabelSet], labels: Sequence[str]
) -> IntervalEstimate:
    """The mean of the labels' F1 and its 95 % interval.

    Labels that occur in no true answer are left out: nothing is known of them, and the figure's
    metric says so. The interval is the wider of two at each end, because each alone is too narrow
    somewhere: that of the linearised variance (Cochran 1977, 6.4) where a label was given once or
    twice, and that of the Bayesian bootstrap (Rubin 1981), which knows better there, where all
    labels are much better or worse than its prior.
    """
    present_labels = [label for label in labels if any(label in answer for answer in truth)]
    metric = "macro F1"
    if not present_labels:
        return IntervalEstimate(0, None, 0.0, 1.0, metric)
    if len(present_labels) < len(labels):
        metric += f" of {len(present_labels)} of {len(labels)} labels"
    predicted_matrix = np.array(
        [[label in answer for label in present_labels] for answer in predicted], dtype=float
    )
    truth_matrix = np.array(
        [[label in answer for label in present_labels] for answer in truth], dtype=float
    )
    denominators = (predicted_matrix + truth_matrix).sum(axis=0)
    values = 2 * (predicted_matrix * truth_matrix).sum(axis=0) / denominators
    residuals = (
        (2 * predicted_matrix * truth_matrix - values * (predicted_matrix + truth_matrix))
        / denominators
    ).mean(axis=1)
    count = len(truth)
    variance = float((residuals**2).sum()) * count / max(count - 1, 1)
    estimate = composite_estimate(float(values.mean()), variance, count, count, metric)
    low, high = _bootstrap_interval(predicted_matrix, truth_matrix)
    return replace(estimate, low=min(estimate.low, low), high=max(estimate.high, high))


def _bootstrap_interval(predicted_matrix: Doubles, truth_matrix: Doubles) -> tuple[float, float]:
    """The interval of macro F1 by the Bayesian bootstrap: images weigh more or less by chance.

    To each label PRIOR right and PRIOR wrong answers are added, themselves drawn, so that a label
    that was given once, and found, is no certainty. The spread is Student's, as few images tell it.

    Args:
        predicted_matrix: (n, K) 0 or 1, what was answered.
        truth_matrix: (n, K), what is true.
    """
    from scipy.stats import t

    count, labels = predicted_matrix.shape
    if count < 2:
        return 0.0, 1.0
    rng = np.random.default_rng(0)  # the same answers give the same interval
    weights = rng.exponential(size=(BOOTSTRAP_DRAW_COUNT, count))
    true_positives, union = (
        predicted_matrix * truth_matrix,
        np.maximum(predicted_matrix, truth_matrix),
    )
    correct_weight = weights @ true_positives + rng.gamma(
        JEFFREYS_PSEUDOCOUNT, size=(BOOTSTRAP_DRAW_COUNT, labels)
    )
    error_weight = weights @ (union - true_positives) + rng.gamma(
        JEFFREYS_PSEUDOCOUNT, size=(BOOTSTRAP_DRAW_COUNT, labels)
    )
    means = (2 * correct_weight / (2 * correct_weight + error_weight)).mean(axis=1)
    logits = np.log(means / (1 - means))
    median_logit = np.median(logits)
    widening = float(t.ppf(0.975, count - 1)) / Z_95_PERCENT * math.sqrt(count / (count - 1))
    interval_ends = 1 / (
        1
        + np.exp(-(median_logit + (np.quantile(logits, [0.025, 0.975]) - median_logit) * widening))
    )
    return round(float(interval_ends[0]), 4), round(float(interval_ends[1]), 4)


def _label_metrics(
    predicted: Sequence[LabelSet], truth: Sequence[LabelSet], label: str
) -> dict[str, Any]:
    correct_count = sum(
        label in predicted_labels and label in true_labels
        for predicted_labels, true_labels in zip(predicted, truth, strict=True)
    )
    return {
        "precision": proportion_estimate(
            correct_count,
            sum(label in predicted_labels for predicted_labels in predicted),
            "precision",
        ).to_json(),
        "recall": proportion_estimate(
            correct_count, sum(label in true_labels for true_labels in truth), "recall"
        ).to_json(),
    }


def _confusion_counts(
    predicted: Sequence[LabelSet], truth: Sequence[LabelSet]
) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for predicted_labels, true_labels in zip(predicted, truth, strict=True):
        row = table.setdefault("+".join(sorted(true_labels)), {})
        key = "+".join(sorted(predicted_labels))
        row[key] = row.get(key, 0) + 1
    return table


def accuracy_estimate(pairs: Iterable[tuple[LabelSet | None, LabelSet]]) -> IntervalEstimate:
    """The share of answers that were exactly right.

    Args:
        pairs: what the model answered (None: nothing) and what a person did. For several of many
            an answer is right when all its labels are.
    """
    is_correct = [predicted == truth for predicted, truth in pairs]
    return proportion_estimate(sum(is_correct), len(is_correct))
