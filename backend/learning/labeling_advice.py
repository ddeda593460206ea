"""Advice whether to classify whole images or to annotate objects, from what is annotated so far.

A classifier of whole images and a detector can both answer whether an object is present and how
many there are. They are compared on the same images.
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
"""Side of an object, as a share of the image's side, below which it is small: in the usual input
of 224 pixels it covers less than two 16-pixel patches of a vision transformer."""
SIGNIFICANCE_LEVEL = 0.05
"""p-value up to which a difference counts."""
MAX_COUNT_BINS = 6
"""Maximum number of classes of a classifier of counts; more counts are merged."""
MIN_IMAGES_PER_CLASS = 3
"""Number of images with and without a label below which presence is not compared."""


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
    """Predictions of one approach for n images and K labels.

    Attributes:
        is_present: (n, K) bool.
        counts: (n, K) number of objects.
    """

    is_present: Bools
    counts: Ints


@dataclass(frozen=True)
class LabelingComparison:
    """Comparison of both approaches on the same images.

    Attributes:
        classification: figure of the classifier of whole images.
        detection: figure of the detector.
        p_value: two-sided p-value of the difference; None when it could not be tested.
        better: ``sorting`` (classification) or ``finding`` (detection) when the difference is
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
    """Compare in how many images the presence of every label is right, by McNemar's test (mid-p).

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
        proportion_estimate(int(is_correct.sum()), len(truth), "is it there")
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
    """Compare the counting errors Σ |predicted − true count| / Σ true count, by Student's test.

    Both ratios have the same denominators, so their difference is a ratio of sums too, with the
    variance of its linearised residuals (Cochran 1977, section 6.4).

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
    """Return whether a label is present in some images and absent in others, a few of each."""
    present = (truth > 0).sum(axis=0)
    return bool((np.minimum(present, len(truth) - present) >= MIN_IMAGES_PER_CLASS).any())


def choose_count_bins(counts: npt.ArrayLike) -> list[int]:
    """Choose the classes of a classifier of counts, ascending.

    Args:
        counts: counts of the training images.

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
    """Return the class nearest to a count; the lower one of two.

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
    """Return the advice in plain sentences.

    Args:
        objects: the annotated objects.
        presence: comparison of presence.
        counting: comparison of counts.
        has_points: whether people annotate points; otherwise boxes.
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
            " A model of the whole image sees mostly the background."
        ]
    return [f"The objects are not small: their median side is {median_side:.0%} of the image's."]


def _advise_presence(comparison: LabelingComparison, mark_name: str) -> str:
    figures = _describe_figures(comparison)
    if comparison.p_value is None:
        return (
            "Is it there? Too few images without the object, or with it, are labeled to compare "
            "whole images with marks."
        )
    if comparison.better == "finding":
        return f"Is it there? Keep the {mark_name}: they answer it better ({figures})."
    if comparison.better == "sorting":
        return (
            f"Is it there? Sort whole images if that is all you want to know: they answer it "
            f"better ({figures}), with one key instead of {mark_name}."
        )
    return (
        f"Is it there? No difference is shown ({figures}). If that is all you want to know, sort "
        f"whole images: it takes one key instead of {mark_name}."
    )


def _advise_counting(comparison: LabelingComparison) -> str:
    figures = _describe_figures(comparison)
    if comparison.p_value is None:
        return "How many? Too few images are labeled to compare."
    if comparison.better == "finding":
        return f"How many? Keep marking: sorting whole images counts worse ({figures})."
    if comparison.better == "sorting":
        return (
            f"How many? So far whole images count better ({figures}); more labels may change that."
        )
    return (
        f"How many? No difference is shown yet ({figures}). Label more images, or keep marking: it "
        "also shows where."
    )


def _describe_figures(comparison: LabelingComparison) -> str:
    figures = (comparison.classification, comparison.detection)
    suffix = "wrong" if figures[0].metric == "counting error" else "right"
    whole_images, marks = (
        f"{f.value:.0%} ({f.low:.0%} to {f.high:.0%})" if f.value is not None else "unknown"
        for f in figures
    )
    return f"whole images {whole_images} {suffix}, marks {marks} {suffix}, on {figures[0].n} images"


def _quantile_summary(values: Doubles) -> dict[str, float] | None:
    if not len(values):
        return None
    quantiles = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    names = ("low", "median", "high")
    return {name: round(value, 4) for name, value in zip(names, quantiles, strict=True)}
