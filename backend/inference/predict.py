"""A model and tasks → predictions: the same for what is pushed and for what is asked live."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from backend.arrays import Floats
from backend.domain import Control, ImageSize, Prediction, Task
from backend.errors import ImageError
from backend.inference.confidence import certainty
from backend.inference.detect import Looked
from backend.inference.embed import Embedded
from backend.inference.images import Source
from backend.inference.model import Model, choose, confident
from backend.learning.audit import hash_rank
from backend.learning.selection import place_uncertainty, uncertainty


def sources(tasks: Iterable[Task], controls: Iterable[Control]) -> list[Source]:
    """The images of tasks that some controls are about."""
    keys = {control.image_key for control in controls}
    return [
        Source(task.images[key], task.id) for task in tasks for key in keys & task.images.keys()
    ]


def confidences(
    model: Model, controls: Iterable[Control], tasks: Sequence[Task], embedded: Embedded
) -> dict[str, dict[int, Floats]]:
    """What the model believes: control → task → (K,) confidence.

    A control without a head, and a task whose image could not be read, is absent.
    """
    found: dict[str, dict[int, Floats]] = {}
    for control in controls:
        vectors = embedded.vectors
        seen = [t for t in tasks if t.images.get(control.image_key) in vectors]
        if control.name in model.heads and seen:
            stack = np.stack([vectors[task.images[control.image_key]] for task in seen])
            rows = model.probabilities(control.name, stack)
            found[control.name] = dict(zip((task.id for task in seen), rows, strict=True))
    return found


def task_uncertainty(
    controls: Iterable[Control], beliefs: Mapping[str, Mapping[int, Floats]]
) -> dict[int, float]:
    """The uncertainty of each task, 0 to 1: that of its least certain control."""
    unsure: dict[int, float] = {}
    for control in controls:
        rows = beliefs.get(control.name, {})
        if rows:
            values = uncertainty(np.stack(list(rows.values())), control.multiple)
            for task, value in zip(rows, values, strict=True):
                unsure[task] = max(unsure.get(task, 0.0), float(value))
    return unsure


def certainties(
    model: Model,
    controls: Sequence[Control],
    beliefs: Mapping[str, Mapping[int, Floats]],
    looked: Looked,
) -> dict[int, float]:
    """Confidence of the whole answer to each task that every control was answered of, 0 to 1."""
    each: list[Mapping[int, float]] = []
    for control in controls:
        rows = beliefs.get(control.name, {})
        if control.kind == "choices":
            each.append({task: certainty(row, control.multiple) for task, row in rows.items()})
        else:
            each.append(looked.sure if control.name in model.finders else {})
    tasks = set.intersection(*map(set, each)) if each else set()
    return {task: min(one[task] for one in each) for task in tasks}


def place_uncertainties(project: str, looked: Looked) -> dict[int, float]:
    """The uncertainty of each task that a finder looked at, 0 to 1."""
    return {
        task: place_uncertainty(beliefs, hash_rank(project, task))
        for task, beliefs in looked.beliefs.items()
    }


def predictions(
    model: Model,
    controls: Sequence[Control],
    tasks: Sequence[Task],
    beliefs: Mapping[str, Mapping[int, Floats]],
    scores: Mapping[int, float],
    embedded: Embedded,
    looked: Looked,
    whole: bool = False,
) -> list[Prediction]:
    """One prediction per task, in their order; an empty one where the model has no answer.

    What is less certain than the model's thresholds is left out, unless the whole answer is wanted.
    """
    thresholds: Mapping[str, Mapping[str, float]] = {} if whole else model.thresholds
    findings = looked.whole if whole else looked.findings
    return [
        Prediction(
            task.id,
            tuple(
                confident(
                    choose(
                        control, model.labels(control.name), row, _size(task, control, embedded)
                    ),
                    thresholds.get(control.name, {}),
                )
                for control in controls
                if (row := beliefs.get(control.name, {}).get(task.id)) is not None
            ),
            scores.get(task.id, 1.0),
            findings.get(task.id, ()),
        )
        for task in tasks
    ]


def unreadable(
    tasks: Iterable[Task], controls: Iterable[Control], failed: Mapping[str, ImageError]
) -> Counter[str]:
    """How many images of tasks could not be read, by reason."""
    left: Counter[str] = Counter()
    keys = {control.image_key for control in controls}
    for task in tasks:
        left.update(f"task without ${key}" for key in keys if key not in task.images)
        errors = (failed.get(address) for address in task.images.values())
        left.update(error.reason for error in errors if error)
    return left


def _size(task: Task, control: Control, embedded: Embedded) -> ImageSize:
    return embedded.sizes[task.images[control.image_key]]
