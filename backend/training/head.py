"""Train the head of a choices control on embeddings; runs locally and on Modal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backend.arrays import Bools, Floats, Indices
from backend.domain import Control, LabelSet

if TYPE_CHECKING:
    from backend.vision.heads.head import Head, TextAnchors


@dataclass(frozen=True)
class ChoiceExamples:
    """The labeled images of one control.

    Attributes:
        task_ids: (n) task ids.
        vectors: (n, d) float32 embeddings of unit length.
        answers: (n) labels chosen by a person.
        available_labels: (n) labels that the config had at the time of the annotation.
        audit_mask: (n) bool, True for the audit set, which is never trained on.
    """

    task_ids: tuple[int, ...]
    vectors: Floats
    answers: tuple[LabelSet, ...]
    available_labels: tuple[frozenset[str], ...]
    audit_mask: Bools

    def take(self, rows: Sequence[int]) -> ChoiceExamples:
        """Return a subset of the examples."""
        selected = list(rows)
        return ChoiceExamples(
            tuple(self.task_ids[row] for row in selected),
            self.vectors[selected],
            tuple(self.answers[row] for row in selected),
            tuple(self.available_labels[row] for row in selected),
            self.audit_mask[selected],
        )


@dataclass(frozen=True)
class HeadTrainingJob:
    """The inputs for training the head of one control.

    Attributes:
        control: a choices control.
        examples: its labeled images.
        pool: (m, d) float32 embeddings of all images of the project, for feature statistics.
        prototypes: (K, d) float32 text embeddings of its labels; None without a text encoder.
        logit_scale: logit scale of the text encoder.
        logit_bias: logit bias of the text encoder.
        previous: the live version's head, for a warm start.
        seed: random seed.
    """

    control: Control
    examples: ChoiceExamples
    pool: Floats
    prototypes: Floats | None
    logit_scale: float
    logit_bias: float
    previous: Head | None
    seed: int

    @property
    def text_anchors(self) -> TextAnchors | None:
        """The prototypes with the encoder's logit scale and bias."""
        from backend.vision.heads.head import TextAnchors

        if self.prototypes is None:
            return None
        return TextAnchors(self.prototypes, self.logit_scale, self.logit_bias)


def train_head(job: HeadTrainingJob) -> Head | None:
    """Train a head on all labeled images outside the audit set.

    Returns:
        the head; without training labels a zero-shot head from the text prototypes; without
        prototypes None.
    """
    from backend.vision.heads.head import fit_head, zero_shot_head

    names = job.control.label_names
    rows = ~job.examples.audit_mask
    if rows.any():
        return fit_head(
            job.examples.vectors[rows],
            target_matrix(job.control, job.examples)[rows],
            labels=names,
            multiple=job.control.multiple,
            anchors=job.text_anchors,
            pool=job.pool,
            previous=job.previous,
            seed=job.seed,
        )
    if job.text_anchors is None:
        return None
    return zero_shot_head(names, job.text_anchors, job.control.multiple, pool=job.pool)


def target_matrix(control: Control, examples: ChoiceExamples) -> Floats:
    """Return the training targets, (n, K) float32: 1 chosen, 0 not chosen, NaN unknown.

    A label added to the config after the annotation is unknown in multi-label controls, and counts
    as not chosen in single-label ones.
    """
    names = control.label_names
    matrix = np.zeros((len(examples.task_ids), len(names)), dtype=np.float32)
    for i, (answer, available) in enumerate(
        zip(examples.answers, examples.available_labels, strict=True)
    ):
        for k, name in enumerate(names):
            is_unknown = control.multiple and name not in available and name not in answer
            matrix[i, k] = np.nan if is_unknown else float(name in answer)
    return matrix


def cross_validate_head(job: HeadTrainingJob, head: Head) -> tuple[Indices, Floats]:
    """Return out-of-fold probabilities of the training images.

    Args:
        job: the job that trained the head.
        head: its result.

    Returns:
        row indices of the training examples, and their (rows, K) float32 probabilities; both are
        empty with fewer than two examples.
    """
    from backend.vision.heads.cross_validation import out_of_fold_probabilities

    rows = np.flatnonzero(~job.examples.audit_mask)
    if len(rows) < 2:
        return rows[:0], np.zeros((0, len(head.labels)), dtype=np.float32)
    matrix = out_of_fold_probabilities(
        head,
        job.examples.vectors[rows],
        target_matrix(job.control, job.examples)[rows],
        anchors=job.text_anchors,
        pool=job.pool,
        seed=job.seed,
    )
    return rows, matrix
