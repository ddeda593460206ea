"""Labels that are probably wrong: a queue to look through, never a verdict.

The ranking is cleanlab's: confident learning for answers (Northcutt et al. 2021, arXiv 1911.00068),
ObjectLab for boxes (Tkachenko et al. 2023, arXiv 2309.00832). About half of what is flagged is a
real error. Only out-of-sample confidence may go in: a model believes what it was taught.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats
from backend.domain import Region
from backend.learning.detection_metrics import DetectionSample

MIN_RANKED_ANSWERS = 10
"""Answers below which nothing is ranked."""
CONTRADICTING_CONFIDENCE = 0.5
"""Confidence from which a find speaks against a person. cleanlab's own 0.95 is for detectors that
saw thousands of images."""
MAX_FLAGGED_QUALITY = 0.5
"""Quality of an image's worst box below which it is looked through."""


@dataclass(frozen=True)
class LabelErrorCandidate:
    """An answer that is probably wrong.

    Attributes:
        task: its number.
        control: that was answered.
        given: what a person answered, for people.
        suggested: what the model believes, for people.
        quality: 0 (surely wrong) to 1.
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
        """As Label Studio's predictions carry it: 1 − quality."""
        return round(1 - self.quality, 6)


def find_single_label_errors(
    tasks: Sequence[int],
    control: str,
    labels: Sequence[str],
    answers_given: Sequence[int],
    probabilities: Floats,
) -> list[LabelErrorCandidate]:
    """Suspects among answers with one label each, the most suspicious first.

    Args:
        tasks: (n) task numbers.
        control: its name.
        labels: (K) label names.
        answers_given: (n) index of the label that a person gave.
        probabilities: (n, K) float32 out-of-sample confidence; rows sum to 1.
    """
    if len(tasks) < MIN_RANKED_ANSWERS or len(set(answers_given)) < 2:
        return []
    with _suppress_warnings():
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

        answer_indices, probability_array = (
            np.asarray(answers_given),
            np.asarray(probabilities, dtype=np.float64),
        )
        is_flagged = find_label_issues(
            answer_indices, probability_array, n_jobs=1, filter_by="prune_by_noise_rate"
        )
        quality = get_label_quality_scores(
            answer_indices, probability_array, method="self_confidence"
        )
    candidates = [
        LabelErrorCandidate(
            tasks[i],
            control,
            labels[int(answer_indices[i])],
            labels[int(probabilities[i].argmax())],
            round(float(quality[i]), 6),
        )
        for i in map(
            int, np.flatnonzero(is_flagged & (probabilities.argmax(axis=1) != answer_indices))
        )
    ]
    return sorted(candidates, key=lambda candidate: candidate.quality)


def find_multi_label_errors(
    tasks: Sequence[int],
    control: str,
    labels: Sequence[str],
    answers_given: Floats,
    probabilities: Floats,
) -> list[LabelErrorCandidate]:
    """Suspects among answers with several labels, each label for itself.

    Args:
        tasks: (n) task numbers.
        control: its name.
        labels: (K) label names.
        answers_given: (n, K) float32, 1 chosen, 0 not, NaN nobody was asked.
        probabilities: (n, K) float32 out-of-sample confidence, 0 to 1 each.
    """
    candidates: list[LabelErrorCandidate] = []
    for k, label in enumerate(labels):
        rows = np.flatnonzero(~np.isnan(answers_given[:, k]))
        binary_answers = answers_given[rows, k].astype(int)
        binary_probabilities = np.stack(
            [1 - probabilities[rows, k], probabilities[rows, k]], axis=1
        )
        names = (f"not {label}", label)
        candidates += find_single_label_errors(
            [tasks[int(i)] for i in rows],
            control,
            names,
            binary_answers.tolist(),
            binary_probabilities,
        )
    worst_by_task: dict[int, LabelErrorCandidate] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.quality):
        worst_by_task.setdefault(candidate.task, candidate)
    return list(worst_by_task.values())


def find_region_errors(
    tasks: Sequence[int], control: str, labels: Sequence[str], images: Sequence[DetectionSample]
) -> list[LabelErrorCandidate]:
    """Suspects among images with boxes (or points as boxes), the most suspicious first.

    Args:
        tasks: (n) task numbers.
        control: its name.
        labels: label names.
        images: (n) out-of-sample finds of any confidence, and what a person marked.
    """
    if not any(image.ground_truth for image in images) or not any(
        image.detections for image in images
    ):
        return []
    cleanlab_input = {
        "labels": [_cleanlab_annotation(image, labels) for image in images],
        "predictions": [_cleanlab_prediction(image, labels) for image in images],
    }
    with _suppress_warnings():
        from cleanlab.object_detection.rank import (
            compute_badloc_box_scores,
            compute_overlooked_box_scores,
            compute_swap_box_scores,
        )

        scores_by_reason = {
            "overlooked": _floor_overlooked_scores(
                cleanlab_input["predictions"],
                compute_overlooked_box_scores(
                    **cleanlab_input, high_probability_threshold=CONTRADICTING_CONFIDENCE
                ),
            ),
            "badly placed": compute_badloc_box_scores(**cleanlab_input),
            "swapped label": compute_swap_box_scores(
                **cleanlab_input, high_probability_threshold=CONTRADICTING_CONFIDENCE
            ),
        }
    candidates = []
    for i, image in enumerate(images):
        worst_scores = {
            reason: _lowest_score(scores[i]) for reason, scores in scores_by_reason.items()
        }
        reason = min(worst_scores, key=lambda name: worst_scores[name])
        if worst_scores[reason] < MAX_FLAGGED_QUALITY:
            annotated_counts, predicted_counts = (
                _format_counts(image.ground_truth),
                _format_counts(_confident_regions(image)),
            )
            candidates.append(
                LabelErrorCandidate(
                    tasks[i],
                    control,
                    annotated_counts,
                    predicted_counts,
                    round(worst_scores[reason], 6),
                    reason,
                )
            )
    return sorted(candidates, key=lambda candidate: candidate.quality)


def assign_judging_versions(
    tasks_by_version: Sequence[tuple[str, Set[int]]], tasks: Iterable[int]
) -> dict[str, list[int]]:
    """Who may judge which label: the newest version that cannot have learned from it.

    Args:
        tasks_by_version: by version, oldest first, the tasks it learned from. A version goes on from those
            before it, so that it knows what they learned as well.
        tasks: that are to be judged.

    Returns:
        by version, its tasks; those that the first version learned from are left out.

    Example:
        >>> assign_judging_versions([("v1", {1}), ("v2", {1, 2})], [1, 2, 3])
        {'v1': [2], 'v2': [3]}
    """
    cumulative_tasks: list[tuple[str, set[int]]] = []
    for version, new_tasks in tasks_by_version:
        cumulative_tasks.append(
            (version, cumulative_tasks[-1][1] | new_tasks if cumulative_tasks else set(new_tasks))
        )
    assignments: dict[str, list[int]] = {version: [] for version, _ in cumulative_tasks}
    for task in tasks:
        judging_version = next(
            (v for v, seen_tasks in reversed(cumulative_tasks) if task not in seen_tasks), None
        )
        if judging_version is not None:
            assignments[judging_version].append(task)
    return {
        version: assigned_tasks for version, assigned_tasks in assignments.items() if assigned_tasks
    }


def _cleanlab_annotation(image: DetectionSample, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "bboxes": _scaled_corners(image.ground_truth),
        "labels": np.array([labels.index(p.label) for p in image.ground_truth], dtype=int),
    }


def _cleanlab_prediction(image: DetectionSample, labels: Sequence[str]) -> Any:
    """As cleanlab takes finds: by label, (m, 5) corners and confidence."""
    table = np.empty(len(labels), dtype=object)
    for k, label in enumerate(labels):
        rows = [i for i, place in enumerate(image.detections) if place.label == label]
        boxes = _scaled_corners([image.detections[i] for i in rows])
        confidences = np.array([[image.confidence[i]] for i in rows]).reshape(-1, 1)
        table[k] = np.concatenate([boxes, confidences], axis=1).astype(np.float32)
    return table


def _floor_overlooked_scores(predictions: Sequence[Any], scores: Sequence[Any]) -> list[Any]:
    """Quality of finds without a box, not below their doubt, 1 − confidence.

    cleanlab's is all but 0 for each of them, because it looks only at finds above 0.95: from SURE
    on a weak find would come before a certain one, and before every box that is badly placed.
    """
    floors = [1 - np.concatenate([rows[:, 4] for rows in table]) for table in predictions]
    return [
        np.maximum(score_array, floor) for score_array, floor in zip(scores, floors, strict=True)
    ]


def _scaled_corners(places: Sequence[Region]) -> npt.NDArray[np.float32]:
    """In thousandths of the image, because cleanlab counts pixels."""
    rows = [(p.x0, p.y0, p.x1, p.y1) for p in places]
    return np.asarray(1000 * np.array(rows, dtype=np.float32).reshape(-1, 4), dtype=np.float32)


def _lowest_score(scores: Any) -> float:
    score_array = np.asarray(scores, dtype=float)
    score_array = score_array[~np.isnan(score_array)]
    return float(score_array.min()) if len(score_array) else 1.0


def _confident_regions(image: DetectionSample) -> list[Region]:
    pairs = zip(image.detections, image.confidence, strict=True)
    return [place for place, confidence in pairs if confidence >= CONTRADICTING_CONFIDENCE]


def _format_counts(places: Sequence[Region]) -> str:
    names = sorted({place.label for place in places})
    counts = (f"{sum(p.label == name for p in places)} × {name}" for name in names)
    return ", ".join(counts) or "nothing"


@contextmanager
def _suppress_warnings() -> Iterator[None]:
    """cleanlab warns of label sets that are small or lopsided, which ours often are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
