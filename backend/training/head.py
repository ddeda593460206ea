"""Train the head of a control of choices from embeddings, on this machine or on Modal."""

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
        task_ids: (n) task numbers.
        vectors: (n, d) float32 of unit length.
        answers: (n) the labels that a person chose.
        available_labels: (n) the labels of the config when they chose.
        audit_mask: (n) bool, true in the audit set, which is never trained on.
    """

    task_ids: tuple[int, ...]
    vectors: Floats
    answers: tuple[LabelSet, ...]
    available_labels: tuple[frozenset[str], ...]
    audit_mask: Bools

    def take(self, rows: Sequence[int]) -> ChoiceExamples:
        """Return the examples of some rows."""
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
    """Everything that the head of one control is trained from.

    Attributes:
        control: of choices.
        examples: its labeled images.
        pool: (m, d) float32, all images of the project, for the statistics of the features.
        prototypes: (K, d) float32 text embeddings of its labels; None without a text encoder.
        logit_scale: of the encoder's text side.
        logit_bias: of the encoder's text side.
        previous: the live version's head, for a warm start.
        seed: of the random generators.
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
        the head; a zero-shot head of the text prototypes without labels; None without labels and
        prototypes.
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

    A label that came into the config after the answer is unknown for several of many. For one of
    many it counts as not chosen.
    """
    names = control.label_names
    matrix = np.zeros((len(examples.task_ids), len(names)), dtype=np.float32)
    for i, (answer, available) in enumerate(
        zip(examples.answers, examples.available_labels, strict=True)
    ):
        for k, name in enumerate(names):
            unasked = control.multiple and name not in available and name not in answer
            matrix[i, k] = np.nan if unasked else float(name in answer)
    return matrix


def cross_validate_head(job: HeadTrainingJob, head: Head) -> tuple[Indices, Floats]:
    """Return out-of-fold probabilities of the training images.

    Args:
        job: that the head was trained by.
        head: of the job.

    Returns:
        rows of the training examples, and their (rows, K) float32 probabilities; empty with fewer
        than two.
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
