"""Answers and embeddings → a head. Arrays in, arrays out: the compute seam.

Nothing here knows where it runs: in a process of this machine, or elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats
from backend.domain import Control, LabelSet

if TYPE_CHECKING:
    from backend.vision.heads.head import Head, TextAnchors


@dataclass(frozen=True)
class ChoiceExamples:
    """The labeled images of one control.

    Attributes:
        task_ids: (n) task numbers.
        vectors: (n, d) float32 of unit length.
        answers: (n) what a person answered.
        available_labels: (n) the labels that existed when they did.
        audit_mask: (n) bool, belongs to the audit slice: judged on, never trained on.
    """

    task_ids: tuple[int, ...]
    vectors: Floats
    answers: tuple[LabelSet, ...]
    available_labels: tuple[frozenset[str], ...]
    audit_mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class HeadTrainingJob:
    """Everything that one control's head is made from.

    Attributes:
        control: the control.
        examples: its labeled images.
        pool: (m, d) float32, all images of the project, for the statistics of the features.
        prototypes: (K, d) float32 text embeddings of its labels; None without a text encoder.
        logit_scale: of the encoder's text side.
        logit_bias: of the encoder's text side.
        previous: the live version's head, to start from.
        seed: of everything random.
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
    """Fit a control's head on all labeled images but the audit slice.

    Returns:
        the head; from the text prototypes alone where nothing is labeled; None where there is
        neither a label nor a prototype.
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
    """What to learn: (n, K) float32, 1 chosen, 0 not chosen, NaN nobody was asked.

    One of many: choosing one label answers all.
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


def cross_validate_head(job: HeadTrainingJob, head: Head) -> tuple[npt.NDArray[np.intp], Floats]:
    """What a head like this one says of the labeled images that it did not see.

    Args:
        job: that the head was trained by.
        head: of the job.

    Returns:
        rows of the examples that were learned from, and (rows, K) float32 confidence for them;
        none where there are fewer than two.
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
