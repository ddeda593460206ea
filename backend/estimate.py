"""A measured metric with its confidence interval; imports neither numpy nor scipy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MIN_FIGURE_IMAGES = 10
"""Number of images below which a figure is not shown: on one image it is 0 % or 100 %."""
TOO_EARLY_TEXT = "too early to tell"
UNKNOWN_TEXT = "not known yet"


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

    @property
    def is_conclusive(self) -> bool:
        """Whether it was measured on at least ``MIN_FIGURE_IMAGES``, and can be shown."""
        return self.value is not None and self.n >= MIN_FIGURE_IMAGES

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


def format_percent(value: float) -> str:
    """Format accuracy, precision, recall or F1 as a percentage, the unit of all figures."""
    return f"{value:.0%}"


def format_interval(estimate: IntervalEstimate) -> str:
    """Format the 95 % interval of an estimate, such as ``79% to 92%``."""
    return f"{format_percent(estimate.low)} to {format_percent(estimate.high)}"


def format_headline(estimate: IntervalEstimate) -> str:
    """Format the value of an estimate; ``too early to tell`` on less than ``MIN_FIGURE_IMAGES``.

    Example:
        >>> format_headline(IntervalEstimate(40, 0.812, 0.7, 0.9, "F1"))
        'F1 81%'
        >>> format_headline(IntervalEstimate(1, 1.0, 0.2, 1.0))
        'too early to tell'
    """
    if estimate.n < MIN_FIGURE_IMAGES:
        return TOO_EARLY_TEXT
    if estimate.value is None:
        return UNKNOWN_TEXT
    prefix = "F1 " if estimate.metric == "F1" else ""
    return prefix + format_percent(estimate.value)


def format_audit_progress(audit: IntervalEstimate, labeled: int = 0) -> str:
    """Return how many of the audit images that a figure needs are labeled.

    Args:
        audit: figure of a version.
        labeled: number of audit images that are labeled by now.

    Example:
        >>> format_audit_progress(IntervalEstimate(3, 1.0, 0.4, 1.0))
        '3 of the 10 audit images needed are labeled'
        >>> format_audit_progress(IntervalEstimate())
        'none of the 10 audit images needed is labeled'
        >>> format_audit_progress(IntervalEstimate(3, 1.0, 0.4, 1.0), 11)
        '11 audit images are labeled, which is enough: the next version is measured on them'
    """
    count = max(audit.n, labeled)
    if audit.n < MIN_FIGURE_IMAGES <= count:
        return (
            f"{count} audit images are labeled, which is enough: the next version is measured on "
            "them"
        )
    needed = f"of the {MIN_FIGURE_IMAGES} audit images needed"
    if not count:
        return f"none {needed} is labeled"
    return f"{count} {needed} {'is' if count == 1 else 'are'} labeled"
