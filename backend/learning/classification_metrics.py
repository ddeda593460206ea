"""Accuracy, macro F1, precision and recall of a classifier, each with a 95 % interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from backend.arrays import Doubles
from backend.domain import LabelSet
from backend.estimate import IntervalEstimate
from backend.learning.intervals import (
    Z_95_PERCENT,
    composite_estimate,
    proportion_estimate,
    ratio_of_sums,
    student_quantile,
    variance_from_residuals,
)

BOOTSTRAP_DRAW_COUNT = 500
JEFFREYS_PSEUDOCOUNT = 0.5
"""Pseudo-count of correct and of wrong answers added to each label (Jeffreys' prior)."""
AnswerPairs = Sequence[tuple[LabelSet | None, LabelSet]]
"""Per image, the predicted labels (None: no prediction) and the annotated ones."""


@dataclass(frozen=True)
class ClassificationMetrics:
    """Metrics of one choices control.

    Attributes:
        macro_f1: mean F1 of the annotated labels; its ``metric`` names their number.
        precision: by label.
        recall: by label.
        confusion: annotated → predicted → number of images; several labels are joined by ``+``.
    """

    macro_f1: IntervalEstimate
    precision: dict[str, IntervalEstimate]
    recall: dict[str, IntervalEstimate]
    confusion: dict[str, dict[str, int]]

    def to_json(self) -> dict[str, object]:
        """Return the metrics as they are stored in version cards."""
        return {
            "macro_f1": self.macro_f1.to_json(),
            "labels": {
                label: {"precision": precision.to_json(), "recall": self.recall[label].to_json()}
                for label, precision in self.precision.items()
            },
            "confusion": self.confusion,
        }


def evaluate_classification(pairs: AnswerPairs, labels: Sequence[str]) -> ClassificationMetrics:
    """Compute the metrics of a classifier from its predictions and the annotations."""
    predicted = [answer or frozenset() for answer, _ in pairs]
    truth = [answer for _, answer in pairs]
    correct = Counter(label for p, t in zip(predicted, truth, strict=True) for label in p & t)
    predicted_counts = Counter(label for answer in predicted for label in answer)
    true_counts = Counter(label for answer in truth for label in answer)
    confusion: dict[str, dict[str, int]] = {}
    for predicted_labels, true_labels in zip(predicted, truth, strict=True):
        row = confusion.setdefault("+".join(sorted(true_labels)), {})
        key = "+".join(sorted(predicted_labels))
        row[key] = row.get(key, 0) + 1
    return ClassificationMetrics(
        macro_f1_estimate(predicted, truth, labels),
        {k: proportion_estimate(correct[k], predicted_counts[k], "precision") for k in labels},
        {k: proportion_estimate(correct[k], true_counts[k], "recall") for k in labels},
        confusion,
    )


def accuracy_estimate(pairs: Iterable[tuple[LabelSet | None, LabelSet]]) -> IntervalEstimate:
    """Estimate the exact-match accuracy: the share of images with all labels correct."""
    is_correct = [predicted == truth for predicted, truth in pairs]
    return proportion_estimate(sum(is_correct), len(is_correct))


def macro_f1_estimate(
    predicted: Sequence[LabelSet], truth: Sequence[LabelSet], labels: Sequence[str]
) -> IntervalEstimate:
    """Estimate the mean of the labels' F1 scores, with a 95 % interval.

    Labels without an annotation are left out, and the name of the metric then includes the number
    of labels. The interval spans two intervals, because each alone is too narrow in some projects:
    the one from the linearised variance (Cochran 1977, 6.4) for labels with one or two annotations,
    and the Bayesian bootstrap (Rubin 1981) if all labels are far better or worse than its prior.
    """
    present_labels = [label for label in labels if any(label in answer for answer in truth)]
    metric = "macro F1"
    if not present_labels:
        return IntervalEstimate.unknown(metric)
    if len(present_labels) < len(labels):
        metric += f" of {len(present_labels)} of {len(labels)} labels"
    predicted_matrix, truth_matrix = (
        np.array([[label in answer for label in present_labels] for answer in answers], dtype=float)
        for answers in (predicted, truth)
    )
    values, residuals = ratio_of_sums(
        2 * predicted_matrix * truth_matrix, predicted_matrix + truth_matrix
    )
    variance = variance_from_residuals(residuals.mean(axis=1))
    count = len(truth)
    estimate = composite_estimate(float(values.mean()), variance, count, count, metric)
    low, high = _bootstrap_interval(predicted_matrix, truth_matrix)
    return replace(estimate, low=min(estimate.low, low), high=max(estimate.high, high))


def _bootstrap_interval(predicted_matrix: Doubles, truth_matrix: Doubles) -> tuple[float, float]:
    """Return the 95 % interval of macro F1 by the Bayesian bootstrap over images.

    Jeffreys' pseudo-counts are resampled too, so that a label with a single correct prediction does
    not get an F1 of 1 with certainty. The interval is widened by Student's quantile on the log-odds
    scale.

    Args:
        predicted_matrix: (n, K), 1 where a label was predicted.
        truth_matrix: (n, K), 1 where a label was annotated.
    """
    count, label_count = predicted_matrix.shape
    if count < 2:
        return 0.0, 1.0
    rng = np.random.default_rng(0)  # the same predictions give the same interval
    weights = rng.exponential(size=(BOOTSTRAP_DRAW_COUNT, count))
    true_positives = predicted_matrix * truth_matrix
    errors = np.maximum(predicted_matrix, truth_matrix) - true_positives
    prior_size = (BOOTSTRAP_DRAW_COUNT, label_count)
    correct_weight = weights @ true_positives + rng.gamma(JEFFREYS_PSEUDOCOUNT, size=prior_size)
    error_weight = weights @ errors + rng.gamma(JEFFREYS_PSEUDOCOUNT, size=prior_size)
    means = (2 * correct_weight / (2 * correct_weight + error_weight)).mean(axis=1)
    logits = np.log(means / (1 - means))
    median = np.median(logits)
    widening = student_quantile(count - 1) / Z_95_PERCENT * math.sqrt(count / (count - 1))
    ends = median + (np.quantile(logits, [0.025, 0.975]) - median) * widening
    low, high = (1 / (1 + np.exp(-ends))).tolist()
    return round(low, 4), round(high, 4)
