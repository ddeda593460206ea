"""Average precision of a detector (AP50, mAP50), with 95 % intervals by a bootstrap over images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.arrays import Bools, Doubles, Indices
from backend.estimate import IntervalEstimate
from backend.learning.intervals import composite_estimate


@dataclass(frozen=True)
class LabelDetections:
    """The detections of one label in all images, in descending confidence.

    Attributes:
        image_rows: (m,) index of each detection's image.
        confidence: (m,) 0 to 1.
        is_correct: (m,) whether each detection is matched with an object.
        objects_per_image: (n,) annotated objects of the label.
    """

    image_rows: Indices
    confidence: Doubles
    is_correct: Bools
    objects_per_image: Doubles

    @classmethod
    def from_matches(
        cls, matches: Sequence[Sequence[tuple[float, bool]]], object_counts: Sequence[int]
    ) -> LabelDetections:
        """Return the detections of some images, sorted by confidence.

        Args:
            matches: for each image, confidence and correctness of its detections.
            object_counts: for each image, annotated objects.
        """
        pairs = [pair for image_pairs in matches for pair in image_pairs]
        image_rows = np.repeat(np.arange(len(matches)), [len(rows) for rows in matches])
        confidence, is_correct = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        order = np.argsort(-confidence, kind="stable")
        counts = np.array(object_counts, dtype=np.float64)
        return cls(image_rows[order], confidence[order], is_correct[order] > 0, counts)

    def bootstrap_precisions(self, image_weights: npt.NDArray[np.int64]) -> Doubles:
        """Return the average precision of each bootstrap sample; NaN without objects."""
        return np.array(
            [
                self.weighted_precision(row) if (self.objects_per_image * row).any() else np.nan
                for row in image_weights
            ]
        )

    def weighted_precision(self, image_weights: npt.ArrayLike) -> float:
        """Return the average precision with images repeated by their weights, (n,)."""
        weights = np.asarray(image_weights)
        repeated = np.repeat(self.is_correct, weights[self.image_rows].astype(int))
        object_count = int((self.objects_per_image * weights).sum())
        return average_precision(-np.arange(len(repeated)), repeated, object_count)


def average_precision_estimates(
    detections: Mapping[str, LabelDetections], rng: np.random.Generator, draws: int = 100
) -> tuple[dict[str, IntervalEstimate], IntervalEstimate]:
    """Estimate the labels' average precision (AP50) and their mean (mAP50).

    The variances come from a bootstrap over images that is shared by all labels.

    Args:
        detections: by label; labels without an object have no AP50 and are left out of the mean.
        rng: generator of the bootstrap samples.
        draws: number of bootstrap samples.
    """
    n = max((len(rows.objects_per_image) for rows in detections.values()), default=0)
    known = {label: rows for label, rows in detections.items() if rows.objects_per_image.any()}
    estimates = {label: IntervalEstimate.unknown("AP50", n) for label in detections}
    if not known:
        return estimates, IntervalEstimate.unknown("mAP50", n)
    image_weights = rng.multinomial(n, np.full(n, 1 / n), size=draws)
    values = {label: rows.weighted_precision(np.ones(n)) for label, rows in known.items()}
    samples = np.array([rows.bootstrap_precisions(image_weights) for rows in known.values()])
    for (label, rows), label_samples in zip(known.items(), samples, strict=True):
        images_with_label = int((rows.objects_per_image > 0).sum())
        object_count = float(rows.objects_per_image.sum())
        estimates[label] = _bootstrap_estimate(
            values[label], label_samples, images_with_label, object_count, "AP50"
        )
    mean = float(np.mean(list(values.values())))
    has_value = ~np.isnan(samples).all(axis=0)
    mean_samples = np.full(draws, mean)
    mean_samples[has_value] = np.nanmean(samples[:, has_value], axis=0)
    total_objects = float(sum(rows.objects_per_image.sum() for rows in known.values()))
    return estimates, _bootstrap_estimate(mean, mean_samples, n, total_objects, "mAP50")


def _bootstrap_estimate(
    value: float, samples: Doubles, images: int, object_count: float, metric: str
) -> IntervalEstimate:
    """Return an estimate with the variance of the bootstrap samples that are not NaN."""
    valid = samples[~np.isnan(samples)]
    variance = float(np.var(valid, ddof=1)) * images / max(images - 1, 1) if len(valid) > 1 else 0.0
    return composite_estimate(value, variance, images, object_count, metric)


def average_precision(
    confidence: npt.ArrayLike, is_correct: npt.ArrayLike, object_count: int
) -> float:
    """Return the area under the precision-recall curve at 101 recall levels, as COCO defines it.

    Args:
        confidence: (n,) confidence of all detections of one label in all images.
        is_correct: (n,) bool.
        object_count: number of annotated objects, at least 1.

    Example:
        >>> round(average_precision([0.9, 0.8, 0.7], [True, False, True], object_count=2), 3)
        0.835
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    true_positives = np.asarray(is_correct, dtype=bool)[order].cumsum()
    if not len(true_positives):
        return 0.0
    recall = true_positives / object_count
    precision = true_positives / np.arange(1, len(true_positives) + 1)
    precision_envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall_indices = np.searchsorted(recall, np.linspace(0, 1, 101) - 1e-12)
    return float(np.append(precision_envelope, 0.0)[recall_indices].mean())
