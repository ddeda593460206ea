"""Run a model on tasks or images.

Publishing, live ``/predict``, label errors, the predict endpoint and ``prelabel predict`` all call
`infer`, with embeddings and images from different sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from backend.arrays import Floats
from backend.callbacks import ProgressCallback
from backend.domain import Control, Prediction, RegionPrediction, Task
from backend.errors import ImageError
from backend.inference.confidence import choice_confidence, detection_confidence
from backend.inference.detections import (
    ScoredRegions,
    confidence_threshold,
    detect_regions,
    filter_regions,
)
from backend.inference.embed import EMPTY_EMBEDDINGS, EmbeddingResult
from backend.inference.images import ImageBatch, ProjectImages, image_sources
from backend.inference.model import Model, apply_thresholds, predict_choice, predict_labels
from backend.inference.visibility import visible_controls, without_hidden
from backend.learning.selection import detection_uncertainty, label_rarity, uncertainty

if TYPE_CHECKING:
    from PIL import Image


@dataclass
class InferenceResult:
    """The output of a model for some tasks, by task id.

    Attributes:
        model: model that was run.
        controls: controls of the labeling config.
        embeddings: embeddings of the images.
        probabilities: control → task → (K,) float32; tasks without a readable image are missing.
        detections: task → control → all regions above the minimum confidence of the detector.
            Only filled on request, because there are about 50 regions per image.
        regions: task → regions to publish, one entry per control with a detector.
        unfiltered: task → the same without thresholds per label, for evaluation and auto-accept.
        weighted_confidences: task → (confidence, difficulty of the label) of all regions.
        confidence: task → confidence that the regions of all controls are correct and complete.
        errors: image address → reason why the image could not be read.
    """

    model: Model
    controls: Sequence[Control]
    embeddings: EmbeddingResult = EMPTY_EMBEDDINGS
    probabilities: dict[str, dict[int, Floats]] = field(default_factory=dict)
    detections: dict[int, dict[str, ScoredRegions]] = field(default_factory=dict)
    regions: dict[int, tuple[RegionPrediction, ...]] = field(default_factory=dict)
    unfiltered: dict[int, tuple[RegionPrediction, ...]] = field(default_factory=dict)
    weighted_confidences: dict[int, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    confidence: dict[int, float] = field(default_factory=dict)
    errors: dict[str, ImageError] = field(default_factory=dict)

    def choice_uncertainties(self) -> dict[int, float]:
        """Return the uncertainty of each classified task, 0 to 1, for its least certain control."""
        uncertainties: dict[int, float] = {}
        visible_in = cache(self._visible_controls)  # once per task, not for each of its controls
        for control in self.controls:
            rows = self.probabilities.get(control.name, {})
            if control.conditions:
                rows = {task: row for task, row in rows.items() if control.name in visible_in(task)}
            if rows and (control.multiple or len(self.model.labels(control.name)) > 1):
                values = uncertainty(np.stack(list(rows.values())), control.multiple)
                for task, value in zip(rows, values, strict=True):
                    uncertainties[task] = max(uncertainties.get(task, 0.0), float(value))
        return uncertainties

    def _visible_controls(self, task: int) -> frozenset[str]:
        """Return the controls that are shown with the predicted answers for a task."""
        answers: dict[str, list[str]] = {}
        for other in self.controls:
            row = self.probabilities.get(other.name, {}).get(task)
            if row is not None:
                thresholds = self.model.thresholds.get(other.name, {})
                labels = predict_labels(other, self.model.labels(other.name), row)
                answers[other.name] = [
                    name
                    for name, value in labels.items()
                    if value >= max(other.threshold, thresholds.get(name, 0.0))
                ]
        return visible_controls(self.controls, answers)

    def label_rarities(self) -> dict[int, float]:
        """Return how rare the labels of each classified task are, 0 to 1: the rarest control's."""
        rarities: dict[int, float] = {}
        for control in self.controls:
            rows = self.probabilities.get(control.name, {})
            if rows:
                values = label_rarity(np.stack(list(rows.values())), control.multiple)
                rarities = merge_max(rarities, dict(zip(rows, values.tolist(), strict=True)))
        return rarities

    def region_uncertainties(self, fallback_rank: Callable[[int], float]) -> dict[int, float]:
        """Return the uncertainty of each task that the detectors ran on, 0 to 1.

        Args:
            fallback_rank: returns a rank from 0 to 1 for a task without any detection.
        """
        return {
            task: detection_uncertainty(pairs, fallback_rank(task))
            for task, pairs in self.weighted_confidences.items()
        }

    def uncertainties(
        self, fallback_rank: Callable[[int], float] = lambda task: 0.0
    ) -> dict[int, float]:
        """Return the uncertainty of each task, 0 to 1: the maximum over choices and regions."""
        return merge_max(self.choice_uncertainties(), self.region_uncertainties(fallback_rank))

    def confidences(self) -> dict[int, float]:
        """Return the confidence, 0 to 1, that all predictions for a task are correct.

        Tasks without a prediction for some control are missing.
        """
        per_control: list[Mapping[int, float]] = []
        for control in self.controls:
            if control.is_choices:
                rows = self.probabilities.get(control.name, {})
                per_control.append(
                    {task: choice_confidence(row, control.multiple) for task, row in rows.items()}
                )
            else:
                answered = control.name in self.model.detectors
                per_control.append(self.confidence if answered else {})
        tasks = set.intersection(*map(set, per_control)) if per_control else set()
        return {task: min(by_task[task] for by_task in per_control) for task in tasks}

    def predictions(
        self, tasks: Iterable[Task], scores: Mapping[int, float], unfiltered: bool = False
    ) -> list[Prediction]:
        """Return one prediction per task in the same order; it may be empty.

        Controls that Label Studio would hide, because of the predicted choices, are left out.

        Args:
            tasks: tasks of this result.
            scores: task → score that Label Studio sorts by; 1 by default.
            unfiltered: whether to keep labels and regions below the thresholds per label.
        """
        return [self._prediction(task, scores.get(task.id, 1.0), unfiltered) for task in tasks]

    def _prediction(self, task: Task, score: float, unfiltered: bool) -> Prediction:
        regions = self.unfiltered if unfiltered else self.regions
        thresholds = {} if unfiltered else self.model.thresholds
        choices = tuple(
            apply_thresholds(
                predict_choice(
                    control,
                    self.model.labels(control.name),
                    row,
                    self.embeddings.sizes[task.images[control.image_key]],
                ),
                thresholds.get(control.name, {}),
            )
            for control in self.controls
            if (row := self.probabilities.get(control.name, {}).get(task.id)) is not None
        )
        prediction = Prediction(task.id, choices, score, regions.get(task.id, ()))
        return without_hidden(prediction, self.controls, unfiltered=unfiltered)


def infer_tasks(
    model: Model,
    controls: Sequence[Control],
    tasks: Sequence[Task],
    embeddings: EmbeddingResult,
    images: ProjectImages,
    *,
    detector_tasks: Sequence[Task] | None = None,
    next_tasks: Sequence[Task] = (),
    progress: ProgressCallback = lambda done, total: None,
) -> InferenceResult:
    """Run a model on the tasks of a project.

    Args:
        model: model of a version.
        controls: controls of the current labeling config.
        tasks: tasks to classify.
        embeddings: embeddings of their images; empty if no control has choices.
        images: images of the project for the detectors, loaded in batches to limit memory.
        detector_tasks: tasks to run the detectors on; all tasks by default.
        next_tasks: tasks of the next call, whose images are fetched during the last batch.
        progress: called with (done, total), the number of images that detectors have run on.
    """
    detected = [control for control in controls if control.name in model.detectors]
    detector_tasks = tasks if detector_tasks is None else detector_tasks
    sources = image_sources(detector_tasks, detected)
    batches = images.iter_batches(sources, image_sources(next_tasks, detected)) if detected else ()
    total = len({source.address for source in sources})
    return infer(
        model,
        controls,
        tasks,
        embeddings,
        batches,
        detector_tasks,
        progress=lambda done: progress(done, total),
    )


def infer(
    model: Model,
    controls: Sequence[Control],
    tasks: Sequence[Task],
    embeddings: EmbeddingResult,
    batches: Iterable[ImageBatch],
    detector_tasks: Sequence[Task],
    *,
    progress: Callable[[int], None] = lambda done: None,
    keep_detections: bool = False,
) -> InferenceResult:
    """Run a model on embeddings and batches of images.

    Args:
        model: model with heads for the embeddings and detectors for the images.
        controls: controls to predict.
        tasks: tasks to classify.
        embeddings: embeddings of their images.
        batches: images of ``detector_tasks``.
        detector_tasks: tasks to run the detectors on.
        progress: called after each batch with the number of images so far.
        keep_detections: whether to fill ``detections`` of the result.
    """
    result = InferenceResult(model, controls, embeddings)
    result.probabilities = predict_probabilities(model, controls, tasks, embeddings)
    detected = [control for control in controls if control.name in model.detectors]
    tasks_by_address: dict[str, list[tuple[Task, str]]] = {}
    for task in detector_tasks:
        for key in {control.image_key for control in detected} & task.images.keys():
            tasks_by_address.setdefault(task.images[key], []).append((task, key))
    done = 0
    for batch in batches:
        result.errors |= batch.errors
        for control in detected:
            _run_detector(control, batch, tasks_by_address, result, keep_detections)
        done += len(batch.images) + len(batch.errors)
        progress(done)
    complete = {t for t, regions in result.unfiltered.items() if len(regions) == len(detected)}
    result.confidence = {t: value for t, value in result.confidence.items() if t in complete}
    return result


def predict_probabilities(
    model: Model, controls: Iterable[Control], tasks: Sequence[Task], embeddings: EmbeddingResult
) -> dict[str, dict[int, Floats]]:
    """Return control → task → (K,) probabilities in the order of the head's labels.

    Controls without a head and tasks without a readable image are missing.
    """
    probabilities: dict[str, dict[int, Floats]] = {}
    vectors = embeddings.vectors
    for control in controls:
        readable_tasks = [t for t in tasks if t.images.get(control.image_key) in vectors]
        if control.name in model.heads and readable_tasks:
            matrix = np.stack([vectors[task.images[control.image_key]] for task in readable_tasks])
            rows = model.probabilities(control.name, matrix)
            probabilities[control.name] = dict(
                zip((task.id for task in readable_tasks), rows, strict=True)
            )
    return probabilities


def merge_max(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """Merge two mappings; keep the larger value of each key."""
    return dict(first) | {key: max(value, first.get(key, 0.0)) for key, value in second.items()}


def count_unreadable(
    tasks: Iterable[Task], controls: Iterable[Control], errors_by_address: Mapping[str, ImageError]
) -> Counter[str]:
    """Count the images of tasks that could not be read, by reason."""
    counts: Counter[str] = Counter()
    keys = {control.image_key for control in controls}
    for task in tasks:
        counts.update(f"task without ${key}" for key in keys if key not in task.images)
        errors = (errors_by_address.get(address) for address in task.images.values())
        counts.update(error.reason for error in errors if error)
    return counts


def _run_detector(
    control: Control,
    batch: ImageBatch,
    tasks_by_address: Mapping[str, Sequence[tuple[Task, str]]],
    result: InferenceResult,
    keep_detections: bool,
) -> None:
    """Add the detections of one control in one batch to the result."""
    detector = result.model.detectors[control.name]
    tasks_of = {
        address: [
            task.id for task, key in tasks_by_address.get(address, ()) if key == control.image_key
        ]
        for address in batch.images
    }
    images: dict[str, Image.Image] = {a: batch.images[a] for a, tasks in tasks_of.items() if tasks}
    minimum = confidence_threshold(detector, control)
    label_thresholds = {
        label: max(minimum, threshold)
        for label, threshold in result.model.thresholds.get(control.name, {}).items()
    }
    detections = detect_regions(detector, control, list(images.values()))
    for address, scored in zip(images, detections, strict=True):
        size = batch.sizes[address]
        published = filter_regions(control.name, scored, minimum, size, label_thresholds)
        unfiltered = filter_regions(control.name, scored, minimum, size)
        difficulty = detector.class_mapping.difficulty
        weighted = tuple(
            (value, difficulty.get(region.label, 1.0))
            for region, value in zip(scored.regions, scored.confidence, strict=True)
        )
        confidence = detection_confidence(scored.confidence, minimum)
        for task in tasks_of[address]:
            result.regions[task] = (*result.regions.get(task, ()), published)
            result.unfiltered[task] = (*result.unfiltered.get(task, ()), unfiltered)
            weights = result.weighted_confidences
            weights[task] = (*weights.get(task, ()), *weighted)
            result.confidence[task] = min(confidence, result.confidence.get(task, 1.0))
            if keep_detections:
                result.detections.setdefault(task, {})[control.name] = scored
