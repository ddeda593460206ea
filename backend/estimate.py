"""A measured metric with its confidence interval; imports neither numpy nor scipy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class IntervalEstimate:
    """A metric with its 95 % confidence interval.

    Attributes:
        n: number of images or answers it was measured on.
        value: value of the metric, rounded to four digits; None if it could not be measured.
        low: lower end of the interval; 0 if the metric could not be measured.
        high: upper end of the interval; 1 if the metric could not be measured.
        metric: name of the metric.
    """

    n: int = 0
    value: float | None = None
    low: float = 0.0
    high: float = 1.0
    metric: str = "accuracy"

    @classmethod
    def unknown(cls, metric: str = "accuracy", n: int = 0) -> IntervalEstimate:
        """Return the estimate of a metric that could not be measured."""
        return cls(n, None, 0.0, 1.0, metric)

    @classmethod
    def rounded(
        cls, n: int, value: float, interval: tuple[float, float], metric: str
    ) -> IntervalEstimate:
        """Return an estimate with value and interval rounded to four digits."""
        return cls(n, round(value, 4), round(interval[0], 4), round(interval[1], 4), metric)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> IntervalEstimate:
        """Parse the estimate of a version card; return an unknown one if the card has none."""
        names = ("n", "value", "low", "high", "metric")
        return cls(**{name: stored[name] for name in names}) if stored else cls.unknown()

    def to_json(self) -> dict[str, object]:
        """Return the estimate as it is stored in version cards and sent in responses."""
        return asdict(self)
