"""How good a detector is, on images that a person looked through and it never learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from backend.domain import Place
from backend.learning.classification_metrics import Figure, composite
from backend.learning.matching import (
    average_precision,
    greedy,
    match_boxes,
    match_points,
    overlaps,
)

PlaceKind = Literal["boxes", "points"]
IOU = 0.5
"""Overlap from which a box is right."""
DIAGONAL_SHARE = 0.01
"""The stricter distance of points: one percent of the image's diagonal."""


@dataclass(frozen=True)
class Judged:
    """One image: what was found and what is there.

    Attributes:
        found: most certain first.
        confidence: of each, 0 to 1.
        truth: what a person marked.
        ratio: width divided by height of the image.
    """

    found: tuple[Place, ...]
    confidence: tuple[float, ...]
    truth: tuple[Place, ...]
    ratio: float = 1.0


@dataclass(frozen=True)
class Tally:
    """Counts of one image and label."""

    right: int
    found: int
    there: int


def judge(
    images: Sequence[Judged],
    labels: Sequence[str],
    kind: PlaceKind,
    extents: dict[str, float],
    shown: float,
) -> tuple[Figure, dict[str, Any]]:
    """Judge a detector.

    Args:
        images: of the audit slice.
        labels: the label names.
        kind: boxes are right by overlap, points by distance.
        extents: of points, by label the object's size, 0 to 1 of the image's longer edge.
        shown: confidence from which a find counts, 0 to 1; the mean average precision takes all.

    Returns:
        F1 with its interval, and all figures: ``map50`` or ``f1_close`` (at 1 % of the diagonal),
        ``precision, recall, f1, counting_error`` (mean of |found − there| over mean there), and
        the same by label with ``ap50``; each with its 95 % interval in ``intervals``, and
        ``counting`` and ``map`` of the whole.
    """
    tallies = [_tally(image, labels, kind, extents, shown) for image in images]
    by_label = {label: _rates([t[label] for t in tallies]) for label in labels}
    whole = [_sum(t.values()) for t in tallies]
    rates = _rates(whole)
    rates["counting"] = rates["intervals"]["counting_error"]
    if kind == "boxes":
        each, together = precisions(images, labels, np.random.default_rng(0))
        for label, figure in each.items():
            by_label[label]["ap50"] = figure.value
            by_label[label]["intervals"]["ap50"] = figure.json()
        rates |= {"map50": together.value, "map": together.json()}
    else:
        close = f1_figure([_sum(_tally(i, labels, kind, {}, shown).values()) for i in images])
        rates["f1_close"] = close.value if sum(t.found + t.there for t in whole) else None
        rates["intervals"]["f1_close"] = close.json()
    return f1_figure(whole), {**rates, "labels": by_label}


def f1_figure(tallies: Sequence[Tally]) -> Figure:
    """F1 = 2·right / (found + there) over all images, with a 95 % interval.

    It is a ratio of sums over images, whose objects are right or wrong together; its variance is
    that of the linearised ratio (Cochran 1977, section 6.4), and the interval is Wilson's with as
    many independent answers as would vary that much.

    Args:
        tallies: one an image.
    """
    n = len(tallies)
    top = np.array([2.0 * t.right for t in tallies])
    whole = np.array([float(t.found + t.there) for t in tallies])
    if not n or not whole.sum():
        return Figure(n, 1.0 if n else None, 0.0, 1.0, "F1")
    value = float(top.sum() / whole.sum())
    variance = float(((top - value * whole) ** 2).sum() * n / max(n - 1, 1)) / whole.sum() ** 2
    places = float(whole.sum())
    return composite(value, variance, n, places if variance > 0 else min(n, places / 2), "F1")


def ratio(rows: Sequence[tuple[float, float]], metric: str) -> Figure:
    """Σ part / Σ whole over images, 0 to 1, with the interval of its linearised variance.

    Args:
        rows: (part, whole), one an image.
        metric: its name.
    """
    table = np.array(rows, dtype=float).reshape(-1, 2)
    table = table[table[:, 1] > 0]
    n, (part, whole) = len(table), table.sum(axis=0)
    if not n:
        return Figure(0, None, 0.0, 1.0, metric)
    terms = table[:, 0] - part / whole * table[:, 1]
    variance = float((terms**2).sum()) * n / max(n - 1, 1) / whole**2
    return composite(part / whole, variance, n, whole if variance > 0 else n, metric)


def count_figure(tallies: Sequence[Tally]) -> Figure:
    """Counting error = Σ |found − there| / Σ there over all images, with a 95 % interval.

    A ratio of sums like F1, but without an upper end: the interval is Student's, not below 0.

    Args:
        tallies: one an image.
    """
    from scipy.stats import t as student

    n, metric = len(tallies), "counting error"
    off = np.array([abs(t.found - t.there) for t in tallies], dtype=float)
    there = np.array([t.there for t in tallies], dtype=float)
    if not n or not there.sum():
        return Figure(n, None, 0.0, 1.0, metric)
    value = float(off.sum() / there.sum())
    if n < 2:
        return Figure(n, round(value, 4), 0.0, max(1.0, round(value, 4)), metric)
    variance = float(((off - value * there) ** 2).sum() * n / (n - 1)) / there.sum() ** 2
    half = float(student.ppf(0.975, n - 1)) * math.sqrt(variance)
    low, high = max(0.0, value - half), value + half
    return Figure(n, round(value, 4), round(low, 4), round(high, 4), metric)


def precisions(
    images: Sequence[Judged], labels: Sequence[str], rng: np.random.Generator, draws: int = 100
) -> tuple[dict[str, Figure], Figure]:
    """The labels' average precision and their mean (mAP50), each with a 95 % interval.

    The variance is that of a bootstrap over images, the same draws for all.

    Args:
        images: of the audit slice.
        labels: the label names; nothing is known of one without an object, and the mean is without
            it.
        rng: draws the samples.
        draws: how many.
    """
    n = len(images)
    times = rng.multinomial(n, np.full(n, 1 / n), size=draws) if n else np.zeros((0, 0), dtype=int)
    rows = {label: _Finds.of(images, label) for label in labels}
    drawn = {label: row.drawn(times) for label, row in rows.items() if row.there.sum()}
    each = {label: Figure(n, None, 0.0, 1.0, "AP50") for label in labels}
    for label, values in drawn.items():
        own = rows[label]
        on = int((own.there > 0).sum())
        each[label] = _bootstrapped(own.precision(np.ones(n)), values, on, own.there.sum(), "AP50")
    known = [rows[label] for label in drawn]
    if not known:
        return each, Figure(n, None, 0.0, 1.0, "mAP50")
    value = float(np.mean([row.precision(np.ones(n)) for row in known]))
    table = np.array(list(drawn.values()))
    some = ~np.isnan(table).all(axis=0)
    means = np.full(draws, value)
    means[some] = np.nanmean(table[:, some], axis=0)
    objects = sum(row.there.sum() for row in known)
    return each, _bootstrapped(value, means, n, objects, "mAP50")


def _bootstrapped(
    value: float, drawn: npt.NDArray[np.float64], images: int, objects: float, metric: str
) -> Figure:
    """A figure whose variance is that of drawn ones; NaN where a draw had nothing to find."""
    found = drawn[~np.isnan(drawn)]
    variance = float(np.var(found, ddof=1)) * images / max(images - 1, 1) if len(found) > 1 else 0.0
    return composite(value, variance, images, float(objects), metric)


@dataclass(frozen=True)
class _Finds:
    """One label's finds in all images, most certain first.

    Attributes:
        image: (m,) row of the image of each find.
        right: (m,) bool.
        there: (n,) objects by image.
    """

    image: npt.NDArray[np.intp]
    right: npt.NDArray[np.bool_]
    there: npt.NDArray[np.float64]

    @classmethod
    def of(cls, images: Sequence[Judged], label: str) -> _Finds:
        pairs = [_right(image, label) for image in images]
        confidence = np.array([c for confidences, _ in pairs for c in confidences])
        order = np.argsort(-confidence, kind="stable")
        return cls(
            np.repeat(np.arange(len(images)), [len(rights) for _, rights in pairs])[order],
            np.array([r for _, rights in pairs for r in rights], dtype=bool)[order],
            np.array([sum(p.label == label for p in i.truth) for i in images], dtype=float),
        )

    def drawn(self, times: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Average precision of each draw (a row of times); NaN where it has no object."""
        return np.array(
            [self.precision(row) if (self.there * row).sum() else np.nan for row in times]
        )

    def precision(self, times: npt.ArrayLike) -> float:
        """Average precision where each image counts so many times."""
        weights = np.asarray(times)
        repeated = np.repeat(self.right, weights[self.image].astype(int))
        objects = int((self.there * weights).sum())
        return average_precision(-np.arange(len(repeated)), repeated, objects)


def best_threshold(images: Sequence[Judged], labels: Sequence[str], least: float = 0.05) -> float:
    """The confidence from which showing finds gives the best F1, by overlap.

    Args:
        images: finds of any confidence.
        labels: the label names.
        least: never below it.
    """
    pairs = [
        (confidence, right)
        for image in images
        for label in labels
        for confidence, right in zip(*_right(image, label), strict=True)
    ]
    there = sum(len(image.truth) for image in images)
    if not pairs or not there:
        return least
    pairs.sort(key=lambda pair: -pair[0])
    hits = np.cumsum([right for _, right in pairs])
    f1 = 2 * hits / (np.arange(1, len(pairs) + 1) + there)
    return max(least, pairs[int(f1.argmax())][0])


def difficulty(images: Sequence[Judged], labels: Sequence[str]) -> dict[str, float]:
    """How hard each label is for a detector (after PPAL, arXiv 2211.11612).

    1 where every object is found with full confidence, 2 where none is: 2 less the mean
    confidence of the finds that are objects, missed ones counted as 0. A label without an object
    is as hard as can be.

    Args:
        images: that it learned from; only what is easy by now is certain there.
        labels: the label names.
    """
    found = {}
    for label in labels:
        there = sum(place.label == label for image in images for place in image.truth)
        sure = [
            confidence
            for image in images
            for confidence, right in zip(*_right(image, label), strict=True)
            if right
        ]
        found[label] = round(2 - sum(sure) / there, 4) if there else 2.0
    return found


def tally(
    image: Judged,
    labels: Sequence[str],
    kind: PlaceKind,
    extents: Mapping[str, float],
    shown: float,
) -> Tally:
    """What is right, found and there in one image; arguments as :func:`judge` takes them."""
    return _sum(_tally(image, labels, kind, extents, shown).values())


def rights(
    image: Judged, label: str, kind: PlaceKind, extents: Mapping[str, float]
) -> list[tuple[float, bool]]:
    """The confidence of each find of a label, and whether it is an object."""
    if kind == "boxes":
        return list(zip(*_right(image, label), strict=True))
    rows = [i for i, place in enumerate(image.found) if place.label == label]
    truth = [p for p in image.truth if p.label == label]
    found = _points([image.found[i] for i in rows], image)
    pairs = match_points(found, _points(truth, image), _within(image, label, extents))
    hit = {one for one, _ in pairs}
    return [(image.confidence[row], i in hit) for i, row in enumerate(rows)]


def _tally(
    image: Judged, labels: Sequence[str], kind: str, extents: Mapping[str, float], shown: float
) -> dict[str, Tally]:
    tallies = {}
    for label in labels:
        found = [
            p
            for p, c in zip(image.found, image.confidence, strict=True)
            if p.label == label and c >= shown
        ]
        truth = [p for p in image.truth if p.label == label]
        right = _matches(image, label, kind, extents, found, truth) if found and truth else 0
        tallies[label] = Tally(right, len(found), len(truth))
    return tallies


def _matches(
    image: Judged,
    label: str,
    kind: str,
    extents: Mapping[str, float],
    found: Sequence[Place],
    truth: Sequence[Place],
) -> int:
    if kind == "boxes":
        return len(match_boxes(_boxes(found), _boxes(truth), IOU))
    within = _within(image, label, extents)
    return len(match_points(_points(found, image), _points(truth, image), within))


def _rates(tallies: Sequence[Tally]) -> dict[str, Any]:
    whole = _sum(tallies)
    off = sum(abs(t.found - t.there) for t in tallies)
    return {
        "there": whole.there,
        "precision": _share(whole.right, whole.found),
        "recall": _share(whole.right, whole.there),
        "intervals": {
            "precision": ratio([(t.right, t.found) for t in tallies], "precision").json(),
            "recall": ratio([(t.right, t.there) for t in tallies], "recall").json(),
            "f1": f1_figure(tallies).json() if whole.found + whole.there else _unknown("F1"),
            "counting_error": count_figure(tallies).json(),
        },
        "f1": _share(2 * whole.right, whole.found + whole.there),
        "counting_error": _share(off, whole.there),
    }


def _sum(tallies: Any) -> Tally:
    rows = [(t.right, t.found, t.there) for t in tallies]
    right, found, there = (sum(column) for column in zip(*rows, strict=True)) if rows else (0, 0, 0)
    return Tally(right, found, there)


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None


def _unknown(metric: str) -> dict[str, Any]:
    return Figure(0, None, 0.0, 1.0, metric).json()


def _right(image: Judged, label: str) -> tuple[list[float], list[bool]]:
    rows = [i for i, place in enumerate(image.found) if place.label == label]
    if not rows:  # most labels of most images
        return [], []
    rows.sort(key=lambda i: -image.confidence[i])
    truth = [p for p in image.truth if p.label == label]
    overlap = overlaps(_boxes([image.found[i] for i in rows]), _boxes(truth))
    return [image.confidence[i] for i in rows], greedy(overlap, IOU).tolist()


def _boxes(places: Sequence[Place]) -> list[tuple[float, float, float, float]]:
    return [(p.x0, p.y0, p.x1, p.y1) for p in places]


def _points(places: Sequence[Place], image: Judged) -> list[tuple[float, float]]:
    """Centres in units of the longer edge, so that both directions are alike."""
    wide, high = min(image.ratio, 1.0), min(1 / image.ratio, 1.0)
    return [(p.centre[0] * wide, p.centre[1] * high) for p in places]


def _within(image: Judged, label: str, extents: Mapping[str, float]) -> float:
    """How far a point may be off: half the object's size; else a share of the diagonal."""
    return extents.get(label, 0.0) / 2 or _diagonal(image) * DIAGONAL_SHARE


def _diagonal(image: Judged) -> float:
    """In units of the longer edge."""
    return math.hypot(min(image.ratio, 1.0), min(1 / image.ratio, 1.0))
