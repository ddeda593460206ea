"""How good a version is, honestly: on the audit slice alone, with the interval it deserves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

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


def share(right: int, n: int) -> Figure:
    """A share with Wilson's 95 % interval (Wilson 1927, score interval without correction).

    Args:
        right: how many were right, 0 to n.
        n: of how many.

    Example:
        >>> share(9, 10)
        Figure(n=10, value=0.9, low=0.5958, high=0.9821, metric='accuracy')
    """
    if not n:
        return Figure(0, None, 0.0, 1.0)
    low, high = interval(right / n, n)
    return Figure(n, round(right / n, 4), round(low, 4), round(high, 4))


def interval(p: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    Args:
        p: the share, 0 to 1.
        n: independent answers it rests on, above 0; need not be whole.
    """
    z2 = Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def accuracy(pairs: Iterable[tuple[Answer | None, Answer]]) -> Figure:
    """The share of answers that were exactly right.

    Args:
        pairs: what the model answered (None: nothing) and what a person did. For several of many
            an answer is right when all its labels are.
    """
    right = [given == truth for given, truth in pairs]
    return share(sum(right), len(right))
