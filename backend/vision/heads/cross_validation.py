"""Cross-validate a head on its labeled images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from backend.arrays import Bools, Floats, Indices
from backend.vision.encoders.base import normalize_rows
from backend.vision.heads.calibration import assign_folds
from backend.vision.heads.head import Head, TextAnchors, fit_head
from backend.vision.heads.logistic_regression import IMPOSSIBLE_LOGIT

FOLD_COUNT = 5
NEAR_DUPLICATE_COSINE = 0.98
"""Cosine of centred embeddings above which two images are near-duplicates. A head that was trained
on a near-duplicate would confirm its wrong label."""
BLOCK_ROWS = 1024


def out_of_fold_probabilities(
    head: Head,
    embeddings: Floats,
    targets: Floats,
    *,
    anchors: TextAnchors | None = None,
    pool: Floats | None = None,
    seed: int = 0,
) -> Floats:
    """Return probabilities of each row by a head trained without it and its near-duplicates.

    Args:
        head: fitted to all rows. Its ridge is used, and with many rows its temperature; its weights
            are not.
        embeddings: (n, d) float32 of unit length.
        targets: (n, K) float32 as for :func:`backend.vision.heads.head.fit_head`.
        anchors: as the head was fitted with.
        pool: as the head was fitted with.
        seed: of the folds.

    Returns:
        (n, K) float32, 0 to 1, in the order of the head's labels. A label without training examples
        in a fold is 0 without text. If a fold has no training rows at all, all labels are equal.
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
            previous=untrained_head,
            seed=seed,
        )
        probabilities[is_held_out] = fold_head.probabilities(embeddings[is_held_out])
    return probabilities


def _assign_grouped_folds(embeddings: Floats, targets: Floats, rng: np.random.Generator) -> Indices:
    """Return the fold of each row; most near-duplicates share the fold of the first of them.

    Not all do, as each frame of a video is a near-duplicate of the next, and the whole video would
    be one fold. The others are left out of the training rows (:func:`_near_fold_mask`).
    """
    first_duplicate = _first_duplicates(embeddings)
    group_leaders = np.unique(first_duplicate)
    fold_of_row = np.zeros(len(embeddings), dtype=np.intp)
    count = min(FOLD_COUNT, max(1, len(group_leaders)))
    fold_of_row[group_leaders] = assign_folds(targets[group_leaders], count, rng)
    return np.asarray(fold_of_row[first_duplicate], dtype=np.intp)


def _first_duplicates(embeddings: Floats) -> Indices:
    """Return for each row the first row that it is a near-duplicate of, or itself."""
    centred = _centre_rows(embeddings)
    first_duplicate = np.arange(len(centred))
    for start in range(0, len(centred), BLOCK_ROWS):
        rows = centred[start : start + BLOCK_ROWS]
        is_duplicate = rows @ centred[: start + len(rows)].T > NEAR_DUPLICATE_COSINE
        row_indices = np.arange(start, start + len(rows))
        is_duplicate[np.arange(len(rows)), row_indices] = True
        first_duplicate[row_indices] = is_duplicate.argmax(axis=1)
    return np.asarray(first_duplicate[first_duplicate], dtype=np.intp)


def _near_fold_mask(embeddings: Floats, fold: Indices) -> Bools:
    """Return (n, folds) bool: the row is in the fold, or a near-duplicate of one that is."""
    centred = _centre_rows(embeddings)
    is_member = fold[:, None] == np.arange(fold.max(initial=0) + 1)
    is_near, members = is_member.copy(), is_member.astype(np.float32)
    for start in range(0, len(centred), BLOCK_ROWS):
        is_duplicate = centred[start : start + BLOCK_ROWS] @ centred.T > NEAR_DUPLICATE_COSINE
        is_near[start : start + BLOCK_ROWS] |= is_duplicate.astype(np.float32) @ members > 0
    return np.asarray(is_near, dtype=np.bool_)


def _centre_rows(embeddings: Floats) -> Floats:
    """Centre and normalize rows; the epsilon keeps a row at the centre from having duplicates."""
    return normalize_rows(embeddings - embeddings.mean(axis=0), epsilon=1e-6)
