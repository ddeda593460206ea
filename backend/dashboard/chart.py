"""Compute the SVG coordinates of the learning curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from backend.card_records import Outlook
from backend.dashboard.values import VersionRow
from backend.estimate import IntervalEstimate, format_interval, format_percent

CHART_WIDTH, CHART_HEIGHT = 460, 270
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 56, 14, 14, 48
MAX_CHART_VERSIONS = 120
"""Maximum number of versions in the chart; the newest are shown."""
TICK_STEPS = (1, 2, 5)


@dataclass(frozen=True)
class ChartMark:
    """A version's figure in the chart.

    Attributes:
        x: x coordinate of the number of labels.
        y: y coordinate of the value.
        low: y coordinate of the interval's lower end.
        high: y coordinate of the interval's upper end.
        kind: ``live``, ``was`` for an earlier live version, or ``held``.
        title: tooltip.
    """

    x: float
    y: float
    low: float
    high: float
    kind: str
    title: str


@dataclass(frozen=True)
class AxisTick:
    """A tick of an axis."""

    position: float
    text: str


@dataclass(frozen=True)
class LearningCurveChart:
    """A learning curve.

    Attributes:
        marks: versions, oldest first.
        band: outline of the forecast's interval as ``x,y`` pairs; empty without a forecast.
        line: line of the forecast as ``x,y`` pairs.
        x_ticks: ticks of the number of labels.
        y_ticks: ticks of the metric.
        metric: name of the metric.
        audited: whether it is measured on the audit set instead of by cross-validation.
        summary: description for screen readers.
    """

    marks: Sequence[ChartMark]
    band: str
    line: str
    x_ticks: Sequence[AxisTick]
    y_ticks: Sequence[AxisTick]
    metric: str
    audited: bool
    summary: str
    width: int = CHART_WIDTH
    height: int = CHART_HEIGHT
    left: int = MARGIN_LEFT
    right: int = CHART_WIDTH - MARGIN_RIGHT
    top: int = MARGIN_TOP
    bottom: int = CHART_HEIGHT - MARGIN_BOTTOM


def build_chart(versions: Sequence[VersionRow], outlook: Outlook) -> LearningCurveChart | None:
    """Build the learning curve of a project.

    Args:
        versions: versions of the project, newest first.
        outlook: forecast of the live version.

    Returns:
        None if fewer than two versions are measured on enough images.
    """
    is_audited = _is_audited(versions, outlook)
    measured = [(row, row.card.audit if is_audited else row.estimate) for row in versions]
    measured = [(row, figure) for row, figure in measured if figure.is_conclusive][
        :MAX_CHART_VERSIONS
    ][::-1]
    if len(measured) < 2:
        return None
    is_f1 = measured[-1][1].metric == "F1"
    curve = outlook.curve if outlook.is_audited == is_audited else ()
    max_labels = max(
        [row.card.labels.train for row, _ in measured] + [point.labels for point in curve]
    )
    lowest = min([figure.low for _, figure in measured] + [point.low for point in curve])
    scale = _ChartScale(max(max_labels, 1), math.floor(lowest * 5) / 5)
    upper_points = [scale.point(point.labels, point.high) for point in curve]
    lower_points = [scale.point(point.labels, point.low) for point in curve]
    return LearningCurveChart(
        marks=[_version_mark(row, figure, scale) for row, figure in measured],
        band=" ".join([*upper_points, *reversed(lower_points)]),
        line=" ".join(scale.point(point.labels, point.value) for point in curve),
        x_ticks=[
            AxisTick(scale.x(tick_value), f"{tick_value:,}")
            for tick_value in _label_ticks(scale.max_labels)
        ],
        y_ticks=[
            AxisTick(scale.y(tick_value), format_percent(tick_value))
            for tick_value in _value_ticks(scale.min_value)
        ],
        metric="F1" if is_f1 else "accuracy",
        audited=is_audited,
        summary=_chart_summary(measured),
    )


def _is_audited(versions: Sequence[VersionRow], outlook: Outlook) -> bool:
    """Return whether to draw audit figures instead of estimates, as the forecast does.

    Without a forecast, draw the kind of figure that the live version is judged by if two versions
    have it, else the kind that more versions have.
    """
    if outlook.curve:
        return outlook.is_audited
    figures = sum(row.card.audit.is_conclusive for row in versions)
    estimates = sum(row.estimate.is_conclusive for row in versions)
    is_live_audited = any(row.live and row.card.audit.is_conclusive for row in versions)
    return figures >= (2 if is_live_audited else max(2, estimates))


class _ChartScale:
    """Converts numbers of labels and values of the metric to chart coordinates."""

    def __init__(self, max_labels: int, min_value: float) -> None:
        self.max_labels = max_labels
        self.min_value = min(min_value, 0.8)

    def x(self, labels: float) -> float:
        return round(
            MARGIN_LEFT + (CHART_WIDTH - MARGIN_LEFT - MARGIN_RIGHT) * labels / self.max_labels, 1
        )

    def y(self, value: float) -> float:
        height_share = (value - self.min_value) / (1 - self.min_value)
        return round(
            CHART_HEIGHT
            - MARGIN_BOTTOM
            - (CHART_HEIGHT - MARGIN_TOP - MARGIN_BOTTOM) * height_share,
            1,
        )

    def point(self, labels: float, value: float) -> str:
        return f"{self.x(labels)},{self.y(max(value, self.min_value))}"


def _version_mark(row: VersionRow, figure: IntervalEstimate, scale: _ChartScale) -> ChartMark:
    value = figure.value or 0.0
    labels = row.card.labels.train
    text = f"{format_percent(value)} ({format_interval(figure)})"
    return ChartMark(
        x=scale.x(labels),
        y=scale.y(value),
        low=scale.y(max(figure.low, scale.min_value)),
        high=scale.y(figure.high),
        kind="live" if row.live else "was" if row.was_live else "held",
        title=f"{row.card.version}: {text} with {labels} labels",
    )


def _value_ticks(min_value: float) -> list[float]:
    """Return multiples of 0.2 from the minimum to 1."""
    return [n / 5 for n in range(round(min_value * 5), 6)]


def _label_ticks(max_labels: int) -> list[int]:
    """Return about five round numbers from 0 to the maximum."""
    rough_step = max_labels / 5
    power_of_ten = 10 ** max(0, math.floor(math.log10(max(rough_step, 1))))
    step = next(
        (s * power_of_ten for s in TICK_STEPS if s * power_of_ten >= rough_step), 10 * power_of_ten
    )
    return list(range(0, max_labels + 1, step))


def _chart_summary(measured: Sequence[tuple[VersionRow, IntervalEstimate]]) -> str:
    (first, first_figure), (last, last_figure) = measured[0], measured[-1]
    start, end = (format_percent(f.value or 0) for f in (first_figure, last_figure))
    return (
        f"From {start} with {first.card.labels.train} labels to {end} with "
        f"{last.card.labels.train} labels."
    )
