"""The learning curve as a drawing: what stands where, in the units of its own frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from backend.dashboard.values import Figure, Outlook, VersionRow

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 14, 42
MOST = 120
"""Versions that are drawn."""
STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Mark:
    """A version's figure.

    Attributes:
        x: of its labels.
        y: of its value.
        low: y of the interval's lower end.
        high: y of the interval's upper end.
        kind: ``live``, ``was``, or ``held``.
        title: in words.
    """

    x: float
    y: float
    low: float
    high: float
    kind: str
    title: str


@dataclass(frozen=True)
class Tick:
    """A number at an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A learning curve.

    Attributes:
        marks: the versions, oldest first.
        band: points of the forecast's band, ``x,y`` pairs; empty where there is no forecast.
        line: points of the forecast's middle.
        across: ticks of the labels.
        up: ticks of the figure.
        metric: what is drawn upwards.
        audited: from the audit slice, not from cross-validation.
        summary: the drawing in a sentence, for those who cannot see it.
    """

    marks: Sequence[Mark]
    band: str
    line: str
    across: Sequence[Tick]
    up: Sequence[Tick]
    metric: str
    audited: bool
    summary: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def draw(versions: Sequence[VersionRow], outlook: Outlook) -> Chart | None:
    """The learning curve of a project.

    Args:
        versions: newest first.
        outlook: with the forecast.

    Returns:
        None with fewer than two versions that anything is known of.
    """
    audited = _audited(versions, outlook)
    known = [(row, row.figure if audited else row.estimate) for row in versions]
    known = [(row, figure) for row, figure in known if figure.value is not None][:MOST][::-1]
    if len(known) < 2:
        return None
    f1 = known[-1][1].metric == "F1"
    curve = outlook.curve if outlook.audited == audited else ()
    most = max([row.card.labels["train"] for row, _ in known] + [point[0] for point in curve])
    lowest = min([figure.low for _, figure in known] + [point[2] for point in curve])
    frame = _Frame(max(most, 1), math.floor(lowest * 5) / 5)
    upper = [frame.point(labels, high) for labels, _, _, high in curve]
    lower = [frame.point(labels, low) for labels, _, low, _ in curve]
    return Chart(
        marks=[_mark(row, figure, frame) for row, figure in known],
        band=" ".join([*upper, *reversed(lower)]),
        line=" ".join(frame.point(labels, value) for labels, value, _, _ in curve),
        across=[Tick(frame.x(at), f"{at:,}") for at in _ticks(frame.most)],
        up=[Tick(frame.y(at), f"{at:.1f}" if f1 else f"{at:.0%}") for at in _rungs(frame.least)],
        metric="F1" if f1 else "accuracy",
        audited=audited,
        summary=_summary(known),
    )


def _audited(versions: Sequence[VersionRow], outlook: Outlook) -> bool:
    """What the forecast rests on; without one, whatever more versions have."""
    if outlook.curve:
        return outlook.audited
    figures = sum(row.figure.value is not None for row in versions)
    estimates = sum(row.estimate.value is not None for row in versions)
    return figures >= max(2, estimates)


class _Frame:
    """Labels and shares → places in the drawing."""

    def __init__(self, most: int, least: float) -> None:
        self.most = most
        self.least = min(least, 0.8)

    def x(self, labels: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * labels / self.most, 1)

    def y(self, value: float) -> float:
        up = (value - self.least) / (1 - self.least)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * up, 1)

    def point(self, labels: float, value: float) -> str:
        return f"{self.x(labels)},{self.y(max(value, self.least))}"


def _mark(row: VersionRow, figure: Figure, frame: _Frame) -> Mark:
    value = figure.value or 0.0
    labels = row.card.labels["train"]
    told = f"{_told(value, figure)} ({_told(figure.low, figure)} to {_told(figure.high, figure)})"
    return Mark(
        x=frame.x(labels),
        y=frame.y(value),
        low=frame.y(max(figure.low, frame.least)),
        high=frame.y(figure.high),
        kind="live" if row.live else "was" if row.was_live else "held",
        title=f"{row.card.version}: {told} with {labels} labels",
    )


def _told(value: float, figure: Figure) -> str:
    return f"{value:.2f}" if figure.metric == "F1" else f"{value:.0%}"


def _rungs(least: float) -> list[float]:
    """Every fifth, from the least on."""
    return [n / 5 for n in range(round(least * 5), 6)]


def _ticks(most: int) -> list[int]:
    """About five round numbers from 0 on."""
    rough = most / 5
    power = 10 ** max(0, math.floor(math.log10(max(rough, 1))))
    step = next((s * power for s in STEPS if s * power >= rough), 10 * power)
    return list(range(0, most + 1, step))


def _summary(known: Sequence[tuple[VersionRow, Figure]]) -> str:
    (first, start), (last, end) = known[0], known[-1]
    return (
        f"From {_told(start.value or 0, start)} with {first.card.labels['train']} labels to "
        f"{_told(end.value or 0, end)} with {last.card.labels['train']} labels."
    )
