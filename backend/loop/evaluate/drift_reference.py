"""Build the reference for drift detection from a version's audit set."""

from __future__ import annotations

from collections import Counter

import numpy as np

from backend.arrays import Floats
from backend.domain import Control
from backend.inference.embed import EmbeddingResult, task_vectors
from backend.inference.model import Model, predict_choice
from backend.loop.evaluate.metrics import UNKNOWN_IMAGE_SIZE
from backend.loop.model_trainer import ModelTrainer
from backend.loop.observe import Observation
from backend.store.drift_reference import DriftReference


def build_reference(
    observation: Observation, fit: ModelTrainer, model: Model, embeddings: EmbeddingResult
) -> DriftReference:
    """Return the label counts and embeddings of the audit set, labeled or not.

    Choices are counted from the model's predictions, as `labels_of` does in production. Boxes and
    points are counted from people's annotations, which saves running the detectors.
    """
    audit_tasks = [task for task in observation.tasks if observation.is_audit(task)]
    vectors = task_vectors(audit_tasks, embeddings)
    rows = np.stack(list(vectors.values())) if vectors else np.zeros((0, 0), dtype=np.float32)
    counts = {c.name: _count_labels(c, fit, model, rows) for c in observation.config.controls}
    return DriftReference({name: dict(count) for name, count in counts.items()}, rows)


def _count_labels(
    control: Control, fit: ModelTrainer, model: Model, vectors: Floats
) -> Counter[str]:
    counts: Counter[str] = Counter()
    if not control.is_choices:
        for sample in fit.samples(control):
            counts.update(region.label for region in sample.regions if sample.is_audit)
    elif control.name in model.heads and len(vectors):
        labels = model.labels(control.name)
        for row in model.probabilities(control.name, vectors):
            counts.update(list(predict_choice(control, labels, row, UNKNOWN_IMAGE_SIZE).labels))
    return counts
