"""A model and tasks → predictions: the same for what is pushed and for what is asked live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from backend.arrays import Floats
from backend.domain import Control, ImageSize, Prediction, Task
from backend.errors import ImageError
from backend.inference.confidence import choice_confidence
from backend.inference.detect import InferenceResult
from backend.inference.embed import EmbeddingResult
from backend.inference.images import ImageSource
from backend.inference.model import Model, apply_thresholds, predict_choice
from backend.learning.audit import hash_rank
from backend.learning.selection import detection_uncertainty, uncertainty


def image_sources(tasks: Iterable[Task], controls: Iterable[Control]) -> list[ImageSource]:
    """The images of tasks that some controls are about."""
    keys = {control.image_key for control in controls}
    return [
        ImageSource(task.images[key], task.id)
        for task in tasks
        for key in keys & task.images.keys()
    ]


def predict_probabilities(
    model: Model, controls: Iterable[Control], tasks: Sequence[Task], embeddings: EmbeddingResult
) -> dict[str, dict[int, Floats]]:
    """What the model believes: control → task → (K,) confidence.

    A control without a head, and a task whose image could not be read, is absent.
    """
    probabilities: dict[str, dict[int, Floats]] = {}
    for control in controls:
        vectors = embeddings.vectors
        readable_tasks = [t for t in tasks if t.images.get(control.image_key) in vectors]
        if control.name in model.heads and readable_tasks:
            matrix = np.stack([vectors[task.images[control.image_key]] for task in readable_tasks])
            rows = model.probabilities(control.name, matrix)
            probabilities[control.name] = dict(
                zip((task.id for task in readable_tasks), rows, strict=True)
            )
    return probabilities


def choice_uncertainties(
    controls: Iterable[Control], probabilities: Mapping[str, Mapping[int, Floats]]
) -> dict[int, float]:
    """The uncertainty of each task, 0 to 1: that of its least certain control."""
    uncertainties: dict[int, float] = {}
    for control in controls:
        rows = probabilities.get(control.name, {})
        if rows:
            values = uncertainty(np.stack(list(rows.values())), control.multiple)
            for task, value in zip(rows, values, strict=True):
                uncertainties[task] = max(uncertainties.get(task, 0.0), float(value))
    return uncertainties


def task_confidences(
    model: Model,
    controls: Sequence[Control],
    probabilities: Mapping[str, Mapping[int, Floats]],
    inference: InferenceResult,
) -> dict[int, float]:
    """Confidence of the whole answer to each task that every control was answered of, 0 to 1."""
    per_control: list[Mapping[int, float]] = []
    for control in controls:
        rows = probabilities.get(control.name, {})
        if control.kind == "choices":
            per_control.append(
                {task: choice_confidence(row, control.multiple) for task, row in rows.items()}
            )
        else:
            per_control.append(inference.confidence if control.name in model.detectors else {})
    tasks = set.intersection(*map(set, per_control)) if per_control else set()
    return {task: min(by_task[task] for by_task in per_control) for task in tasks}


def region_uncertainties(project: str, inference: InferenceResult) -> dict[int, float]:
    """The uncertainty of each task that a finder looked at, 0 to 1."""
    return {
        task: detection_uncertainty(probabilities, hash_rank(project, task))
        for task, probabilities in inference.weighted_confidences.items()
    }


def build_predictions(
    model: Model,
    controls: Sequence[Control],
    tasks: Sequence[Task],
    probabilities: Mapping[str, Mapping[int, Floats]],
    scores: Mapping[int, float],
    embeddings: EmbeddingResult,
    inference: InferenceResult,
    unfiltered: bool = False,
) -> list[Prediction]:
    """One prediction per task, in their order; an empty one where the model has no answer.

    What is less certain than the model's thresholds is left out, unless the whole answer is wanted.
    """
    thresholds: Mapping[str, Mapping[str, float]] = {} if unfiltered else model.thresholds
    regions = inference.unfiltered if unfiltered else inference.regions
    return [
        Prediction(
            task.id,
            tuple(
                apply_thresholds(
                    predict_choice(
                        control,
                        model.labels(control.name),
                        row,
                        _image_size(task, control, embeddings),
                    ),
                    thresholds.get(control.name, {}),
                )
                for control in controls
                if (row := probabilities.get(control.name, {}).get(task.id)) is not None
            ),
            scores.get(task.id, 1.0),
            regions.get(task.id, ()),
        )
        for task in tasks
    ]


def count_unreadable(
    tasks: Iterable[Task], controls: Iterable[Control], errors_by_address: Mapping[str, ImageError]
) -> Counter[str]:
    """How many images of tasks could not be read, by reason."""
    counts: Counter[str] = Counter()
    keys = {control.image_key for control in controls}
    for task in tasks:
        counts.update(f"task without ${key}" for key in keys if key not in task.images)
        errors = (errors_by_address.get(address) for address in task.images.values())
        counts.update(error.reason for error in errors if error)
    return counts


def _image_size(task: Task, control: Control, embeddings: EmbeddingResult) -> ImageSize:
    return embeddings.sizes[task.images[control.image_key]]
