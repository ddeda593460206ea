"""How good a version is, honestly: on the audit slice alone, with the interval it deserves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from backend.domain import Answer

Z95 = 1.959964


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
        ``macro_f1`` (mean over the labels that somebody gave), by label ``precision`` and
        ``recall``, and ``confusion``: truth → answer → how often, several labels joined by ``+``.
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
    """The mean of the labels' F1, with the interval of its linearised variance (Cochran 1977, 6.4).

    Labels that occur in no true answer are left out: nothing is known of them.
    """
    known = [label for label in labels if any(label in answer for answer in truth)]
    if not known:
        return Figure(0, None, 0.0, 1.0, "macro F1")
    one = np.array([[label in answer for label in known] for answer in given], dtype=float)
    two = np.array([[label in answer for label in known] for answer in truth], dtype=float)
    whole = (one + two).sum(axis=0)
    values = 2 * (one * two).sum(axis=0) / whole
    terms = ((2 * one * two - values * (one + two)) / whole).mean(axis=1)
    count = len(truth)
    variance = float((terms**2).sum()) * count / max(count - 1, 1)
    return composite(float(values.mean()), variance, count, count, "macro F1")


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
