"""What the audit slice of a version looks like, to compare production with."""

from __future__ import annotations

from collections import Counter

import numpy as np

from backend.domain import Control
from backend.inference.embed import EmbeddingResult, task_vectors
from backend.inference.model import Model, predict_choice
from backend.loop.evaluate.metrics import UNKNOWN_IMAGE_SIZE
from backend.loop.fit import ModelTrainer
from backend.loop.observe import Observation
from backend.store.drift_reference import DriftReference


def build_reference(
    observation: Observation, fit: ModelTrainer, model: Model, embeddings: EmbeddingResult
) -> DriftReference:
    """The audit slice, labeled or not.

    Of choices the mix is what the model says of all its images, of boxes and points what people
    marked in it: production is answered by the model, and neither is looked at twice.
    """
    audit_tasks = [task for task in observation.tasks if observation.is_audit(task)]
    vectors = task_vectors(audit_tasks, embeddings)
    rows = np.stack(list(vectors.values())) if vectors else np.zeros((0, 0), dtype=np.float32)
    label_mix = {c.name: _count_labels(c, fit, model, rows) for c in observation.config.controls}
    return DriftReference({name: dict(counts) for name, counts in label_mix.items()}, rows)


def _count_labels(
    control: Control, fit: ModelTrainer, model: Model, embedding_rows: object
) -> Counter[str]:
    label_counts: Counter[str] = Counter()
    if control.kind != "choices":
        for sample in fit.samples(control):
            label_counts.update(region.label for region in sample.regions if sample.is_audit)
    elif control.name in model.heads and len(np.asarray(embedding_rows)):
        labels = model.labels(control.name)
        for probabilities in model.probabilities(control.name, np.asarray(embedding_rows)):
            label_counts.update(
                predict_choice(control, labels, probabilities, UNKNOWN_IMAGE_SIZE).labels
            )
    return label_counts
