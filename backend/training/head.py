"""Answers and embeddings → a head. Arrays in, arrays out: the compute seam.

Nothing here knows where it runs: in a process of this machine, or elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats
from backend.domain import Answer, Control

if TYPE_CHECKING:
    from backend.vision.heads.head import Head


@dataclass(frozen=True)
class Examples:
    """The labeled images of one control.

    Attributes:
        tasks: (n) task numbers.
        vectors: (n, d) float32 of unit length.
        answers: (n) what a person answered.
        asked: (n) the labels that existed when they did.
        audit: (n) bool, belongs to the audit slice: judged on, never trained on.
    """

    tasks: tuple[int, ...]
    vectors: Floats
    answers: tuple[Answer, ...]
    asked: tuple[frozenset[str], ...]
    audit: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TrainingJob:
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
    examples: Examples
    pool: Floats
    prototypes: Floats | None
    logit_scale: float
    logit_bias: float
    previous: Head | None
    seed: int


def train(job: TrainingJob) -> Head | None:
    """Fit a control's head on all labeled images but the audit slice.

    Returns:
        the head; from the text prototypes alone where nothing is labeled; None where there is
        neither a label nor a prototype.
    """
    from backend.vision.heads.head import fit_head, zero_shot_head

    names = job.control.label_names
    rows = ~job.examples.audit
    if rows.any():
        return fit_head(
            job.examples.vectors[rows],
            targets(job.control, job.examples)[rows],
            labels=names,
            multiple=job.control.multiple,
            anchors=job.prototypes,
            pool=job.pool,
            logit_scale=job.logit_scale,
            logit_bias=job.logit_bias,
            previous=job.previous,
            seed=job.seed,
        )
    if job.prototypes is None:
        return None
    return zero_shot_head(
        names,
        job.prototypes,
        job.logit_scale,
        job.logit_bias,
        job.control.multiple,
        pool=job.pool,
    )


def targets(control: Control, examples: Examples) -> Floats:
    """What to learn: (n, K) float32, 1 chosen, 0 not chosen, NaN nobody was asked.

    One of many: choosing one label answers all.
    """
    names = control.label_names
    table = np.zeros((len(examples.tasks), len(names)), dtype=np.float32)
    for i, (answer, asked) in enumerate(zip(examples.answers, examples.asked, strict=True)):
        for k, name in enumerate(names):
            unasked = control.multiple and name not in asked and name not in answer
            table[i, k] = np.nan if unasked else float(name in answer)
    return table


def cross(job: TrainingJob, head: Head) -> tuple[npt.NDArray[np.intp], Floats]:
    """What a head like this one says of the labeled images that it did not see.

    Args:
        job: that the head was trained by.
        head: of the job.

    Returns:
        rows of the examples that were learned from, and (rows, K) float32 confidence for them;
        none where there are fewer than two.
    """
    from backend.vision.heads.cross_validation import out_of_fold

    rows = np.flatnonzero(~job.examples.audit)
    if len(rows) < 2:
        return rows[:0], np.zeros((0, len(head.labels)), dtype=np.float32)
    table = out_of_fold(
        head,
        job.examples.vectors[rows],
        targets(job.control, job.examples)[rows],
        anchors=job.prototypes,
        pool=job.pool,
        logit_scale=job.logit_scale,
        logit_bias=job.logit_bias,
        seed=job.seed,
    )
    return rows, table
