"""What a head says of labeled images that it did not see: by cross-validation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats
from backend.vision.heads.calibration import folds
from backend.vision.heads.head import Head, fit_head
from backend.vision.heads.logistic_regression import NEVER

FOLDS = 5
TWIN = 0.98
"""Cosine of centred embeddings above which an image is a copy: a wrong label would be confirmed
by it, were it learned from."""
BLOCK = 1024


def out_of_fold(
    head: Head,
    embeddings: Floats,
    targets: Floats,
    *,
    anchors: Floats | None = None,
    pool: Floats | None = None,
    logit_scale: float = 1.0,
    logit_bias: float = 0.0,
    seed: int = 0,
) -> Floats:
    """Confidence for every row, by a head that saw neither the row nor a copy of it.

    Args:
        head: fitted to all rows; its ridge is kept, and of many rows its temperature; its weights
            are not used.
        embeddings: (n, d) float32 of unit length.
        targets: (n, K) float32 as :func:`backend.vision.heads.head.fit_head` takes them.
        anchors: as the head was fitted with.
        pool: as the head was fitted with.
        logit_scale: as the head was fitted with.
        logit_bias: as the head was fitted with.
        seed: of the folds.

    Returns:
        (n, K) float32, 0 to 1, in the order of the head's labels. A label that a row's head had no
        example of is 0 without text; a row whose head learned nothing has equal confidence.
    """
    blank = replace(head, bias=np.full_like(head.bias, NEVER))
    fold = _folds(embeddings, targets, np.random.default_rng(seed))
    near = _near(embeddings, fold)
    found = np.zeros(targets.shape, dtype=np.float32)
    for number in np.unique(fold):
        held, learned = fold == number, ~near[:, number]
        part = fit_head(
            embeddings[learned],
            targets[learned],
            labels=head.labels,
            multiple=head.multiple,
            anchors=anchors,
            pool=embeddings if pool is None else pool,
            logit_scale=logit_scale,
            logit_bias=logit_bias,
            previous=blank,
            seed=seed,
        )
        found[held] = part.probabilities(embeddings[held])
    return found


def _folds(embeddings: Floats, targets: Floats, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """The fold of each row; most copies share the one of the first of them.

    Not all: of a video each frame is a copy of the next, and the whole would be one fold. What
    else is near a fold is left out when its head is fitted (:func:`_near`).
    """
    first = _first_copies(embeddings)
    leaders = np.unique(first)
    dealt = np.zeros(len(embeddings), dtype=np.intp)
    dealt[leaders] = folds(targets[leaders], min(FOLDS, max(1, len(leaders))), rng)
    return np.asarray(dealt[first], dtype=np.intp)


def _first_copies(embeddings: Floats) -> npt.NDArray[np.intp]:
    """By row, the first row that it is a copy of; itself when it is none."""
    moved = _centred(embeddings)
    first = np.arange(len(moved))
    for start in range(0, len(moved), BLOCK):
        rows = moved[start : start + BLOCK]
        alike = rows @ moved[: start + len(rows)].T > TWIN
        at = np.arange(start, start + len(rows))
        alike[np.arange(len(rows)), at] = True
        first[at] = alike.argmax(axis=1)
    return np.asarray(first[first], dtype=np.intp)


def _near(embeddings: Floats, fold: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """(n, folds) bool: the row is in the fold, or a copy of one that is."""
    moved, member = _centred(embeddings), fold[:, None] == np.arange(fold.max(initial=0) + 1)
    near = member.copy()
    for start in range(0, len(moved), BLOCK):
        alike = moved[start : start + BLOCK] @ moved.T > TWIN
        near[start : start + BLOCK] |= alike.astype(np.float32) @ member.astype(np.float32) > 0
    return np.asarray(near, dtype=np.bool_)


def _centred(embeddings: Floats) -> Floats:
    """Of unit length again; one that lies at the centre stays there, and is no copy."""
    moved = embeddings - embeddings.mean(axis=0)
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(moved / np.maximum(length, 1e-6), dtype=np.float32)
