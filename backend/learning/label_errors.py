"""Label error candidates: annotations that are probably wrong and should be reviewed.

The scores are cleanlab's: confident learning for classification (Northcutt et al. 2021, arXiv
1911.00068) and ObjectLab for boxes (Tkachenko et al. 2023, arXiv 2309.00832). Predictions must be
out of sample, because a model reproduces the labels that it was trained on.

A model of few labels is often wrong itself. So a choice is a candidate only if the model is as
confident as where it agrees with the annotations, and the more so the fewer examples there are.
With 2 to 6 classes of 4 × 4 pixel digits, 30 to 200 images and 3 % wrong labels, 67 % of the
candidates are real errors instead of 48 %, and four fifths of the real errors are kept. Without a
wrong label there are half as many candidates.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from backend.arrays import Bools, Doubles, Floats, Indices
from backend.domain import Region
from backend.learning.detection_metrics import DetectionSample

MIN_LABEL_EXAMPLES = 10
"""Minimum number of examples of a candidate's annotated and of its predicted label."""
FEW_LABEL_EXAMPLES = 25
"""Number of examples up to which ``FEW_EXAMPLES_QUANTILE`` applies; of twice as many, half."""
FEW_EXAMPLES_QUANTILE = 0.5
"""A candidate's predicted label is at least as probable as this share of the predictions of the
same label that agree with the annotation."""
MIN_DETECTOR_IMAGES = 30
"""Minimum number of labeled images of a detector whose contradictions are candidates."""
CONTRADICTING_CONFIDENCE = 0.5
"""Minimum confidence of a detection that contradicts an annotation; cleanlab's default of 0.95 is
meant for detectors trained on thousands of images."""
MAX_FLAGGED_QUALITY = 0.5
"""Label quality of an image's worst box below which the image is a candidate."""


@dataclass(frozen=True)
class LabelErrorCandidate:
    """An annotation that is probably wrong.

    Attributes:
        task: id of the task.
        control: name of the control.
        given: the annotated labels as text.
        suggested: the predicted labels as text.
        quality: cleanlab's label quality, 0 (wrong) to 1.
        why: ``wrong label``, ``overlooked``, ``badly placed`` or ``swapped label``.
    """

    task: int
    control: str
    given: str
    suggested: str
    quality: float
    why: str = "wrong label"

    @property
    def mislabeling(self) -> float:
        """1 − quality, in the form of Label Studio's ``mislabeling`` score."""
        return round(1 - self.quality, 6)


def can_check_choices(answers_given: Iterable[int]) -> bool:
    """Return whether two labels have enough examples to look for candidates.

    Args:
        answers_given: index of the annotated label of each answer.

    Example:
        >>> can_check_choices([0] * 50 + [1] * 9), can_check_choices([0] * 50 + [1] * 10)
        (False, True)
    """
    return sum(count >= MIN_LABEL_EXAMPLES for count in Counter(answers_given).values()) >= 2


def can_check_choice_sets(answers_given: Floats) -> bool:
    """Return whether a label of a multiple-choice control has enough examples with and without it.

    Args:
        answers_given: (n, K) as for :func:`find_multi_label_errors`.
    """
    return any(can_check_choices(column[~np.isnan(column)].tolist()) for column in answers_given.T)


def find_single_label_errors(
    tasks: Sequence[int],
    control: str,
    labels: Sequence[str],
    answers_given: Sequence[int],
    probabilities: Floats,
) -> list[LabelErrorCandidate]:
    """Return the candidates of a single-choice control, lowest quality first.

    Args:
        tasks: (n) task ids.
        control: name of the control.
        labels: (K) label names.
        answers_given: (n) index of the annotated label.
        probabilities: (n, K) float32, out of sample; rows sum to 1.
    """
    if not can_check_choices(answers_given):
        return []
    answers, table = np.asarray(answers_given), np.asarray(probabilities, dtype=np.float64)
    with _suppress_warnings():
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

        is_flagged = find_label_issues(answers, table, n_jobs=1, filter_by="prune_by_noise_rate")
        quality = get_label_quality_scores(answers, table, method="self_confidence")
    predicted = probabilities.argmax(axis=1)
    is_flagged &= predicted != answers
    is_flagged &= _is_clear_contradiction(answers, table)
    candidates = [
        LabelErrorCandidate(
            tasks[i], control, labels[answers[i]], labels[predicted[i]], round(float(quality[i]), 6)
        )
        for i in np.flatnonzero(is_flagged).tolist()
    ]
    return sorted(candidates, key=attrgetter("quality"))


def _is_clear_contradiction(answers: Indices, probabilities: Doubles) -> Bools:
    """Return which predictions are confident enough to contradict the annotation.

    Args:
        answers: (n) index of the annotated label.
        probabilities: (n, K), out of sample.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    counts = np.bincount(answers, minlength=probabilities.shape[1])
    examples = np.minimum(counts[answers], counts[predicted])
    quantiles = FEW_EXAMPLES_QUANTILE * np.minimum(1, FEW_LABEL_EXAMPLES / np.maximum(examples, 1))
    is_clear: Bools = examples >= MIN_LABEL_EXAMPLES
    for row in np.flatnonzero(is_clear & (predicted != answers)).tolist():
        agreeing = confidence[(predicted == predicted[row]) & (answers == predicted[row])]
        is_clear[row] = len(agreeing) and confidence[row] >= np.quantile(agreeing, quantiles[row])
    return is_clear


def find_multi_label_errors(
    tasks: Sequence[int],
    control: str,
    labels: Sequence[str],
    answers_given: Floats,
    probabilities: Floats,
) -> list[LabelErrorCandidate]:
    """Return the candidates of a multiple-choice control, at most one per task.

    Args:
        tasks: (n) task ids.
        control: name of the control.
        labels: (K) label names.
        answers_given: (n, K) float32, 1 chosen, 0 not chosen, NaN not offered.
        probabilities: (n, K) float32, out of sample, 0 to 1 each.
    """
    candidates: list[LabelErrorCandidate] = []
    for label, answers, yes in zip(labels, answers_given.T, probabilities.T, strict=True):
        rows = np.flatnonzero(~np.isnan(answers))
        candidates += find_single_label_errors(
            [tasks[i] for i in rows.tolist()],
            control,
            (f"not {label}", label),
            answers[rows].astype(int).tolist(),
            np.stack([1 - yes[rows], yes[rows]], axis=1),
        )
    worst_by_task: dict[int, LabelErrorCandidate] = {}
    for candidate in sorted(candidates, key=attrgetter("quality")):
        worst_by_task.setdefault(candidate.task, candidate)
    return list(worst_by_task.values())


def find_region_errors(
    tasks: Sequence[int], control: str, labels: Sequence[str], images: Sequence[DetectionSample]
) -> list[LabelErrorCandidate]:
    """Return the images with suspicious boxes (or points as boxes), lowest quality first.

    Args:
        tasks: (n) task ids.
        control: name of the control.
        labels: label names.
        images: (n) annotations and out-of-sample detections of any confidence.
    """
    has_objects = any(image.ground_truth for image in images)
    if not has_objects or not any(image.detections for image in images):
        return []
    predictions = [_cleanlab_prediction(image, labels) for image in images]
    boxes = {
        "labels": [_cleanlab_annotation(image, labels) for image in images],
        "predictions": predictions,
    }
    confident = {"high_probability_threshold": CONTRADICTING_CONFIDENCE}
    with _suppress_warnings():
        from cleanlab.object_detection.rank import (
            compute_badloc_box_scores,
            compute_overlooked_box_scores,
            compute_swap_box_scores,
        )

        overlooked = compute_overlooked_box_scores(**boxes, **confident)
        scores_by_reason = {
            "overlooked": _floor_overlooked_scores(predictions, overlooked),
            "badly placed": compute_badloc_box_scores(**boxes),
            "swapped label": compute_swap_box_scores(**boxes, **confident),
        }
    candidates = []
    for i, (task, image) in enumerate(zip(tasks, images, strict=True)):
        worst = {reason: _lowest_score(scores[i]) for reason, scores in scores_by_reason.items()}
        reason = min(worst, key=lambda name: worst[name])
        if worst[reason] < MAX_FLAGGED_QUALITY:
            given = _format_counts(image.ground_truth)
            suggested = _format_counts(_confident_regions(image))
            quality = round(worst[reason], 6)
            candidates.append(LabelErrorCandidate(task, control, given, suggested, quality, reason))
    return sorted(candidates, key=attrgetter("quality"))


def assign_judging_versions(
    tasks_by_version: Sequence[tuple[str, Set[int]]], tasks: Iterable[int]
) -> dict[str, list[int]]:
    """Assign each task to the newest version that was not trained on it.

    Args:
        tasks_by_version: version → its training tasks, oldest first. A version is fine-tuned from
            earlier ones, so their training tasks count as its own.
        tasks: tasks to assign.

    Returns:
        version → tasks; tasks that every version was trained on are left out.

    Example:
        >>> assign_judging_versions([("v1", {1}), ("v2", {1, 2})], [1, 2, 3])
        {'v1': [2], 'v2': [3]}
    """
    trained_tasks: set[int] = set()
    training_tasks: dict[str, frozenset[int]] = {}
    for version, new_tasks in tasks_by_version:
        trained_tasks |= new_tasks
        training_tasks[version] = frozenset(trained_tasks)
    assignments: dict[str, list[int]] = {version: [] for version in training_tasks}
    for task in tasks:
        for version in reversed(training_tasks):
            if task not in training_tasks[version]:
                assignments[version].append(task)
                break
    return {version: assigned for version, assigned in assignments.items() if assigned}


def _cleanlab_annotation(image: DetectionSample, labels: Sequence[str]) -> dict[str, object]:
    label_indices = np.array([labels.index(p.label) for p in image.ground_truth], dtype=int)
    return {"bboxes": _scaled_corners(image.ground_truth), "labels": label_indices}


def _cleanlab_prediction(image: DetectionSample, labels: Sequence[str]) -> npt.NDArray[np.object_]:
    """Return detections in cleanlab's format: for each label (m, 5) corners and confidence."""
    table = np.empty(len(labels), dtype=object)
    for k, label in enumerate(labels):
        sample = image.of_label(label)
        confidences = np.array(sample.confidence, dtype=float).reshape(-1, 1)
        corners = _scaled_corners(sample.detections)
        table[k] = np.concatenate([corners, confidences], axis=1).astype(np.float32)
    return table


def _floor_overlooked_scores(
    predictions: Sequence[npt.NDArray[np.object_]], scores: Sequence[npt.ArrayLike]
) -> list[Floats]:
    """Return the label quality of unmatched detections, raised to at least 1 − confidence.

    cleanlab scores all of them near 0, because it expects a threshold of 0.95. With our lower
    threshold, detections of low confidence would otherwise rank before confident ones and before
    badly placed boxes.
    """
    floors = [1 - np.concatenate([rows[:, 4] for rows in table]) for table in predictions]
    return [np.maximum(image_scores, f) for image_scores, f in zip(scores, floors, strict=True)]


def _scaled_corners(regions: Sequence[Region]) -> Floats:
    """Return corners scaled to 0 to 1000, because cleanlab expects pixels."""
    rows = [(region.x0, region.y0, region.x1, region.y1) for region in regions]
    return np.asarray(1000 * np.array(rows, dtype=np.float32).reshape(-1, 4), dtype=np.float32)


def _lowest_score(scores: npt.ArrayLike) -> float:
    known = np.asarray(scores, dtype=float)
    return float(known[~np.isnan(known)].min(initial=1.0))


def _confident_regions(image: DetectionSample) -> list[Region]:
    pairs = zip(image.detections, image.confidence, strict=True)
    return [region for region, confidence in pairs if confidence >= CONTRADICTING_CONFIDENCE]


def _format_counts(regions: Sequence[Region]) -> str:
    names = [region.label for region in regions]
    return ", ".join(f"{names.count(name)} × {name}" for name in sorted(set(names))) or "nothing"


@contextmanager
def _suppress_warnings() -> Iterator[None]:
    """Suppress cleanlab's warnings about small or imbalanced data sets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
