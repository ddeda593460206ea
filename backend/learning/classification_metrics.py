"""How good a version is, honestly: on the audit slice alone, with the interval it deserves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from backend.arrays import Doubles
from backend.domain import Answer

Z95 = 1.959964
DRAWS = 500
PRIOR = 0.5
"""Answers on either side that are held to have been given of every label (Jeffreys)."""


@dataclass(frozen=True)
class Figure:
    """A share with its 95 % interval.

    Attributes:
        n: answers it rests on.
        value: the share that was right; None where n is 0.
        low: lower end of the interval, 0 where n is 0.
        high: upper end of the interval, 1 where n is 0.
        metric: what was counted.
    """

    n: int
    value: float | None
    low: float
    high: float
    metric: str = "accuracy"

    def json(self) -> dict[str, Any]:
        """As it stands on cards and in answers."""
        return asdict(self)


def share(right: int, n: int, metric: str = "accuracy") -> Figure:
    """A share with Wilson's 95 % interval (Wilson 1927, score interval without correction).

    Args:
        right: how many were right, 0 to n.
        n: of how many.
        metric: what is counted.

    Example:
        >>> share(9, 10)
        Figure(n=10, value=0.9, low=0.5958, high=0.9821, metric='accuracy')
    """
    if not n:
        return Figure(0, None, 0.0, 1.0, metric)
    low, high = interval(right / n, n)
    return Figure(n, round(right / n, 4), round(low, 4), round(high, 4), metric)


def interval(p: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    Args:
        p: the share, 0 to 1.
        n: independent answers it rests on, above 0; need not be whole.
        z: standard deviations to each side.
    """
    z2 = z**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def composite(value: float, variance: float, images: int, most: float, metric: str) -> Figure:
    """A figure from 0 to 1 that is no plain share, with a 95 % interval.

    It is Wilson's, with as many independent answers as would vary that much, and Student's
    quantile because the variance itself is estimated from few images.

    Args:
        value: 0 to 1.
        variance: of ``value``, estimated; 0 where all images are alike.
        images: independent images it rests on.
        most: independent answers at most, where the images vary too little to tell.
        metric: its name.
    """
    from scipy.stats import t

    if images < 2:
        return Figure(images, round(value, 4), 0.0, 1.0, metric)
    worth = value * (1 - value) / variance if variance > 0 else most
    z = float(t.ppf(0.975, images - 1))
    low, high = interval(value, max(1.0, min(worth, most)), z)
    return Figure(images, round(value, 4), round(low, 4), round(high, 4), metric)


def figures(pairs: Sequence[tuple[Answer | None, Answer]], labels: Sequence[str]) -> dict[str, Any]:
    """Everything that is told of the answers to one control, each with its 95 % interval.

    Args:
        pairs: what the model answered (None: nothing) and what a person did.
        labels: the label names.

    Returns:
        ``macro_f1`` (mean over the labels that somebody gave; its metric says of how many), by
        label ``precision`` and ``recall``, and ``confusion``: truth → answer → how often, several
        labels joined by ``+``.
        What nothing is known of has the value None.
    """
    given = [answer or frozenset() for answer, _ in pairs]
    truth = [answer for _, answer in pairs]
    return {
        "macro_f1": macro_f1(given, truth, labels).json(),
        "labels": {label: _label_figures(given, truth, label) for label in labels},
        "confusion": _confusion(given, truth),
    }


def macro_f1(given: Sequence[Answer], truth: Sequence[Answer], labels: Sequence[str]) -> Figure:
    """The mean of the labels' F1 and its 95 % interval.

    Labels that occur in no true answer are left out: nothing is known of them, and the figure's
    metric says so. The interval is the wider of two at each end, because each alone is too narrow
    somewhere: that of the linearised variance (Cochran 1977, 6.4) where a label was given once or
    twice, and that of the Bayesian bootstrap (Rubin 1981), which knows better there, where all
    labels are much better or worse than its prior.
    """
    known = [label for label in labels if any(label in answer for answer in truth)]
    metric = "macro F1"
    if not known:
        return Figure(0, None, 0.0, 1.0, metric)
    if len(known) < len(labels):
        metric += f" of {len(known)} of {len(labels)} labels"
    one = np.array([[label in answer for label in known] for answer in given], dtype=float)
    two = np.array([[label in answer for label in known] for answer in truth], dtype=float)
    whole = (one + two).sum(axis=0)
    values = 2 * (one * two).sum(axis=0) / whole
    terms = ((2 * one * two - values * (one + two)) / whole).mean(axis=1)
    count = len(truth)
    variance = float((terms**2).sum()) * count / max(count - 1, 1)
    figure = composite(float(values.mean()), variance, count, count, metric)
    low, high = _drawn_interval(one, two)
    return replace(figure, low=min(figure.low, low), high=max(figure.high, high))


def _drawn_interval(one: Doubles, two: Doubles) -> tuple[float, float]:
    """The interval of macro F1 by the Bayesian bootstrap: images weigh more or less by chance.

    To each label PRIOR right and PRIOR wrong answers are added, themselves drawn, so that a label
    that was given once, and found, is no certainty. The spread is Student's, as few images tell it.

    Args:
        one: (n, K) 0 or 1, what was answered.
        two: (n, K), what is true.
    """
    from scipy.stats import t

    count, labels = one.shape
    if count < 2:
        return 0.0, 1.0
    rng = np.random.default_rng(0)  # the same answers give the same interval
    weights = rng.exponential(size=(DRAWS, count))
    both, either = one * two, np.maximum(one, two)
    right = weights @ both + rng.gamma(PRIOR, size=(DRAWS, labels))
    wrong = weights @ (either - both) + rng.gamma(PRIOR, size=(DRAWS, labels))
    means = (2 * right / (2 * right + wrong)).mean(axis=1)
    logits = np.log(means / (1 - means))
    middle = np.median(logits)
    wider = float(t.ppf(0.975, count - 1)) / Z95 * math.sqrt(count / (count - 1))
    ends = 1 / (1 + np.exp(-(middle + (np.quantile(logits, [0.025, 0.975]) - middle) * wider)))
    return round(float(ends[0]), 4), round(float(ends[1]), 4)


def _label_figures(given: Sequence[Answer], truth: Sequence[Answer], label: str) -> dict[str, Any]:
    right = sum(label in one and label in two for one, two in zip(given, truth, strict=True))
    return {
        "precision": share(right, sum(label in one for one in given), "precision").json(),
        "recall": share(right, sum(label in two for two in truth), "recall").json(),
    }


def _confusion(given: Sequence[Answer], truth: Sequence[Answer]) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for one, two in zip(given, truth, strict=True):
        row = table.setdefault("+".join(sorted(two)), {})
        key = "+".join(sorted(one))
        row[key] = row.get(key, 0) + 1
    return table


def accuracy(pairs: Iterable[tuple[Answer | None, Answer]]) -> Figure:
    """The share of answers that were exactly right.

    Args:
        pairs: what the model answered (None: nothing) and what a person did. For several of many
            an answer is right when all its labels are.
    """
    right = [given == truth for given, truth in pairs]
    return share(sum(right), len(right))
