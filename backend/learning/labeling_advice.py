"""Advice whether to classify images or to annotate objects, based on existing annotations.

Both an image classifier and a detector can predict whether an object is present and how many there
are. They are compared on the same images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.arrays import Bools, Doubles, Ints
from backend.estimate import IntervalEstimate
from backend.learning.intervals import (
    counting_error_estimate,
    mid_p,
    proportion_estimate,
    ratio_of_sums,
    variance_from_residuals,
)

SMALL_OBJECT_SIDE = 0.1
"""Side of an object, relative to the image's side, below which it counts as small: at the usual
input of 224 pixels it is narrower than two 16-pixel patches of a vision transformer."""
SIGNIFICANCE_LEVEL = 0.05
"""p-value up to which a difference is significant."""
MAX_COUNT_BINS = 6
"""Maximum number of classes of a classifier of counts; more counts are merged."""
MIN_IMAGES_PER_CLASS = 3
"""Minimum number of images with and without a label to compare presence."""


@dataclass(frozen=True)
class ObjectStatistics:
    """Numbers and sizes of the annotated objects.

    Attributes:
        images: number of labeled images.
        empty_images: number of images without an object.
        counts_per_image: (images,) objects in each image.
        box_sides: for each box, the square root of its share of the image's area, 0 to 1; empty
            for points.
    """

    images: int
    empty_images: int
    counts_per_image: Doubles
    box_sides: Doubles

    def to_json(self) -> dict[str, object]:
        """Return the numbers, with the median and the 80 % range of counts and sides."""
        return {
            "images": self.images,
            "empty": self.empty_images,
            "things": int(self.counts_per_image.sum()),
            "per_image": _quantile_summary(self.counts_per_image),
            "side": _quantile_summary(self.box_sides),
        }


@dataclass(frozen=True)
class LabelingPredictions:
    """Predictions of a classifier or a detector for n images and K labels.

    Attributes:
        is_present: (n, K) bool.
        counts: (n, K) number of objects.
    """

    is_present: Bools
    counts: Ints


@dataclass(frozen=True)
class LabelingComparison:
    """Comparison of a classifier and a detector on the same images.

    Attributes:
        classification: metric of the image classifier.
        detection: metric of the detector.
        p_value: two-sided p-value of the difference; None if it could not be tested.
        better: ``sorting`` (classification) or ``finding`` (detection) if the difference is
            significant, else empty.
    """

    classification: IntervalEstimate
    detection: IntervalEstimate
    p_value: float | None
    better: str

    def to_json(self) -> dict[str, object]:
        """Return the comparison as JSON."""
        return {
            "sorting": self.classification.to_json(),
            "finding": self.detection.to_json(),
            "chance": None if self.p_value is None else round(self.p_value, 4),
            "better": self.better or None,
        }


def compare_presence_accuracy(
    classifier: LabelingPredictions, detector: LabelingPredictions, truth: Ints
) -> LabelingComparison:
    """Compare the share of images with correct presence of all labels, by McNemar's test (mid-p).

    Args:
        classifier: predictions of the classifier.
        detector: predictions of the detector.
        truth: (n, K) number of objects.
    """
    classifier_correct, detector_correct = (
        (predictions.is_present == (truth > 0)).all(axis=1)
        for predictions in (classifier, detector)
    )
    classification, detection = (
        proportion_estimate(int(is_correct.sum()), len(truth), "presence accuracy")
        for is_correct in (classifier_correct, detector_correct)
    )
    if not has_both_classes(truth):
        return LabelingComparison(classification, detection, None, "")
    won = int((classifier_correct & ~detector_correct).sum())
    lost = int((detector_correct & ~classifier_correct).sum())
    p_value = min(1.0, 2 * mid_p(max(won, lost), won + lost)) if won + lost else 1.0
    better = "" if p_value > SIGNIFICANCE_LEVEL else ("sorting" if won > lost else "finding")
    return LabelingComparison(classification, detection, p_value, better)


def compare_counting_errors(
    classifier: LabelingPredictions, detector: LabelingPredictions, truth: Ints
) -> LabelingComparison:
    """Compare the counting errors Σ |predicted − true count| / Σ true count, by Student's t-test.

    Both ratios have the same denominator, so their difference is a ratio of sums too. Its variance
    is that of the linearised residuals (Cochran 1977, section 6.4).

    Args:
        classifier: predictions of the classifier.
        detector: predictions of the detector.
        truth: (n, K) number of objects.
    """
    from scipy.stats import t as student

    classifier_errors, detector_errors = (
        np.abs(predictions.counts - truth).sum(axis=1) for predictions in (classifier, detector)
    )
    n, object_counts = len(truth), truth.sum(axis=1)
    classification, detection = (
        counting_error_estimate(errors, object_counts)
        for errors in (classifier_errors, detector_errors)
    )
    if n < 2 or not object_counts.sum():
        return LabelingComparison(classification, detection, None, "")
    ratio, residuals = ratio_of_sums(classifier_errors - detector_errors, object_counts)
    difference, standard_error = float(ratio), math.sqrt(variance_from_residuals(residuals))
    p_value = (
        float(2 * student.sf(abs(difference) / standard_error, n - 1))
        if standard_error
        else float(difference == 0)
    )
    better = "" if p_value > SIGNIFICANCE_LEVEL else ("finding" if difference > 0 else "sorting")
    return LabelingComparison(classification, detection, p_value, better)


def has_both_classes(truth: Ints) -> bool:
    """Return whether a label has enough images with it and enough without it."""
    present = (truth > 0).sum(axis=0)
    return bool((np.minimum(present, len(truth) - present) >= MIN_IMAGES_PER_CLASS).any())


def choose_count_bins(counts: npt.ArrayLike) -> list[int]:
    """Choose the classes of a classifier that predicts counts, in ascending order.

    Args:
        counts: object counts of the training images.

    Example:
        >>> choose_count_bins([0, 0, 1, 3]), choose_count_bins(range(20))
        ([0, 1, 3], [0, 4, 8, 11, 15, 19])
    """
    bins = np.unique(np.asarray(counts, dtype=np.int64))
    if len(bins) > MAX_COUNT_BINS:
        levels = np.linspace(0, 1, MAX_COUNT_BINS)
        bins = np.unique(np.quantile(np.asarray(counts), levels, method="nearest"))
    return [int(count) for count in bins]


def nearest_bin(count: int, bins: Sequence[int]) -> int:
    """Return the class nearest to a count; the lower one if two are equally near.

    Example:
        >>> nearest_bin(5, [0, 4, 8]), nearest_bin(6, [0, 4, 8])
        (4, 4)
    """
    return min(bins, key=lambda bin_count: (abs(bin_count - count), bin_count))


def recommend_labeling(
    objects: ObjectStatistics,
    presence: LabelingComparison,
    counting: LabelingComparison,
    has_points: bool,
) -> list[str]:
    """Return the advice as sentences.

    Args:
        objects: the annotated objects.
        presence: comparison of presence.
        counting: comparison of counts.
        has_points: the annotations are points, not boxes.
    """
    sentences = _advise_object_size(objects)
    sentences.append(_advise_presence(presence, "clicks" if has_points else "boxes"))
    if objects.counts_per_image.max(initial=0) > 1:
        sentences.append(_advise_counting(counting))
    if not has_points:
        sentences.append(
            "If you only count or locate objects and do not need their extent, clicks are quicker "
            "than boxes."
        )
    return sentences


def _advise_object_size(objects: ObjectStatistics) -> list[str]:
    if not len(objects.box_sides):
        return []
    median_side = float(np.median(objects.box_sides))
    if median_side < SMALL_OBJECT_SIDE:
        return [
            f"The objects are small: half of them are narrower than {median_side:.0%} of the image."
            " An image classifier sees mostly background."
        ]
    return [f"The objects are not small: their median side is {median_side:.0%} of the image's."]


def _advise_presence(comparison: LabelingComparison, mark_name: str) -> str:
    figures = _describe_figures(comparison)
    if comparison.p_value is None:
        return "Presence: too few images with and without the object are labeled for a comparison."
    if comparison.better == "finding":
        return f"Presence: keep the {mark_name}; detection is more accurate ({figures})."
    if comparison.better == "sorting":
        return (
            "Presence: classify whole images if that is all you need; it is more accurate "
            f"({figures}) and takes one key instead of {mark_name}."
        )
    return (
        f"Presence: no significant difference ({figures}). If that is all you need, classify whole "
        f"images: it takes one key instead of {mark_name}."
    )


def _advise_counting(comparison: LabelingComparison) -> str:
    figures = _describe_figures(comparison)
    if comparison.p_value is None:
        return "Counting: too few images are labeled for a comparison."
    if comparison.better == "finding":
        return f"Counting: keep annotating objects; whole images count worse ({figures})."
    if comparison.better == "sorting":
        return (
            f"Counting: so far whole images count better ({figures}); more labels may change that."
        )
    return (
        f"Counting: no significant difference yet ({figures}). Label more images, or keep "
        "annotating objects, which also shows where they are."
    )


def _describe_figures(comparison: LabelingComparison) -> str:
    figures = (comparison.classification, comparison.detection)
    suffix = "wrong" if figures[0].metric == "counting error" else "right"
    whole_images, objects = (
        f"{f.value:.0%} ({f.low:.0%} to {f.high:.0%})" if f.value is not None else "unknown"
        for f in figures
    )
    return (
        f"whole images {whole_images} {suffix}, objects {objects} {suffix}, "
        f"on {figures[0].n} images"
    )


def _quantile_summary(values: Doubles) -> dict[str, float] | None:
    if not len(values):
        return None
    quantiles = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    names = ("low", "median", "high")
    return {name: round(value, 4) for name, value in zip(names, quantiles, strict=True)}
