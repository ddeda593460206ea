"""The labels of a project, as a version remembers them and as a head learns from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.arrays import Floats
from backend.domain import Control, Regions
from backend.inference.embed import EmbeddingResult
from backend.loop.observe import Observation
from backend.store.versions import LabelSnapshot
from backend.training.head import ChoiceExamples


def label_table(observation: Observation) -> dict[str, dict[str, list[Any]]]:
    """All answers of a project as plain JSON: what a version is made from and compared by."""
    return {
        str(task.id): {name: sorted(answer) for name, answer in (task.choices or {}).items()}
        | {name: region_rows(regions) for name, regions in (task.regions or {}).items()}
        for task in observation.labeled
    }


def region_rows(regions: Regions) -> list[list[Any]]:
    """``[label, x0, y0, x1, y1]``, in an order that does not depend on who drew what first."""
    rows = [[p.label, *(round(v, 6) for v in (p.x0, p.y0, p.x1, p.y1))] for p in regions]
    return sorted(rows)


def count_changes(previous: LabelSnapshot, current: LabelSnapshot) -> int:
    """How many tasks were answered, answered differently, or lost their answer."""
    return sum(previous.get(task) != current.get(task) for task in previous.keys() | current.keys())


def choice_examples(
    observation: Observation, control: Control, embeddings: EmbeddingResult
) -> ChoiceExamples:
    """The labeled images of a control that could be read, in the order of their tasks."""
    readable_tasks = [
        task
        for task in observation.labeled
        if control.name in (task.choices or {})
        and task.images.get(control.image_key) in embeddings.vectors
    ]
    vectors = [embeddings.vectors[task.images[control.image_key]] for task in readable_tasks]
    return ChoiceExamples(
        task_ids=tuple(task.id for task in readable_tasks),
        vectors=np.stack(vectors) if vectors else np.zeros((0, 0), dtype=np.float32),
        answers=tuple((task.choices or {})[control.name] for task in readable_tasks),
        available_labels=tuple(
            (task.available_labels or {})[control.name] for task in readable_tasks
        ),
        audit_mask=np.array([observation.is_audit(task) for task in readable_tasks], dtype=bool),
    )


def stack_embeddings(
    observation: Observation, control: Control, embeddings: EmbeddingResult, dim: int
) -> Floats:
    """The embeddings of all images of a control, labeled or not: (m, d) float32."""
    vectors = [
        embeddings.vectors[task.images[control.image_key]]
        for task in observation.tasks
        if task.images.get(control.image_key) in embeddings.vectors
    ]
    return np.stack(vectors) if vectors else np.zeros((0, dim), dtype=np.float32)
