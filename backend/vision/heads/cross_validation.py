"""Compute out-of-fold probabilities of a head on its labeled images."""

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
"""Cosine of centred embeddings above which two images are near-duplicates. A head trained on a
near-duplicate with the same label error would not reveal the error."""
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
    """Predict each row with a head trained on neither the row nor its near-duplicates.

    Args:
        head: head fitted to all rows; provides the ridge and, with many rows, the temperature, but
            no weights.
        embeddings: (n, d) float32 of unit length.
        targets: (n, K) float32 as for :func:`backend.vision.heads.head.fit_head`.
        anchors: the anchors with which the head was fitted.
        pool: the pool with which the head was fitted.
        seed: random seed of the folds.

    Returns:
        (n, K) float32 probabilities in the order of ``head.labels``. Without text anchors, a label
        without training examples in a fold has probability 0, and probabilities are uniform if a
        fold has no training rows.
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
    """Assign rows to folds; most near-duplicates are in the same fold.

    Only direct duplicates of a group's first row are grouped. A transitive grouping would put all
    frames of a video into one fold. Near-duplicates in other folds are excluded from training by
    :func:`_near_fold_mask`.
    """
    first_duplicate = _first_duplicates(embeddings)
    group_leaders = np.unique(first_duplicate)
    fold_of_row = np.zeros(len(embeddings), dtype=np.intp)
    count = min(FOLD_COUNT, max(1, len(group_leaders)))
    fold_of_row[group_leaders] = assign_folds(targets[group_leaders], count, rng)
    return np.asarray(fold_of_row[first_duplicate], dtype=np.intp)


def _first_duplicates(embeddings: Floats) -> Indices:
    """Return for each row the index of its first near-duplicate, possibly itself."""
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
    """Return an (n, folds) mask: the row or one of its near-duplicates is in the fold."""
    centred = _centre_rows(embeddings)
    is_member = fold[:, None] == np.arange(fold.max(initial=0) + 1)
    is_near, members = is_member.copy(), is_member.astype(np.float32)
    for start in range(0, len(centred), BLOCK_ROWS):
        is_duplicate = centred[start : start + BLOCK_ROWS] @ centred.T > NEAR_DUPLICATE_COSINE
        is_near[start : start + BLOCK_ROWS] |= is_duplicate.astype(np.float32) @ members > 0
    return np.asarray(is_near, dtype=np.bool_)


def _centre_rows(embeddings: Floats) -> Floats:
    """Subtract the mean and scale rows to unit length.

    Rows within 1e-6 of the mean stay shorter, so they are never near-duplicates.
    """
    return normalize_rows(embeddings - embeddings.mean(axis=0), epsilon=1e-6)
