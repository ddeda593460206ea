"""Answers and embeddings → a model and its figures. Arrays in, arrays out: the compute seam.

Nothing here knows where it runs: in a process of this machine, or elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.domain import Answer, Control, ImageSize
from backend.learning.evaluation import Figure, accuracy, share
from backend.loop.model import Model, answer_of, choose

if TYPE_CHECKING:
    from backend.vision.head import Head

Floats = npt.NDArray[np.float32]
NO_SIZE = ImageSize(0, 0)


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
    from backend.vision.head import fit_head, zero_shot_head

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


def evaluate(
    model: Model, controls: Mapping[str, Control], examples: Mapping[str, Examples]
) -> tuple[Figure, dict[str, Any]]:
    """Judge a model on the audit slice.

    Args:
        model: the model.
        controls: by name.
        examples: by control name.

    Returns:
        the share of audit tasks whose every answered control the model got exactly right, and by
        control its own figure with the labels it was trained on.
    """
    right: dict[int, bool] = {}
    details: dict[str, Any] = {}
    for name, control in controls.items():
        held = examples[name]
        pairs = _pairs(model, control, held)
        for task, (given, truth) in pairs.items():
            right[task] = right.get(task, True) and given == truth
        details[name] = {
            "kind": _kind(model, name, held),
            "examples": _label_counts(control, held),
            "audit": accuracy(pairs.values()).json(),
        }
    return share(sum(right.values()), len(right)), details


def _pairs(
    model: Model, control: Control, held: Examples
) -> dict[int, tuple[Answer | None, Answer]]:
    rows = np.flatnonzero(held.audit)
    truths = {held.tasks[i]: held.answers[i] for i in rows}
    if control.name not in model.heads or not len(rows):
        return {task: (None, truth) for task, truth in truths.items()}
    table = model.probabilities(control.name, held.vectors[rows])
    labels = model.labels(control.name)
    given = [answer_of(choose(control, labels, row, NO_SIZE)) for row in table]
    return {task: (g, truths[task]) for task, g in zip(truths, given, strict=True)}


def _kind(model: Model, control: str, held: Examples) -> str:
    if control not in model.heads:
        return "none yet"
    return "linear head" if (~held.audit).any() else "zero-shot from the label names"


def _label_counts(control: Control, held: Examples) -> dict[str, int]:
    trained = [answer for answer, audit in zip(held.answers, held.audit, strict=True) if not audit]
    return {name: sum(name in answer for answer in trained) for name in control.label_names}
