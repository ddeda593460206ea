"""Sort whole images, or mark the things in them? Answered from what people marked so far.

Two ways to tell from an image whether something is there, and how often: a classifier that sees the
image as a whole, and a detector whose finds are counted. Both are compared on the same images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.arrays import Bools, Doubles, Ints
from backend.learning.classification_metrics import proportion_estimate
from backend.learning.detection_metrics import DetectionCounts, counting_error_figure
from backend.learning.quality_gate import mid_p
from backend.records import IntervalEstimate

SMALL_OBJECT_SIDE = 0.1
"""Side of a thing, as a share of the image's, below which it is a small part of the picture: after
the usual reduction to 224 pixels that is less than two of a transformer's 16-pixel patches."""
SIGNIFICANCE_LEVEL = 0.05
"""Chance, were both ways equal, below which a difference counts."""
MAX_COUNT_BINS = 6
"""Counts that a classifier of whole images tells apart at most; more are put together."""
MIN_IMAGES_PER_CLASS = 3
"""Images with and without a thing below which nothing is said of telling them apart."""


@dataclass(frozen=True)
class ObjectStatistics:
    """What is marked in some images.

    Attributes:
        images: how many were looked through.
        empty_images: how many hold nothing.
        counts_per_image: things in each image.
        box_sides: of each box, the square root of its share of the image's area, 0 to 1; empty where
            only points are marked.
    """

    images: int
    empty_images: int
    counts_per_image: Doubles
    box_sides: Doubles

    def to_json(self) -> dict[str, Any]:
        """Middle and range of both; the range holds the middle 80 %."""
        return {
            "images": self.images,
            "empty": self.empty_images,
            "things": int(self.counts_per_image.sum()),
            "per_image": _quantile_summary(self.counts_per_image),
            "side": _quantile_summary(self.box_sides),
        }


@dataclass(frozen=True)
class LabelingPredictions:
    """What one way says of n images with K labels.

    Attributes:
        is_present: (n, K) bool, the label is there.
        counts: (n, K) whole numbers, how often.
    """

    is_present: Bools
    counts: Ints


@dataclass(frozen=True)
class LabelingComparison:
    """Two ways on the same images.

    Attributes:
        classification: the figure of classifying whole images, with its 95 % interval.
        detection: the figure of a detector.
        p_value: of a difference as large, were both equal, two-sided; None where nothing is known.
        better: which one is shown to be better: ``classification``, ``detection``, or empty.
    """

    classification: IntervalEstimate
    detection: IntervalEstimate
    p_value: float | None
    better: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "sorting": self.classification.to_json(),
            "finding": self.detection.to_json(),
            "chance": None if self.p_value is None else round(self.p_value, 4),
            "better": self.better or None,
        }


def compare_presence_accuracy(
    classifier: LabelingPredictions, detector: LabelingPredictions, truth: Ints
) -> LabelingComparison:
    """Is it there? The share of images in which every label is told right; McNemar's test, mid-p.

    Args:
        classifier: what the classifier says.
        detector: what the detector says.
        truth: (n, K) how often each label is there.
    """
    classifier_correct = (classifier.is_present == (truth > 0)).all(axis=1)
    detector_correct = (detector.is_present == (truth > 0)).all(axis=1)
    n, metric = len(truth), "is it there"
    figures = [
        proportion_estimate(int(is_correct.sum()), n, metric)
        for is_correct in (classifier_correct, detector_correct)
    ]
    won, lost = (
        int((classifier_correct & ~detector_correct).sum()),
        int((detector_correct & ~classifier_correct).sum()),
    )
    if not has_both_classes(truth):
        return LabelingComparison(figures[0], figures[1], None, "")
    p_value = min(1.0, 2 * mid_p(max(won, lost), won + lost)) if won + lost else 1.0
    better = "" if p_value > SIGNIFICANCE_LEVEL else ("sorting" if won > lost else "finding")
    return LabelingComparison(figures[0], figures[1], p_value, better)


def compare_counting_errors(
    classifier: LabelingPredictions, detector: LabelingPredictions, truth: Ints
) -> LabelingComparison:
    """How many? Σ |told − there| / Σ there, each with its interval; their difference by Student.

    The difference is a ratio of sums over images whose denominators are the same, so that its
    variance is that of its linearised terms (Cochran 1977, section 6.4).

    Args:
        classifier: what the classifier says.
        detector: what the detector says.
        truth: (n, K) how often each label is there.
    """
    from scipy.stats import t as student

    classifier_errors, detector_errors = (
        np.abs(predictions.counts - truth).sum(axis=1) for predictions in (classifier, detector)
    )
    object_counts = truth.sum(axis=1)
    figures = [
        _count_figure(count_errors, object_counts)
        for count_errors in (classifier_errors, detector_errors)
    ]
    n, total_objects = len(truth), float(object_counts.sum())
    if n < 2 or not total_objects:
        return LabelingComparison(figures[0], figures[1], None, "")
    difference = float((classifier_errors - detector_errors).sum() / total_objects)
    terms = (classifier_errors - detector_errors) - difference * object_counts
    standard_error = math.sqrt(float((terms**2).sum()) * n / (n - 1)) / total_objects
    p_value = (
        float(2 * student.sf(abs(difference) / standard_error, n - 1))
        if standard_error
        else float(difference == 0)
    )
    better = "" if p_value > SIGNIFICANCE_LEVEL else ("finding" if difference > 0 else "sorting")
    return LabelingComparison(figures[0], figures[1], p_value, better)


def has_both_classes(truth: Ints) -> bool:
    """Whether some label is there in some images and absent in others, a few of each."""
    images_with_label = (truth > 0).sum(axis=0)
    return bool(
        (
            (images_with_label >= MIN_IMAGES_PER_CLASS)
            & (len(truth) - images_with_label >= MIN_IMAGES_PER_CLASS)
        ).any()
    )


def choose_count_bins(counts: npt.ArrayLike) -> list[int]:
    """The numbers that a classifier of counts tells apart, ascending; others go to the next one.

    Args:
        counts: that occur in what it learns from.

    Example:
        >>> choose_count_bins([0, 0, 1, 3]), choose_count_bins(range(20))
        ([0, 1, 3], [0, 4, 8, 11, 15, 19])
    """
    distinct_counts = np.unique(np.asarray(counts, dtype=np.int64))
    if len(distinct_counts) <= MAX_COUNT_BINS:
        return [int(bin_count) for bin_count in distinct_counts]
    quantile_levels = np.linspace(0, 1, MAX_COUNT_BINS)
    bin_counts = np.quantile(np.asarray(counts), quantile_levels, method="nearest")
    return [int(bin_count) for bin_count in np.unique(bin_counts)]


def nearest_bin(count: int, bins: Sequence[int]) -> int:
    """The number of some bins that is next to a count; the lower of two.

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
    """What the figures advise, as sentences in plain words.

    Args:
        objects: what is marked.
        presence: of the two ways, on "is it there?".
        counting: of the two ways, on "how many?".
        has_points: people click on middles; otherwise they draw boxes.
    """
    return [
        *_advise_object_size(objects),
        _advise_presence(presence, has_points),
        *(
            [_advise_counting(counting)]
            if float(objects.counts_per_image.max(initial=0)) > 1
            else []
        ),
        *_advise_points(has_points),
    ]


def _advise_object_size(objects: ObjectStatistics) -> list[str]:
    if not len(objects.box_sides):
        return []
    median_side = float(np.median(objects.box_sides))
    if median_side < SMALL_OBJECT_SIDE:
        return [
            f"The things are small: half of them are narrower than {median_side:.0%} of the image, so "
            "a model that sees the whole image sees mostly what surrounds them."
        ]
    return [
        f"The things are no small part of the image: {median_side:.0%} of its side in the middle."
    ]


def _advise_presence(comparison: LabelingComparison, has_points: bool) -> str:
    mark_name = "clicks" if has_points else "boxes"
    if comparison.p_value is None:
        return (
            "Whether sorting whole images would tell if something is there cannot be said: too "
            "few of the labeled images are without it, or with it."
        )
    figures_text = _describe_figures(comparison)
    if comparison.better == "finding":
        return f"Is it there? Keep the {mark_name}: they tell it better than whole images ({figures_text})."
    if comparison.better == "sorting":
        return (
            f"Is it there? Sort whole images if that is all you want to know: it tells it better "
            f"({figures_text}), and takes one key instead of {mark_name}."
        )
    return (
        f"Is it there? No difference is shown ({figures_text}). If that is all you want to know, sort "
        f"whole images: it takes one key instead of {mark_name}."
    )


def _advise_counting(comparison: LabelingComparison) -> str:
    if comparison.p_value is None:
        return "How many? Too few images are labeled to say."
    figures_text = _describe_figures(comparison)
    if comparison.better == "finding":
        return f"How many? Only marks will do: sorting whole images counts worse ({figures_text})."
    if comparison.better == "sorting":
        return f"How many? So far whole images tell it better ({figures_text}); more labels may turn that."
    return f"How many? No difference is shown yet ({figures_text}); label more, or mark: it shows where."


def _advise_points(has_points: bool) -> list[str]:
    if has_points:
        return []
    return ["If you only count or find, and need no extent: a click is quicker than a box."]


def _describe_figures(comparison: LabelingComparison) -> str:
    suffix = " wrong" if comparison.classification.metric == "counting error" else " right"
    classification_text, detection_text = (
        _format_figure(figure) for figure in (comparison.classification, comparison.detection)
    )
    return f"whole images {classification_text}{suffix}, marks {detection_text}{suffix}, on {comparison.classification.n} images"


def _format_figure(figure: IntervalEstimate) -> str:
    if figure.value is None:
        return "unknown"
    return f"{figure.value:.0%} ({figure.low:.0%} to {figure.high:.0%})"


def _count_figure(count_errors: npt.ArrayLike, object_counts: npt.ArrayLike) -> IntervalEstimate:
    """Of tallies that are so much off: two labels' errors do not cancel each other."""
    rows = zip(np.asarray(count_errors).tolist(), np.asarray(object_counts).tolist(), strict=True)
    return counting_error_figure([DetectionCounts(0, t + o, t) for o, t in rows])


def _quantile_summary(values: Doubles) -> dict[str, float] | None:
    if not len(values):
        return None
    low, median, high = np.quantile(values, (0.1, 0.5, 0.9))
    return {
        "low": round(float(low), 4),
        "median": round(float(median), 4),
        "high": round(float(high), 4),
    }
