"""How good a detector is, on images that a person looked through and it never learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from backend.domain import Region
from backend.learning.classification_metrics import composite_estimate
from backend.learning.matching import (
    average_precision,
    match_boxes,
    match_greedily,
    match_points,
    pairwise_iou,
)
from backend.records import IntervalEstimate

RegionKind = Literal["boxes", "points"]
MIN_BOX_IOU = 0.5
"""Overlap from which a box is right."""
POINT_TOLERANCE_DIAGONAL = 0.01
"""The stricter distance of points: one percent of the image's diagonal."""


@dataclass(frozen=True)
class DetectionSample:
    """One image: what was found and what is there.

    Attributes:
        detections: most certain first.
        confidence: of each, 0 to 1.
        ground_truth: what a person marked.
        aspect_ratio: width divided by height of the image.
    """

    detections: tuple[Region, ...]
    confidence: tuple[float, ...]
    ground_truth: tuple[Region, ...]
    aspect_ratio: float = 1.0


@dataclass(frozen=True)
class DetectionCounts:
    """Counts of one image and label."""

    true_positives: int
    predicted: int
    actual: int


def evaluate_detections(
    images: Sequence[DetectionSample],
    labels: Sequence[str],
    kind: RegionKind,
    extents: dict[str, float],
    display_threshold: float,
) -> tuple[IntervalEstimate, dict[str, Any]]:
    """Judge a detector.

    Args:
        images: of the audit slice.
        labels: the label names.
        kind: boxes are right by overlap, points by distance.
        extents: of points, by label the object's size, 0 to 1 of the image's longer edge.
        display_threshold: confidence from which a find counts, 0 to 1; the mean average precision takes all.

    Returns:
        F1 with its interval, and all figures: ``map50`` or ``f1_close`` (at 1 % of the diagonal),
        ``precision, recall, f1, counting_error`` (mean of |found − there| over mean there), and
        the same by label with ``ap50``; each with its 95 % interval in ``intervals``, and
        ``counting`` and ``map`` of the whole.
    """
    counts_by_image = [
        _count_by_label(image, labels, kind, extents, display_threshold) for image in images
    ]
    by_label = {label: _detection_rates([t[label] for t in counts_by_image]) for label in labels}
    image_counts = [_sum_counts(t.values()) for t in counts_by_image]
    rates = _detection_rates(image_counts)
    rates["counting"] = rates["intervals"]["counting_error"]
    if kind == "boxes":
        label_figures, mean_figure = average_precision_figures(
            images, labels, np.random.default_rng(0)
        )
        for label, figure in label_figures.items():
            by_label[label]["ap50"] = figure.value
            by_label[label]["intervals"]["ap50"] = figure.to_json()
        rates |= {"map50": mean_figure.value, "map": mean_figure.to_json()}
    else:
        close_figure = f1_figure(
            [
                _sum_counts(_count_by_label(i, labels, kind, {}, display_threshold).values())
                for i in images
            ]
        )
        rates["f1_close"] = (
            close_figure.value if sum(t.predicted + t.actual for t in image_counts) else None
        )
        rates["intervals"]["f1_close"] = close_figure.to_json()
    return f1_figure(image_counts), {**rates, "labels": by_label}


def f1_figure(image_counts: Sequence[DetectionCounts]) -> IntervalEstimate:
    """F1 = 2·right / (found + there) over all images, with a 95 % interval.

    It is a ratio of sums over images, whose objects are right or wrong together; its variance is
    that of the linearised ratio (Cochran 1977, section 6.4), and the interval is Wilson's with as
    many independent answers as would vary that much.

    Args:
        image_counts: one an image.
    """
    n = len(image_counts)
    numerators = np.array([2.0 * t.true_positives for t in image_counts])
    denominators = np.array([float(t.predicted + t.actual) for t in image_counts])
    if not n or not denominators.sum():
        return IntervalEstimate(n, 1.0 if n else None, 0.0, 1.0, "F1")
    value = float(numerators.sum() / denominators.sum())
    variance = (
        float(((numerators - value * denominators) ** 2).sum() * n / max(n - 1, 1))
        / denominators.sum() ** 2
    )
    object_count = float(denominators.sum())
    return composite_estimate(
        value, variance, n, object_count if variance > 0 else min(n, object_count / 2), "F1"
    )


def ratio_figure(rows: Sequence[tuple[float, float]], metric: str) -> IntervalEstimate:
    """Σ part / Σ whole over images, 0 to 1, with the interval of its linearised variance.

    Args:
        rows: (part, whole), one an image.
        metric: its name.
    """
    table = np.array(rows, dtype=float).reshape(-1, 2)
    table = table[table[:, 1] > 0]
    n, (numerator, denominator) = len(table), table.sum(axis=0)
    if not n:
        return IntervalEstimate(0, None, 0.0, 1.0, metric)
    residuals = table[:, 0] - numerator / denominator * table[:, 1]
    variance = float((residuals**2).sum()) * n / max(n - 1, 1) / denominator**2
    return composite_estimate(
        numerator / denominator, variance, n, denominator if variance > 0 else n, metric
    )


def counting_error_figure(image_counts: Sequence[DetectionCounts]) -> IntervalEstimate:
    """Counting error = Σ |found − there| / Σ there over all images, with a 95 % interval.

    A ratio of sums like F1, but without an upper end: the interval is Student's, not below 0.

    Args:
        image_counts: one an image.
    """
    from scipy.stats import t as student

    n, metric = len(image_counts), "counting error"
    count_errors = np.array([abs(t.predicted - t.actual) for t in image_counts], dtype=float)
    actual_counts = np.array([t.actual for t in image_counts], dtype=float)
    if not n or not actual_counts.sum():
        return IntervalEstimate(n, None, 0.0, 1.0, metric)
    value = float(count_errors.sum() / actual_counts.sum())
    if n < 2:
        return IntervalEstimate(n, round(value, 4), 0.0, max(1.0, round(value, 4)), metric)
    variance = (
        float(((count_errors - value * actual_counts) ** 2).sum() * n / (n - 1))
        / actual_counts.sum() ** 2
    )
    half_width = float(student.ppf(0.975, n - 1)) * math.sqrt(variance)
    low, high = max(0.0, value - half_width), value + half_width
    return IntervalEstimate(n, round(value, 4), round(low, 4), round(high, 4), metric)


def average_precision_figures(
    images: Sequence[DetectionSample],
    labels: Sequence[str],
    rng: np.random.Generator,
    draws: int = 100,
) -> tuple[dict[str, IntervalEstimate], IntervalEstimate]:
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
    image_weights = (
        rng.multinomial(n, np.full(n, 1 / n), size=draws) if n else np.zeros((0, 0), dtype=int)
    )
    label_detections = {label: _LabelDetections.from_images(images, label) for label in labels}
    bootstrap_values = {
        label: detections_row.bootstrap_precisions(image_weights)
        for label, detections_row in label_detections.items()
        if detections_row.objects_per_image.sum()
    }
    figures = {label: IntervalEstimate(n, None, 0.0, 1.0, "AP50") for label in labels}
    for label, values in bootstrap_values.items():
        detections_of_label = label_detections[label]
        images_with_label = int((detections_of_label.objects_per_image > 0).sum())
        figures[label] = _bootstrap_figure(
            detections_of_label.weighted_precision(np.ones(n)),
            values,
            images_with_label,
            detections_of_label.objects_per_image.sum(),
            "AP50",
        )
    known_labels = [label_detections[label] for label in bootstrap_values]
    if not known_labels:
        return figures, IntervalEstimate(n, None, 0.0, 1.0, "mAP50")
    value = float(
        np.mean([detections_row.weighted_precision(np.ones(n)) for detections_row in known_labels])
    )
    table = np.array(list(bootstrap_values.values()))
    has_value = ~np.isnan(table).all(axis=0)
    means = np.full(draws, value)
    means[has_value] = np.nanmean(table[:, has_value], axis=0)
    object_count = sum(detections_row.objects_per_image.sum() for detections_row in known_labels)
    return figures, _bootstrap_figure(value, means, n, object_count, "mAP50")


def _bootstrap_figure(
    value: float,
    bootstrap_values: npt.NDArray[np.float64],
    images: int,
    object_count: float,
    metric: str,
) -> IntervalEstimate:
    """A figure whose variance is that of drawn ones; NaN where a draw had nothing to find."""
    valid_values = bootstrap_values[~np.isnan(bootstrap_values)]
    variance = (
        float(np.var(valid_values, ddof=1)) * images / max(images - 1, 1)
        if len(valid_values) > 1
        else 0.0
    )
    return composite_estimate(value, variance, images, float(object_count), metric)


@dataclass(frozen=True)
class _LabelDetections:
    """One label's finds in all images, most certain first.

    Attributes:
        image_rows: (m,) row of the image of each find.
        is_correct: (m,) bool.
        objects_per_image: (n,) objects by image.
    """

    image_rows: npt.NDArray[np.intp]
    is_correct: npt.NDArray[np.bool_]
    objects_per_image: npt.NDArray[np.float64]

    @classmethod
    def from_images(cls, images: Sequence[DetectionSample], label: str) -> _LabelDetections:
        pairs = [_match_boxes_of_label(image, label) for image in images]
        confidence = np.array([c for confidences, _ in pairs for c in confidences])
        order = np.argsort(-confidence, kind="stable")
        return cls(
            np.repeat(np.arange(len(images)), [len(rights) for _, rights in pairs])[order],
            np.array([r for _, rights in pairs for r in rights], dtype=bool)[order],
            np.array([sum(p.label == label for p in i.ground_truth) for i in images], dtype=float),
        )

    def bootstrap_precisions(self, image_weights: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Average precision of each draw (a row of times); NaN where it has no object."""
        return np.array(
            [
                self.weighted_precision(row) if (self.objects_per_image * row).sum() else np.nan
                for row in image_weights
            ]
        )

    def weighted_precision(self, image_weights: npt.ArrayLike) -> float:
        """Average precision where each image counts so many times."""
        weights = np.asarray(image_weights)
        repeated = np.repeat(self.is_correct, weights[self.image_rows].astype(int))
        object_count = int((self.objects_per_image * weights).sum())
        return average_precision(-np.arange(len(repeated)), repeated, object_count)


def best_f1_threshold(
    images: Sequence[DetectionSample], labels: Sequence[str], min_threshold: float = 0.05
) -> float:
    """The confidence from which showing finds gives the best F1, by overlap.

    Args:
        images: finds of any confidence.
        labels: the label names.
        min_threshold: never below it.
    """
    pairs = [
        (confidence, is_correct)
        for image in images
        for label in labels
        for confidence, is_correct in zip(*_match_boxes_of_label(image, label), strict=True)
    ]
    object_count = sum(len(image.ground_truth) for image in images)
    if not pairs or not object_count:
        return min_threshold
    pairs.sort(key=lambda pair: -pair[0])
    true_positives = np.cumsum([is_correct for _, is_correct in pairs])
    f1 = 2 * true_positives / (np.arange(1, len(pairs) + 1) + object_count)
    return max(min_threshold, pairs[int(f1.argmax())][0])


def label_difficulty(images: Sequence[DetectionSample], labels: Sequence[str]) -> dict[str, float]:
    """How hard each label is for a detector (after PPAL, arXiv 2211.11612).

    1 where every object is found with full confidence, 2 where none is: 2 less the mean
    confidence of the finds that are objects, missed ones counted as 0. A label without an object
    is as hard as can be.

    Args:
        images: that it learned from; only what is easy by now is certain there.
        labels: the label names.
    """
    difficulties = {}
    for label in labels:
        object_count = sum(place.label == label for image in images for place in image.ground_truth)
        hit_confidences = [
            confidence
            for image in images
            for confidence, is_correct in zip(*_match_boxes_of_label(image, label), strict=True)
            if is_correct
        ]
        difficulties[label] = (
            round(2 - sum(hit_confidences) / object_count, 4) if object_count else 2.0
        )
    return difficulties


def count_matches(
    image: DetectionSample,
    labels: Sequence[str],
    kind: RegionKind,
    extents: Mapping[str, float],
    display_threshold: float,
) -> DetectionCounts:
    """What is right, found and there in one image; arguments as :func:`evaluate_detections` takes them."""
    return _sum_counts(_count_by_label(image, labels, kind, extents, display_threshold).values())


def match_outcomes(
    image: DetectionSample, label: str, kind: RegionKind, extents: Mapping[str, float]
) -> list[tuple[float, bool]]:
    """The confidence of each find of a label, and whether it is an object."""
    if kind == "boxes":
        return list(zip(*_match_boxes_of_label(image, label), strict=True))
    rows = [i for i, place in enumerate(image.detections) if place.label == label]
    truth = [p for p in image.ground_truth if p.label == label]
    points = _scaled_centres([image.detections[i] for i in rows], image)
    point_matches = match_points(
        points, _scaled_centres(truth, image), _point_tolerance(image, label, extents)
    )
    matched_rows = {matched_row for matched_row, _ in point_matches}
    return [(image.confidence[row], i in matched_rows) for i, row in enumerate(rows)]


def _count_by_label(
    image: DetectionSample,
    labels: Sequence[str],
    kind: str,
    extents: Mapping[str, float],
    display_threshold: float,
) -> dict[str, DetectionCounts]:
    counts_by_label = {}
    for label in labels:
        predicted = [
            p
            for p, c in zip(image.detections, image.confidence, strict=True)
            if p.label == label and c >= display_threshold
        ]
        actual = [p for p in image.ground_truth if p.label == label]
        true_positives = (
            _count_true_positives(image, label, kind, extents, predicted, actual)
            if predicted and actual
            else 0
        )
        counts_by_label[label] = DetectionCounts(true_positives, len(predicted), len(actual))
    return counts_by_label


def _count_true_positives(
    image: DetectionSample,
    label: str,
    kind: str,
    extents: Mapping[str, float],
    predicted: Sequence[Region],
    actual: Sequence[Region],
) -> int:
    if kind == "boxes":
        return len(match_boxes(_box_coordinates(predicted), _box_coordinates(actual), MIN_BOX_IOU))
    tolerance = _point_tolerance(image, label, extents)
    return len(
        match_points(_scaled_centres(predicted, image), _scaled_centres(actual, image), tolerance)
    )


def _detection_rates(image_counts: Sequence[DetectionCounts]) -> dict[str, Any]:
    total = _sum_counts(image_counts)
    count_error = sum(abs(t.predicted - t.actual) for t in image_counts)
    return {
        "there": total.actual,
        "precision": _rounded_ratio(total.true_positives, total.predicted),
        "recall": _rounded_ratio(total.true_positives, total.actual),
        "intervals": {
            "precision": ratio_figure(
                [(t.true_positives, t.predicted) for t in image_counts], "precision"
            ).to_json(),
            "recall": ratio_figure(
                [(t.true_positives, t.actual) for t in image_counts], "recall"
            ).to_json(),
            "f1": f1_figure(image_counts).to_json()
            if total.predicted + total.actual
            else _unknown_figure("F1"),
            "counting_error": counting_error_figure(image_counts).to_json(),
        },
        "f1": _rounded_ratio(2 * total.true_positives, total.predicted + total.actual),
        "counting_error": _rounded_ratio(count_error, total.actual),
    }


def _sum_counts(image_counts: Any) -> DetectionCounts:
    rows = [(t.true_positives, t.predicted, t.actual) for t in image_counts]
    true_positives, predicted, actual = (
        (sum(column) for column in zip(*rows, strict=True)) if rows else (0, 0, 0)
    )
    return DetectionCounts(true_positives, predicted, actual)


def _rounded_ratio(numerator: float, denominator: float) -> float | None:
    return round(numerator / denominator, 4) if denominator else None


def _unknown_figure(metric: str) -> dict[str, Any]:
    return IntervalEstimate(0, None, 0.0, 1.0, metric).to_json()


def _match_boxes_of_label(image: DetectionSample, label: str) -> tuple[list[float], list[bool]]:
    rows = [i for i, place in enumerate(image.detections) if place.label == label]
    if not rows:  # most labels of most images
        return [], []
    rows.sort(key=lambda i: -image.confidence[i])
    truth = [p for p in image.ground_truth if p.label == label]
    overlap = pairwise_iou(
        _box_coordinates([image.detections[i] for i in rows]), _box_coordinates(truth)
    )
    return [image.confidence[i] for i in rows], match_greedily(overlap, MIN_BOX_IOU).tolist()


def _box_coordinates(places: Sequence[Region]) -> list[tuple[float, float, float, float]]:
    return [(p.x0, p.y0, p.x1, p.y1) for p in places]


def _scaled_centres(places: Sequence[Region], image: DetectionSample) -> list[tuple[float, float]]:
    """Centres in units of the longer edge, so that both directions are alike."""
    x_scale, y_scale = min(image.aspect_ratio, 1.0), min(1 / image.aspect_ratio, 1.0)
    return [(p.center[0] * x_scale, p.center[1] * y_scale) for p in places]


def _point_tolerance(image: DetectionSample, label: str, extents: Mapping[str, float]) -> float:
    """How far a point may be off: half the object's size; else a share of the diagonal."""
    return extents.get(label, 0.0) / 2 or _diagonal_length(image) * POINT_TOLERANCE_DIAGONAL


def _diagonal_length(image: DetectionSample) -> float:
    """In units of the longer edge."""
    return math.hypot(min(image.aspect_ratio, 1.0), min(1 / image.aspect_ratio, 1.0))
