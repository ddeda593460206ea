"""What a head says of labeled images that it did not see: by cross-validation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from backend.arrays import Floats
from backend.vision.heads.calibration import assign_folds
from backend.vision.heads.head import Head, fit_head
from backend.vision.heads.logistic_regression import IMPOSSIBLE_LOGIT

FOLD_COUNT = 5
NEAR_DUPLICATE_COSINE = 0.98
"""Cosine of centred embeddings above which an image is a copy: a wrong label would be confirmed
by it, were it learned from."""
BLOCK_ROWS = 1024


def out_of_fold_probabilities(
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
    untrained_head = replace(head, bias=np.full_like(head.bias, IMPOSSIBLE_LOGIT))
    fold = _assign_grouped_folds(embeddings, targets, np.random.default_rng(seed))
    is_near = _near_fold_mask(embeddings, fold)
    probabilities = np.zeros(targets.shape, dtype=np.float32)
    for number in np.unique(fold):
        is_held_out, is_training = fold == number, ~is_near[:, number]
        fold_head = fit_head(
            embeddings[is_training],
            targets[is_training],
            labels=head.labels,
            multiple=head.multiple,
            anchors=anchors,
            pool=embeddings if pool is None else pool,
            logit_scale=logit_scale,
            logit_bias=logit_bias,
            previous=untrained_head,
            seed=seed,
        )
        probabilities[is_held_out] = fold_head.probabilities(embeddings[is_held_out])
    return probabilities


def _assign_grouped_folds(
    embeddings: Floats, targets: Floats, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """The fold of each row; most copies share the one of the first of them.

    Not all: of a video each frame is a copy of the next, and the whole would be one fold. What
    else is near a fold is left out when its head is fitted (:func:`_near_fold_mask`).
    """
    first_duplicate = _first_duplicates(embeddings)
    group_leaders = np.unique(first_duplicate)
    fold_of_row = np.zeros(len(embeddings), dtype=np.intp)
    fold_of_row[group_leaders] = assign_folds(
        targets[group_leaders], min(FOLD_COUNT, max(1, len(group_leaders))), rng
    )
    return np.asarray(fold_of_row[first_duplicate], dtype=np.intp)


def _first_duplicates(embeddings: Floats) -> npt.NDArray[np.intp]:
    """By row, the first row that it is a copy of; itself when it is none."""
    centred = _centre_rows(embeddings)
    first_duplicate = np.arange(len(centred))
    for start in range(0, len(centred), BLOCK_ROWS):
        rows = centred[start : start + BLOCK_ROWS]
        is_duplicate = rows @ centred[: start + len(rows)].T > NEAR_DUPLICATE_COSINE
        row_indices = np.arange(start, start + len(rows))
        is_duplicate[np.arange(len(rows)), row_indices] = True
        first_duplicate[row_indices] = is_duplicate.argmax(axis=1)
    return np.asarray(first_duplicate[first_duplicate], dtype=np.intp)


def _near_fold_mask(embeddings: Floats, fold: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """(n, folds) bool: the row is in the fold, or a copy of one that is."""
    centred, is_member = (
        _centre_rows(embeddings),
        fold[:, None] == np.arange(fold.max(initial=0) + 1),
    )
    is_near = is_member.copy()
    for start in range(0, len(centred), BLOCK_ROWS):
        is_duplicate = centred[start : start + BLOCK_ROWS] @ centred.T > NEAR_DUPLICATE_COSINE
        is_near[start : start + BLOCK_ROWS] |= (
            is_duplicate.astype(np.float32) @ is_member.astype(np.float32) > 0
        )
    return np.asarray(is_near, dtype=np.bool_)


def _centre_rows(embeddings: Floats) -> Floats:
    """Of unit length again; one that lies at the centre stays there, and is no copy."""
    centred = embeddings - embeddings.mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(length, 1e-6), dtype=np.float32)
