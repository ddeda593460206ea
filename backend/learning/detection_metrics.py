"""F1, mAP50, precision, recall and counting error of a detector, each with a 95 % interval.

Two ways of matching are used on purpose. Counts use an optimal one-to-one matching (Hungarian
method). Average precision and thresholds match greedily in descending confidence, as COCO does,
because they rank the detections by confidence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from backend.domain import Region, RegionOutcome
from backend.estimate import IntervalEstimate
from backend.learning.average_precision import LabelDetections, average_precision_estimates
from backend.learning.intervals import (
    composite_estimate,
    counting_error_estimate,
    ratio_estimate,
    ratio_of_sums,
    variance_from_residuals,
)
from backend.learning.matching import (
    match_boxes,
    match_greedily,
    match_points,
    pairwise_iou,
)

RegionKind = Literal["boxes", "points"]
MIN_BOX_IOU = 0.5
"""Minimum IoU of a correct box."""
POINT_TOLERANCE_DIAGONAL = 0.01
"""Tolerance of a point whose object size is unknown, as a share of the image's diagonal."""


@dataclass(frozen=True)
class DetectionSample:
    """The detections and the annotated objects of one image.

    Attributes:
        detections: detections in descending confidence.
        confidence: confidence of each detection, 0 to 1.
        ground_truth: annotated objects.
        aspect_ratio: width divided by height of the image.
    """

    detections: tuple[Region, ...]
    confidence: tuple[float, ...]
    ground_truth: tuple[Region, ...]
    aspect_ratio: float = 1.0

    def of_label(self, label: str, min_confidence: float = 0.0) -> DetectionSample:
        """Return the sample with the objects of one label and its detections above a confidence."""
        rows = [
            (region, confidence)
            for region, confidence in zip(self.detections, self.confidence, strict=True)
            if region.label == label and confidence >= min_confidence
        ]
        return replace(
            self,
            detections=tuple(region for region, _ in rows),
            confidence=tuple(confidence for _, confidence in rows),
            ground_truth=tuple(region for region in self.ground_truth if region.label == label),
        )


@dataclass(frozen=True)
class DetectionCounts:
    """Numbers of correct detections, of all detections and of annotated objects."""

    true_positives: int = 0
    predicted: int = 0
    actual: int = 0

    def __add__(self, other: DetectionCounts) -> DetectionCounts:
        return DetectionCounts(
            self.true_positives + other.true_positives,
            self.predicted + other.predicted,
            self.actual + other.actual,
        )


@dataclass(frozen=True)
class RegionMetrics:
    """Metrics of one label, or of all labels together.

    Attributes:
        object_count: annotated objects.
        estimates: ``precision``, ``recall``, ``f1`` and ``counting_error``; also ``ap50`` for a
            label of boxes and ``f1_close`` (within 1 % of the diagonal) for points.
    """

    object_count: int
    estimates: dict[str, IntervalEstimate]

    def to_json(self) -> dict[str, object]:
        """Return values and intervals as they are stored in version cards."""
        values = {name: estimate.value for name, estimate in self.estimates.items()}
        intervals = {name: estimate.to_json() for name, estimate in self.estimates.items()}
        return {"there": self.object_count, **values, "intervals": intervals}


@dataclass(frozen=True)
class DetectionMetrics:
    """Metrics of a detector.

    Attributes:
        f1: F1 of all labels; 1 if there are neither objects nor detections.
        overall: metrics of all labels together.
        labels: metrics by label.
        map50: mean of the labels' average precision at IoU 0.5; None for points.
    """

    f1: IntervalEstimate
    overall: RegionMetrics
    labels: dict[str, RegionMetrics]
    map50: IntervalEstimate | None = None

    def to_json(self) -> dict[str, object]:
        """Return the metrics as they are stored in version cards."""
        mean = {"map50": self.map50.value, "map": self.map50.to_json()} if self.map50 else {}
        return {
            **self.overall.to_json(),
            "counting": self.overall.estimates["counting_error"].to_json(),
            **mean,
            "labels": {label: metrics.to_json() for label, metrics in self.labels.items()},
        }


def evaluate_detections(
    images: Sequence[DetectionSample],
    labels: Sequence[str],
    kind: RegionKind,
    extents: Mapping[str, float],
    display_threshold: float,
) -> DetectionMetrics:
    """Compute the metrics of a detector.

    Args:
        images: images that the detector was not trained on.
        labels: label names.
        kind: boxes are matched by IoU, points by distance.
        extents: for points, label → object size, 0 to 1 of the image's longer edge.
        display_threshold: minimum confidence of a detection, 0 to 1. Average precision uses
            detections of any confidence.
    """
    counts = [_count_by_label(i, labels, kind, extents, display_threshold) for i in images]
    image_counts = [_sum_counts(by_label) for by_label in counts]
    overall = _region_metrics(image_counts)
    by_label = {label: _region_metrics([row[label] for row in counts]) for label in labels}
    mean_estimate = None
    if kind == "boxes":
        precision_by_label, mean_estimate = average_precision_estimates(
            label_detections(images, labels), np.random.default_rng(0)
        )
        for label, metrics in by_label.items():
            metrics.estimates["ap50"] = precision_by_label[label]
    else:
        overall.estimates["f1_close"] = _f1_where_known(
            [count_matches(image, labels, kind, {}, display_threshold) for image in images]
        )
    return DetectionMetrics(f1_estimate(image_counts), overall, by_label, mean_estimate)


def _region_metrics(image_counts: Sequence[DetectionCounts]) -> RegionMetrics:
    precision_rows = [(float(c.true_positives), float(c.predicted)) for c in image_counts]
    recall_rows = [(float(c.true_positives), float(c.actual)) for c in image_counts]
    actual_counts = [counts.actual for counts in image_counts]
    count_errors = [abs(counts.predicted - counts.actual) for counts in image_counts]
    return RegionMetrics(
        sum(actual_counts),
        {
            "precision": ratio_estimate(precision_rows, "precision"),
            "recall": ratio_estimate(recall_rows, "recall"),
            "f1": _f1_where_known(image_counts),
            "counting_error": counting_error_estimate(count_errors, actual_counts),
        },
    )


def _f1_where_known(image_counts: Sequence[DetectionCounts]) -> IntervalEstimate:
    if any(counts.predicted + counts.actual for counts in image_counts):
        return f1_estimate(image_counts)
    return IntervalEstimate.unknown("F1")


def f1_estimate(image_counts: Sequence[DetectionCounts]) -> IntervalEstimate:
    """Estimate F1 = 2 · true positives / (detections + objects), with a 95 % interval.

    The variance is that of a ratio of sums over images, see :func:`ratio_of_sums`.
    """
    n = len(image_counts)
    numerators = np.array([2.0 * counts.true_positives for counts in image_counts])
    denominators = np.array([float(counts.predicted + counts.actual) for counts in image_counts])
    total = float(denominators.sum())
    if not total:
        return IntervalEstimate(n, 1.0 if n else None, 0.0, 1.0, "F1")
    value, residuals = ratio_of_sums(numerators, denominators)
    variance = variance_from_residuals(residuals)
    max_effective_size = total if variance > 0 else min(n, total / 2)
    return composite_estimate(float(value), variance, n, max_effective_size, "F1")


def label_detections(
    images: Sequence[DetectionSample], labels: Sequence[str]
) -> dict[str, LabelDetections]:
    """Return the matched detections of each label, from which average precision is computed."""
    detections = {}
    for label in labels:
        samples = [image.of_label(label) for image in images]
        matches = [_match_by_confidence(sample) for sample in samples]
        object_counts = [len(sample.ground_truth) for sample in samples]
        detections[label] = LabelDetections.from_matches(matches, object_counts)
    return detections


def label_difficulty(images: Sequence[DetectionSample], labels: Sequence[str]) -> dict[str, float]:
    """Return how hard each label is to detect, 1 to 2 (after PPAL, arXiv 2211.11612).

    This is 2 minus the mean confidence of correct detections, with 0 for each missed object. It is
    2 for a label without objects.

    Args:
        images: training images; a label that is hard on them is hard on all images.
        labels: label names.
    """
    difficulties = dict.fromkeys(labels, 2.0)
    for label, rows in label_detections(images, labels).items():
        if object_count := float(rows.objects_per_image.sum()):
            total = float(rows.confidence[rows.is_correct].sum())
            difficulties[label] = round(2 - total / object_count, 4)
    return difficulties


def count_matches(
    image: DetectionSample,
    labels: Sequence[str],
    kind: RegionKind,
    extents: Mapping[str, float],
    display_threshold: float,
) -> DetectionCounts:
    """Return the counts of one image; the arguments are those of :func:`evaluate_detections`."""
    return _sum_counts(_count_by_label(image, labels, kind, extents, display_threshold))


def region_outcomes(
    image: DetectionSample,
    labels: Sequence[str],
    kind: RegionKind,
    extents: Mapping[str, float],
    display_threshold: float,
) -> list[tuple[RegionOutcome, Region]]:
    """Return the regions of one image with their outcomes, detections before missed objects.

    The arguments are those of :func:`evaluate_detections`.
    """
    outcomes: list[tuple[RegionOutcome, Region]] = []
    for label in labels:
        sample = image.of_label(label, display_threshold)
        pairs = _match_regions(sample, label, kind, extents)
        found, known = ({pair[side] for pair in pairs} for side in (0, 1))
        for i, region in enumerate(sample.detections):
            outcomes.append(("correct" if i in found else "false", region))
        missed = (region for i, region in enumerate(sample.ground_truth) if i not in known)
        outcomes += [("missed", region) for region in missed]
    return outcomes


def count_outcomes(outcomes: Sequence[tuple[RegionOutcome, Region]]) -> DetectionCounts:
    """Return the counts of one image from its outcomes."""
    totals = Counter(outcome for outcome, _ in outcomes)
    correct = totals["correct"]
    return DetectionCounts(correct, correct + totals["false"], correct + totals["missed"])


def match_outcomes(
    image: DetectionSample, label: str, kind: RegionKind, extents: Mapping[str, float]
) -> list[tuple[float, bool]]:
    """Return the confidence of each detection of a label, and whether it is correct."""
    sample = image.of_label(label)
    if kind == "boxes":
        return _match_by_confidence(sample)
    matched_rows = {row for row, _ in _match_points(sample, label, extents)}
    return [(confidence, i in matched_rows) for i, confidence in enumerate(sample.confidence)]


def _count_by_label(
    image: DetectionSample,
    labels: Sequence[str],
    kind: RegionKind,
    extents: Mapping[str, float],
    display_threshold: float,
) -> dict[str, DetectionCounts]:
    counts_by_label = {}
    for label in labels:
        sample = image.of_label(label, display_threshold)
        pairs = _match_regions(sample, label, kind, extents)
        counts_by_label[label] = DetectionCounts(
            len(pairs), len(sample.detections), len(sample.ground_truth)
        )
    return counts_by_label


def _match_regions(
    sample: DetectionSample, label: str, kind: RegionKind, extents: Mapping[str, float]
) -> list[tuple[int, int]]:
    """Match the detections of one label with its objects."""
    if kind == "points":
        return _match_points(sample, label, extents)
    found, truth = _box_coordinates(sample.detections), _box_coordinates(sample.ground_truth)
    return match_boxes(found, truth, MIN_BOX_IOU)


def _sum_counts(counts_by_label: Mapping[str, DetectionCounts]) -> DetectionCounts:
    return sum(counts_by_label.values(), DetectionCounts())


def _match_by_confidence(sample: DetectionSample) -> list[tuple[float, bool]]:
    """Match the detections of one label greedily; return their confidence and correctness."""
    if not sample.detections:  # most labels of most images
        return []
    rows = sorted(range(len(sample.detections)), key=lambda i: -sample.confidence[i])
    found = _box_coordinates([sample.detections[i] for i in rows])
    iou = pairwise_iou(found, _box_coordinates(sample.ground_truth))
    is_correct = match_greedily(iou, MIN_BOX_IOU).tolist()
    return [(sample.confidence[i], hit) for i, hit in zip(rows, is_correct, strict=True)]


def _box_coordinates(regions: Sequence[Region]) -> list[tuple[float, float, float, float]]:
    return [(region.x0, region.y0, region.x1, region.y1) for region in regions]


def _match_points(
    sample: DetectionSample, label: str, extents: Mapping[str, float]
) -> list[tuple[int, int]]:
    """Match centres within half the object size; without one within a share of the diagonal.

    Distances are in units of the image's longer edge, so that both axes have the same scale.
    """
    if not sample.detections or not sample.ground_truth:
        return []
    scale = np.array([min(sample.aspect_ratio, 1.0), min(1 / sample.aspect_ratio, 1.0)])
    tolerance = extents.get(label, 0.0) / 2 or math.hypot(*scale) * POINT_TOLERANCE_DIAGONAL
    found, truth = (
        np.array([region.center for region in regions]) * scale
        for regions in (sample.detections, sample.ground_truth)
    )
    return match_points(found, truth, tolerance)
